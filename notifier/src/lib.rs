//! The notifier: explanations into alerts, each told once at every channel.
//!
//! **A channel is asked to send an alert until it says that it did, and never again after that
//! was written down.** Before each send there is a claim in the records (`alert:<shot>#<channel>`),
//! after it the claim is settled. A crash between the two leaves the claim begun: the alert is sent
//! again with the same id, which a file or a webhook's receiver knows already. A channel that
//! cannot know (a terminal) may show it twice; [`Notifier::doubts`] counts how often.
//!
//! **No channel holds back another**: all channels of an alert are tried before its message is
//! tried again or becomes a dead letter, and a channel that has told it is not asked again.
//! *The limit*: there is one queue for all of them. While a channel is out, the others have told
//! the alert at its head, and the alerts after it wait with it until the channel is back; only a
//! terminal that is gone is given up.
//!
//! The event on the `alerts` topic is published each time its message is handled, with the same id
//! and the same bytes: after a crash between settling and publishing nobody else would.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod console;
mod file;
mod sender;
mod stage;
mod text;
mod webhook;

pub use console::Console;
pub use file::{File, FileError};
pub use sender::{Channel, SendError, Sender};
pub use stage::{AlertHandler, Notifier, SameName};
pub use text::alert;
pub use webhook::{Secret, SecretError, Webhook, WebhookError, WebhookSettings};
