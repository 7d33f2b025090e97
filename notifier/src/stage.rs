//! The stage: which channels an alert still has to go to, and when its message is finished.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::payload::{Alert, Explanation, Payload};
use castwatch_core::ports::Claim;
use castwatch_core::stage::StateError;
use castwatch_core::{Handler, Message, Outbox, Outcome, Partition, PortError, Records, Stage, Stop, Topic};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::sender::{SendError, Sender};
use crate::text;

/// The stage's name.
const NAME: &str = "notifier";
/// So long the notifier works before it hands over what it has told.
const AT_ONCE: Duration = Duration::from_millis(100);
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
        Ok(AlertHandler { shared: Arc::clone(&self.shared), told: marks.iter().copied().collect() })
    }
}

/// Handles one partition of explanations.
pub struct AlertHandler<R, S> {
    shared: Arc<Shared<R, S>>,
    /// Marks of the last alerts finished, oldest first. It is saved together with the position, so
    /// a message taken again after a crash is not in it, and one that lies in the log twice is.
    told: VecDeque<[u8; MARK]>,
}

impl<R, S> fmt::Debug for AlertHandler<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlertHandler").field("told", &self.told.len()).finish_non_exhaustive()
    }
}

impl<R: Records, S: Sender> Handler for AlertHandler<R, S> {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let began = Instant::now();
        for (done, message) in messages.iter().enumerate() {
            if let Err(stop) = self.handle_one(message, out).await {
                return Outcome::stopped(done, stop);
            }
            if began.elapsed() >= AT_ONCE {
                return Outcome::part(done + 1);
            }
        }
        Outcome::all(messages.len())
    }

    fn state(&self) -> Bytes {
        self.told.iter().flatten().copied().collect()
    }
}

impl<R: Records, S: Sender> AlertHandler<R, S> {
    async fn handle_one(&mut self, message: &Message, out: &mut Outbox) -> Result<(), Stop> {
        let explanation = Explanation::read(message).map_err(|e| Stop::Refuse(e.into()))?;
        let alert = text::alert(&explanation, &self.shared.channels);
        self.shared.tell(&alert).await?;
        self.shared.records.told(&alert).await?;
        out.push(NAME, &message.event, &alert).map_err(|e| Stop::Refuse(e.into()))?;
        let mark = mark(&alert.id);
        if self.told.contains(&mark) {
            out.duplicate();
        } else {
            self.told.push_back(mark);
            if self.told.len() > REMEMBERED {
                self.told.pop_front();
            }
        }
        Ok(())
    }
}

fn mark(id: &str) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark.copy_from_slice(&Sha256::digest(id.as_bytes())[..MARK]);
    mark
}

impl<R: Records, S: Sender> Shared<R, S> {
    /// Tries every channel that has not told the alert yet; only then says what went wrong.
    async fn tell(&self, alert: &Alert) -> Result<(), Stop> {
        let mut refusal: Option<Refusal> = None;
        let mut outage = None;
        for sender in &self.senders {
            match self.tell_one(sender, alert).await {
                Ok(()) => {}
                Err(Failure::Port(error)) => return Err(error.into()),
                Err(Failure::Send(SendError::Transient(source))) => {
                    let what = format!("sending {} to {}", alert.id, sender.name());
                    tracing::warn!(alert = %alert.id, channel = sender.name(), error = %source, "alert not sent yet");
                    outage.get_or_insert(PortError::unavailable(what, source));
                }
                Err(Failure::Send(source)) => match &mut refusal {
                    Some(first) => first.others += 1,
                    None => {
                        let (alert, channel) = (alert.id.clone(), sender.name().to_owned());
                        refusal = Some(Refusal { alert, channel, others: 0, source });
                    }
                },
            }
        }
        // Trying again comes first: a dead letter would keep the alert from the channel that is out.
        match (outage, refusal) {
            (Some(error), _) => Err(Stop::Retry(error)),
            (None, Some(refusal)) => Err(Stop::Refuse(refusal.into())),
            (None, None) => Ok(()),
        }
    }

    async fn tell_one(&self, sender: &S, alert: &Alert) -> Result<(), Failure> {
        let claim = format!("{}#{}", alert.id, sender.name());
        match self.records.claim(&claim).await? {
            Claim::Settled => return Ok(()),
            Claim::Begun if !sender.idempotent() => {
                self.doubts.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(alert = %alert.id, channel = sender.name(), "sent again: it may have been told before");
            }
            Claim::Begun | Claim::Fresh => {}
        }
        sender.send(alert).await?;
        Ok(self.records.settle(&claim).await?)
    }
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
