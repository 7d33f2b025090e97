//! What a channel is: a way to tell a supervisor.

use std::future::Future;

use castwatch_core::payload::Alert;

use crate::{Console, File, Webhook};

/// A boxed cause.
pub(crate) type Source = Box<dyn std::error::Error + Send + Sync>;

/// Tells supervisors of alerts.
pub trait Sender: Send + Sync {
    /// The name in claims, alerts and logs; one of a kind among a notifier's senders.
    fn name(&self) -> &str;

    /// Whether an alert that is sent again with the same id is told only once.
    fn idempotent(&self) -> bool;

    /// Tells the alert, and returns when it is out of our hands.
    fn send(&self, alert: &Alert) -> impl Future<Output = Result<(), SendError>> + Send;
}

/// Why an alert did not go out.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It may go out later; whether it did already is not known.
    #[error("the channel is not available")]
    Transient(#[source] Source),
    /// This alert will never go out.
    #[error("the channel refused the alert")]
    Refused(#[source] Source),
}

impl SendError {
    /// A failure that may pass.
    pub fn transient(source: impl Into<Source>) -> Self {
        Self::Transient(source.into())
    }

    /// A failure that stays.
    pub fn refused(source: impl Into<Source>) -> Self {
        Self::Refused(source.into())
    }
}

/// The channels there are.
#[derive(Debug)]
pub enum Channel {
    /// A line on a terminal.
    Console(Console),
    /// A line of JSON in a file.
    File(File),
    /// A signed HTTP request.
    Webhook(Webhook),
}

impl Sender for Channel {
    fn name(&self) -> &str {
        match self {
            Self::Console(it) => it.name(),
            Self::File(it) => it.name(),
            Self::Webhook(it) => it.name(),
        }
    }

    fn idempotent(&self) -> bool {
        match self {
            Self::Console(it) => it.idempotent(),
            Self::File(it) => it.idempotent(),
            Self::Webhook(it) => it.idempotent(),
        }
    }

    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        match self {
            Self::Console(it) => it.send(alert).await,
            Self::File(it) => it.send(alert).await,
            Self::Webhook(it) => it.send(alert).await,
        }
    }
}
