use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::event::{Event, Message, Outgoing, Partition, Position, Topic};
use crate::ports::{Consumer, Delivery, Publisher, Start};

/// Long enough for any store to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without news for so long a reader has read everything.
const QUIET: Duration = Duration::from_millis(150);

/// [`Publisher`] and [`Consumer`]: what is published is read, once, whole and in order, from where
/// the reader starts. `consumer` makes the reader of a stage.
pub async fn log<P: Publisher, C: Consumer>(publisher: &P, consumer: impl Fn(&str, &[Topic]) -> C) {
    keeps_order(publisher, &consumer).await;
    keeps_every_attribute(publisher, &consumer).await;
    keeps_concurrent_publishes(publisher, &consumer).await;
    reads_topics_together_and_stages_apart(publisher, &consumer).await;
    starts_where_it_is_told(publisher, &consumer).await;
    waits_for_what_comes(publisher, &consumer).await;
}

/// A consumer with what a runner does about partitions that come and go.
struct Reader<C> {
    consumer: C,
    start: Start,
    partitions: Vec<Partition>,
}

impl<C: Consumer> Reader<C> {
    /// A reader that has its partitions.
    async fn open(consumer: C, start: Start) -> Self {
        let mut reader = Self { consumer, start, partitions: Vec::new() };
        let began = Instant::now();
        while reader.partitions.is_empty() {
            assert!(began.elapsed() < PATIENCE, "a consumer that is alone must be assigned partitions");
            if let Some((partition, _)) = reader.next(QUIET).await {
                panic!("a batch of {partition} came before any partition was assigned and started");
            }
        }
        reader
    }

    /// What comes within `wait`: a batch, or nothing.
    async fn next(&mut self, wait: Duration) -> Option<(Partition, Vec<Message>)> {
        match self.consumer.next(wait).await.expect("next must work while nothing is broken") {
            Delivery::Assigned(_, partitions) => {
                for partition in partitions {
                    self.consumer
                        .start(&partition, self.start)
                        .await
                        .expect("an assigned partition can be started");
                    self.partitions.push(partition);
                }
                None
            }
            Delivery::Batch(partition, messages) => {
                assert!(
                    self.partitions.contains(&partition),
                    "a batch of {partition}, which is not assigned"
                );
                assert!(!messages.is_empty(), "a batch of {partition} without messages: that is Idle");
                Some((partition, messages))
            }
            Delivery::Revoked(partitions) => {
                self.consumer.release(&partitions).await.expect("revoked partitions can be released");
                self.partitions.retain(|p| !partitions.contains(p));
                None
            }
            Delivery::Lost(partitions) => {
                self.partitions.retain(|p| !partitions.contains(p));
                None
            }
            Delivery::Missed { partition, from, to } => {
                panic!("{partition} lacks {from} to {to}, and nobody removed anything")
            }
            Delivery::Idle => None,
        }
    }

    /// At least `count` messages and whatever comes after them, each partition's in order.
    async fn read(&mut self, count: usize) -> BTreeMap<Partition, Vec<Message>> {
        let mut read: BTreeMap<Partition, Vec<Message>> = BTreeMap::new();
        let began = Instant::now();
        let mut so_far = 0;
        loop {
            match self.next(QUIET).await {
                Some((partition, messages)) => {
                    so_far += messages.len();
                    let before = read.entry(partition.clone()).or_default();
                    before.extend(messages);
                    assert!(
                        before.windows(2).all(|pair| pair[0].position < pair[1].position),
                        "positions of {partition} must rise"
                    );
                }
                None if so_far >= count => return read,
                None => assert!(began.elapsed() < PATIENCE, "{so_far} messages came of {count}"),
            }
        }
    }
}

fn outgoing(topic: &Topic, key: &str, id: &str) -> Outgoing {
    let event = Event {
        id: id.into(),
        ty: "castwatch.contract.v1".into(),
        source: "/castwatch/contract".into(),
        subject: id.into(),
        time: None,
        traceparent: None,
        extensions: Vec::new(),
        data: Bytes::from(format!("{{\"id\":\"{id}\"}}")),
    };
    Outgoing { topic: topic.clone(), key: key.into(), event }
}

fn ids(read: &BTreeMap<Partition, Vec<Message>>) -> Vec<String> {
    let mut ids: Vec<String> = read.values().flatten().map(|m| m.event.id.clone()).collect();
    ids.sort();
    ids
}

fn expected(outgoing: &[Outgoing]) -> Vec<String> {
    let mut ids: Vec<String> = outgoing.iter().map(|o| o.event.id.clone()).collect();
    ids.sort();
    ids
}

async fn keeps_order<P: Publisher, C: Consumer>(publisher: &P, consumer: &impl Fn(&str, &[Topic]) -> C) {
    let topic = Topic::named("contract-order");
    let keys = ["DCM-01", "DCM-02", "주조기 3", "", "a/b~c%", "DCM-06", "DCM-07"];
    let all: Vec<Outgoing> =
        (0..1500).map(|n| outgoing(&topic, keys[n * n % 61 % keys.len()], &format!("{n:05}"))).collect();
    publisher.publish(&[]).await.expect("publishing nothing works");
    for batch in all.chunks(217) {
        publisher.publish(batch).await.expect("publish");
    }
    let mut reader = Reader::open(consumer("contract-order", &[topic]), Start::Earliest).await;
    let read = reader.read(all.len()).await;
    assert_eq!(ids(&read), expected(&all), "every event must be read once");

    let mut homes: HashMap<&str, &Partition> = HashMap::new();
    for (partition, messages) in &read {
        for message in messages {
            let home = homes.entry(&message.key).or_insert(partition);
            assert_eq!(*home, partition, "key {:?} must stay in one partition", message.key);
        }
    }
    for key in keys {
        let sent: Vec<&str> = all.iter().filter(|o| o.key == key).map(|o| o.event.id.as_str()).collect();
        let got: Vec<&str> =
            read.values().flatten().filter(|m| m.key == key).map(|m| m.event.id.as_str()).collect();
        assert_eq!(got, sent, "events of key {key:?} must come in the order they were published");
    }
}

async fn keeps_every_attribute<P: Publisher, C: Consumer>(
    publisher: &P,
    consumer: &impl Fn(&str, &[Topic]) -> C,
) {
    let topic = Topic::named("contract-attributes");
    let full = Event {
        id: "score:주조기%203~금형~20260115T074506Z~258".into(),
        ty: "castwatch.score.v1".into(),
        source: "/castwatch/scorer".into(),
        subject: "주조기%203~금형~20260115T074506Z~258".into(),
        time: "2026-01-15T07:45:06.250Z".parse::<Timestamp>().ok(),
        traceparent: Some(crate::event::trace_root("x")),
        extensions: vec![("stage".into(), "scorer".into()), ("error".into(), "깨진 \"글\"\n, = ; %".into())],
        data: Bytes::from_static(b"{}"),
    };
    let empty = Event::default();
    let binary: Bytes = (0..=255).chain([0, 0xff, 0xfe, 0]).collect();
    let large: Bytes = (0..1_048_576_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let events = [
        full.clone(),
        empty,
        Event { data: binary, ..full.clone() },
        Event { data: large, ..full.clone() },
        Event { time: "1970-01-01T00:00:00Z".parse().ok(), ..full.clone() },
        Event { time: "9999-12-30T22:00:00.999999999Z".parse().ok(), ..full },
    ];
    let all: Vec<Outgoing> = events
        .into_iter()
        .map(|event| Outgoing { topic: topic.clone(), key: "주조기 3".into(), event })
        .collect();
    publisher.publish(&all).await.expect("publish");
    let mut reader = Reader::open(consumer("contract-attributes", &[topic]), Start::Earliest).await;
    let read: Vec<Message> = reader.read(all.len()).await.into_values().flatten().collect();
    assert_eq!(read.len(), all.len(), "every event must be read once, also one without attributes and data");
    for (sent, got) in all.iter().zip(&read) {
        assert_eq!(got.key, sent.key, "the key must survive");
        assert!(got.event.data == sent.event.data, "{} bytes of data must survive", sent.event.data.len());
        assert_eq!(got.event, sent.event, "every attribute must survive");
        assert!(got.written_ms > 0, "the log must say when it took the event");
    }
}

async fn keeps_concurrent_publishes<P: Publisher, C: Consumer>(
    publisher: &P,
    consumer: &impl Fn(&str, &[Topic]) -> C,
) {
    let topic = Topic::named("contract-concurrent");
    let of = |who: usize| -> Vec<Outgoing> {
        (0..120).map(|n| outgoing(&topic, &format!("DCM-{who}"), &format!("{who}-{n:04}"))).collect()
    };
    let lots = [of(0), of(1), of(2), of(3)];
    let send = async |lot: &[Outgoing]| {
        for batch in lot.chunks(9) {
            publisher.publish(batch).await.expect("publish beside other publishers");
        }
    };
    tokio::join!(send(&lots[0]), send(&lots[1]), send(&lots[2]), send(&lots[3]));
    let all = lots.concat();
    let mut reader = Reader::open(consumer("contract-concurrent", &[topic]), Start::Earliest).await;
    let read = reader.read(all.len()).await;
    assert_eq!(ids(&read), expected(&all), "every event of every publisher must be read once");
    for lot in &lots {
        let got = read.values().flatten().filter(|m| m.key == lot[0].key).map(|m| &m.event.id);
        assert!(got.eq(lot.iter().map(|o| &o.event.id)), "order within one publisher and key must hold");
    }
}

async fn reads_topics_together_and_stages_apart<P: Publisher, C: Consumer>(
    publisher: &P,
    consumer: &impl Fn(&str, &[Topic]) -> C,
) {
    let (one, two) = (Topic::named("contract-one"), Topic::named("contract-two"));
    let mixed: Vec<Outgoing> = (0..40)
        .map(|n| {
            outgoing(if n % 3 == 0 { &one } else { &two }, &format!("DCM-{}", n % 5), &format!("{n:03}"))
        })
        .collect();
    publisher.publish(&mixed).await.expect("publish to two topics at once");
    let both = [one.clone(), two];
    let mut first = Reader::open(consumer("contract-both", &both), Start::Earliest).await;
    assert_eq!(ids(&first.read(mixed.len()).await), expected(&mixed), "a reader of two topics gets both");
    let mut second = Reader::open(consumer("contract-other", &both), Start::Earliest).await;
    assert_eq!(ids(&second.read(mixed.len()).await), expected(&mixed), "another stage reads everything too");
    let only: Vec<Outgoing> = mixed.into_iter().filter(|o| o.topic == one).collect();
    let mut third =
        Reader::open(consumer("contract-third", std::slice::from_ref(&one)), Start::Earliest).await;
    let read = third.read(only.len()).await;
    assert_eq!(ids(&read), expected(&only), "a reader of one topic gets that one");
    assert!(read.keys().all(|p| p.topic == one), "partitions name their topic");
}

async fn starts_where_it_is_told<P: Publisher, C: Consumer>(
    publisher: &P,
    consumer: &impl Fn(&str, &[Topic]) -> C,
) {
    let topic = Topic::named("contract-start");
    let all: Vec<Outgoing> = (0..60).map(|n| outgoing(&topic, "DCM-01", &format!("{n:03}"))).collect();
    publisher.publish(&all).await.expect("publish");
    let topics = [topic.clone()];
    let mut reader = Reader::open(consumer("contract-start", &topics), Start::Earliest).await;
    let read = reader.read(all.len()).await;
    let (partition, messages) = read.into_iter().find(|(_, m)| !m.is_empty()).expect("the key's partition");
    assert_eq!(messages.len(), all.len(), "Earliest begins at the first message");

    let go = async |reader: &mut Reader<C>, start: Start, count: usize| -> Vec<Position> {
        reader.consumer.start(&partition, start).await.expect("a partition can be started anew");
        reader.read(count).await.into_values().flatten().map(|m| m.position).collect()
    };
    let positions: Vec<Position> = messages.iter().map(|m| m.position).collect();
    assert_eq!(
        go(&mut reader, Start::At(positions[41]), 19).await,
        positions[41..],
        "At begins at that message"
    );
    assert_eq!(go(&mut reader, Start::Earliest, 60).await, positions, "Earliest again goes all the way back");
    assert_eq!(
        go(&mut reader, Start::At(positions[10].next()), 49).await,
        positions[11..],
        "At the position after a message begins at the next one"
    );
    let tail = go(&mut reader, Start::Tail(7), 1).await;
    assert!(positions.ends_with(&tail) && tail.len() <= 7, "Tail gives the last messages, not {tail:?}");
    if positions.windows(2).all(|pair| pair[1] == pair[0].next()) {
        assert_eq!(tail.len(), 7, "Tail gives as many as asked for");
    }
    assert_eq!(
        go(&mut reader, Start::Tail(1_000_000), 60).await,
        positions,
        "a Tail longer than all gives all"
    );

    // Back to where it began in the middle of reading.
    reader.consumer.start(&partition, Start::At(positions[20])).await.expect("start");
    let (_, some) = reader.next(PATIENCE).await.expect("a batch");
    assert_eq!(some[0].position, positions[20], "the batch after a start begins there");
    assert_eq!(
        go(&mut reader, Start::At(positions[20]), 40).await,
        positions[20..],
        "a batch can be had again"
    );

    // From the end on only what is new.
    let end = positions[59].next();
    assert!(go(&mut reader, Start::At(end), 0).await.is_empty(), "nothing lies at the end");
    publisher.publish(&[outgoing(&topic, "DCM-01", "060")]).await.expect("publish");
    assert_eq!(ids(&reader.read(1).await), ["060"], "what is published then is read");
    let mut late = Reader::open(consumer("contract-late", &topics), Start::Tail(0)).await;
    assert!(late.read(0).await.is_empty(), "a tail of nothing begins at the end");
    publisher.publish(&[outgoing(&topic, "DCM-01", "061")]).await.expect("publish");
    assert_eq!(ids(&late.read(1).await), ["061"], "what is published then is read");
}

async fn waits_for_what_comes<P: Publisher, C: Consumer>(
    publisher: &P,
    consumer: &impl Fn(&str, &[Topic]) -> C,
) {
    let topic = Topic::named("contract-wait");
    publisher.publish(&[outgoing(&topic, "DCM-01", "0")]).await.expect("publish");
    let mut reader =
        Reader::open(consumer("contract-wait", std::slice::from_ref(&topic)), Start::Earliest).await;
    assert_eq!(ids(&reader.read(1).await), ["0"]);

    let began = Instant::now();
    let nothing = reader.next(QUIET).await;
    assert!(nothing.is_none(), "nothing was published");
    assert!(
        began.elapsed() >= QUIET.mul_f64(0.9),
        "Idle comes after the wait, not after {:?}",
        began.elapsed()
    );

    let wait = Duration::from_secs(20);
    for n in 1..4 {
        let began = Instant::now();
        let one = [outgoing(&topic, "DCM-01", &n.to_string())];
        let (got, ()) = tokio::join!(reader.next(wait), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            publisher.publish(&one).await.expect("publish while a reader waits");
        });
        let (_, messages) = got.expect("what is published ends the wait");
        assert_eq!(messages[0].event.id, n.to_string());
        assert!(
            began.elapsed() < wait / 4,
            "the wait must end with the publish, not after {:?}",
            began.elapsed()
        );
    }
}
