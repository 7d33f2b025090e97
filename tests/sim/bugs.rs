//! Faults of a castwatch that could have been: planted to show that the schedules catch them.
//!
//! Each stands for a mistake that real pipelines shipped, and most of them work well until
//! something fails. The mistakes live in the simulated ports and in [`Wrong`], a stage around the
//! real one, so that the product has no hook for them; the promises know nothing of them.

use bytes::Bytes;
use castwatch_core::event::{Message, Partition, Topic};
use castwatch_core::stage::{Handler, Outbox, Outcome, Stage, StateError, Stop};

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Progress is saved when messages are handed over, before their effects (auto-commit).
    ProgressBeforeEffects,
    /// A claim that was begun counts as done.
    ClaimByPresence,
    /// A claim that was settled counts as new.
    ClaimsIgnored,
    /// A snapshot is written in two steps, the state first.
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
    /// A stage panics where it should try again; whoever restarts it never notices.
    PanicOnFailure,
    /// What can't be read is dropped.
    DeadLettersDropped,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::ProgressBeforeEffects,
        Self::ClaimByPresence,
        Self::ClaimsIgnored,
        Self::SnapshotWithoutPosition,
        Self::PositionWithoutState,
        Self::WriteAfterRevoke,
        Self::LateAssignmentTakes,
        Self::FireAndForget,
        Self::PastAFailure,
        Self::NewIdOnRetry,
        Self::SilentAfterRebalance,
        Self::PanicOnFailure,
        Self::DeadLettersDropped,
    ];

    /// Whether it does harm only when something goes wrong or partitions change hands.
    #[must_use]
    pub fn needs_faults(self) -> bool {
        self != Self::DeadLettersDropped
    }
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
        Ok(WrongHandler { handler: self.stage.open(partition, state)?, bug: self.bug })
    }
}

impl<H: Handler> Handler for WrongHandler<H> {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let outcome = self.handler.handle(messages, out).await;
        let last = outcome.done + 1 == messages.len();
        match (self.bug, outcome.stop) {
            (Some(Bug::PastAFailure), Some(Stop::Retry(_))) if last => Outcome::all(messages.len()),
            (Some(Bug::PanicOnFailure), Some(Stop::Retry(error))) => panic!("{error}"),
            (_, stop) => Outcome { done: outcome.done, stop },
        }
    }

    async fn tend(&mut self) -> bool {
        self.handler.tend().await
    }

    fn state(&self) -> Bytes {
        self.handler.state()
    }
}
