//! What ends a runner, and what it waits for: each failure path that schedules of faults do not
//! come by.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::backoff::Patience;
use castwatch_core::event::{Event, Message, Outgoing};
use castwatch_core::ports::{Generation, Snapshot, Start, Tally, Token};
use castwatch_core::runner::{Status, dlq};
use castwatch_core::stage::StateError;
use castwatch_core::{
    Consumer, Delivery, Handler, Outbox, Outcome, Partition, PortError, Position, Publisher, Runner,
    RunnerError, RunnerSettings, Snapshots, Stage, Stop, Topic,
};
use tokio::sync::watch;

/// A stage that refuses `bad`, waits at `wait` while the world is broken, and passes on the rest.
#[derive(Clone)]
struct Echo(World);

struct EchoHandler(World, Vec<u8>);

impl Stage for Echo {
    type Handler = EchoHandler;

    fn name(&self) -> &'static str {
        "echo"
    }

    fn inputs(&self) -> Vec<Topic> {
        vec![Topic::SHOTS]
    }

    fn open(&self, _: &Partition, state: &Bytes) -> Result<EchoHandler, StateError> {
        if state.as_ref() == b"garbage" {
            return Err(StateError("not a state".into()));
        }
        Ok(EchoHandler(self.0.clone(), state.to_vec()))
    }
}

impl Handler for EchoHandler {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        for (done, message) in messages.iter().enumerate() {
            match &message.event.data[..] {
                b"slow and bad" => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    return Outcome::stopped(done, Stop::Refuse("it is bad".into()));
                }
                b"bad" => return Outcome::stopped(done, Stop::Refuse("it is bad".into())),
                b"wait" if self.0.lock().failures > 0 => {
                    self.0.lock().failures -= 1;
                    return Outcome::stopped(done, PortError::unavailable("wait", "broken").into());
                }
                _ => {}
            }
            self.1.push(b'.');
            if &message.event.data[..] == b"slow" {
                tokio::time::sleep(Duration::from_secs(1)).await;
                out.push_event(Outgoing {
                    topic: Topic::SCORES,
                    key: message.key.clone(),
                    event: message.event.clone(),
                });
                return Outcome::part(done + 1);
            }
            let topic = Topic::SCORES;
            out.push_event(Outgoing { topic, key: message.key.clone(), event: message.event.clone() });
        }
        Outcome::all(messages.len())
    }

    fn state(&self) -> Bytes {
        self.1.clone().into()
    }
}

#[derive(Default)]
struct State {
    input: Vec<Message>,
    news: VecDeque<Delivery>,
    cursor: usize,
    batch: usize,
    published: Vec<Outgoing>,
    saved: Option<Snapshot>,
    starts: Vec<Start>,
    released: usize,
    failures: u32,
    refuse_publish: bool,
    fenced: bool,
    out: bool,
    reads_failing: u32,
    /// Takes of older generations than this one are fenced.
    generation: u64,
    /// The group says that this member has that generation.
    member: Option<u64>,
}

#[derive(Clone, Default)]
struct World(Arc<Mutex<State>>);

impl World {
    fn with(data: &[&str]) -> Self {
        let world = Self::default();
        let mut state = world.lock();
        state.batch = 100;
        state.news.push_back(Delivery::Assigned(Generation(1), vec![partition()]));
        state.input = data
            .iter()
            .enumerate()
            .map(|(at, data)| Message {
                // Positions with gaps, as after compaction.
                position: Position(at as u64 * 2),
                key: "DCM-01".into(),
                written_ms: 0,
                event: event(at, data),
            })
            .collect();
        drop(state);
        world
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Runs the stage until everything was read, or it ended by itself.
    async fn run(&self, settings: RunnerSettings) -> (Result<(), RunnerError>, Status) {
        let (stop, stopped) = watch::channel(false);
        let runner =
            Runner::new(Echo(self.clone()), self.clone(), self.clone(), self.clone(), settings, stopped);
        let status = runner.status();
        let mut running = tokio::spawn(runner.run());
        let ended = tokio::time::timeout(Duration::from_secs(600), &mut running).await;
        let outcome = match ended {
            Ok(ended) => ended.unwrap(),
            Err(_) => {
                stop.send_replace(true);
                running.await.unwrap()
            }
        };
        (outcome, status)
    }
}

fn partition() -> Partition {
    Partition::new(Topic::SHOTS, 3)
}

fn event(at: usize, data: &str) -> Event {
    Event {
        id: format!("shot-{at}"),
        ty: "t".into(),
        source: "s".into(),
        subject: String::new(),
        time: None,
        traceparent: None,
        extensions: vec![("plant".into(), "광주".into())],
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

fn settings() -> RunnerSettings {
    let patience = Patience {
        first: Duration::from_millis(10),
        most: Duration::from_millis(100),
        budget: Duration::from_millis(500),
    };
    RunnerSettings { max_refused_in_a_row: 3, patience, ..RunnerSettings::default() }
}

impl Consumer for World {
    async fn next(&mut self, wait: Duration) -> Result<Delivery, PortError> {
        let ready = {
            let mut state = self.lock();
            if state.reads_failing > 0 {
                state.reads_failing -= 1;
                return Err(PortError::unavailable("read", "the broker is away"));
            }
            if state.out {
                return Err(PortError::Fenced { what: "read".into() });
            }
            if let Some(news) = state.news.pop_front() {
                return Ok(news);
            }
            let end = (state.cursor + state.batch).min(state.input.len());
            let batch = state.input.get(state.cursor..end).unwrap_or_default().to_vec();
            state.cursor = end;
            batch
        };
        if ready.is_empty() {
            tokio::time::sleep(wait).await;
            return Ok(Delivery::Idle);
        }
        Ok(Delivery::Batch(partition(), ready))
    }

    async fn start(&mut self, _: &Partition, start: Start) -> Result<(), PortError> {
        let mut state = self.lock();
        state.starts.push(start);
        state.cursor = match start {
            Start::At(position) => state.input.partition_point(|m| m.position < position),
            _ => 0,
        };
        Ok(())
    }

    async fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        self.lock().released += partitions.len();
        Ok(())
    }

    async fn confirm(&mut self, _: &Partition, _: Generation) -> Result<Option<Generation>, PortError> {
        Ok(self.lock().member.map(Generation))
    }
}

impl Publisher for World {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        let mut state = self.lock();
        if state.refuse_publish {
            return Err(PortError::refused("publish", "too large"));
        }
        state.published.extend_from_slice(events);
        Ok(())
    }
}

impl Snapshots for World {
    async fn take(
        &self,
        _: &str,
        _: &Partition,
        generation: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        let mut state = self.lock();
        if generation.0 < state.generation {
            return Err(PortError::Fenced { what: "take".into() });
        }
        state.generation = generation.0;
        state.fenced = false;
        Ok((Token("1".into()), state.saved.clone()))
    }

    async fn save(&self, _: &str, _: &Partition, _: &Token, snapshot: &Snapshot) -> Result<(), PortError> {
        let mut state = self.lock();
        if state.fenced {
            return Err(PortError::Fenced { what: "save".into() });
        }
        state.saved = Some(snapshot.clone());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_keeps_the_bytes_and_its_neighbours_go_on() {
    let world = World::with(&["a", "bad", "b"]);
    world.run(settings()).await.0.unwrap();
    let state = world.lock();
    let topics: Vec<&str> = state.published.iter().map(|o| o.topic.as_str()).collect();
    assert_eq!(topics, ["scores", "shots.dlq", "scores"]);
    let letter = &state.published[1].event;
    assert_eq!(&letter.data[..], b"bad");
    assert_eq!(letter.id, "dlq:echo:shots/3@2");
    assert_eq!(letter.extension("plant"), Some("광주"));
    for (name, value) in [
        (dlq::STAGE, "echo"),
        (dlq::ERROR, "it is bad"),
        (dlq::TOPIC, "shots"),
        (dlq::PARTITION, "3"),
        (dlq::POSITION, "2"),
        (dlq::ID, "shot-1"),
    ] {
        assert_eq!(letter.extension(name), Some(value), "{name}");
    }
    let saved = state.saved.clone().unwrap();
    assert_eq!(saved.position, Position(5));
    assert_eq!(saved.tally, Tally { taken: 3, done: 2, duplicates: 0, dead_letters: 1, missed: 0 });
    assert_eq!(saved.state.as_ref(), b"..");
}

#[tokio::test(start_paused = true)]
async fn a_row_of_dead_letters_is_an_outage() {
    let world = World::with(&["bad", "bad", "a", "bad", "bad", "bad", "b"]);
    let (outcome, _) = world.run(settings()).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, RunnerError::TooManyRefused { count: 3, position: Position(10), .. }), "{error}");
    assert!(error.to_string().contains("castwatch dlq list"));
    let saved = world.lock().saved.clone().unwrap();
    assert_eq!(
        (saved.position, saved.tally.dead_letters),
        (Position(11), 5),
        "what was set aside is not set aside again"
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_slower_than_the_budget_are_an_outage_too() {
    let world = World::with(&["slow and bad"; 5]);
    let (outcome, _) = world.run(settings()).await;
    assert!(matches!(outcome, Err(RunnerError::TooManyRefused { count: 3, .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_slower_than_the_budget_is_left_to_hear_of_other_things() {
    let world = World::with(&["slow", "slow", "slow"]);
    world.run(settings()).await.0.unwrap();
    let state = world.lock();
    assert_eq!(state.starts.len(), 3, "the first two left the rest for later: {:?}", state.starts);
    assert_eq!(state.saved.as_ref().unwrap().tally, Tally { taken: 3, done: 3, ..Tally::default() });
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_waited_for_and_order_is_kept() {
    let world = World::with(&["a", "wait", "b"]);
    world.lock().failures = 5;
    let (outcome, status) = world.run(settings()).await;
    outcome.unwrap();
    let data: Vec<Bytes> = world.lock().published.iter().map(|o| o.event.data.clone()).collect();
    assert_eq!(data, ["a", "wait", "b"].map(Bytes::from));
    assert_eq!(status.get().trouble, None, "it recovered");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_given_up_after_its_budget_and_taken_anew_from_the_snapshot() {
    let world = World::with(&["a", "wait", "b"]);
    world.lock().failures = 60;
    world.run(settings()).await.0.unwrap();
    let state = world.lock();
    assert!(state.starts.len() > 1, "it went back to the snapshot: {:?}", state.starts);
    assert_eq!(state.failures, 0);
    assert_eq!(state.saved.as_ref().unwrap().tally, Tally { taken: 3, done: 3, ..Tally::default() });
    assert_eq!(state.saved.as_ref().unwrap().state.as_ref(), b"...", "the state belongs to the position");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_is_not_ready_and_then_recovers() {
    let world = World::with(&["a"]);
    world.lock().reads_failing = 40;
    let (stop, stopped) = watch::channel(false);
    let runner =
        Runner::new(Echo(world.clone()), world.clone(), world.clone(), world.clone(), settings(), stopped);
    let status = runner.status();
    let running = tokio::spawn(runner.run());
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(status.get().trouble.is_some_and(|t| t.contains("the broker is away")));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(status.get().trouble, None);
    assert_eq!(world.lock().published.len(), 1);
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    assert_eq!(world.lock().released, 1, "it lets go at the end");
}

#[tokio::test(start_paused = true)]
async fn a_second_process_on_the_same_log_ends_the_first() {
    let world = World::with(&["a"]);
    world.lock().out = true;
    let (outcome, _) = world.run(settings()).await;
    assert!(matches!(outcome, Err(RunnerError::TakenOver { stage: "echo" })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_partition_is_let_go_without_saving() {
    let world = World::with(&["a"]);
    let (outcome, status) = {
        let world = world.clone();
        // Somebody else takes the partition after it was opened.
        let fencing = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            world.lock().fenced = true;
        };
        tokio::join!(world.run(settings()), fencing).0
    };
    outcome.unwrap();
    assert_eq!(world.lock().saved, None);
    let progress = status.get();
    assert!(progress.partitions.is_empty() && progress.meter.fenced == 1, "{progress:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fenced_partition_that_the_group_still_calls_ours_is_opened_again() {
    let world = World::with(&["a", "b"]);
    world.lock().member = Some(9);
    let fencing = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.lock().fenced = true;
    };
    let ((outcome, status), ()) = tokio::join!(world.run(settings()), fencing);
    outcome.unwrap();
    let state = world.lock();
    assert_eq!(state.starts.len(), 2, "nobody else would go on with it");
    assert_eq!(state.saved.as_ref().unwrap().position, Position(3));
    assert_eq!(status.get().partitions.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_forgot_its_past_takes_its_own_partitions() {
    for (member, taken) in [(Some(1 << 32), true), (None, false)] {
        let world = World::with(&["a"]);
        (world.lock().generation, world.lock().member) = (57, member);
        let (outcome, status) = world.run(settings()).await;
        outcome.unwrap();
        assert_eq!(world.lock().saved.is_some(), taken, "a later owner keeps what it has");
        assert_eq!(status.get().partitions.len(), usize::from(taken));
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_were_removed_are_counted_and_what_follows_goes_on() {
    let world = World::with(&["a", "b", "c"]);
    {
        let mut state = world.lock();
        let (from, to) = (Position(0), Position(4));
        state.news.push_back(Delivery::Missed { partition: partition(), from, to });
        state.input.drain(..2);
    }
    let (outcome, status) = world.run(settings()).await;
    outcome.unwrap();
    let saved = world.lock().saved.clone().unwrap();
    assert_eq!(saved.position, Position(5));
    assert_eq!(saved.tally, Tally { taken: 1, done: 1, missed: 4, ..Tally::default() });
    assert!(saved.tally.balances(), "they were never taken");
    assert_eq!(status.get().meter.tally.missed, 4);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_is_refused_for_good_and_a_damaged_state_end_the_run() {
    let world = World::with(&["a"]);
    world.lock().refuse_publish = true;
    let (outcome, _) = world.run(settings()).await;
    assert!(matches!(outcome, Err(RunnerError::Port { .. })), "{outcome:?}");
    assert_eq!(world.lock().saved, None, "nothing is saved for what was not published");

    let world = World::with(&["a"]);
    world.lock().saved = Some(Snapshot { state: Bytes::from_static(b"garbage"), ..Snapshot::default() });
    let (outcome, _) = world.run(settings()).await;
    assert!(matches!(outcome, Err(RunnerError::State { .. })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_partition_is_saved_before_it_is_let_go_and_a_lost_one_is_not() {
    for (news, saved) in
        [(Delivery::Revoked(vec![partition()]), true), (Delivery::Lost(vec![partition()]), false)]
    {
        let world = World::with(&["a", "b"]);
        world.lock().batch = 1;
        let slow = RunnerSettings { save_every: Duration::from_secs(3600), ..settings() };
        let (stop, stopped) = watch::channel(false);
        let runner =
            Runner::new(Echo(world.clone()), world.clone(), world.clone(), world.clone(), slow, stopped);
        let running = tokio::spawn(runner.run());
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.lock().news.push_back(news);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.lock().saved.is_some(), saved);
        assert_eq!(world.lock().released, usize::from(saved));
        stop.send_replace(true);
        running.await.unwrap().unwrap();
        assert_eq!(world.lock().saved.is_some(), saved, "who lost a partition writes nothing after");
    }
}
