//! Faults of a castwatch that could have been: planted to show that the schedules catch them.
//!
//! Each stands for a mistake that real pipelines shipped. The mistakes live in the simulated
//! ports and in [`Wrong`], a stage around the real one, so that the product has no hook for them.

use bytes::Bytes;
use castwatch_core::event::{Message, Partition, Topic};
use castwatch_core::stage::{Handler, Outbox, Outcome, Stage, StateError, Stop};

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Progress is saved for messages whose effects have not happened yet.
    ProgressBeforeEffects,
    /// A claim that was begun counts as done.
    ClaimByPresence,
    /// A snapshot holds the new state with an old position.
    SnapshotWithoutPosition,
    /// A snapshot holds the new position without the state.
    PositionWithoutState,
    /// An owner that lost its partition can still save.
    WriteAfterRevoke,
    /// An assignment that is read late takes the partition from who owns it now.
    LateAssignmentTakes,
    /// A publish is not waited for.
    FireAndForget,
    /// A message that failed for now is passed over (vector #24215).
    PastAFailure,
    /// An event published again gets another id.
    NewIdOnRetry,
    /// A partition that comes back is not read on (vector #22006).
    SilentAfterRebalance,
    /// What can't be read is dropped.
    DeadLettersDropped,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::ProgressBeforeEffects,
        Self::ClaimByPresence,
        Self::SnapshotWithoutPosition,
        Self::PositionWithoutState,
        Self::WriteAfterRevoke,
        Self::LateAssignmentTakes,
        Self::FireAndForget,
        Self::PastAFailure,
        Self::NewIdOnRetry,
        Self::SilentAfterRebalance,
        Self::DeadLettersDropped,
    ];
}

/// A stage, with a mistake in how it tells its outcome or without one.
#[derive(Clone)]
pub struct Wrong<S> {
    /// The real stage.
    pub stage: S,
    /// The mistake.
    pub bug: Option<Bug>,
}

/// The handler of [`Wrong`].
pub struct WrongHandler<H> {
    handler: H,
    bug: Option<Bug>,
    held: Vec<Message>,
}

impl<S: Stage> Stage for Wrong<S> {
    type Handler = WrongHandler<S::Handler>;

    fn name(&self) -> &'static str {
        self.stage.name()
    }

    fn inputs(&self) -> Vec<Topic> {
        self.stage.inputs()
    }

    fn open(&self, partition: &Partition, state: &Bytes) -> Result<Self::Handler, StateError> {
        Ok(WrongHandler { handler: self.stage.open(partition, state)?, bug: self.bug, held: Vec::new() })
    }
}

impl<H: Handler> Handler for WrongHandler<H> {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        match self.bug {
            Some(Bug::ProgressBeforeEffects) => {
                // The last message of each batch is called done now and worked on with the next.
                let mut late = std::mem::take(&mut self.held);
                late.extend_from_slice(messages);
                if let Some(last) = late.pop() {
                    self.held.push(last);
                }
                let mut done = 0;
                while done < late.len() {
                    let outcome = self.handler.handle(&late[done..], out).await;
                    done += outcome.done + usize::from(outcome.stop.is_some());
                }
                Outcome::all(messages.len())
            }
            Some(Bug::PastAFailure) => {
                let outcome = self.handler.handle(messages, out).await;
                match outcome.stop {
                    Some(Stop::Retry(_)) if outcome.done + 1 == messages.len() => {
                        Outcome::all(messages.len())
                    }
                    stop => Outcome { done: outcome.done, stop },
                }
            }
            _ => self.handler.handle(messages, out).await,
        }
    }

    async fn tend(&mut self) -> bool {
        self.handler.tend().await
    }

    fn state(&self) -> Bytes {
        self.handler.state()
    }
}
