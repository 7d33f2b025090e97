//! The explainer as a stage: defects in; chart, record and explanation out.
//!
//! **A chart never stops an alert, and is not forgotten.** `chart` in the record and the event is
//! the key at which the shot's chart belongs, a function of the shot alone, so that a replay makes
//! the same bytes whatever the object store did. When the store fails, does not answer or is too
//! slow, the alert goes on after a short while; the chart is owed, which is part of the stage's
//! state, and drawn again from the record when the store is back. Whoever waited for the store once
//! in vain does not wait again before it took an owed chart. Of very many charts owed the oldest
//! are given up: they can be drawn from their records.
//!
//! The order for each defect is record, charts, event: who is told by the event normally finds
//! both. All of them may be done again: a record that is there stays as it is and says that the
//! charts are likely there too, so that a replay draws only what is missing; keys and the event's
//! id are the same. Defects are explained [`AT_ONCE`] at a time and told in their order: what was
//! done after one that failed is done again with it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::backoff::{Backoff, Patience};
use castwatch_core::event::hex;
use castwatch_core::payload::{Defect, Explanation, Payload, Score};
use castwatch_core::ports::Stored;
use castwatch_core::runner::chain;
use castwatch_core::stage::StateError;
use castwatch_core::{
    Handler, Message, Objects, Outbox, Outcome, Outgoing, Partition, PortError, Records, ShotId, Stage, Stop,
    Topic,
};
use castwatch_models::Bundle;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::explain::explain;
use crate::{Lang, chart};

/// The stage's name.
const NAME: &str = "explainer";
/// So many defects are explained at the same time: while stores answer, the next charts are drawn.
const AT_ONCE: usize = 16;
/// So long the explainer goes on to further defects before it hands over what it has: in a burst
/// the first alert must not wait for the last chart.
const HAND_OVER: Duration = Duration::from_millis(20);
/// A record that takes longer to store is tried again.
const RECORD: Duration = Duration::from_secs(10);
/// What one call to the store may take without counting as waiting.
const FAIR: Duration = Duration::from_millis(100);
/// The most charts owed; more would make the stage's state too long to save each second.
const MOST_OWED: usize = 10_000;
/// So many owed charts fail in a row before the store is taken to be out, and not only their keys.
const FAILURES: usize = 3;
/// After seeing to what it owes, the stage has so many times that long for messages.
const REST: u32 = 9;
/// The longest escaped name in a key; folders and most file systems take 255 bytes.
const LONGEST: usize = 200;

/// How a chart is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Pixels, for mail and chat.
    Png,
    /// Lines and text, for the web.
    Svg,
}

impl Format {
    /// The ending of its key.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Svg => "svg",
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Svg => "image/svg+xml",
        }
    }

    /// The chart of a record in this format.
    #[must_use]
    pub fn draw(self, explanation: &Explanation, lang: Lang) -> Bytes {
        match self {
            Self::Png => chart::png(explanation, lang).into(),
            Self::Svg => chart::svg(explanation, lang).into(),
        }
    }
}

/// Which charts are kept, and how hard the stage tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartSettings {
    /// The language on them.
    pub language: Lang,
    /// The formats; the first is the one that `chart` names. None: no charts are kept.
    pub formats: Vec<Format>,
    /// How long a store that fails is tried again, for all charts together until it is back.
    pub patience: Patience,
    /// How long a store that is slow or silent is waited for, for all charts together until it is
    /// back; and how long charts that are owed are seen to at a time.
    pub timeout: Duration,
}

impl Default for ChartSettings {
    fn default() -> Self {
        Self {
            language: Lang::Ko,
            formats: vec![Format::Png, Format::Svg],
            patience: Patience {
                first: Duration::from_millis(50),
                most: Duration::from_millis(200),
                budget: Duration::from_millis(500),
            },
            timeout: Duration::from_secs(2),
        }
    }
}

/// Where the chart of a shot belongs among the objects:
/// `charts/<machine>/<date at the machine>/<shot id>.<ending>`.
#[must_use]
pub fn chart_key(score: &Score, format: Format) -> String {
    let at = score.ended_at;
    let date = at.offset().to_datetime(at.instant()).date();
    format!("charts/{}/{date}/{}.{}", part(&score.machine), part(score.shot.as_str()), format.ending())
}

/// A name as one part of a key: no separators, no leading dot, and not too long for a file system.
fn part(name: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len());
    for (i, c) in name.chars().enumerate() {
        // Ids come escaped already: their `%` and `~` stay as they are.
        if c.is_alphanumeric() || matches!(c, '_' | '-' | '~' | '%') || (c == '.' && i > 0) {
            out.push(c);
        } else {
            for b in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    if out.len() > LONGEST {
        let digest = hex(&Sha256::digest(name.as_bytes())[..8]);
        let cut = (0..=LONGEST - digest.len() - 1).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
        out.truncate(cut);
        let _ = write!(out, "~{digest}");
    }
    out
}

/// The stage.
#[derive(Debug)]
pub struct Explainer<R, O> {
    shared: Arc<Shared<R, O>>,
}

#[derive(Debug)]
struct Shared<R, O> {
    bundle: Arc<Bundle>,
    records: R,
    objects: O,
    settings: ChartSettings,
    /// As many charts are drawn at the same time as there are cores.
    drawing: Semaphore,
}

impl<R: Records, O: Objects> Explainer<R, O> {
    /// A stage that explains what `bundle` judged.
    pub fn new(bundle: Arc<Bundle>, records: R, objects: O, settings: ChartSettings) -> Self {
        let drawing = Semaphore::new(available_parallelism().map_or(1, usize::from));
        Self { shared: Arc::new(Shared { bundle, records, objects, settings, drawing }) }
    }
}

impl<R: Records + 'static, O: Objects + 'static> Stage for Explainer<R, O> {
    type Handler = ExplainHandler<R, O>;

    fn name(&self) -> &'static str {
        NAME
    }

    fn inputs(&self) -> Vec<Topic> {
        vec![Topic::DEFECTS]
    }

    fn open(&self, _: &Partition, state: &Bytes) -> Result<Self::Handler, StateError> {
        let owed = if state.is_empty() { Ok(VecDeque::new()) } else { serde_json::from_slice(state) };
        let owed = owed.map_err(|e| StateError(e.into()))?;
        let store = Store::new(self.shared.settings.patience);
        Ok(ExplainHandler { shared: Arc::clone(&self.shared), owed, store, rest_until: Instant::now() })
    }
}

/// A chart that the store did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    shot: ShotId,
    format: Format,
}

/// Explains the defects of one partition; between them it keeps which charts are owed, and whether
/// to wait for the store.
#[derive(Debug)]
pub struct ExplainHandler<R, O> {
    shared: Arc<Shared<R, O>>,
    owed: VecDeque<Owed>,
    store: Store,
    /// Messages come first until then.
    rest_until: Instant,
}

impl<R, O> ExplainHandler<R, O> {
    fn owe(&mut self, owed: Vec<Owed>) {
        self.owed.extend(owed);
        let over = self.owed.len().saturating_sub(MOST_OWED);
        for Owed { shot, format } in self.owed.drain(..over) {
            tracing::warn!(%shot, ?format, "too many charts are owed; this one is left to its record");
        }
    }
}

impl<R: Records, O: Objects> Handler for ExplainHandler<R, O> {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let began = Instant::now();
        let mut done = 0;
        for round in messages.chunks(AT_ONCE) {
            let all = round.iter().map(|message| self.shared.handle(message, &self.store));
            for explained in join_all(all).await {
                match explained {
                    Ok((event, owed)) => {
                        out.push_event(event);
                        self.owe(owed);
                    }
                    Err(stop) => return Outcome::stopped(done, stop),
                }
                done += 1;
            }
            if began.elapsed() >= HAND_OVER {
                break;
            }
        }
        Outcome::part(done)
    }

    async fn tend(&mut self) -> bool {
        let began = Instant::now();
        if began < self.rest_until {
            return false;
        }
        let before = self.owed.len();
        let deadline = began + self.shared.settings.timeout;
        let (mut paid, mut failures) = (false, 0);
        // Each of them once: what fails goes to the end, and keeps none of the others.
        for _ in 0..before {
            let Some(owed) = self.owed.pop_front() else { break };
            let answer = tokio::time::timeout_at(deadline, self.shared.pay(&owed)).await;
            match answer.unwrap_or_else(|_| Err(silence(owed.shot.as_str()))) {
                Ok(()) => (paid, failures) = (true, 0),
                Err(error) => {
                    failures += 1;
                    tracing::warn!(shot = %owed.shot, error = chain(&error), "a chart is still owed");
                    self.owed.push_back(owed);
                }
            }
            if failures == FAILURES || Instant::now() >= deadline {
                break;
            }
        }
        if paid || self.owed.is_empty() {
            self.store = Store::new(self.shared.settings.patience);
        }
        self.rest_until = Instant::now() + began.elapsed() * REST;
        self.owed.len() != before
    }

    fn state(&self) -> Bytes {
        // Ids and words can be written as JSON; were it not so, charts would be drawn on demand.
        let owed = Some(&self.owed).filter(|owed| !owed.is_empty());
        owed.and_then(|owed| serde_json::to_vec(owed).ok()).unwrap_or_default().into()
    }
}

/// What is known of the object store since it last took an owed chart, or none was owed. Charts
/// that wait for it at the same time wait together.
#[derive(Debug)]
struct Store(Mutex<Known>);

#[derive(Debug)]
struct Known {
    backoff: Backoff,
    /// Whoever failed before tries again then.
    again: Instant,
    /// How long it took beyond what is fair, and until when that is counted.
    waited: Duration,
    counted: Instant,
    /// It is not asked any more.
    silent: bool,
}

impl Store {
    fn new(patience: Patience) -> Self {
        let (backoff, now) = (Backoff::new(patience, 0), Instant::now());
        Self(Mutex::new(Known { backoff, again: now, waited: Duration::ZERO, counted: now, silent: false }))
    }

    /// Nobody panics while holding it, so that there is nothing to recover from.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self) -> bool {
        self.known().silent
    }

    /// Waits for the store, but in all no longer than `most`.
    async fn ask<T>(
        &self,
        key: &str,
        most: Duration,
        call: impl Future<Output = Result<T, PortError>>,
    ) -> Result<T, PortError> {
        if self.silent() {
            return Err(silence(key));
        }
        let began = Instant::now();
        let left = most.saturating_sub(self.known().waited);
        let answer = timeout(left, call).await;
        let (mut known, now) = (self.known(), Instant::now());
        let late = now.saturating_duration_since((began + FAIR).max(known.counted));
        known.waited += late;
        known.counted = now;
        known.silent |= answer.is_err();
        answer.unwrap_or_else(|_| Err(silence(key)))
    }

    /// Waits before a failed call is made again; `false` when there is no patience left.
    async fn pause(&self) -> bool {
        let until = {
            let (mut known, now) = (self.known(), Instant::now());
            if known.again <= now {
                let Some(wait) = known.backoff.next_wait() else { return false };
                known.again = now + wait;
            }
            known.again
        };
        tokio::time::sleep_until(until).await;
        true
    }
}

fn silence(what: &str) -> PortError {
    PortError::unavailable(format!("store {what}"), "the store does not answer in time")
}

fn late(it: &Explanation) -> PortError {
    PortError::unavailable(format!("store the record of {}", it.score.shot), "no answer in time")
}

impl<R: Records, O: Objects> Shared<R, O> {
    /// Explains one defect; returns the event, and the charts that the store did not take.
    async fn handle(&self, message: &Message, store: &Store) -> Result<(Outgoing, Vec<Owed>), Stop> {
        let defect = Defect::read(message).map_err(|e| Stop::Refuse(e.into()))?;
        let mut explanation = explain(&self.bundle, &defect).map_err(|e| Stop::Refuse(e.into()))?;
        explanation.chart = self.settings.formats.first().map(|f| chart_key(&explanation.score, *f));
        let event = explanation.outgoing(NAME, &message.event).map_err(|e| Stop::Refuse(e.into()))?;
        let explanation = Arc::new(explanation);
        let put = timeout(RECORD, self.records.put(&explanation)).await;
        let replay = put.unwrap_or_else(|_| Err(late(&explanation)))? == Stored::Already;
        let charts = self.settings.formats.iter().map(|f| self.chart(&explanation, *f, replay, store));
        Ok((event, join_all(charts).await.into_iter().flatten().collect()))
    }

    /// Sees to one chart of a defect; returns it when the store did not take it.
    async fn chart(
        &self,
        it: &Arc<Explanation>,
        format: Format,
        replay: bool,
        store: &Store,
    ) -> Option<Owed> {
        let key = chart_key(&it.score, format);
        let there = self.objects.get(&key);
        if replay && matches!(store.ask(&key, self.settings.timeout, there).await, Ok(Some(_))) {
            return None;
        }
        match self.keep(&key, it, format, store).await {
            Ok(()) => None,
            Err(error @ PortError::Refused { .. }) => {
                tracing::warn!(
                    key,
                    error = chain(&error),
                    "the chart can't be stored; the record can draw it"
                );
                None
            }
            Err(error) => {
                tracing::warn!(key, error = chain(&error), "the chart is owed; the alert goes on");
                Some(Owed { shot: it.score.shot.clone(), format })
            }
        }
    }

    /// Draws an owed chart from its record and stores it.
    async fn pay(&self, owed: &Owed) -> Result<(), PortError> {
        // No record, no chart: the defect's message comes again, and with it both.
        let Some(record) = self.records.get(owed.shot.as_str()).await? else { return Ok(()) };
        let key = chart_key(&record.score, owed.format);
        let bytes = self.draw(&Arc::new(record), owed.format).await;
        match self.objects.put(&key, owed.format.content_type(), bytes).await {
            Err(PortError::Refused { .. }) => Ok(()),
            paid => paid,
        }
    }

    /// Draws and stores a chart, trying for as long as there is patience with the store.
    async fn keep(
        &self,
        key: &str,
        it: &Arc<Explanation>,
        format: Format,
        store: &Store,
    ) -> Result<(), PortError> {
        if store.silent() {
            return Err(silence(key));
        }
        let bytes = self.draw(it, format).await;
        loop {
            let put = self.objects.put(key, format.content_type(), bytes.clone());
            match store.ask(key, self.settings.timeout, put).await {
                Err(error @ PortError::Unavailable { .. }) if !store.silent() => {
                    if !store.pause().await {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Draws a chart beside the line, so that all cores draw and no other stage waits. A runtime of
    /// one thread has nothing beside the line.
    async fn draw(&self, it: &Arc<Explanation>, format: Format) -> Bytes {
        let language = self.settings.language;
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return format.draw(it, language);
        }
        let _turn = self.drawing.acquire().await;
        let it = Arc::clone(it);
        match tokio::task::spawn_blocking(move || format.draw(&it, language)).await {
            Ok(bytes) => bytes,
            Err(broken) => std::panic::resume_unwind(broken.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use castwatch_core::{EndedAt, ShotId, Verdict};

    fn score(machine: &str, shot: &str) -> Score {
        Score {
            shot: ShotId::from_text(shot),
            machine: machine.into(),
            die: "8722".into(),
            cycle: 1,
            ended_at: EndedAt::parse("2026-01-15T23:45:06+09:00").unwrap(),
            try_shot: false,
            verdict: Verdict::Defect,
            probability: None,
            margin: None,
            anomaly: None,
            missing: 0,
            reason: None,
            bundle: String::new(),
        }
    }

    #[test]
    fn keys_are_safe_and_tell_machine_and_day() {
        let id = "DCM-03~8722~20260115T144506Z~258";
        assert_eq!(
            chart_key(&score("DCM-03", id), Format::Png),
            format!("charts/DCM-03/2026-01-15/{id}.png")
        );
        let key = chart_key(&score("../../etc", "../x/../y"), Format::Svg);
        assert_eq!(key, "charts/%2E.%2F..%2Fetc/2026-01-15/%2E.%2Fx%2F..%2Fy.svg");
        assert_eq!(chart_key(&score("주조기 3", "a"), Format::Svg), "charts/주조기%203/2026-01-15/a.svg");
        assert!(part("..").starts_with('%'));
    }

    #[test]
    fn long_names_stay_apart() {
        let (a, b) =
            (part(&format!("{}a", "주조기 ".repeat(60))), part(&format!("{}b", "주조기 ".repeat(60))));
        assert!(a.len() <= LONGEST && b.len() <= LONGEST);
        assert_ne!(a, b);
    }
}
