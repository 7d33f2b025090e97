//! A world in which everything that can fail does, on purpose and by seed.
//!
//! **The stages and the runner in here are the real ones**; the log, the stores, the channel and
//! the clock are simulated. A [`schedule`] runs the line with two members a stage while ports
//! fail, acknowledgements get lost, publishes are half-written, members crash, pause and come
//! back, and partitions change hands; then it checks that nothing was lost and nothing told twice.
//! The same seed is the same schedule.

pub mod binary;
pub mod bugs;
pub mod faults;
pub mod ports;
mod promises;
pub mod schedule;
pub mod world;
