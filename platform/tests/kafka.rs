//! Kafka against the contract, on a real broker: `CASTWATCH_TEST_KAFKA` says where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod kafka_support;

use castwatch_core::{Topic, contract};
use castwatch_platform::kafka::GroupProtocol;

use kafka_support::{broker, fresh};

/// The topics of [`contract::log`].
const TOPICS: [&str; 7] = [
    "contract-order",
    "contract-attributes",
    "contract-concurrent",
    "contract-one",
    "contract-two",
    "contract-start",
    "contract-wait",
];

async fn passes_the_contract(protocol: GroupProtocol) {
    let Some(broker) = broker() else { return };
    let mut settings = fresh(&broker);
    settings.protocol = protocol;
    let kafka = castwatch_platform::kafka::Kafka::open(settings).unwrap();
    let topics: Vec<Topic> = TOPICS.iter().map(|name| Topic::named(*name)).collect();
    kafka.ensure_topics(&topics).await.unwrap();
    contract::log(&kafka, |stage, topics| kafka.consumer(stage, topics)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_classic_group_passes_the_contract() {
    passes_the_contract(GroupProtocol::Classic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_own_group_passes_the_contract() {
    passes_the_contract(GroupProtocol::Consumer).await;
}
