//! What the line stands on, chosen by settings: the embedded file and a folder, or Kafka, S3 and
//! DynamoDB, or a mixture.
//!
//! **Everything above sees the ports alone**; which adapter is behind one is decided here, once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{Claim, Generation, RecordPage, RecordQuery, Snapshot, Start, Stored, Token};
use castwatch_core::{
    Consumer, Delivery, Message, Objects, Outgoing, Partition, PortError, Position, Publisher, Records,
    Snapshots, Topic,
};
use castwatch_platform::config::{ObjectsKind, RecordsKind, Settings, StreamKind};
use castwatch_platform::dynamodb::DynamoDb;
use castwatch_platform::embedded::{EmbeddedConsumer, Extent};
use castwatch_platform::kafka::{Kafka, KafkaConsumer, KafkaInspector};
use castwatch_platform::s3::S3;
use castwatch_platform::{Embedded, Folder, Inspector};

/// The stores of one process.
#[derive(Clone)]
pub struct Stores {
    /// Events.
    pub log: Log,
    /// Progress.
    pub snapshots: SnapshotStore,
    /// Records of defects, claims on alerts.
    pub records: RecordStore,
    /// Charts.
    pub objects: ObjectStore,
}

/// Where events go.
#[derive(Clone)]
pub enum Log {
    /// The embedded file.
    Embedded(Arc<Embedded>),
    /// Topics of Kafka.
    Kafka(Kafka),
}

/// Where progress is saved.
#[derive(Clone)]
pub enum SnapshotStore {
    /// The embedded file.
    Embedded(Arc<Embedded>),
    /// Objects of S3.
    S3(S3),
}

/// Where records go.
#[derive(Clone)]
pub enum RecordStore {
    /// The embedded file.
    Embedded(Arc<Embedded>),
    /// A table of DynamoDB.
    DynamoDb(DynamoDb),
}

/// Where charts go.
#[derive(Clone)]
pub enum ObjectStore {
    /// A folder.
    Folder(Folder),
    /// Objects of S3.
    S3(S3),
}

/// Calls the same method of whichever adapter it is.
macro_rules! either {
    ($it:expr, $($variant:path)|+, $inner:ident => $call:expr) => {
        match $it { $($variant($inner) => $call,)+ }
    };
}

impl Stores {
    /// Opens what the settings name. Kafka, S3 and DynamoDB are not asked yet: a line starts while
    /// they are away, and says so.
    ///
    /// # Errors
    /// When the data folder can't be used, or settings can't work.
    pub async fn open(settings: &Settings) -> Result<Self> {
        Self::open_where(settings, |_| Ok(())).await
    }

    /// Opens what the settings name, to look at what is there: makes nothing.
    ///
    /// # Errors
    /// As [`Stores::open`], and when there is no embedded file.
    pub async fn open_existing(settings: &Settings) -> Result<Self> {
        let there = |folder: &Path| -> Result<()> {
            Inspector::open(folder)?;
            Ok(())
        };
        Self::open_where(settings, there).await
    }

    async fn open_where(settings: &Settings, check: fn(&Path) -> Result<()>) -> Result<Self> {
        // Opened where something lies in it, and made only then.
        let mut file = None;
        let mut embedded = || -> Result<Arc<Embedded>> {
            if let Some(file) = &file {
                return Ok(Arc::clone(file));
            }
            let opened = check(&settings.data)
                .and_then(|()| Ok(Embedded::open_with(&settings.data, settings.embedded())?))
                .with_context(|| format!("opening the log in {}", settings.data.display()))?;
            Ok(Arc::clone(file.insert(opened)))
        };
        let log = match settings.stream {
            StreamKind::Embedded => Log::Embedded(embedded()?),
            StreamKind::Kafka => Log::Kafka(Kafka::open(settings.kafka.clone()).context("setting up Kafka")?),
        };
        let records = match settings.records {
            RecordsKind::Embedded => RecordStore::Embedded(embedded()?),
            RecordsKind::DynamoDb => RecordStore::DynamoDb(DynamoDb::open(settings.dynamodb.clone()).await),
        };
        let (objects, snapshots) = match settings.objects {
            ObjectsKind::Folder => {
                (ObjectStore::Folder(folder(settings)), SnapshotStore::Embedded(embedded()?))
            }
            ObjectsKind::S3 => {
                let s3 = S3::open(settings.s3.clone()).await;
                (ObjectStore::S3(s3.clone()), SnapshotStore::S3(s3))
            }
        };
        Ok(Self { log, snapshots, records, objects })
    }
}

/// Where the charts of a data folder lie.
pub fn folder(settings: &Settings) -> Folder {
    Folder::new(settings.data.join("objects"))
}

impl Log {
    /// A member of the group `stage` that reads `topics`.
    pub fn consumer(&self, stage: &str, topics: &[Topic]) -> LogConsumer {
        match self {
            Self::Embedded(log) => LogConsumer::Embedded(log.consumer(stage, topics)),
            Self::Kafka(log) => LogConsumer::Kafka(log.consumer(stage, topics)),
        }
    }

    /// A reading look at the log.
    ///
    /// # Errors
    /// When it can't be reached.
    pub fn inspector(&self) -> Result<LogInspector> {
        Ok(match self {
            Self::Embedded(log) => LogInspector::Embedded(log.inspector()?),
            Self::Kafka(log) => LogInspector::Kafka(Box::new(log.inspector()?)),
        })
    }
}

impl Publisher for Log {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        either!(self, Self::Embedded | Self::Kafka, log => log.publish(events).await)
    }
}

/// A member of a stage's group.
pub enum LogConsumer {
    /// Of the embedded file.
    Embedded(EmbeddedConsumer),
    /// Of Kafka.
    Kafka(KafkaConsumer),
}

impl Consumer for LogConsumer {
    async fn next(&mut self, wait: Duration) -> Result<Delivery, PortError> {
        either!(self, Self::Embedded | Self::Kafka, it => it.next(wait).await)
    }

    async fn start(&mut self, partition: &Partition, start: Start) -> Result<(), PortError> {
        either!(self, Self::Embedded | Self::Kafka, it => it.start(partition, start).await)
    }

    async fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        either!(self, Self::Embedded | Self::Kafka, it => it.release(partitions).await)
    }

    fn saved(&mut self, partition: &Partition, position: Position) {
        either!(self, Self::Embedded | Self::Kafka, it => it.saved(partition, position));
    }

    async fn confirm(
        &mut self,
        partition: &Partition,
        generation: Generation,
    ) -> Result<Option<Generation>, PortError> {
        either!(self, Self::Embedded | Self::Kafka, it => it.confirm(partition, generation).await)
    }

    fn ends(&self) -> Vec<(Partition, Position)> {
        either!(self, Self::Embedded | Self::Kafka, it => it.ends())
    }
}

/// A reading look at a log. Its calls block.
pub enum LogInspector {
    /// At the embedded file.
    Embedded(Inspector),
    /// At Kafka.
    Kafka(Box<KafkaInspector>),
}

impl LogInspector {
    /// The topics there are.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn topics(&self) -> Result<Vec<Topic>> {
        Ok(either!(self, Self::Embedded | Self::Kafka, it => it.topics()?))
    }

    /// What each partition of `topic` holds.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn ends(&self, topic: &Topic) -> Result<Vec<Extent>> {
        Ok(either!(self, Self::Embedded | Self::Kafka, it => it.ends(topic)?))
    }

    /// Up to `limit` messages of a partition, from a position on.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn scan(&self, partition: &Partition, from: Position, limit: usize) -> Result<Vec<Message>> {
        Ok(either!(self, Self::Embedded | Self::Kafka, it => it.scan(partition, from, limit)?))
    }

    /// Hands over every message of `topic`, partition by partition, until `see` breaks off.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn each(&self, topic: &Topic, see: impl FnMut(&Partition, Message) -> ControlFlow<()>) -> Result<()> {
        either!(self, Self::Embedded | Self::Kafka, it => it.each(topic, see)?);
        Ok(())
    }
}

impl LogInspector {
    /// Milliseconds from the first event of each subject in `from` to its first in `to`, in rising
    /// order: by the log's clock, from write to write.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn waits(&self, from: &Topic, to: &Topic) -> Result<Vec<i64>> {
        let first = |topic: &Topic| -> Result<BTreeMap<String, i64>> {
            let mut first = BTreeMap::new();
            self.each(topic, |_, message| {
                if !message.event.subject.is_empty() {
                    let earliest = first.entry(message.event.subject).or_insert(message.written_ms);
                    *earliest = message.written_ms.min(*earliest);
                }
                ControlFlow::Continue(())
            })?;
            Ok(first)
        };
        let ends = first(to)?;
        let mut waits: Vec<i64> =
            first(from)?.iter().filter_map(|(subject, began)| Some(ends.get(subject)? - began)).collect();
        waits.sort_unstable();
        Ok(waits)
    }
}

impl Snapshots for SnapshotStore {
    async fn take(
        &self,
        stage: &str,
        partition: &Partition,
        generation: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        either!(self, Self::Embedded | Self::S3, it => it.take(stage, partition, generation).await)
    }

    async fn save(
        &self,
        stage: &str,
        partition: &Partition,
        token: &Token,
        snapshot: &Snapshot,
    ) -> Result<(), PortError> {
        either!(self, Self::Embedded | Self::S3, it => it.save(stage, partition, token, snapshot).await)
    }
}

impl SnapshotStore {
    /// Where `stage` stands in each partition.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn of(&self, stage: &str) -> Result<Vec<(Partition, Snapshot)>> {
        Ok(match self {
            Self::Embedded(file) => file.inspector()?.snapshots_of(stage)?,
            Self::S3(s3) => s3.snapshots_of(stage).await?,
        })
    }
}

impl Records for RecordStore {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        either!(self, Self::Embedded | Self::DynamoDb, it => it.put(record).await)
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        either!(self, Self::Embedded | Self::DynamoDb, it => it.get(shot).await)
    }

    async fn told(&self, alert: &Alert) -> Result<(), PortError> {
        either!(self, Self::Embedded | Self::DynamoDb, it => it.told(alert).await)
    }

    async fn list(&self, query: &RecordQuery) -> Result<RecordPage, PortError> {
        either!(self, Self::Embedded | Self::DynamoDb, it => it.list(query).await)
    }

    async fn claim(&self, id: &str) -> Result<Claim, PortError> {
        either!(self, Self::Embedded | Self::DynamoDb, it => it.claim(id).await)
    }

    async fn settle(&self, id: &str) -> Result<(), PortError> {
        either!(self, Self::Embedded | Self::DynamoDb, it => it.settle(id).await)
    }
}

impl Objects for ObjectStore {
    async fn put(&self, key: &str, content_type: &str, bytes: bytes::Bytes) -> Result<(), PortError> {
        either!(self, Self::Folder | Self::S3, it => it.put(key, content_type, bytes).await)
    }

    async fn get(&self, key: &str) -> Result<Option<bytes::Bytes>, PortError> {
        either!(self, Self::Folder | Self::S3, it => it.get(key).await)
    }

    async fn link(&self, key: &str, valid: Duration) -> Result<Option<String>, PortError> {
        either!(self, Self::Folder | Self::S3, it => it.link(key, valid).await)
    }
}
