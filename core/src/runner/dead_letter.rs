//! What is set aside: a message as it came, with where it lay and why it could not be handled.

use crate::event::{Event, Message, Outgoing, Partition};

/// An error with all of its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// Attributes of a dead letter that say where it comes from.
pub mod dlq {
    /// The stage that set it aside.
    pub const STAGE: &str = "dlqstage";
    /// Why, with all causes.
    pub const ERROR: &str = "dlqerror";
    /// The topic it lay in.
    pub const TOPIC: &str = "dlqtopic";
    /// The partition it lay in.
    pub const PARTITION: &str = "dlqpartition";
    /// Its position there.
    pub const POSITION: &str = "dlqposition";
    /// Its id there, when it had one.
    pub const ID: &str = "dlqid";
}

/// The dead letter of a message: its bytes and attributes as they came, and where it comes from.
#[must_use]
pub fn dead_letter(
    stage: &str,
    partition: &Partition,
    message: &Message,
    error: &(dyn std::error::Error + 'static),
) -> Outgoing {
    let mut event: Event = message.event.clone();
    let origin = [
        (dlq::STAGE, stage.to_owned()),
        (dlq::ERROR, chain(error)),
        (dlq::TOPIC, partition.topic.to_string()),
        (dlq::PARTITION, partition.index.to_string()),
        (dlq::POSITION, message.position.to_string()),
        (dlq::ID, event.id.clone()),
    ];
    event.extensions.retain(|(name, _)| !name.starts_with("dlq"));
    event.extensions.extend(origin.map(|(name, value)| (name.to_owned(), value)));
    event.id = format!("dlq:{stage}:{partition}@{}", message.position);
    Outgoing { topic: partition.topic.dead_letters(), key: message.key.clone(), event }
}
