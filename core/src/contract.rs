//! The suite that every implementation of a port passes.
//!
//! **What a stage may rely on is what is asserted here.** Each function takes a port over a store
//! that nobody else writes to, and panics with what was expected where the port falls short.
//! Topics, stages and keys differ from function to function, so that all may run over one store,
//! but for [`records`], which needs a fresh one.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod log;
mod objects;
mod records;
mod snapshots;

pub use log::log;
pub use objects::objects;
pub use records::records;
pub use snapshots::snapshots;
