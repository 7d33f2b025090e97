//! What all scenarios share: one broker, one DynamoDB, one S3, and a proxy in front of each.

use std::net::SocketAddr;
use std::path::PathBuf;

use castwatch_platform::aws::AwsSettings;
use castwatch_platform::config::Secret;
use tempfile::TempDir;

use crate::broker::{Broker, free_ports};
use crate::http::Service;
use crate::proxy::{Proxy, Speech};

/// The services that `tests/services/with` brings up.
pub struct Services {
    /// Kafka's jars.
    pub kafka_home: PathBuf,
    /// DynamoDB.
    pub dynamodb: SocketAddr,
    /// S3.
    pub s3: SocketAddr,
}

impl Services {
    /// The services named by the environment, or `None` after saying what is missing.
    pub fn from_env() -> Option<Self> {
        let named = |name: &str| {
            let value = std::env::var(name).ok();
            if value.is_none() {
                eprintln!("skipped: no {name}; tests/run brings one up, and so does tests/services/with");
            }
            value
        };
        let address = |url: String| {
            let host = url.trim_start_matches("http://").trim_end_matches('/');
            host.parse().unwrap_or_else(|e| panic!("{url} is not http://ADDRESS:PORT: {e}"))
        };
        Some(Self {
            kafka_home: named("CASTWATCH_TEST_KAFKA_HOME")?.into(),
            dynamodb: address(named("CASTWATCH_TEST_DYNAMODB")?),
            s3: address(named("CASTWATCH_TEST_S3")?),
        })
    }
}

/// The world of a run.
pub struct World {
    /// Chance of everything.
    pub seed: u64,
    /// A name that no other run has, for tables and buckets that outlive it.
    pub run: String,
    /// The broker.
    pub broker: Broker,
    /// In front of the broker.
    pub kafka: Proxy,
    /// In front of S3.
    pub s3: Proxy,
    /// In front of DynamoDB.
    pub dynamodb: Proxy,
    /// The services themselves.
    pub services: Services,
    /// Where everything lies that this run writes.
    pub folder: TempDir,
}

impl World {
    /// Brings the broker up behind its proxy.
    pub async fn start(services: Services, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [behind] = free_ports();
        let behind: SocketAddr = ([127, 0, 0, 1], behind).into();
        let kafka = Proxy::start(behind, Speech::Bytes, seed).await.unwrap();
        let s3 = Proxy::start(services.s3, Speech::Http(Service::S3), seed + 1).await.unwrap();
        let dynamodb =
            Proxy::start(services.dynamodb, Speech::Http(Service::DynamoDb), seed + 2).await.unwrap();
        let home = folder.path().join("kafka");
        std::fs::create_dir(&home).unwrap();
        let broker = tokio::task::block_in_place(|| {
            let mut broker = Broker::new(&services.kafka_home, &home, behind, kafka.address);
            broker.start();
            broker.await_up();
            broker
        });
        let run = format!("{:x}", std::process::id());
        Self { seed, run, broker, kafka, s3, dynamodb, services, folder }
    }

    /// Everything works again.
    pub fn heal(&self) {
        for proxy in [&self.kafka, &self.s3, &self.dynamodb] {
            proxy.heal();
        }
    }

    /// How a test reaches a server that imitates AWS.
    pub fn aws(&self, at: SocketAddr) -> AwsSettings {
        AwsSettings {
            region: Some("us-east-1".to_owned()),
            endpoint: Some(format!("http://{at}")),
            access_key: Some("castwatch".to_owned()),
            secret_key: Some(Secret::new("castwatch".to_owned())),
        }
    }
}
