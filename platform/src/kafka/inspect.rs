//! Looking at topics without taking part in a group: what books, dead letters and measurements need.
//!
//! **Nothing here writes.** The calls block, for as long as it takes to read what they give.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use castwatch_core::{Message, Partition, PortError, Position, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::client::{Link, Plain, Role, hear};
use super::{KafkaError, KafkaSettings, event};
use crate::embedded::Extent;

/// How long the brokers may take to answer.
const ASK: Duration = Duration::from_secs(10);
/// How long a partition without a leader is left alone.
const LEADERLESS: Duration = Duration::from_millis(100);
/// So many messages are read at once where all of them are.
const PAGE: usize = 1000;

/// A reading look at a cluster's topics.
pub struct KafkaInspector {
    settings: KafkaSettings,
    client: BaseConsumer<Plain>,
    /// Where the client stands, so that the next page needs no new start.
    at: Mutex<Option<(Partition, u64)>>,
}

impl KafkaInspector {
    pub(super) fn open(settings: &KafkaSettings) -> Result<Self, PortError> {
        let what = "look at Kafka";
        // A group that nobody ever joins: librdkafka assigns nothing without a name for one.
        let group = settings.group("inspector");
        let client = settings.client(&Role::Consumer(&group)).and_then(|mut config| {
            for key in ["group.instance.id", "group.protocol"] {
                config.remove(key);
            }
            config.set("enable.partition.eof", "true");
            // A fetch that waits at the broker would hold up the next partition's.
            config.set("fetch.wait.max.ms", "10");
            Ok(config.create_with_context(Plain(Link::new(settings)))?)
        });
        let client = client.map_err(|error| PortError::refused(what, error))?;
        Ok(Self { settings: settings.clone(), client, at: Mutex::new(None) })
    }

    fn error(&self, what: impl Into<String>, error: ClientError) -> PortError {
        let code = error.rdkafka_error_code();
        let away = matches!(
            code,
            Some(Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown)
        );
        if away {
            hear(&self.client);
        }
        let error = if away { self.client.context().0.away(error) } else { KafkaError::from(error) };
        PortError::unavailable(what, error)
    }

    /// What the brokers know of all topics, or of one.
    pub(super) fn metadata(&self, name: Option<&str>, what: &str) -> Result<Metadata, PortError> {
        self.client.fetch_metadata(name, ASK).map_err(|error| self.error(what, error))
    }

    /// The topics there are, by name.
    ///
    /// # Errors
    /// [`PortError::Unavailable`].
    pub fn topics(&self) -> Result<Vec<Topic>, PortError> {
        let metadata = self.metadata(None, "list of topics")?;
        let mut topics: Vec<Topic> =
            metadata.topics().iter().filter_map(|t| self.settings.topic(t.name())).collect();
        topics.sort();
        Ok(topics)
    }

    /// What each partition of `topic` holds; nothing for a topic that does not exist.
    ///
    /// # Errors
    /// [`PortError::Unavailable`].
    pub fn ends(&self, topic: &Topic) -> Result<Vec<Extent>, PortError> {
        let (name, what) = (self.settings.name(topic), || format!("ends of {topic}"));
        let metadata = self.metadata(Some(&name), &what())?;
        let mut ends = Vec::new();
        for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
            let (first, next) =
                self.watermarks(&name, partition.id()).map_err(|error| self.error(what(), error))?;
            let position = |offset: i64| Position(u64::try_from(offset).unwrap_or(0));
            ends.push(Extent {
                partition: Partition::new(topic.clone(), partition.id().cast_unsigned()),
                first: position(first),
                next: position(next),
            });
        }
        ends.sort_by_key(|extent| extent.partition.index);
        Ok(ends)
    }

    /// The first offset of a partition and the one after its last. A partition that was made just
    /// now, or whose broker went, has no leader for a moment.
    fn watermarks(&self, name: &str, index: i32) -> Result<(i64, i64), ClientError> {
        let began = Instant::now();
        loop {
            let answer = self.client.fetch_watermarks(name, index, ASK);
            let leaderless = answer.as_ref().is_err_and(|error| {
                matches!(
                    error.rdkafka_error_code(),
                    Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable)
                )
            });
            if !leaderless || began.elapsed() >= ASK {
                return answer;
            }
            std::thread::sleep(LEADERLESS);
        }
    }

    /// Up to `limit` messages of a partition, from a position on; none at the end.
    ///
    /// # Errors
    /// [`PortError::Unavailable`].
    pub fn scan(
        &self,
        partition: &Partition,
        from: Position,
        limit: usize,
    ) -> Result<Vec<Message>, PortError> {
        let what = || format!("scan of {partition}");
        let explain = |error| self.error(what(), error);
        let (name, index) = (self.settings.name(&partition.topic), partition.index.cast_signed());
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.take() != Some((partition.clone(), from.0)) {
            let (low, high) = self.watermarks(&name, index).map_err(explain)?;
            let from = i64::try_from(from.0).unwrap_or(i64::MAX).max(low);
            if from >= high {
                return Ok(Vec::new());
            }
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&name, index, Offset::Offset(from)).map_err(explain)?;
            self.client.assign(&list).map_err(explain)?;
        }
        let (mut messages, mut quiet) = (Vec::new(), Instant::now());
        while messages.len() < limit {
            match self.client.poll(Duration::from_millis(100)) {
                Some(Ok(read)) if read.topic() == name && read.partition() == index => {
                    quiet = Instant::now();
                    messages.push(event::message(&read));
                }
                Some(Ok(_)) => {}
                Some(Err(ClientError::PartitionEOF(_))) => break,
                Some(Err(error)) if quiet.elapsed() >= ASK => return Err(self.error(what(), error)),
                None if quiet.elapsed() >= ASK => {
                    let code = Code::OperationTimedOut;
                    return Err(self.error(what(), ClientError::MessageConsumption(code)));
                }
                Some(Err(_)) | None => {}
            }
        }
        // At the end librdkafka says so once: the next page begins anew.
        if messages.len() == limit {
            *at = messages.last().map(|last| (partition.clone(), last.position.next().0));
        }
        Ok(messages)
    }

    /// Hands over every message of `topic` that is there now, partition by partition in order, until
    /// `see` breaks off.
    ///
    /// # Errors
    /// [`PortError::Unavailable`].
    pub fn each(
        &self,
        topic: &Topic,
        mut see: impl FnMut(&Partition, Message) -> ControlFlow<()>,
    ) -> Result<(), PortError> {
        for extent in self.ends(topic)? {
            let mut at = extent.first;
            while at < extent.next {
                let page = self.scan(&extent.partition, at, PAGE)?;
                let Some(last) = page.last() else { break };
                at = last.position.next();
                for message in page.into_iter().filter(|m| m.position < extent.next) {
                    if see(&extent.partition, message).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
