//! Apache Kafka: topics, groups and the only way to run a stage on several machines.
//!
//! **What `publish` returned for is on every in-sync replica, once and in order for each key, and a
//! partition that was taken away is silent from then on.** The group of a stage is Kafka's own
//! (cooperative-sticky, or KIP-848's `consumer`); where a stage stands is kept in its snapshots,
//! not in the group's offsets, which are written for Kafka's own tools alone.
//!
//! No broker is needed to build anything here. While none answers, every call says so and names
//! them; once one answers, the same objects go on.

mod admin;
mod client;
mod consumer;
mod event;
mod gather;
mod iam;
mod inspect;
mod member;
mod native;
mod publish;
mod settings;

use std::fmt;
use std::sync::Arc;

use castwatch_core::{PortError, Position, Topic};

pub use admin::TopicState;
pub use consumer::KafkaConsumer;
pub use inspect::KafkaInspector;
pub use settings::{Compression, GroupProtocol, KafkaSettings, Sasl, Security, Tls};

use client::Role;
use publish::Producer;

/// Why Kafka did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KafkaError {
    /// The settings contradict each other, or librdkafka does not know them.
    #[error("the Kafka settings can't be used: {0}")]
    Settings(String),
    /// No broker answers.
    #[error("no broker of {brokers} answers: {cause}")]
    Away {
        /// The addresses tried.
        brokers: String,
        /// What the last try met.
        cause: String,
    },
    /// The brokers don't let this client in.
    #[error("{brokers} refuse this client: {cause}; check user, password, mechanism and TLS")]
    Denied {
        /// The addresses tried.
        brokers: String,
        /// What they said.
        cause: String,
    },
    /// The brokers let this client in but not at what it needs.
    #[error("the brokers don't allow it: {0}; grant castwatch's user its topics and groups")]
    Forbidden(String),
    /// A topic is missing.
    #[error("topic {0} does not exist: `castwatch doctor --create` makes it")]
    NoTopic(String),
    /// The log ends before what was read of it.
    #[error(
        "{partition} ends at {end}, and {position} was reached before: the topic was made anew or lost \
         messages; go on from a snapshot that fits it, or under a new group prefix"
    )]
    Ahead {
        /// The partition as Kafka calls it.
        partition: String,
        /// Where it ends.
        end: u64,
        /// Where this stage stands.
        position: Position,
    },
    /// Anything else that librdkafka says.
    #[error("{said}")]
    Client {
        /// What it says.
        said: String,
        /// Its error.
        #[source]
        source: rdkafka::error::KafkaError,
    },
}

impl From<rdkafka::error::KafkaError> for KafkaError {
    fn from(source: rdkafka::error::KafkaError) -> Self {
        let said = source.rdkafka_error_code().map_or_else(|| source.to_string(), |code| code.to_string());
        Self::Client { said, source }
    }
}

/// A Kafka cluster as these settings reach it.
#[derive(Clone)]
pub struct Kafka(Arc<Shared>);

pub(crate) struct Shared {
    settings: KafkaSettings,
    producer: Producer,
}

impl Kafka {
    /// Checks the settings; reaches nothing yet.
    ///
    /// # Errors
    /// [`KafkaError::Settings`].
    pub fn open(settings: KafkaSettings) -> Result<Self, KafkaError> {
        for role in [Role::Consumer("castwatch"), Role::Producer, Role::Admin] {
            settings
                .client(&role)?
                .create_native_config()
                .map_err(|error| KafkaError::Settings(error.to_string()))?;
        }
        Ok(Self(Arc::new(Shared { settings, producer: Producer::default() })))
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &KafkaSettings {
        &self.0.settings
    }

    /// A member of the group of `stage` that reads `topics`.
    #[must_use]
    pub fn consumer(&self, stage: &str, topics: &[Topic]) -> KafkaConsumer {
        KafkaConsumer::new(self.settings(), stage, topics)
    }

    /// Makes each of `topics` and its dead-letter topic where it is missing; says how all of them are.
    ///
    /// # Errors
    /// [`PortError`], when the brokers don't answer or refuse to make one.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<Vec<TopicState>, PortError> {
        admin::ensure(self.settings(), topics).await
    }

    /// How each of `topics` and its dead-letter topic is, and what is wrong with it.
    ///
    /// # Errors
    /// [`PortError`], when the brokers don't answer.
    pub async fn check(&self, topics: &[Topic]) -> Result<Vec<TopicState>, PortError> {
        admin::check(self.settings(), topics).await
    }

    /// Removes `topics`, their dead-letter topics and the groups of `stages`, with all that is in
    /// them: for what a measurement made, never for a plant's.
    ///
    /// # Errors
    /// [`PortError`], when the brokers don't answer or refuse to remove one.
    pub async fn remove(&self, topics: &[Topic], stages: &[&str]) -> Result<(), PortError> {
        admin::remove(self.settings(), topics, stages).await
    }

    /// A reading look at the topics that takes part in no group.
    ///
    /// # Errors
    /// [`PortError`], when no client can be made.
    pub fn inspector(&self) -> Result<KafkaInspector, PortError> {
        KafkaInspector::open(self.settings())
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kafka").field(&self.0.settings).finish()
    }
}
