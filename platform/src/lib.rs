//! What castwatch's ports stand on: one module an adapter, and how a process is set up.
//!
//! **Every adapter passes the suite in `castwatch_core::contract`.**

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod aws;
pub mod config;
pub mod dynamodb;
pub mod embedded;
pub mod folder;
pub mod kafka;
pub mod s3;
pub mod shutdown;
pub mod telemetry;

pub use config::{ConfigError, Settings};
pub use embedded::{Durability, Embedded, EmbeddedConsumer, EmbeddedSettings, Inspector};
pub use folder::Folder;
pub use shutdown::Shutdown;
