//! What castwatch says of itself while it works, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Why the log lines of the process can't be set up.
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
