//! Events and where they lie: CloudEvents 1.0 attributes with deterministic ids.
//!
//! **The same cause makes the same event**: an id is made of the event's kind and the shot's id,
//! its time is the shot's, so that a replay writes the same bytes again and whoever reads them
//! twice can tell.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::shot::Shot;

/// The topics of the pipeline. The text of a topic may carry a plant's prefix later; the names
/// below are what stages say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(std::borrow::Cow<'static, str>);

impl Topic {
    /// Shots from machines, keyed by machine: the public contract.
    pub const SHOTS: Self = Self(std::borrow::Cow::Borrowed("shots"));
    /// A verdict for every shot.
    pub const SCORES: Self = Self(std::borrow::Cow::Borrowed("scores"));
    /// The shots judged defect, with what the explainer needs.
    pub const DEFECTS: Self = Self(std::borrow::Cow::Borrowed("defects"));
    /// Why each defect is one.
    pub const EXPLANATIONS: Self = Self(std::borrow::Cow::Borrowed("explanations"));
    /// What supervisors were told.
    pub const ALERTS: Self = Self(std::borrow::Cow::Borrowed("alerts"));

    /// Every topic that is not a dead-letter topic, in the order data flows.
    pub const ALL: [Self; 5] = [Self::SHOTS, Self::SCORES, Self::DEFECTS, Self::EXPLANATIONS, Self::ALERTS];

    /// A topic by name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self(std::borrow::Cow::Owned(name.into()))
    }

    /// Where what this topic's readers could not take is kept.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        Self::named(format!("{}.dlq", self.0))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One ordered part of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The topic.
    pub topic: Topic,
    /// The part, from 0.
    pub index: u32,
}

impl Partition {
    /// The `index`th part of `topic`.
    #[must_use]
    pub const fn new(topic: Topic, index: u32) -> Self {
        Self { topic, index }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

/// A place in a partition: the number of the next message to read. Positions rise, with gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// The position after this message.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One CloudEvent: its attributes and its data. By default it has none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `ce_id`, deterministic and unique together with `ty`.
    pub id: String,
    /// `ce_type`, such as `castwatch.score.v1`.
    pub ty: String,
    /// `ce_source`, such as `/castwatch/scorer`.
    pub source: String,
    /// `ce_subject`: the id of the shot that it is about; empty when there is none.
    pub subject: String,
    /// `ce_time`: when the shot ended, never when the event was made.
    pub time: Option<Timestamp>,
    /// W3C trace context, handed from the shot to all that comes of it.
    pub traceparent: Option<String>,
    /// Further attributes, such as the origin of a dead letter, in order.
    pub extensions: Vec<(String, String)>,
    /// The payload; JSON but for dead letters, which are kept as they came.
    pub data: Bytes,
}

impl Event {
    /// The type of events on the `shots` topic.
    pub const SHOT: &'static str = "castwatch.shot.v1";

    /// The event of a shot, as `source` puts it on the `shots` topic.
    ///
    /// # Errors
    /// When the shot can't be written as JSON, which no checked shot does.
    pub fn of_shot(shot: &Shot, source: &str) -> Result<Self, serde_json::Error> {
        let id = shot.id().to_string();
        Ok(Self {
            traceparent: Some(trace_root(&id)),
            ty: Self::SHOT.into(),
            source: source.into(),
            subject: id.clone(),
            id,
            time: Some(shot.ended_at.instant()),
            extensions: Vec::new(),
            data: serde_json::to_vec(shot)?.into(),
        })
    }

    /// The id of its trace: 32 hexadecimal digits; none where there is no trace context, or nonsense.
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        self.traceparent.as_deref().and_then(trace_of)
    }

    /// An extension attribute by name.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// An event as it lies in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it lies.
    pub position: Position,
    /// The key that chose its partition; a shot's is its machine.
    pub key: String,
    /// When the log took it, in milliseconds since 1970: for measuring, never for deciding.
    pub written_ms: i64,
    /// The event. A foreign producer may leave every attribute empty.
    pub event: Event,
}

/// An event on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: Topic,
    /// Events of one key stay in order.
    pub key: String,
    /// The event.
    pub event: Event,
}

/// The partition of a key among `partitions`: the same in every adapter that may choose.
#[must_use]
pub fn partition_of(key: &str, partitions: u32) -> u32 {
    let digest = Sha256::digest(key.as_bytes());
    let head = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    head % partitions.max(1)
}

/// A trace that starts at this id: the same for every replay of it.
#[must_use]
pub fn trace_root(id: &str) -> String {
    let d = Sha256::digest(id.as_bytes());
    format!("00-{}-{}-01", hex(&d[..16]), hex(&d[16..24]))
}

/// The span below `parent` that makes the event `id`; without a parent, below the root that belongs to
/// `root`, so that all that comes of one cause is in one trace.
#[must_use]
pub fn trace_child(parent: Option<&str>, root: &str, id: &str) -> String {
    let span = hex(&Sha256::digest(id.as_bytes())[16..24]);
    match parent.and_then(trace_of) {
        Some(trace) => format!("00-{trace}-{span}-01"),
        None => format!("{}-{span}-01", &trace_root(root)[..35]),
    }
}

fn trace_of(parent: &str) -> Option<&str> {
    parent.get(3..35).filter(|trace| trace.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)]);
        out.push(DIGITS[usize::from(b & 15)]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_follow_a_shot() {
        let root = trace_root("a");
        assert_eq!(root.len(), 55);
        let child = trace_child(Some(&root), "a", "score:a");
        assert_eq!(child[..35], root[..35]);
        assert_ne!(child, root);
        assert_eq!(trace_child(None, "a", "score:a"), child, "as if the shot had come with its trace");
        assert_eq!(trace_child(Some("nonsense"), "a", "score:a"), child);
    }

    #[test]
    fn keys_spread_and_stay() {
        assert_eq!(partition_of("DCM-03", 4), partition_of("DCM-03", 4));
        let hit: std::collections::HashSet<u32> =
            (0..64).map(|i| partition_of(&format!("DCM-{i}"), 4)).collect();
        assert_eq!(hit.len(), 4);
    }
}
