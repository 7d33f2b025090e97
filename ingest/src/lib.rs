//! A plant's shots into the log: plant files, tables, the pump, and a plant that is simulated.
//!
//! **A row of a table becomes one event or one dead letter, never nothing**: what can't be read as
//! a shot is set aside with its bytes, its row and the reason, and its neighbours go on.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod simulator;

pub use simulator::{Cause, SimSettings, Simulated, Simulator};
