//! What castwatch says of itself while it works: log lines on standard error, metrics and health over
//! HTTP, spans to a collector.
//!
//! **Telling never holds the line up**: metrics are made when somebody asks, and spans that nobody
//! takes are dropped.

pub mod health;
pub mod metrics;
pub mod trace;

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use castwatch_core::runner::Status;

/// A stage of this process, as health and metrics show it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The stage's name.
    pub stage: String,
    /// What its runner is doing.
    pub status: Status,
}

/// Why the process can't tell of itself.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter makes no sense.
    #[error("log filter `{filter}` is not one; write `info`, or `warn,castwatch_core=debug`")]
    Filter {
        /// The filter.
        filter: String,
        /// The cause.
        #[source]
        source: ParseError,
    },
    /// It was done before.
    #[error("the process has its log lines set up already")]
    Again(#[from] TryInitError),
    /// Spans can't be sent there.
    #[error(
        "`{endpoint}` can't be where spans go; write the collector's address, such as http://127.0.0.1:4318"
    )]
    Endpoint {
        /// The address as it was given.
        endpoint: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A filter such as `info`, or `warn,castwatch_core=debug`.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|source| TelemetryError::Filter { filter: text.to_owned(), source })
}

/// Sends the process's log lines that pass `filter` to standard error: for people, or as `json`.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(self::filter(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if json {
        lines.json().finish().try_init()?
    } else {
        lines.finish().try_init()?
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_filter_is_wrong_and_that_once_is_enough() {
        let error = init("castwatch=loud", false).unwrap_err();
        assert!(error.to_string().contains("castwatch=loud"), "{error}");
        init("off", true).unwrap();
        assert!(matches!(init("off", false), Err(TelemetryError::Again(_))));
    }
}
