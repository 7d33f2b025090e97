//! Charts and snapshots on Amazon S3.

mod settings;

pub use settings::*;
