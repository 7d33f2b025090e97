//! The stage: which channels an alert still has to go to, and when its message is finished.
//!
//! **Each channel tells alerts in their order, and the claim on an alert comes before it is told.**
//! Alerts are taken [`AT_ONCE`] at a time, so that claims are begun and settled together and one
//! channel does not wait for another. A channel that fails for now tells none of the alerts after
//! it; a message is finished when every channel has told its alert, and so has every one before.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::payload::{Alert, Explanation, Payload};
use castwatch_core::ports::Claim;
use castwatch_core::stage::StateError;
use castwatch_core::{Handler, Message, Outbox, Outcome, Partition, PortError, Records, Stage, Stop, Topic};
use futures_util::future::join_all;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::sender::{SendError, Sender};
use crate::text;

/// The stage's name.
const NAME: &str = "notifier";
/// So many alerts are claimed, told and settled together.
const AT_ONCE: usize = 16;
/// So long the notifier goes on to further alerts before it hands over what it has told.
const HAND_OVER: Duration = Duration::from_millis(100);
/// So many alerts are remembered to tell a message that came twice from one that is taken again.
/// What comes twice comes close together: as far as a stage before this one goes back.
const REMEMBERED: usize = 1024;
/// Bytes that stand for one alert in the state.
const MARK: usize = 16;

/// Tells supervisors of defects: the stage from `explanations` to `alerts`. A clone is the same
/// notifier.
pub struct Notifier<R, S> {
    shared: Arc<Shared<R, S>>,
}

struct Shared<R, S> {
    records: R,
    senders: Vec<S>,
    channels: Vec<String>,
    doubts: AtomicU64,
}

/// Two channels have one name, so that a claim of one would silence the other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("two channels are named `{0}`")]
pub struct SameName(pub String);

/// Some channels refused an alert; the others have told it.
#[derive(Debug, thiserror::Error)]
#[error("{alert} was refused by {channel}{}", if *others == 0 { String::new() } else { format!(" and {others} more") })]
struct Refusal {
    alert: String,
    channel: String,
    others: usize,
    #[source]
    source: SendError,
}

impl<R, S: Sender> Notifier<R, S> {
    /// A notifier that tells `senders` and keeps its claims in `records`.
    ///
    /// # Errors
    /// [`SameName`] when two senders have one name.
    pub fn new(records: R, senders: Vec<S>) -> Result<Self, SameName> {
        let channels: Vec<String> = senders.iter().map(|s| s.name().to_owned()).collect();
        if let Some((_, name)) = channels.iter().enumerate().find(|(i, name)| channels[..*i].contains(name)) {
            return Err(SameName(name.clone()));
        }
        Ok(Self { shared: Arc::new(Shared { records, senders, channels, doubts: AtomicU64::new(0) }) })
    }

    /// How many sends may have told an alert a second time: the one before ended unknown, and the
    /// channel can't tell.
    #[must_use]
    pub fn doubts(&self) -> u64 {
        self.shared.doubts.load(Ordering::Relaxed)
    }
}

impl<R, S> Clone for Notifier<R, S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<R, S> fmt::Debug for Notifier<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("channels", &self.shared.channels).finish_non_exhaustive()
    }
}

impl<R: Records + 'static, S: Sender + 'static> Stage for Notifier<R, S> {
    type Handler = AlertHandler<R, S>;

    fn name(&self) -> &'static str {
        NAME
    }

    fn inputs(&self) -> Vec<Topic> {
        vec![Topic::EXPLANATIONS]
    }

    fn open(&self, _: &Partition, state: &Bytes) -> Result<Self::Handler, StateError> {
        let (marks, rest) = state.as_chunks::<MARK>();
        if !rest.is_empty() {
            return Err(StateError(format!("{} bytes are not a row of marks", state.len()).into()));
        }
        let told = marks.iter().copied().collect();
        Ok(AlertHandler { shared: Arc::clone(&self.shared), told, begun: HashSet::new() })
    }
}

/// Handles one partition of explanations.
pub struct AlertHandler<R, S> {
    shared: Arc<Shared<R, S>>,
    /// Marks of the last alerts finished, oldest first. It is saved together with the position, so
    /// a message taken again after a crash is not in it, and one that lies in the log twice is.
    told: VecDeque<[u8; MARK]>,
    /// Claims that were begun here and that nothing was sent for: they leave no doubt.
    begun: HashSet<String>,
}

impl<R, S> fmt::Debug for AlertHandler<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertHandler").field("told", &self.told.len()).finish_non_exhaustive()
    }
}

impl<R: Records, S: Sender> Handler for AlertHandler<R, S> {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let until = Instant::now() + HAND_OVER;
        let mut done = 0;
        while done < messages.len() {
            let (alerts, unreadable) = self.alerts(&messages[done..]);
            let (told, stop) = self.shared.tell(&alerts, until, &mut self.begun).await;
            for (alert, message) in alerts.iter().zip(&messages[done..]).take(told) {
                match alert.outgoing(NAME, &message.event) {
                    Ok(event) => out.push_event(event),
                    Err(error) => return Outcome::stopped(done, Stop::Refuse(error.into())),
                }
                self.remember(&alert.id, out);
                done += 1;
            }
            // An alert that can't be read comes into question when those before it are finished.
            let stop = stop.or_else(|| unreadable.filter(|_| told == alerts.len()));
            if let Some(stop) = stop {
                return Outcome::stopped(done, stop);
            }
            if Instant::now() >= until {
                break;
            }
        }
        Outcome::part(done)
    }

    fn state(&self) -> Bytes {
        self.told.iter().flatten().copied().collect()
    }
}

impl<R: Records, S: Sender> AlertHandler<R, S> {
    /// The alerts of the first messages, each once: one that comes again is for the next round,
    /// which finds it settled. And why the message after them can't be read, if that ended them.
    fn alerts(&self, messages: &[Message]) -> (Vec<Alert>, Option<Stop>) {
        let mut alerts: Vec<Alert> = Vec::with_capacity(AT_ONCE);
        for message in messages.iter().take(AT_ONCE) {
            let alert = match Explanation::read(message) {
                Ok(explanation) => text::alert(&explanation, &self.shared.channels),
                Err(error) => return (alerts, Some(Stop::Refuse(error.into()))),
            };
            if alerts.iter().any(|before| before.id == alert.id) {
                break;
            }
            alerts.push(alert);
        }
        (alerts, None)
    }

    /// Remembers an alert as finished, and counts it when it was before.
    fn remember(&mut self, id: &str, out: &mut Outbox) {
        let mark = mark(id);
        if self.told.contains(&mark) {
            out.duplicate();
        } else {
            self.told.push_back(mark);
            if self.told.len() > REMEMBERED {
                self.told.pop_front();
            }
        }
    }
}

fn mark(id: &str) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark.copy_from_slice(&Sha256::digest(id.as_bytes())[..MARK]);
    mark
}

impl<R: Records, S: Sender> Shared<R, S> {
    /// Tells alerts at every channel that has not told them yet. Gives how many of them are
    /// finished, and what went wrong with the one after them; at least one of the two.
    async fn tell(
        &self,
        alerts: &[Alert],
        until: Instant,
        begun: &mut HashSet<String>,
    ) -> (usize, Option<Stop>) {
        let channels = self.senders.iter().map(|sender| self.tell_at(sender, alerts, until, begun));
        let (mut steps, mut unsent) = (Vec::new(), HashSet::new());
        for told in join_all(channels).await {
            steps.push(told.steps.into_iter());
            unsent.extend(told.unsent);
        }
        *begun = unsent;
        let (mut finished, mut stop) = (0, None);
        for alert in alerts {
            // A channel that did not come to an alert leaves it for the next time.
            let Some(all) = steps.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>() else { break };
            stop = self.trouble(alert, all);
            if stop.is_some() {
                break;
            }
            finished += 1;
        }
        let kept = join_all(alerts[..finished].iter().map(|alert| self.records.told(alert))).await;
        match kept.into_iter().enumerate().find_map(|(at, kept)| Some((at, kept.err()?))) {
            Some((at, error)) => (at, Some(error.into())),
            None => (finished, stop),
        }
    }

    /// What went wrong with an alert after every channel was tried.
    fn trouble(&self, alert: &Alert, steps: Vec<Result<(), Failure>>) -> Option<Stop> {
        let mut refusal: Option<Refusal> = None;
        let mut outage = None;
        for (channel, step) in self.channels.iter().zip(steps) {
            match step {
                Ok(()) => {}
                Err(Failure::Port(error)) => return Some(error.into()),
                Err(Failure::Send(SendError::Transient(source))) => {
                    let what = format!("sending {} to {channel}", alert.id);
                    tracing::warn!(alert = %alert.id, channel, error = %source, "alert not sent yet");
                    outage.get_or_insert(PortError::unavailable(what, source));
                }
                Err(Failure::Send(source)) => match &mut refusal {
                    Some(first) => first.others += 1,
                    None => {
                        let (alert, channel) = (alert.id.clone(), channel.clone());
                        refusal = Some(Refusal { alert, channel, others: 0, source });
                    }
                },
            }
        }
        // Trying again comes first: a dead letter would keep the alert from the channel that is out.
        outage.map(Stop::Retry).or_else(|| refusal.map(|refusal| Stop::Refuse(refusal.into())))
    }

    /// Tells alerts at one channel, in order: the first, and others while there is time and nothing
    /// fails for now. A refusal is about its alert alone.
    async fn tell_at(&self, sender: &S, alerts: &[Alert], until: Instant, begun: &HashSet<String>) -> ToldAt {
        let claims: Vec<String> = alerts.iter().map(|a| format!("{}#{}", a.id, sender.name())).collect();
        let answers = join_all(claims.iter().map(|claim| self.records.claim(claim))).await;
        let (mut steps, mut sent, mut unsent) = (Vec::with_capacity(alerts.len()), Vec::new(), Vec::new());
        let mut going_on = true;
        for (at, ((alert, claim), answer)) in alerts.iter().zip(&claims).zip(answers).enumerate() {
            let ours = begun.contains(claim);
            going_on &= at == 0 || Instant::now() < until;
            if !going_on {
                if ours || matches!(answer, Ok(Claim::Fresh)) {
                    unsent.push(claim.clone());
                }
                continue;
            }
            let step = match answer {
                Err(error) => Err(error.into()),
                Ok(Claim::Settled) => Ok(()),
                Ok(answer) => {
                    if answer == Claim::Begun && !ours && !sender.idempotent() {
                        self.doubts.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(alert = %alert.id, channel = sender.name(), "sent again: it may have been told before");
                    }
                    let told = sender.send(alert).await;
                    if told.is_ok() {
                        sent.push(at);
                    }
                    told.map_err(Failure::from)
                }
            };
            going_on = matches!(step, Ok(()) | Err(Failure::Send(SendError::Refused(_))));
            steps.push(step);
        }
        let settled = join_all(sent.iter().map(|at| self.records.settle(&claims[*at]))).await;
        for (at, settled) in sent.into_iter().zip(settled) {
            steps[at] = settled.map_err(Failure::from);
        }
        ToldAt { steps, unsent }
    }
}

/// How far a channel came with a row of alerts.
struct ToldAt {
    /// What became of the alerts that it came to, which are the first ones.
    steps: Vec<Result<(), Failure>>,
    /// Claims on the others that were begun here.
    unsent: Vec<String>,
}

/// What can go wrong at one channel.
enum Failure {
    Port(PortError),
    Send(SendError),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
pub(crate) mod tests;
