//! The domain of castwatch and the ports its stages stand on.
//!
//! **Nothing here touches a network, a file or a clock of its own.** A stage is written against
//! [`stage::Stage`] and the ports of [`ports`]; the [`runner::Runner`] gives it the delivery
//! contract: effects, then publish and wait, then save progress, so that nothing is lost, and
//! deterministic ids ([`event`]) so that nothing is told twice.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod backoff;
#[cfg(feature = "contract")]
pub mod contract;
pub mod event;
pub mod payload;
pub mod ports;
pub mod runner;
pub mod shot;
pub mod spec;
pub mod stage;
pub mod time;
pub mod verdict;

pub use event::{Event, Message, Outgoing, Partition, Position, Topic};
pub use ports::{Consumer, Delivery, Objects, PortError, Publisher, Records, Snapshots};
pub use runner::{Runner, RunnerError, RunnerSettings};
pub use shot::{Readings, Shot, ShotError, ShotId};
pub use stage::{Handler, Outbox, Outcome, Stage, Stop};
pub use time::EndedAt;
pub use verdict::Verdict;
