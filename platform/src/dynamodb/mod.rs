//! Records on Amazon DynamoDB.

mod settings;

pub use settings::*;
