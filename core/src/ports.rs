//! The ports: what a stage and its runner need of the world, and what they may rely on.
//!
//! **Every implementation passes the suite in [`crate::contract`].** Calls may fail at any time
//! with [`PortError::Unavailable`], also after they took effect (a lost acknowledgement); all of
//! them may be made again with the same arguments.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Message, Outgoing, Partition, Position};
use crate::payload::{Alert, Explanation};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a port did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// It may work later; whether it took effect is not known.
    #[error("{what} is not available")]
    Unavailable {
        /// What was tried, such as `publish to scores`.
        what: String,
        /// The cause.
        #[source]
        source: Source,
    },
    /// It will never work with these arguments.
    #[error("{what} was refused")]
    Refused {
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: Source,
    },
    /// Another process has taken this partition over; nothing was written.
    #[error("{what}: another process has taken over")]
    Fenced {
        /// What was tried.
        what: String,
    },
}

impl PortError {
    /// An error worth trying again.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Unavailable { what: what.into(), source: source.into() }
    }

    /// An error that stays.
    pub fn refused(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Refused { what: what.into(), source: source.into() }
    }
}

/// Counts the assignments of a group: of two owners of a partition the later has the higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What a consumer hands over next.
#[derive(Debug)]
pub enum Delivery {
    /// These partitions are ours from now on; [`Consumer::start`] says from where.
    Assigned(Generation, Vec<Partition>),
    /// Messages of one partition, in order.
    Batch(Partition, Vec<Message>),
    /// These partitions go to somebody else after [`Consumer::release`]: finish and save first.
    Revoked(Vec<Partition>),
    /// These partitions are somebody else's already: write nothing more.
    Lost(Vec<Partition>),
    /// Messages were removed before they could be read: those from `from` up to, not including, `to`.
    Missed {
        /// Where they lay.
        partition: Partition,
        /// The first of them.
        from: Position,
        /// The message after the last of them, which comes next.
        to: Position,
    },
    /// Nothing came in the time given.
    Idle,
}

/// Where to read a partition from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest message kept.
    Earliest,
    /// This position.
    At(Position),
    /// This many messages before the end.
    Tail(u64),
}

/// Reads topics as one member of a group.
///
/// A batch holds messages of one partition in order, each position above the one before; nothing
/// is skipped between two batches of a partition that was not started anew.
pub trait Consumer: Send {
    /// The next thing that happened, or [`Delivery::Idle`] after `wait`.
    ///
    /// # Errors
    /// [`PortError::Fenced`] when this member is out for good and must end.
    fn next(&mut self, wait: Duration) -> impl Future<Output = Result<Delivery, PortError>> + Send;

    /// Reads `partition` from `start` on. Called once it is assigned, and again to go back.
    fn start(
        &mut self,
        partition: &Partition,
        start: Start,
    ) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Lets revoked partitions go.
    fn release(&mut self, partitions: &[Partition]) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Hears that progress up to `position` is saved. It changes nothing but what the log's own
    /// tools show of this group, so it must not wait for anything.
    fn saved(&mut self, partition: &Partition, position: Position) {
        let _ = (partition, position);
    }

    /// Asked when `generation` seems to be older than another owner's: a later one, when the group
    /// still counts this member among its own. A group that was forgotten counts from the beginning.
    fn confirm(
        &mut self,
        partition: &Partition,
        generation: Generation,
    ) -> impl Future<Output = Result<Option<Generation>, PortError>> + Send {
        let _ = (partition, generation);
        std::future::ready(Ok(None))
    }

    /// The end of each assigned partition, as far as it is known without asking.
    fn ends(&self) -> Vec<(Partition, Position)> {
        Vec::new()
    }
}

/// Writes events to topics.
pub trait Publisher: Send + Sync {
    /// Returns when every event is durable, in order for each key. After an error any of them may
    /// have been written.
    fn publish(&self, events: &[Outgoing]) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Counts of one partition at one stage, saved with its position so that they are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Messages taken.
    pub taken: u64,
    /// Messages done: scored, explained, alerted.
    pub done: u64,
    /// Messages known already.
    pub duplicates: u64,
    /// Messages set aside.
    pub dead_letters: u64,
    /// Messages that the log removed before they were taken.
    #[serde(default, skip_serializing_if = "none")]
    pub missed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn none(count: &u64) -> bool {
    *count == 0
}

impl Tally {
    /// Whether every message taken is accounted for.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.taken == self.done + self.duplicates + self.dead_letters
    }

    /// Adds another partition's counts.
    pub fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.done += other.done;
        self.duplicates += other.duplicates;
        self.dead_letters += other.dead_letters;
        self.missed += other.missed;
    }
}

/// A stage's progress in one partition: position and state together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The next message to take.
    pub position: Position,
    /// What was done before it.
    pub tally: Tally,
    /// The stage's own state at this position; empty for a stage that has none.
    pub state: Bytes,
}

/// The right to save a partition's snapshots, until somebody takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(pub String);

/// Keeps one snapshot a stage and partition.
pub trait Snapshots: Send + Sync {
    /// Takes the partition over: every older token is refused from now on.
    ///
    /// # Errors
    /// [`PortError::Fenced`] when an owner of a later generation took it: an assignment that was
    /// read late must not take the partition from who owns it now.
    fn take(
        &self,
        stage: &str,
        partition: &Partition,
        generation: Generation,
    ) -> impl Future<Output = Result<(Token, Option<Snapshot>), PortError>> + Send;

    /// Replaces the snapshot as a whole and returns when it is durable.
    ///
    /// # Errors
    /// [`PortError::Fenced`] when the token is no longer the newest; nothing is written then.
    fn save(
        &self,
        stage: &str,
        partition: &Partition,
        token: &Token,
        snapshot: &Snapshot,
    ) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Snapshots of a stage that starts anew each time, such as a live view: nothing is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forgetful;

impl Snapshots for Forgetful {
    async fn take(
        &self,
        _: &str,
        _: &Partition,
        _: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        Ok((Token(String::new()), None))
    }

    async fn save(&self, _: &str, _: &Partition, _: &Token, _: &Snapshot) -> Result<(), PortError> {
        Ok(())
    }
}

/// Whether something was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there; it was left as it is.
    Already,
}

/// The state of a claim: who sends an alert, and whether it went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody began it before: do it.
    Fresh,
    /// Somebody began it and never said that it was done: do it again, with the same id.
    Begun,
    /// It was done: leave it.
    Settled,
}

/// Whether a defect was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Not by all channels yet.
    Pending,
    /// By all channels.
    Told,
}

/// A defect as it is kept: its record, and its alert once it was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The record.
    pub record: Explanation,
    /// What supervisors were told; absent while [`Told::Pending`].
    pub alert: Option<Alert>,
}

/// Which defects to list: newest first by the shot's time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordQuery {
    /// Only this machine.
    pub machine: Option<String>,
    /// Only this die.
    pub die: Option<String>,
    /// Only where this reading speaks most for a defect.
    pub cause: Option<String>,
    /// Only shots that ended then or later.
    pub from: Option<Timestamp>,
    /// Only shots that ended before.
    pub to: Option<Timestamp>,
    /// Only in this state.
    pub told: Option<Told>,
    /// Only records older than this cursor, which the page before gave.
    pub before: Option<String>,
    /// At most so many, 1 to 1,000.
    pub limit: usize,
}

/// One page of defects. A page may be short, or empty, although another one follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordPage {
    /// The defects.
    pub defects: Vec<Kept>,
    /// Where the next page begins; absent at the end.
    pub next: Option<String>,
}

/// Keeps the record of each defect and the claims on its alerts.
pub trait Records: Send + Sync {
    /// Stores the record of a defect unless its shot has one.
    fn put(&self, record: &Explanation) -> impl Future<Output = Result<Stored, PortError>> + Send;

    /// The record of a shot by its id.
    fn get(&self, shot: &str) -> impl Future<Output = Result<Option<Explanation>, PortError>> + Send;

    /// Keeps the alert of a defect beside its record, once all channels have told it; the first one
    /// stays. Nothing is kept where there is no record.
    fn told(&self, alert: &Alert) -> impl Future<Output = Result<(), PortError>> + Send;

    /// Lists defects, newest first by the shot's time. Pages that follow each other have neither
    /// holes nor repeats, whatever is written meanwhile.
    fn list(&self, query: &RecordQuery) -> impl Future<Output = Result<RecordPage, PortError>> + Send;

    /// Begins the effect `id`, or says that it was begun or settled before. A begun claim stays
    /// begun until it is settled: presence alone says nothing about the effect.
    fn claim(&self, id: &str) -> impl Future<Output = Result<Claim, PortError>> + Send;

    /// Says that the effect `id` took place.
    fn settle(&self, id: &str) -> impl Future<Output = Result<(), PortError>> + Send;
}

/// Keeps charts: bytes by key, written whole or not at all.
pub trait Objects: Send + Sync {
    /// Stores `bytes`; the same key again replaces them.
    fn put(
        &self,
        key: &str,
        content_type: &str,
        bytes: Bytes,
    ) -> impl Future<Output = Result<(), PortError>> + Send;

    /// The bytes of a key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Bytes>, PortError>> + Send;

    /// An address at which anybody may get the key's bytes for so long; `None` where the store has
    /// no addresses.
    fn link(
        &self,
        key: &str,
        valid: Duration,
    ) -> impl Future<Output = Result<Option<String>, PortError>> + Send {
        let _ = (key, valid);
        std::future::ready(Ok(None))
    }
}

/// Ports are shared between stages by reference count.
macro_rules! shared {
    ($($port:ident { $(fn $method:ident(&self $(, $arg:ident: $ty:ty)*) -> $out:ty;)* })*) => {$(
        impl<T: $port> $port for std::sync::Arc<T> {
            $(fn $method(&self $(, $arg: $ty)*) -> impl Future<Output = Result<$out, PortError>> + Send {
                (**self).$method($($arg),*)
            })*
        }
    )*};
}
shared! {
    Publisher { fn publish(&self, events: &[Outgoing]) -> (); }
    Snapshots {
        fn take(&self, stage: &str, partition: &Partition, generation: Generation) -> (Token, Option<Snapshot>);
        fn save(&self, stage: &str, partition: &Partition, token: &Token, snapshot: &Snapshot) -> ();
    }
    Records {
        fn put(&self, record: &Explanation) -> Stored;
        fn get(&self, shot: &str) -> Option<Explanation>;
        fn told(&self, alert: &Alert) -> ();
        fn list(&self, query: &RecordQuery) -> RecordPage;
        fn claim(&self, id: &str) -> Claim;
        fn settle(&self, id: &str) -> ();
    }
    Objects {
        fn put(&self, key: &str, content_type: &str, bytes: Bytes) -> ();
        fn get(&self, key: &str) -> Option<Bytes>;
        fn link(&self, key: &str, valid: Duration) -> Option<String>;
    }
}
