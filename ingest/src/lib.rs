//! A plant's shots into the log: plant files, tables, the pump, and a plant that is simulated.
//!
//! **A row of a table becomes one event or one dead letter, never nothing**: what can't be read as
//! a shot is set aside with its bytes, its row and the reason, and its neighbours go on.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cell;
pub mod plant;
pub mod pump;
mod row;
pub mod simulator;
pub mod table;

pub use plant::{Plant, PlantError};
pub use pump::{IngestError, PumpSettings, Summary, ingest};
pub use row::{Row, RowError};
pub use simulator::{Cause, SimSettings, Simulated, Simulator};
pub use table::{Table, TableError};
