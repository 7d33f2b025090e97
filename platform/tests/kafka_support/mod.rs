//! What the tests on Kafka share.
#![allow(dead_code)]

pub mod server;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use castwatch_core::runner::{RunnerError, Status};
use castwatch_core::stage::StateError;
use castwatch_core::{
    Event, Handler, Message, Outbox, Outcome, Outgoing, Partition, PortError, Publisher, Runner,
    RunnerSettings, Stage, Stop, Topic,
};
use castwatch_platform::Embedded;
use castwatch_platform::kafka::{Kafka, KafkaSettings};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
        delivery_timeout: Duration::from_secs(5),
        ..KafkaSettings::default()
    }
}

/// A shot of a machine; `n` makes it different from the others.
pub fn shot(key: &str, n: usize) -> Outgoing {
    let event = Event {
        id: format!("{key}:{n}"),
        ty: Event::SHOT.into(),
        data: format!("{{\"n\":{n}}}").into(),
        ..Event::default()
    };
    Outgoing { topic: Topic::SHOTS, key: key.into(), event }
}

/// Publishes as a runner does: until it works.
pub async fn publish(kafka: &Kafka, events: &[Outgoing]) {
    let began = Instant::now();
    while let Err(error) = kafka.publish(events).await {
        assert!(began.elapsed() < Duration::from_secs(90), "{error:?}");
    }
}

/// What a stage did, in the order it did it: who, where, which.
pub type Done = Arc<Mutex<Vec<(u32, Partition, u64)>>>;

/// A stage that scores each message of `shots` that is JSON, and keeps how many those were.
#[derive(Clone, Default)]
pub struct Scoring {
    pub member: u32,
    pub done: Done,
    /// So many times it fails at position 5 before it goes on.
    pub failures: Arc<AtomicU32>,
}

pub struct Scorer {
    stage: Scoring,
    partition: Partition,
    count: u64,
}

impl Stage for Scoring {
    type Handler = Scorer;

    fn name(&self) -> &'static str {
        "scorer"
    }

    fn inputs(&self) -> Vec<Topic> {
        vec![Topic::SHOTS]
    }

    fn open(&self, partition: &Partition, state: &Bytes) -> Result<Scorer, StateError> {
        let count = state.as_ref().try_into().map_or(0, u64::from_le_bytes);
        Ok(Scorer { stage: self.clone(), partition: partition.clone(), count })
    }
}

impl Handler for Scorer {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        for (n, message) in messages.iter().enumerate() {
            let fail = |left: u32| left.checked_sub(1);
            if message.position.0 == 5
                && self.stage.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fail).is_ok()
            {
                return Outcome::stopped(n, Stop::Retry(PortError::unavailable("effect", "not now")));
            }
            if let Err(error) = serde_json::from_slice::<serde_json::Value>(&message.event.data) {
                return Outcome::stopped(n, Stop::Refuse(error.into()));
            }
            self.count += 1;
            let done = (self.stage.member, self.partition.clone(), message.position.0);
            self.stage.done.lock().unwrap().push(done);
            let id = format!("score:{}", message.event.id);
            let event = Event { id, data: message.event.data.clone(), ..Event::default() };
            out.push_event(Outgoing { topic: Topic::SCORES, key: message.key.clone(), event });
        }
        Outcome::all(messages.len())
    }

    fn state(&self) -> Bytes {
        self.count.to_le_bytes().to_vec().into()
    }
}

/// A runner of [`Scoring`] on a task of its own.
pub struct Member {
    pub stop: watch::Sender<bool>,
    pub status: Status,
    pub task: JoinHandle<Result<(), RunnerError>>,
}

impl Member {
    pub fn run(kafka: &Kafka, snapshots: &Arc<Embedded>, stage: &Scoring) -> Self {
        let (stop, stopped) = watch::channel(false);
        let settings = RunnerSettings { save_every: Duration::from_millis(200), ..RunnerSettings::default() };
        let consumer = kafka.consumer(stage.name(), &stage.inputs());
        let runner =
            Runner::new(stage.clone(), consumer, kafka.clone(), Arc::clone(snapshots), settings, stopped);
        let status = runner.status();
        Self { stop, status, task: tokio::spawn(runner.run()) }
    }

    pub async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap().expect("a runner that is told to stop ends well");
    }
}

/// Every position of every partition, in the order it was done.
pub fn order(done: &Done) -> BTreeMap<Partition, Vec<u64>> {
    let mut order: BTreeMap<Partition, Vec<u64>> = BTreeMap::new();
    for (_, partition, position) in done.lock().unwrap().iter() {
        order.entry(partition.clone()).or_default().push(*position);
    }
    order
}

/// Waits until `true`; says what for where it never comes.
pub async fn until(what: &str, patience: Duration, mut come: impl FnMut() -> bool) {
    let began = Instant::now();
    while !come() {
        assert!(began.elapsed() < patience, "{what} within {patience:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
