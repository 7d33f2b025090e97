//! What the tests on Kafka share.
#![allow(dead_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use castwatch_platform::kafka::KafkaSettings;

/// The broker that tests may use; says so where there is none.
pub fn broker() -> Option<String> {
    let broker = std::env::var("CASTWATCH_TEST_KAFKA").ok().filter(|b| !b.is_empty());
    if broker.is_none() {
        println!("skipped: no CASTWATCH_TEST_KAFKA; tests/run brings one up");
    }
    broker
}

/// Settings whose topics and groups nobody else has.
pub fn fresh(broker: &str) -> KafkaSettings {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    KafkaSettings {
        brokers: broker.to_owned(),
        topic_prefix: format!("t{now}."),
        group_prefix: format!("g{now}"),
        partitions: 3,
        replication: 1,
        ..KafkaSettings::default()
    }
}
