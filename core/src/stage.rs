//! What a step of the line is: from messages of one partition to effects and events.
//!
//! **The outcome of a batch is a prefix**: the first `done` messages are finished and the one
//! after them is the cause of the stop. There is no acknowledgement of single messages, so no
//! message can be passed over.

use std::future::Future;

use bytes::Bytes;

use crate::event::{Event, Message, Outgoing, Partition, Topic};
use crate::payload::Payload;
use crate::ports::PortError;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A step of the line. It is a recipe for [`Handler`]s, one for each partition it owns.
pub trait Stage: Send + Sync {
    /// What handles one partition.
    type Handler: Handler;

    /// The name in snapshots, dead letters, metrics and logs.
    fn name(&self) -> &'static str;

    /// The topics it reads.
    fn inputs(&self) -> Vec<Topic>;

    /// A handler for `partition` that goes on from `state`, which is empty at the very beginning
    /// and otherwise what [`Handler::state`] gave.
    ///
    /// # Errors
    /// When the state can't be read; the partition is not consumed then.
    fn open(&self, partition: &Partition, state: &Bytes) -> Result<Self::Handler, StateError>;
}

/// A snapshot's state that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the saved state can't be read")]
pub struct StateError(#[from] pub Source);

/// Handles the messages of one partition in order.
pub trait Handler: Send {
    /// Handles as many of `messages` as it can, in order: effects are done when it returns,
    /// events for publishing are in `out`. A handler whose effects take long returns after a part
    /// of them ([`Outcome::part`]), so that what it has is published without delay; the runner
    /// comes again with the rest.
    fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> impl Future<Output = Outcome> + Send;

    /// Sees to what earlier messages left over and no message waits for, such as a chart that
    /// could not be stored; `true` when that changed the state. Called now and then, between
    /// batches, and again after it failed: it must be bounded in time, and safe to do twice.
    fn tend(&mut self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// The state after the messages handled so far; empty for a handler without one.
    fn state(&self) -> Bytes {
        Bytes::new()
    }
}

/// How far a handler came.
#[derive(Debug)]
#[must_use]
pub struct Outcome {
    /// So many of the messages are finished.
    pub done: usize,
    /// What kept it from going on, if anything did.
    pub stop: Option<Stop>,
}

impl Outcome {
    /// All `n` messages are finished.
    pub const fn all(n: usize) -> Self {
        Self { done: n, stop: None }
    }

    /// The first `done` messages are finished, at least one of them; the others are for the next call.
    pub const fn part(done: usize) -> Self {
        Self { done, stop: None }
    }

    /// Stopped at message `done` because of `stop`.
    pub const fn stopped(done: usize, stop: Stop) -> Self {
        Self { done, stop: Some(stop) }
    }
}

/// Why a handler stopped at a message.
#[derive(Debug)]
pub enum Stop {
    /// A port failed in a way that may pass: the message is tried again.
    Retry(PortError),
    /// The message itself can't be handled: it becomes a dead letter.
    Refuse(Source),
}

impl From<PortError> for Stop {
    /// What a port refuses for good is the message's fault; anything else may pass.
    fn from(error: PortError) -> Self {
        match error {
            PortError::Refused { .. } => Self::Refuse(Box::new(error)),
            other => Self::Retry(other),
        }
    }
}

/// What a handler wants published, and what it knew already.
#[derive(Debug, Default)]
pub struct Outbox {
    events: Vec<Outgoing>,
    duplicates: u64,
}

impl Outbox {
    /// Publishes `payload`, made by `stage` of the event `cause`.
    ///
    /// # Errors
    /// serde_json's, when the payload can't be written.
    pub fn push<P: Payload>(
        &mut self,
        stage: &str,
        cause: &Event,
        payload: &P,
    ) -> Result<(), serde_json::Error> {
        self.events.push(payload.outgoing(stage, cause)?);
        Ok(())
    }

    /// Publishes a ready event.
    pub fn push_event(&mut self, event: Outgoing) {
        self.events.push(event);
    }

    /// Counts one message as known already: it is finished and makes nothing.
    pub fn duplicate(&mut self) {
        self.duplicates += 1;
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> &[Outgoing] {
        &self.events
    }

    /// Gives the events up for publishing.
    #[must_use]
    pub fn into_events(self) -> Vec<Outgoing> {
        self.events
    }

    /// How many messages were known already.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }
}
