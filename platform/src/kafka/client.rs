//! librdkafka's settings, and what its clients hear of the brokers.
//!
//! **A client that can't work says why**: the last thing heard is kept until a broker answers again,
//! and is what calls fail with meanwhile.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_resp_err_t as RawCode;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use serde::Deserialize;
use tracing::{debug, warn};

use super::native::generation;
use super::publish::Flight;
use super::settings::{Compression, GroupProtocol, KafkaSettings, Sasl, Tls};
use super::{KafkaError, iam};

/// The largest message of an ordinary topic.
pub(super) const LARGEST: usize = 8 << 20;
/// The largest dead letter: such a message with what is said about it.
pub(super) const LARGEST_DEAD: usize = LARGEST + (1 << 20);
/// So many seconds without any broker connected are an outage, not a hiccup.
const SILENT: u32 = 3;
/// How long to listen for why something failed.
const LISTEN: Duration = Duration::from_millis(50);

/// What a client is for.
pub(super) enum Role<'a> {
    /// A member of this group.
    Consumer(&'a str),
    /// Writing.
    Producer,
    /// Looking at topics and making them.
    Admin,
}

impl KafkaSettings {
    /// librdkafka's settings for a client.
    pub(super) fn client(&self, role: &Role<'_>) -> Result<ClientConfig, KafkaError> {
        let mut c = ClientConfig::new();
        let ms = |duration: Duration| duration.as_millis().max(1).to_string();
        c.set_log_level(RDKafkaLogLevel::Info);
        for (key, value) in [
            ("bootstrap.servers", self.brokers.as_str()),
            ("client.id", "castwatch"),
            ("socket.keepalive.enable", "true"),
            ("socket.timeout.ms", "10000"),
            ("socket.connection.setup.timeout.ms", "10000"),
            ("reconnect.backoff.max.ms", "2000"),
            ("statistics.interval.ms", "1000"),
            ("topic.metadata.refresh.interval.ms", "30000"),
        ] {
            c.set(key, value);
        }
        self.secure(&mut c)?;
        match role {
            Role::Consumer(group) => {
                for (key, value) in [
                    ("group.id", *group),
                    ("enable.auto.commit", "false"),
                    ("enable.auto.offset.store", "false"),
                    ("auto.offset.reset", "error"),
                    ("max.poll.interval.ms", "300000"),
                    ("topic.metadata.refresh.interval.ms", "10000"),
                    // Enough ahead to be quick, little enough to lose on a rebalance.
                    ("queued.min.messages", "20000"),
                    ("queued.max.messages.kbytes", "32768"),
                    ("fetch.queue.backoff.ms", "20"),
                    ("fetch.error.backoff.ms", "100"),
                    ("receive.message.max.bytes", "104857600"),
                ] {
                    c.set(key, value);
                }
                match self.protocol {
                    GroupProtocol::Classic => {
                        c.set("partition.assignment.strategy", "cooperative-sticky");
                        c.set("session.timeout.ms", ms(self.session_timeout));
                        c.set("heartbeat.interval.ms", ms(self.session_timeout / 4));
                    }
                    GroupProtocol::Consumer => {
                        c.set("group.protocol", "consumer");
                    }
                }
                if let Some(id) = &self.instance_id {
                    c.set("group.instance.id", id);
                }
            }
            Role::Producer => {
                let compression = match self.compression {
                    Compression::Lz4 => "lz4",
                    Compression::Zstd => "zstd",
                    Compression::None => "none",
                };
                for (key, value) in [
                    ("enable.idempotence", "true"),
                    ("acks", "all"),
                    // Java's choice of a key's partition, so that machines may write beside castwatch.
                    ("partitioner", "murmur2"),
                    // A topic that the broker makes by itself has neither our partitions nor our retention.
                    ("allow.auto.create.topics", "false"),
                    ("topic.metadata.propagation.max.ms", "2000"),
                    ("compression.codec", compression),
                    ("linger.ms", &self.linger.as_millis().to_string()),
                    ("message.timeout.ms", &ms(self.delivery_timeout)),
                    ("message.max.bytes", &LARGEST_DEAD.to_string()),
                    ("queue.buffering.max.kbytes", "262144"),
                ] {
                    c.set(key, value);
                }
            }
            Role::Admin => {}
        }
        for (key, value) in &self.extra {
            if matches!(key.as_str(), "partition.assignment.strategy" | "auto.offset.reset" | "group.id") {
                return Err(KafkaError::Settings(format!("`{key}` is castwatch's own affair")));
            }
            c.set(key, value);
        }
        Ok(c)
    }

    fn secure(&self, c: &mut ClientConfig) -> Result<(), KafkaError> {
        let security = &self.security;
        let protocol = match (&security.tls, &security.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        c.set("security.protocol", protocol);
        if let Some(Tls { ca_file, cert_file, key_file }) = &security.tls {
            let text = |path: &std::path::Path| path.display().to_string();
            c.set("ssl.ca.location", ca_file.as_deref().map_or_else(|| "probe".to_owned(), text));
            for (key, file) in [("ssl.certificate.location", cert_file), ("ssl.key.location", key_file)] {
                if let Some(file) = file {
                    c.set(key, text(file));
                }
            }
        }
        let (mechanism, user, password) = match &security.sasl {
            None => return Ok(()),
            Some(Sasl::MskIam { .. }) if security.tls.is_none() => {
                return Err(KafkaError::Settings("IAM needs TLS: set `kafka.tls.enabled`".into()));
            }
            Some(Sasl::MskIam { .. }) => {
                c.set("sasl.mechanism", "OAUTHBEARER");
                return Ok(());
            }
            Some(Sasl::Plain { user, password }) => ("PLAIN", user, password),
            Some(Sasl::Scram256 { user, password }) => ("SCRAM-SHA-256", user, password),
            Some(Sasl::Scram512 { user, password }) => ("SCRAM-SHA-512", user, password),
        };
        c.set("sasl.mechanism", mechanism).set("sasl.username", user).set("sasl.password", password.expose());
        Ok(())
    }
}

/// What a client heard of the brokers.
pub(super) struct Link {
    brokers: String,
    /// The region whose IAM speaks for this client.
    region: Option<String>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// Why nothing works, while nothing does.
    trouble: Option<KafkaError>,
    /// The last thing that went wrong with a connection.
    last: Option<String>,
    /// Seconds without any broker.
    silent: u32,
}

/// A line of librdkafka's statistics, as far as it is used.
#[derive(Deserialize)]
struct Statistics {
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Broker {
    state: String,
}

#[derive(Deserialize)]
struct Topic {
    partitions: HashMap<String, Ends>,
}

#[derive(Deserialize)]
struct Ends {
    hi_offset: i64,
    ls_offset: i64,
}

impl Link {
    pub(super) fn new(settings: &KafkaSettings) -> Self {
        let region = match &settings.security.sasl {
            Some(Sasl::MskIam { region }) => Some(region.clone()),
            _ => None,
        };
        Self { brokers: settings.brokers.clone(), region, heard: Mutex::default() }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing works, while nothing does.
    pub(super) fn trouble(&self) -> Option<KafkaError> {
        let heard = self.heard();
        match &heard.trouble {
            // librdkafka hands over its statistics before what explains them.
            Some(KafkaError::Away { .. }) if heard.last.is_some() => Some(self.silence(&heard, "")),
            trouble => trouble.clone(),
        }
    }

    /// Notes that a broker did something for us.
    pub(super) fn works(&self) {
        *self.heard() = Heard::default();
    }

    /// What no answer means: what was heard last, else `otherwise`.
    pub(super) fn away(&self, otherwise: impl ToString) -> KafkaError {
        self.trouble().unwrap_or_else(|| self.silence(&self.heard(), &otherwise.to_string()))
    }

    fn silence(&self, heard: &Heard, otherwise: &str) -> KafkaError {
        let cause = heard.last.clone().unwrap_or_else(|| otherwise.to_owned());
        KafkaError::Away { brokers: self.brokers.clone(), cause }
    }

    fn error(&self, error: &ClientError, reason: &str) {
        debug!(%error, reason, "librdkafka");
        let mut heard = self.heard();
        let (brokers, cause) = (self.brokers.clone(), reason.to_owned());
        match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
                heard.trouble = Some(KafkaError::Denied { brokers, cause });
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed,
            ) => heard.trouble = Some(KafkaError::Forbidden(cause)),
            Some(Code::AllBrokersDown) => {
                heard.trouble.get_or_insert(KafkaError::Away { brokers, cause });
            }
            Some(Code::BrokerTransportFailure | Code::Resolve | Code::SSL | Code::OperationTimedOut) => {
                heard.last = Some(cause);
            }
            _ => {}
        }
    }

    /// Takes in librdkafka's statistics, which come every second.
    fn statistics(&self, json: &[u8]) -> Option<Statistics> {
        let statistics: Statistics = serde_json::from_slice(json).ok()?;
        let up = |b: &Broker| matches!(b.state.as_str(), "UP" | "UPDATE" | "REAUTH");
        let mut heard = self.heard();
        if statistics.brokers.values().any(up) {
            (heard.silent, heard.last) = (0, None);
            if matches!(heard.trouble, Some(KafkaError::Away { .. } | KafkaError::Denied { .. })) {
                heard.trouble = None;
            }
        } else {
            heard.silent += 1;
            if heard.silent >= SILENT && heard.trouble.is_none() {
                heard.trouble = Some(self.silence(&heard, "not connected"));
            }
        }
        Some(statistics)
    }

    /// The token that says who this client is.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        let region = self.region.as_deref().ok_or("no IAM region is set")?;
        iam::token(region).map_err(|error| {
            let mut said = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                let _ = write!(said, ": {error}");
                cause = error.source();
            }
            warn!(error = said, "no IAM token for Kafka could be made");
            said.replace('\0', "").into()
        })
    }
}

/// What librdkafka logs: all of it is for looking into things; what matters is in the errors.
fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    debug!(target: "librdkafka", ?level, facility, "{line}");
}

/// Takes in what a client has heard: it hears only while it is polled.
pub(super) fn hear<C: ConsumerContext>(client: &BaseConsumer<C>) {
    let deadline = Instant::now() + LISTEN;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        let _ = client.poll(left);
    }
}

/// The context of a client that neither reads in a group nor writes.
pub(super) struct Plain(pub(super) Link);

/// The context of the producer.
pub(super) struct Writing(pub(super) Link);

/// What a group does with the partitions of one of its members.
#[derive(Debug)]
pub(super) enum Rebalance {
    /// They are this member's, since this generation.
    Assigned(u64, Vec<(String, i32)>),
    /// They go to another member once they are let go.
    Revoked(Vec<(String, i32)>),
    /// They went to another member already.
    Lost(Vec<(String, i32)>),
}

/// The context of a member of a group.
pub(super) struct Membership {
    pub(super) link: Link,
    rebalances: Mutex<VecDeque<Rebalance>>,
    ends: Mutex<HashMap<(String, i32), i64>>,
    /// Where a position may lie outside of its partition by now.
    astray: AtomicBool,
    /// A topic may be missing.
    unknown: AtomicBool,
    /// The client is on its way out: what the group wants is done at once.
    closing: AtomicBool,
}

impl Membership {
    pub(super) fn new(settings: &KafkaSettings) -> Self {
        Self {
            link: Link::new(settings),
            rebalances: Mutex::default(),
            ends: Mutex::default(),
            astray: AtomicBool::new(false),
            unknown: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Rebalance>> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing that the group did.
    pub(super) fn next(&self) -> Option<Rebalance> {
        self.queue().pop_front()
    }

    /// Whether the group did something that was not taken yet.
    pub(super) fn waits(&self) -> bool {
        !self.queue().is_empty()
    }

    /// The end of a partition, as of the last second; what is read is never beyond it.
    pub(super) fn end(&self, name: &str, index: i32) -> Option<i64> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(&(name.to_owned(), index)).copied()
    }

    /// Whether a position went astray since the last question.
    pub(super) fn went_astray(&self) -> bool {
        self.astray.swap(false, Ordering::Relaxed)
    }

    /// Whether a topic was missing since the last question.
    pub(super) fn lacks_topic(&self) -> bool {
        self.unknown.swap(false, Ordering::Relaxed)
    }

    /// Has the topics looked at again.
    pub(super) fn note_lack(&self) {
        self.unknown.store(true, Ordering::Relaxed);
    }

    /// From now on partitions are let go as soon as the group asks.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

/// Lets go of those of `list` that are assigned. librdkafka waits for this call after a revoke,
/// also where none of them is.
pub(super) fn unassign(
    consumer: &BaseConsumer<Membership>,
    list: &[(String, i32)],
) -> Result<(), ClientError> {
    let assigned = consumer.assignment()?;
    let mut ours = TopicPartitionList::new();
    for (name, index) in list.iter().filter(|(name, index)| assigned.find_partition(name, *index).is_some()) {
        ours.add_partition(name, *index);
    }
    consumer.incremental_unassign(&ours)
}

/// Takes those of `list` that are not assigned, each from its position.
pub(super) fn assign(
    consumer: &BaseConsumer<Membership>,
    list: impl Iterator<Item = (String, i32, Offset)>,
) -> Result<(), ClientError> {
    let assigned = consumer.assignment()?;
    let mut new = TopicPartitionList::new();
    for (name, index, offset) in list {
        if assigned.find_partition(&name, index).is_none() {
            new.add_partition_offset(&name, index, offset)?;
        }
    }
    consumer.incremental_assign(&new)
}

impl ConsumerContext for Membership {
    /// Only notes what the group wants: librdkafka waits with the rebalance until the stage has
    /// finished and saved, and the assignment is changed from outside.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RawCode, partitions: &mut TopicPartitionList) {
        let list: Vec<(String, i32)> =
            partitions.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let assigning = code == RawCode::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let lost = consumer.assignment_lost();
        debug!(?list, assigning, lost, "rebalance");
        let now = list.is_empty() || self.closing.load(Ordering::Relaxed);
        let done = match (assigning, now) {
            (true, true) => consumer.incremental_assign(&TopicPartitionList::new()),
            (false, true) => unassign(consumer, &list),
            (false, false) if lost => unassign(consumer, &list),
            _ => Ok(()),
        };
        if let Err(error) = done {
            warn!(%error, "the assignment could not be changed");
        }
        if now {
            return;
        }
        self.queue().push_back(match (assigning, lost) {
            // What was lost before it was heard of is older than whatever took it.
            (true, true) => Rebalance::Assigned(0, list),
            (true, false) => Rebalance::Assigned(generation(consumer.client()), list),
            (false, true) => Rebalance::Lost(list),
            (false, false) => Rebalance::Revoked(list),
        });
    }

    fn commit_callback(&self, result: Result<(), ClientError>, _: &TopicPartitionList) {
        if let Err(error) = result {
            debug!(%error, "offsets were not committed; only Kafka's own tools look at them");
        }
    }
}

impl ClientContext for Membership {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn stats_raw(&self, json: &[u8]) {
        let Some(statistics) = self.link.statistics(json) else { return };
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, topic) in statistics.topics {
            for (index, end) in topic.partitions {
                let end = if end.ls_offset >= 0 { end.ls_offset } else { end.hi_offset };
                if let (Ok(index @ 0..), 0..) = (index.parse(), end) {
                    ends.insert((name.clone(), index), end);
                }
            }
        }
    }

    fn error(&self, error: ClientError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(Code::AutoOffsetReset | Code::LogTruncation)) {
            self.astray.store(true, Ordering::Relaxed);
        }
        if matches!(error.rdkafka_error_code(), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic)) {
            self.unknown.store(true, Ordering::Relaxed);
        }
        self.link.error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.link.token()
    }
}

impl ClientContext for Writing {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.0.statistics(json);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.0.error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.token()
    }
}

impl ProducerContext for Writing {
    type DeliveryOpaque = Arc<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Arc<Flight>) {
        flight.landed(result.as_ref().err().map(|(error, _)| error));
    }
}

impl ClientContext for Plain {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.0.statistics(json);
    }

    fn error(&self, error: ClientError, reason: &str) {
        self.0.error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.token()
    }
}

impl ConsumerContext for Plain {}
