use std::time::Duration;

use bytes::Bytes;
use castwatch_core::ports::{Snapshot, Start};
use castwatch_core::{
    Consumer, Delivery, Event, Message, Outgoing, Partition, PortError, Position, Publisher, Snapshots,
    Topic, contract,
};

use super::*;

fn outgoing(key: &str, id: usize, bytes: usize) -> Outgoing {
    let event = Event {
        id: id.to_string(),
        ty: Event::SHOT.into(),
        source: "/test".into(),
        subject: id.to_string(),
        time: None,
        traceparent: None,
        extensions: Vec::new(),
        data: Bytes::from(vec![b' '; bytes]),
    };
    Outgoing { topic: Topic::SHOTS, key: key.into(), event }
}

/// Everything in `shots` from the beginning.
async fn read_all(log: &Arc<Embedded>) -> Vec<Message> {
    let mut consumer = log.consumer("test", &[Topic::SHOTS]);
    let mut all = Vec::new();
    loop {
        match consumer.next(Duration::from_millis(20)).await.unwrap() {
            Delivery::Assigned(partitions) => {
                for partition in &partitions {
                    consumer.start(partition, Start::Earliest).await.unwrap();
                }
            }
            Delivery::Batch(_, messages) => all.extend(messages),
            Delivery::Idle => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn said(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    contract::log(&*log, |stage, topics| log.consumer(stage, topics)).await;
    contract::snapshots(&*log).await;
    contract::records(&*log).await;
}

#[tokio::test]
async fn passes_the_contract_with_one_thread_small_batches_and_one_partition() {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings { partitions: 1, durability: Durability::Normal, batch: 3 };
    let log = Embedded::open_with(folder.path(), settings).unwrap();
    contract::log(&*log, |stage, topics| log.consumer(stage, topics)).await;
    contract::snapshots(&*log).await;
}
