//! What the topics hold, read by a client of the test's own: the stages' word is not taken for it.
//!
//! **It reads every message of every topic once**, further each time it is asked, so that a test
//! can ask often.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use castwatch_core::Shot;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Offset, error::KafkaError};
use serde_json::Value;

/// How long one call to the broker may take.
const CALL: Duration = Duration::from_secs(10);
/// The topics that are read, in the order of the line.
pub const TOPICS: [&str; 8] =
    ["shots", "scores", "defects", "explanations", "alerts", "shots.dlq", "defects.dlq", "explanations.dlq"];

/// The events of one topic by what they are about.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Each subject with how often it came and a digest of its payload.
    pub events: BTreeMap<String, (u64, u64)>,
    /// Subjects whose payloads differ.
    pub differing: BTreeSet<String>,
    /// All messages.
    pub messages: u64,
    /// Messages that hold no shot, of `shots`; letters by their own ids, of a dead-letter topic.
    pub others: BTreeSet<String>,
    /// Scores that say defect.
    pub bad: BTreeSet<String>,
    /// Where each shot lies, of `shots`.
    pub places: BTreeMap<(i32, i64), String>,
}

impl Book {
    /// What the events are about.
    pub fn subjects(&self) -> BTreeSet<String> {
        self.events.keys().cloned().collect()
    }

    fn add(&mut self, subject: String, digest: u64) {
        let (count, first) = self.events.entry(subject.clone()).or_insert((0, digest));
        *count += 1;
        if *first != digest {
            self.differing.insert(subject);
        }
    }
}

/// Follows the topics of one line.
pub struct Ledger {
    consumer: BaseConsumer,
    prefix: String,
    /// The next position of each partition.
    next: HashMap<(String, i32), i64>,
    books: BTreeMap<&'static str, Book>,
}

impl Ledger {
    /// Reads the topics with this prefix from their beginning.
    pub fn open(brokers: &str, prefix: &str) -> Result<Self, KafkaError> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "ledger")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "20")
            .set("log_level", "0")
            .create()?;
        let mut next = HashMap::new();
        let mut all = TopicPartitionList::new();
        for topic in TOPICS {
            let name = format!("{prefix}{topic}");
            let metadata = consumer.fetch_metadata(Some(&name), CALL)?;
            for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
                all.add_partition_offset(&name, partition.id(), Offset::Beginning)?;
                next.insert((name.clone(), partition.id()), 0);
            }
        }
        consumer.assign(&all)?;
        let books = TOPICS.map(|topic| (topic, Book::default())).into();
        Ok(Self { consumer, prefix: prefix.to_owned(), next, books })
    }

    /// The book of a topic.
    pub fn book(&self, topic: &str) -> &Book {
        &self.books[topic]
    }

    /// The partitions of a topic and their ends, as far as they were read.
    pub fn read_to(&self, topic: &str) -> Vec<(i32, i64)> {
        let name = format!("{}{topic}", self.prefix);
        let mut ends: Vec<(i32, i64)> =
            self.next.iter().filter(|((t, _), _)| *t == name).map(|((_, p), at)| (*p, *at)).collect();
        ends.sort_unstable();
        ends
    }

    /// Reads on to where the topics end now.
    pub fn follow(&mut self) -> Result<(), KafkaError> {
        let mut ends = HashMap::new();
        for (topic, partition) in self.next.keys() {
            let (first, end) = self.consumer.fetch_watermarks(topic, *partition, CALL)?;
            ends.insert((topic.clone(), *partition), (first, end));
        }
        let began = Instant::now();
        loop {
            // What was removed before it was read is nobody's any more.
            for (place, (first, _)) in &ends {
                if let Some(next) = self.next.get_mut(place) {
                    *next = (*next).max(*first);
                }
            }
            if ends.iter().all(|(place, (_, end))| self.next.get(place).is_some_and(|next| next >= end)) {
                return Ok(());
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let place = (message.topic().to_owned(), message.partition());
                    let topic = message.topic().strip_prefix(&self.prefix).unwrap_or_default();
                    if let Some((name, book)) = self.books.iter_mut().find(|(name, _)| **name == topic) {
                        enter(name, book, &message);
                    }
                    self.next.insert(place, message.offset() + 1);
                }
                Some(Err(error)) => return Err(error),
                None if began.elapsed() > CALL => {
                    return Err(KafkaError::ConsumerCommit(
                        rdkafka::types::RDKafkaErrorCode::RequestTimedOut,
                    ));
                }
                None => {}
            }
        }
    }
}

fn enter(topic: &str, book: &mut Book, message: &BorrowedMessage<'_>) {
    let data = message.payload().unwrap_or_default();
    let header = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|h| h.key == name)?;
        Some(String::from_utf8_lossy(found.value?).into_owned())
    };
    book.messages += 1;
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let digest = hasher.finish();
    let place = format!("{}@{}", message.partition(), message.offset());
    if topic.ends_with(".dlq") {
        // The same message set aside twice has the same id.
        book.others.insert(header("ce_id").unwrap_or(place));
        return;
    }
    if topic == "shots" {
        match Shot::from_json(data) {
            // A shot may be written in other words the second time; it is the same shot.
            Ok(shot) => {
                let id = shot.id().to_string();
                book.places.insert((message.partition(), message.offset()), id.clone());
                book.add(id, 0);
            }
            Err(_) => drop(book.others.insert(place)),
        }
        return;
    }
    let payload: Value = serde_json::from_slice(data).unwrap_or_default();
    let Some(shot) = payload["shot"].as_str() else {
        book.others.insert(place);
        return;
    };
    if payload["verdict"] == "defect" {
        book.bad.insert(shot.to_owned());
    }
    book.add(shot.to_owned(), digest);
}
