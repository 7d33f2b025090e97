//! The explainer as a stage: defects in; chart, record and explanation out.
//!
//! **A chart never stops an alert, and is not forgotten.** `chart` in the record and the event is
//! the key at which the shot's chart belongs, a function of the shot alone, so that a replay makes
//! the same bytes whatever the object store did. When the store fails, the alert goes on after a
//! short while; the chart is owed, which is part of the stage's state, and drawn again from the
//! record when the store is back.
//!
//! The order for each defect is record, charts, event: who is told by the event normally finds
//! both. All of them may be done again: a record that is there stays as it is and says that the
//! charts are likely there too, so that a replay draws only what is missing; keys and the event's
//! id are the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::backoff::{Backoff, Patience};
use castwatch_core::event::hex;
use castwatch_core::payload::{Defect, Explanation, Payload, Score};
use castwatch_core::ports::Stored;
use castwatch_core::runner::chain;
use castwatch_core::stage::StateError;
use castwatch_core::{
    Handler, Message, Objects, Outbox, Outcome, Partition, PortError, Records, ShotId, Stage, Stop, Topic,
};
use castwatch_models::Bundle;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::explain::explain;
use crate::{Lang, chart};

/// The stage's name.
const NAME: &str = "explainer";
/// So long the explainer works before it hands over what it has: in a burst of defects the first
/// alert must not wait for the last chart.
const AT_ONCE: Duration = Duration::from_millis(20);
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
    /// How long a store that fails is tried again, for all charts of one batch together.
    pub patience: Patience,
    /// How long one chart may take to store.
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
}

impl<R: Records, O: Objects> Explainer<R, O> {
    /// A stage that explains what `bundle` judged.
    pub fn new(bundle: Arc<Bundle>, records: R, objects: O, settings: ChartSettings) -> Self {
        Self { shared: Arc::new(Shared { bundle, records, objects, settings }) }
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
        Ok(ExplainHandler { shared: Arc::clone(&self.shared), owed: owed.map_err(|e| StateError(e.into()))? })
    }
}

/// A chart that the store did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owed {
    shot: ShotId,
    format: Format,
}

/// Explains the defects of one partition; between them it keeps only which charts are owed.
#[derive(Debug)]
pub struct ExplainHandler<R, O> {
    shared: Arc<Shared<R, O>>,
    owed: VecDeque<Owed>,
}

impl<R: Records, O: Objects> Handler for ExplainHandler<R, O> {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let began = Instant::now();
        let seed = messages.first().map_or(0, |m| m.position.0);
        let mut store = Store { backoff: Backoff::new(self.shared.settings.patience, seed), silent: false };
        for (done, message) in messages.iter().enumerate() {
            match self.shared.handle(message, &mut store, out).await {
                Ok(owed) => self.owed.extend(owed),
                Err(stop) => return Outcome::stopped(done, stop),
            }
            if began.elapsed() >= AT_ONCE {
                return Outcome::part(done + 1);
            }
        }
        Outcome::all(messages.len())
    }

    async fn tend(&mut self) -> bool {
        let mut store = Store {
            backoff: Backoff::new(self.shared.settings.patience, self.owed.len() as u64),
            silent: false,
        };
        let before = self.owed.len();
        while let Some(owed) = self.owed.front() {
            if let Err(error) = self.shared.pay(owed, &mut store).await {
                tracing::warn!(owed = self.owed.len(), error = chain(&error), "charts are still owed");
                break;
            }
            self.owed.pop_front();
        }
        self.owed.len() != before
    }

    fn state(&self) -> Bytes {
        // Ids and words can be written as JSON; were it not so, charts would be drawn on demand.
        let owed = Some(&self.owed).filter(|owed| !owed.is_empty());
        owed.and_then(|owed| serde_json::to_vec(owed).ok()).unwrap_or_default().into()
    }
}

/// What is known of the object store during one batch: no batch waits for it twice.
struct Store {
    backoff: Backoff,
    silent: bool,
}

impl<R: Records, O: Objects> Shared<R, O> {
    /// Explains one defect; returns the charts that the store did not take.
    async fn handle(
        &self,
        message: &Message,
        store: &mut Store,
        out: &mut Outbox,
    ) -> Result<Vec<Owed>, Stop> {
        let defect = Defect::read(message).map_err(|e| Stop::Refuse(e.into()))?;
        let mut explanation = explain(&self.bundle, &defect).map_err(|e| Stop::Refuse(e.into()))?;
        explanation.chart = self.settings.formats.first().map(|f| chart_key(&explanation.score, *f));
        let replay = self.records.put(&explanation).await? == Stored::Already;
        let mut owed = Vec::new();
        for format in &self.settings.formats {
            let key = chart_key(&explanation.score, *format);
            if replay && matches!(self.objects.get(&key).await, Ok(Some(_))) {
                continue;
            }
            match self.keep(&key, &explanation, *format, store).await {
                Ok(()) => {}
                Err(error @ PortError::Refused { .. }) => {
                    tracing::warn!(
                        key,
                        error = chain(&error),
                        "the chart can't be stored; the record can draw it"
                    );
                }
                Err(error) => {
                    tracing::warn!(key, error = chain(&error), "the chart is owed; the alert goes on");
                    owed.push(Owed { shot: explanation.score.shot.clone(), format: *format });
                }
            }
        }
        out.push(NAME, &message.event, &explanation).map_err(|e| Stop::Refuse(e.into()))?;
        Ok(owed)
    }

    /// Draws an owed chart from its record and stores it.
    async fn pay(&self, owed: &Owed, store: &mut Store) -> Result<(), PortError> {
        // No record, no chart: the defect's message comes again, and with it both.
        let Some(record) = self.records.get(owed.shot.as_str()).await? else { return Ok(()) };
        let key = chart_key(&record.score, owed.format);
        match self.keep(&key, &record, owed.format, store).await {
            Err(PortError::Refused { .. }) => Ok(()),
            paid => paid,
        }
    }

    /// Draws and stores a chart, trying for as long as this batch has patience.
    async fn keep(
        &self,
        key: &str,
        it: &Explanation,
        format: Format,
        store: &mut Store,
    ) -> Result<(), PortError> {
        let silence = || PortError::unavailable(format!("store {key}"), "the store does not answer");
        if store.silent {
            return Err(silence());
        }
        let bytes = format.draw(it, self.settings.language);
        loop {
            let put = self.objects.put(key, format.content_type(), bytes.clone());
            match tokio::time::timeout(self.settings.timeout, put).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error @ PortError::Refused { .. })) => return Err(error),
                Ok(Err(error)) => {
                    if !store.backoff.wait().await {
                        return Err(error);
                    }
                }
                Err(_) => {
                    store.silent = true;
                    return Err(silence());
                }
            }
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
