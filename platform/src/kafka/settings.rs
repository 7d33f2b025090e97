//! How Kafka is reached and used.

use std::path::PathBuf;
use std::time::Duration;

use castwatch_core::Topic;

use crate::config::Secret;

/// How the members of a group share its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members work it out, cooperatively: partitions that stay are not interrupted.
    #[default]
    Classic,
    /// The brokers work it out (KIP-848, Kafka 4.0 and later).
    Consumer,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Quick.
    #[default]
    Lz4,
    /// Small.
    Zstd,
    /// Not at all.
    None,
}

/// Certificates. Without a file of authorities those of the machine are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may vouch for the brokers, in PEM.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate, in PEM, where the brokers ask for one.
    pub cert_file: Option<PathBuf>,
    /// Its key, in PEM.
    pub key_file: Option<PathBuf>,
}

/// How this client says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// User and password, in the clear: only with TLS.
    Plain {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// SCRAM-SHA-256.
    Scram256 {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// SCRAM-SHA-512, as Amazon MSK has it.
    Scram512 {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// The IAM role of Amazon MSK.
    MskIam {
        /// The cluster's region.
        region: String,
    },
}

/// How the connection is kept safe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Encryption; without it nothing is encrypted.
    pub tls: Option<Tls>,
    /// Who this client is; without it nobody in particular.
    pub sasl: Option<Sasl>,
}

/// How Kafka is reached and used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Some of the brokers, `host:port` with commas between.
    pub brokers: String,
    /// Comes before a stage's name in its group's: `castwatch` makes `castwatch-scorer`.
    pub group_prefix: String,
    /// Comes before every topic's name, such as `plant1.`.
    pub topic_prefix: String,
    /// How a group shares its partitions.
    pub protocol: GroupProtocol,
    /// Makes this process a static member: it may restart within the session time-out without
    /// moving partitions. Different in each process.
    pub instance_id: Option<String>,
    /// How the connection is kept safe.
    pub security: Security,
    /// How batches are compressed.
    pub compression: Compression,
    /// How long an event may wait for others to go along. A stage publishes a whole batch and waits
    /// for it, so that waiting for more only costs time: 0.
    pub linger: Duration,
    /// The most messages handed over at once.
    pub batch: usize,
    /// A member that is silent for so long is out (with [`GroupProtocol::Classic`]; the brokers
    /// say how long otherwise).
    pub session_timeout: Duration,
    /// An event that is not acknowledged within this time is an error, and is tried again from above.
    pub delivery_timeout: Duration,
    /// Partitions of a topic that is made.
    pub partitions: u32,
    /// Replicas of a topic that is made.
    pub replication: u16,
    /// Further settings of librdkafka; they come after all others.
    pub extra: Vec<(String, String)>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            group_prefix: "castwatch".into(),
            topic_prefix: String::new(),
            protocol: GroupProtocol::default(),
            instance_id: None,
            security: Security::default(),
            compression: Compression::default(),
            linger: Duration::ZERO,
            batch: 1000,
            session_timeout: Duration::from_secs(10),
            delivery_timeout: Duration::from_secs(15),
            partitions: 12,
            replication: 3,
            extra: Vec::new(),
        }
    }
}

impl KafkaSettings {
    /// What Kafka calls `topic`.
    pub(super) fn name(&self, topic: &Topic) -> String {
        format!("{}{topic}", self.topic_prefix)
    }

    /// The topic that Kafka calls `name`, if it is one of ours.
    pub(super) fn topic(&self, name: &str) -> Option<Topic> {
        name.strip_prefix(&self.topic_prefix)
            .filter(|rest| !rest.is_empty() && !rest.starts_with("__"))
            .map(Topic::named)
    }

    /// The group of `stage`.
    pub(super) fn group(&self, stage: &str) -> String {
        format!("{}-{stage}", self.group_prefix)
    }
}
