//! How Kafka is reached and used.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Secret;

/// How members of a group agree on who reads what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Cooperative-sticky, by the members themselves: any broker knows it.
    #[default]
    Classic,
    /// By the broker (KIP-848): Apache Kafka 4.0 and later.
    Consumer,
}

/// How batches are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// Fast.
    #[default]
    Lz4,
    /// Small.
    Zstd,
}

/// Encryption on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of those that are trusted; the system's where there are none.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// Who this client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// User and password as they are: over TLS only.
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
    /// SCRAM-SHA-512.
    Scram512 {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// The AWS identity of this process, for Amazon MSK.
    MskIam {
        /// The cluster's region.
        region: String,
    },
}

/// Encryption and identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Encryption; none where it is absent.
    pub tls: Option<Tls>,
    /// Identity; none where it is absent.
    pub sasl: Option<Sasl>,
}

/// How Kafka is reached and used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `brokers`: host and port of some of them, with commas.
    pub brokers: String,
    /// `topic_prefix`: stands before each topic's name, such as `plant1.`. Empty.
    pub topic_prefix: String,
    /// `group_prefix`: the group of a stage is this, a hyphen and its name. `castwatch`.
    pub group_prefix: String,
    /// `protocol`: `classic` or `consumer`. `classic`.
    pub protocol: GroupProtocol,
    /// `instance_id`: a name that outlives restarts (static membership); one for each process. None.
    pub instance_id: Option<String>,
    /// `[kafka.tls]` and `[kafka.sasl]`.
    pub security: Security,
    /// `compression`: `none`, `lz4` or `zstd`. `lz4`.
    pub compression: Compression,
    /// `linger_ms`: how long an event waits for others to be sent along (0 to 1000). 5.
    pub linger: Duration,
    /// `batch`: the most messages handed over at once (1 to 100000). 2048.
    pub batch: usize,
    /// `session_timeout_ms`: a member that is silent for so long is out. 45000. With the protocol
    /// `consumer` the broker sets it.
    pub session_timeout: Duration,
    /// `delivery_timeout_ms`: how long the client itself tries to publish. 30000.
    pub delivery_timeout: Duration,
    /// `partitions` of a topic that castwatch makes. 12.
    pub partitions: u32,
    /// `replication` of a topic that castwatch makes. 3.
    pub replication: u16,
    /// `librdkafka`: further settings of that library, such as `fetch.wait.max.ms=50`.
    pub extra: Vec<(String, String)>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            topic_prefix: String::new(),
            group_prefix: "castwatch".into(),
            protocol: GroupProtocol::default(),
            instance_id: None,
            security: Security::default(),
            compression: Compression::default(),
            linger: Duration::from_millis(5),
            batch: 2048,
            session_timeout: Duration::from_secs(45),
            delivery_timeout: Duration::from_secs(30),
            partitions: 12,
            replication: 3,
            extra: Vec::new(),
        }
    }
}
