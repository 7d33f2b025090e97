//! What reading and writing cost: `cargo test --release -p castwatch-platform --test kafka_speed --
//! --ignored --nocapture`, with `CASTWATCH_TEST_KAFKA`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod kafka_support;

use std::time::{Duration, Instant};

use castwatch_core::ports::Start;
use castwatch_core::{Consumer as _, Delivery, Event, Outgoing, Publisher, Topic};
use castwatch_platform::kafka::{Kafka, KafkaSettings};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use kafka_support::{broker, fresh, publish};

const COUNT: usize = 300_000;
const BATCH: usize = 1000;

/// CPU seconds of this process, all threads.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

struct Measure(&'static str, Instant, f64);

impl Measure {
    fn begin(name: &'static str) -> Self {
        Self(name, Instant::now(), cpu())
    }

    fn end(self) {
        let (wall, cpu) = (self.1.elapsed().as_secs_f64(), cpu() - self.2);
        let count = COUNT as f64;
        println!("{:38} {:9.0} /s {:6.2} us CPU", self.0, count / wall, cpu / count * 1e6);
    }
}

/// Scores as they are: 621 bytes of JSON and all attributes.
fn events() -> Vec<Outgoing> {
    let readings: Vec<String> = (0..30).map(|n| format!("\"reading_{n:02}\":{}.25", 100 + n)).collect();
    let data = format!("{{{}}}", readings.join(","));
    let data = format!("{data:621.621}");
    let of = |n: usize| {
        let id = format!("DCM-{:02}~8722~20260115T074506Z~{n}", n % 40);
        let event = Event {
            id: format!("score:{id}"),
            ty: "castwatch.score.v1".into(),
            source: "/castwatch/scorer".into(),
            time: "2026-01-15T07:45:06Z".parse().ok(),
            traceparent: Some(castwatch_core::event::trace_root("x")),
            extensions: Vec::new(),
            data: data.clone().into(),
            subject: id,
        };
        Outgoing { topic: Topic::SHOTS, key: format!("DCM-{:02}", n % 40), event }
    };
    (0..BATCH).map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn reading_and_writing() {
    let Some(broker) = broker() else { return };
    let kafka = Kafka::open(KafkaSettings { partitions: 4, ..fresh(&broker) }).unwrap();
    kafka.ensure_topics(&[Topic::SHOTS]).await.unwrap();
    let (name, batch) = (format!("{}shots", kafka.settings().topic_prefix), events());
    publish(&kafka, &batch).await;

    let measure = Measure::begin("publish, a batch at a time");
    for _ in 0..COUNT / BATCH {
        kafka.publish(&batch).await.unwrap();
    }
    measure.end();
    let measure = Measure::begin("publish, four batches at a time");
    for _ in 0..COUNT / BATCH / 4 {
        let one = || kafka.publish(&batch);
        let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
        a.and(b).and(c).and(d).unwrap();
    }
    measure.end();
    let raw = kafka.clone();
    let topic = name.clone();
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &raw.settings().brokers).set("linger.ms", "5");
        config.set("enable.idempotence", "true").set("compression.codec", "lz4");
        let producer: BaseProducer = config.create().unwrap();
        let record = |e: &Outgoing| {
            producer.send(BaseRecord::to(&topic).key(&e.key).payload(&e.event.data[..])).is_ok()
        };
        let measure = Measure::begin("librdkafka itself, without headers");
        for n in 0..COUNT {
            while !record(&batch[n % BATCH]) {
                producer.poll(Duration::from_millis(1));
            }
        }
        producer.flush(Duration::from_secs(60)).unwrap();
        measure.end();

        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &raw.settings().brokers).set("group.id", "raw");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..4 {
            list.add_partition_offset(&topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        consumer.poll(Duration::from_secs(10)).unwrap().unwrap();
        let measure = Measure::begin("librdkafka itself, only polled");
        let mut bytes = 0;
        for _ in 0..COUNT {
            bytes += consumer.poll(Duration::from_secs(10)).unwrap().unwrap().payload_len();
        }
        measure.end();
        assert_eq!(bytes, COUNT * 621);
    })
    .await
    .unwrap();

    let mut reader = kafka.consumer("speed", &[Topic::SHOTS]);
    let mut read = 0;
    let mut measure = None;
    while read < COUNT {
        match reader.next(Duration::from_secs(1)).await.unwrap() {
            Delivery::Assigned(_, partitions) => {
                for partition in partitions {
                    reader.start(&partition, Start::Earliest).await.unwrap();
                }
                measure = Some(Measure::begin("read into events"));
            }
            Delivery::Batch(_, messages) => read += messages.len(),
            _ => {}
        }
    }
    measure.unwrap().end();
}
