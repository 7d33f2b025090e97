//! Kafka against the contract and the known faults of others, on a real broker:
//! `CASTWATCH_TEST_KAFKA` says where.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod kafka_support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::ports::Start;
use castwatch_core::{
    Consumer, Delivery, Event, Outgoing, Partition, PortError, Position, Publisher, Snapshots, Topic,
    contract,
};
use castwatch_platform::Embedded;
use castwatch_platform::kafka::{GroupProtocol, Kafka, KafkaConsumer, KafkaSettings};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use kafka_support::{Member, Scoring, broker, fresh, order, publish, shot, until};

const SOON: Duration = Duration::from_secs(30);

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

/// Kafka with `shots` and `scores`, and a place for snapshots.
async fn line(settings: KafkaSettings) -> (Kafka, Arc<Embedded>, tempfile::TempDir) {
    let kafka = Kafka::open(settings).unwrap();
    kafka.ensure_topics(&[Topic::SHOTS, Topic::SCORES]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    (kafka, Embedded::open(folder.path()).unwrap(), folder)
}

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &kafka.settings().brokers).create().unwrap()
}

/// The first thing that is not a moment without news.
async fn news(reader: &mut KafkaConsumer) -> Result<Delivery, PortError> {
    for _ in 0..100 {
        match reader.next(Duration::from_millis(200)).await {
            Ok(Delivery::Idle) => {}
            news => return news,
        }
    }
    panic!("nothing happened")
}

/// A reader that has its partitions.
async fn assigned(kafka: &Kafka, stage: &str) -> (KafkaConsumer, Vec<Partition>) {
    let mut reader = kafka.consumer(stage, &[Topic::SHOTS]);
    match news(&mut reader).await.unwrap() {
        Delivery::Assigned(_, partitions) => (reader, partitions),
        other => panic!("{other:?}"),
    }
}

fn said(error: &(dyn std::error::Error + 'static)) -> String {
    castwatch_core::runner::chain(error)
}

async fn passes_the_contract(protocol: GroupProtocol) {
    let Some(broker) = broker() else { return };
    let kafka = Kafka::open(KafkaSettings { protocol, ..fresh(&broker) }).unwrap();
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

/// Members join and leave while shots come. No partition stands still after a rebalance (vector
/// #22006), and nobody goes on with one that another took over (PostHog #80897): every position is
/// done once, in order.
async fn members_come_and_go(protocol: GroupProtocol) {
    let Some(broker) = broker() else { return };
    let settings = KafkaSettings { protocol, partitions: 6, batch: 20, ..fresh(&broker) };
    let (kafka, snapshots, _folder) = line(settings).await;
    let stage = |member| Scoring { member, ..Scoring::default() };
    let shared = stage(0);
    let of = |member| Scoring { done: Arc::clone(&shared.done), ..stage(member) };
    let total = 3000;
    let feed = {
        let kafka = kafka.clone();
        tokio::spawn(async move {
            for n in 0..total / 30 {
                let some: Vec<_> =
                    (n * 30..(n + 1) * 30).map(|n| shot(&format!("DCM-{}", n % 17), n)).collect();
                publish(&kafka, &some).await;
                tokio::time::sleep(Duration::from_millis(80)).await;
            }
        })
    };
    let pause = || tokio::time::sleep(Duration::from_millis(1300));
    let first = Member::run(&kafka, &snapshots, &of(1));
    pause().await;
    let second = Member::run(&kafka, &snapshots, &of(2));
    pause().await;
    let third = Member::run(&kafka, &snapshots, &of(3));
    pause().await;
    first.end().await;
    pause().await;
    let fourth = Member::run(&kafka, &snapshots, &of(4));
    second.end().await;
    pause().await;
    feed.await.unwrap();
    let done = Arc::clone(&shared.done);
    until("every shot scored", SOON, || done.lock().unwrap().len() >= total).await;
    third.end().await;
    fourth.end().await;
    for (partition, positions) in order(&shared.done) {
        let expected: Vec<u64> = (0..positions.len() as u64).collect();
        assert_eq!(positions, expected, "{partition}: each position once and in order");
    }
    let members: std::collections::BTreeSet<u32> =
        shared.done.lock().unwrap().iter().map(|(member, ..)| *member).collect();
    assert!(members.len() >= 3, "the work was shared: {members:?}");
    let inspector = kafka.inspector().unwrap();
    let scores = tokio::task::spawn_blocking(move || inspector.ends(&Topic::SCORES).unwrap());
    let scores: u64 = scores.await.unwrap().iter().map(|e| e.next.0 - e.first.0).sum();
    assert_eq!(scores, total as u64, "one score a shot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_classic_group_come_and_go() {
    members_come_and_go(GroupProtocol::Classic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_the_brokers_own_group_come_and_go() {
    members_come_and_go(GroupProtocol::Consumer).await;
}

/// Neither a snapshot nor an offset passes a message that failed (vector #24215).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_never_passes_a_failure() {
    let Some(broker) = broker() else { return };
    let (kafka, snapshots, _folder) = line(KafkaSettings { partitions: 1, ..fresh(&broker) }).await;
    let shots: Vec<_> = (0..20).map(|n| shot("DCM-01", n)).collect();
    publish(&kafka, &shots).await;
    let failing = Scoring { failures: Arc::new(AtomicU32::new(u32::MAX)), ..Scoring::default() };
    let member = Member::run(&kafka, &snapshots, &failing);
    until("five shots scored", SOON, || failing.done.lock().unwrap().len() == 5).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let trouble = member.status.get().ready(SOON).unwrap_err().join("; ");
    assert!(trouble.contains("effect is not available: not now"), "{trouble}");
    // As if the process had been killed.
    member.task.abort();
    let partition = Partition::new(Topic::SHOTS, 0);
    let generation = castwatch_core::ports::Generation(1 << 40);
    let (_, kept) = snapshots.take("look", &partition, generation).await.unwrap();
    assert_eq!(kept, None);
    let inspector = snapshots.inspector().unwrap().snapshots_of("scorer").unwrap();
    assert!(inspector.iter().all(|(_, s)| s.position <= Position(5)), "{inspector:?}");
    let next = Scoring::default();
    let member = Member::run(&kafka, &snapshots, &next);
    until("the rest scored", SOON, || next.done.lock().unwrap().last().is_some_and(|(.., p)| *p == 19)).await;
    member.end().await;
    let positions = &order(&next.done)[&partition];
    assert!(positions[0] <= 5 && positions.windows(2).all(|p| p[1] == p[0] + 1), "{positions:?}");
}

/// Messages that make no sense are set aside, and the partition goes on (arroyo #1103).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bytes_become_dead_letters() {
    let Some(broker) = broker() else { return };
    let (kafka, snapshots, _folder) = line(KafkaSettings { partitions: 1, ..fresh(&broker) }).await;
    let foreign: BaseProducer = ClientConfig::new().set("bootstrap.servers", &broker).create().unwrap();
    let name = format!("{}shots", kafka.settings().topic_prefix);
    type Raw<'a> = Option<&'a [u8]>;
    let bad: [(Raw<'_>, Raw<'_>); 5] = [
        (Some(b"\xff\xfe"), Some(b"\x80{")),
        (None, None),
        (Some(b""), Some(b"")),
        (Some(b"DCM-01"), Some(b"{\"machine\":")),
        (Some(b"DCM-01"), Some(&[0; 3000])),
    ];
    for (key, payload) in bad {
        publish(&kafka, &[shot("DCM-01", 1)]).await;
        let record = BaseRecord { key, payload, ..BaseRecord::to(&name) };
        foreign.send(record).map_err(|(error, _)| error).unwrap();
        foreign.flush(Duration::from_secs(10)).unwrap();
    }
    publish(&kafka, &[shot("DCM-01", 2)]).await;
    let stage = Scoring::default();
    let member = Member::run(&kafka, &snapshots, &stage);
    until("the good ones scored", SOON, || stage.done.lock().unwrap().len() == 6).await;
    let partition = Partition::new(Topic::SHOTS, 0);
    until("progress", SOON, || {
        member.status.get().partitions.get(&partition).is_some_and(|s| s.position == Position(11))
    })
    .await;
    assert_eq!(member.status.get().ready(SOON), Ok(()));
    let tally = member.status.get().partitions[&partition].tally;
    assert_eq!((tally.taken, tally.done, tally.dead_letters), (11, 6, 5));
    member.end().await;
    let inspector = kafka.inspector().unwrap();
    let look = tokio::task::spawn_blocking(move || {
        let mut dead = Vec::new();
        let take = |_: &Partition, message: castwatch_core::Message| {
            dead.push(message.event);
            ControlFlow::Continue(())
        };
        inspector.each(&Topic::SHOTS.dead_letters(), take).unwrap();
        (dead, inspector.topics().unwrap())
    });
    let (dead, topics) = look.await.unwrap();
    let data: Vec<&[u8]> = dead.iter().map(|d| &d.data[..]).collect();
    assert_eq!(data, bad.map(|(_, payload)| payload.unwrap_or_default()), "as they came");
    assert_eq!(dead[0].extension("dlqposition"), Some("1"));
    let dlq = |topic: &Topic| topic.dead_letters();
    assert_eq!(topics, [Topic::SCORES, dlq(&Topic::SCORES), Topic::SHOTS, dlq(&Topic::SHOTS)]);
}

/// A group that Kafka forgot counts from the beginning, and takes its own snapshots all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_group_goes_on() {
    let Some(broker) = broker() else { return };
    let (kafka, snapshots, _folder) = line(KafkaSettings { partitions: 2, ..fresh(&broker) }).await;
    let stage = Scoring::default();
    for life in 0..2 {
        for n in 0..3 {
            publish(&kafka, &[shot("DCM-01", life * 10 + n)]).await;
            let member = Member::run(&kafka, &snapshots, &stage);
            until("the shot scored", SOON, || stage.done.lock().unwrap().len() == life * 4 + n + 1).await;
            member.end().await;
        }
        let group = format!("{}-scorer", kafka.settings().group_prefix);
        admin(&kafka).delete_groups(&[&group], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        publish(&kafka, &[shot("DCM-01", life * 10 + 3)]).await;
        let member = Member::run(&kafka, &snapshots, &stage);
        until("the next shot scored", SOON, || stage.done.lock().unwrap().len() == life * 4 + 4).await;
        member.end().await;
    }
    let positions: Vec<u64> = order(&stage.done).into_values().next().unwrap();
    assert_eq!(positions, (0..8).collect::<Vec<u64>>(), "each once");
}

/// What the log removed before it was read is told, to the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_removed_is_counted() {
    let Some(broker) = broker() else { return };
    let small = [("queued.min.messages", "1"), ("fetch.message.max.bytes", "1")];
    let extra = small.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let (kafka, ..) = line(KafkaSettings { partitions: 1, batch: 1, extra, ..fresh(&broker) }).await;
    for n in 0..60 {
        publish(&kafka, &[shot("DCM-01", n)]).await;
    }
    let remove = async |before: i64| {
        let mut list = TopicPartitionList::new();
        let name = format!("{}shots", kafka.settings().topic_prefix);
        list.add_partition_offset(&name, 0, Offset::Offset(before)).unwrap();
        admin(&kafka).delete_records(&list, &AdminOptions::new()).await.unwrap();
    };
    let missed = |delivery: Delivery| match delivery {
        Delivery::Missed { from, to, .. } => (from.0, to.0),
        other => panic!("{other:?}"),
    };
    remove(10).await;
    let (mut reader, partitions) = assigned(&kafka, "late").await;
    reader.start(&partitions[0], Start::At(Position(3))).await.unwrap();
    assert_eq!(missed(news(&mut reader).await.unwrap()), (3, 10));
    let Delivery::Batch(_, messages) = news(&mut reader).await.unwrap() else { panic!() };
    assert_eq!(messages[0].position, Position(10));
    // In the middle: all but what was fetched ahead is gone.
    remove(50).await;
    let mut next = 11;
    let (from, to) = loop {
        match news(&mut reader).await.unwrap() {
            Delivery::Batch(_, messages) => {
                assert_eq!(messages[0].position, Position(next));
                next += messages.len() as u64;
            }
            other => break missed(other),
        }
    };
    assert_eq!((from, to), (next, 50), "up to what is there");
    for position in 50..60 {
        let Delivery::Batch(_, messages) = news(&mut reader).await.unwrap() else { panic!() };
        assert_eq!(messages[0].position, Position(position));
    }
    // The same at the beginning of a runner's life: nothing is missed where nobody was before.
    let (mut reader, partitions) = assigned(&kafka, "first").await;
    reader.start(&partitions[0], Start::Earliest).await.unwrap();
    let Delivery::Batch(_, messages) = news(&mut reader).await.unwrap() else { panic!() };
    assert_eq!(messages[0].position, Position(50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_anew_and_one_that_is_missing_are_told_of() {
    let Some(broker) = broker() else { return };
    let (kafka, ..) = line(KafkaSettings { partitions: 1, ..fresh(&broker) }).await;
    publish(&kafka, &(0..30).map(|n| shot("DCM-01", n)).collect::<Vec<_>>()).await;
    let name = format!("{}shots", kafka.settings().topic_prefix);
    admin(&kafka).delete_topics(&[&name], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut reader = kafka.consumer("scorer", &[Topic::SHOTS]);
    let error = said(&reader.next(Duration::from_millis(100)).await.unwrap_err());
    assert!(
        error.contains(&format!("topic {name} does not exist: `castwatch doctor --create` makes it")),
        "{error}"
    );
    let states = kafka.check(&[Topic::SHOTS]).await.unwrap();
    assert_eq!((states[0].partitions, &states[0].faults[..]), (0, &["it does not exist".to_owned()][..]));
    assert_eq!((states[1].partitions, &states[1].faults[..]), (1, &[][..]));
    let error = said(&kafka.publish(&[shot("DCM-01", 1)]).await.unwrap_err());
    assert!(error.contains(&name), "{error}");

    let made = kafka.ensure_topics(&[Topic::SHOTS]).await.unwrap();
    assert!(made[0].made && !made[1].made && made[0].faults.is_empty(), "{made:?}");
    publish(&kafka, &[shot("DCM-01", 1)]).await;
    let Delivery::Assigned(_, partitions) = news(&mut reader).await.unwrap() else { panic!() };
    let error = reader.start(&partitions[0], Start::At(Position(30))).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
    assert!(
        said(&error).contains("ends at 1, and 30 was reached before: the topic was made anew"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_an_event_is_refused_and_a_large_one_is_not() {
    let Some(broker) = broker() else { return };
    let compression = castwatch_platform::kafka::Compression::None;
    let (kafka, ..) = line(KafkaSettings { compression, ..fresh(&broker) }).await;
    let of = |size: usize| Outgoing {
        topic: Topic::SHOTS,
        key: "DCM-01".into(),
        event: Event { data: Bytes::from(vec![7; size]), ..Event::default() },
    };
    kafka.publish(&[shot("DCM-01", 1), of(8_000_000)]).await.unwrap();
    for size in [8_900_000, 20_000_000] {
        let error = kafka.publish(&[shot("DCM-01", 2), of(size)]).await.unwrap_err();
        assert!(matches!(error, PortError::Refused { .. }), "{size}: {error:?}");
    }
    kafka.publish(&[shot("DCM-01", 3)]).await.expect("the producer goes on");
}
