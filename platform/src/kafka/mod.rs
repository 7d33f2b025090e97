//! The log on Apache Kafka.

mod settings;

pub use settings::*;
