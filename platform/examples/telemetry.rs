//! Two small stages on an embedded log, watched as a process of castwatch is: what the tests of
//! telemetry, of the alert rules and of the dashboard look at.
//!
//! ```text
//! cargo run --release --example telemetry -- 127.0.0.1:9464        # shots come until Ctrl-C
//! cargo run --release --example telemetry                          # some shots, then /metrics to stdout
//! ```

#![allow(clippy::expect_used, reason = "an example")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::payload::Payload;
use castwatch_core::runner::{Observer, RunnerSettings};
use castwatch_core::stage::StateError;
use castwatch_core::{
    EndedAt, Event, Handler, Message, Outbox, Outcome, Outgoing, Partition, Publisher as _, Runner, Shot,
    ShotId, Stage, Stop, Topic,
};
use castwatch_platform::Embedded;
use castwatch_platform::telemetry::{Observed, health, metrics};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a partition may stand still here.
pub const STALL: Duration = Duration::from_secs(30);

/// What the first stage makes.
#[derive(Serialize, Deserialize)]
struct Judged {
    shot: ShotId,
    machine: String,
    die: String,
    ended_at: EndedAt,
    verdict: String,
}

/// What the second stage makes.
#[derive(Serialize, Deserialize)]
struct Explained(Judged);

macro_rules! payload {
    ($name:ident, $topic:expr, $kind:literal, $($field:tt).*) => {
        impl Payload for $name {
            const TOPIC: Topic = $topic;
            const TYPE: &'static str = concat!("castwatch.", $kind, ".v1");
            const KIND: &'static str = $kind;
            fn about(&self) -> (&ShotId, &str, EndedAt) {
                let it = &self$(.$field)*;
                (&it.shot, &it.machine, it.ended_at)
            }
        }
    };
}
payload!(Judged, Topic::DEFECTS, "defect",);
payload!(Explained, Topic::EXPLANATIONS, "explanation", 0);

/// Judges shots, or explains defects.
#[derive(Clone, Copy)]
enum Step {
    Scorer,
    Explainer,
}

impl Stage for Step {
    type Handler = Self;

    fn name(&self) -> &'static str {
        match self {
            Self::Scorer => "scorer",
            Self::Explainer => "explainer",
        }
    }

    fn inputs(&self) -> Vec<Topic> {
        match self {
            Self::Scorer => vec![Topic::SHOTS],
            Self::Explainer => vec![Topic::DEFECTS],
        }
    }

    fn open(&self, _: &Partition, _: &Bytes) -> Result<Self, StateError> {
        Ok(*self)
    }
}

impl Step {
    fn one(self, message: &Message, out: &mut Outbox) -> Result<(), serde_json::Error> {
        let cause = &message.event;
        match self {
            Self::Scorer => {
                let shot: Shot = serde_json::from_slice(&cause.data)?;
                if shot.cycle % 10 == 7 {
                    out.duplicate();
                    return Ok(());
                }
                let judged = Judged {
                    shot: shot.id(),
                    machine: shot.machine.clone(),
                    die: shot.die.clone(),
                    ended_at: shot.ended_at,
                    verdict: "defect".to_owned(),
                };
                out.push(self.name(), cause, &judged)
            }
            Self::Explainer => out.push(self.name(), cause, &Explained(Judged::read(message)?)),
        }
    }
}

impl Handler for Step {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        for (done, message) in messages.iter().enumerate() {
            if let Err(error) = self.one(message, out) {
                return Outcome::stopped(done, Stop::Refuse(Box::new(error)));
            }
        }
        Outcome::all(messages.len())
    }
}

/// The event of a shot as a machine's gateway makes it.
pub fn shot(cycle: u64) -> Event {
    let (minute, second) = (cycle / 60 % 60, cycle % 60);
    let json = format!(
        r#"{{"machine":"DCM-0{}","die":"8722","cycle":{cycle},"ended_at":"2026-01-15T16:{minute:02}:{second:02}+09:00",
            "try_shot":false,"readings":{{"cast_pressure":331.0}}}}"#,
        cycle % 4
    );
    let shot: Shot = serde_json::from_str(&json).expect("a shot");
    Event::of_shot(&shot, "/castwatch/ingest").expect("an event")
}

/// Two stages on a log.
pub struct Line {
    log: Arc<Embedded>,
    running: JoinSet<Result<(), castwatch_core::RunnerError>>,
    stop: watch::Sender<bool>,
    /// The stages.
    pub observed: Vec<Observed>,
}

impl Line {
    /// Starts the stages on a log in `folder`.
    pub fn start(folder: &Path, observer: Option<Arc<dyn Observer>>) -> Self {
        let log = Embedded::open(folder).expect("a log");
        let (mut running, mut observed, (stop, stopped)) =
            (JoinSet::new(), Vec::new(), watch::channel(false));
        let settings = RunnerSettings {
            wait: Duration::from_millis(20),
            save_every: Duration::from_millis(50),
            ..RunnerSettings::default()
        };
        for step in [Step::Scorer, Step::Explainer] {
            let consumer = log.consumer(step.name(), &step.inputs());
            let (publisher, snapshots) = (Arc::clone(&log), Arc::clone(&log));
            let mut runner = Runner::new(step, consumer, publisher, snapshots, settings, stopped.clone());
            if let Some(observer) = &observer {
                runner = runner.observed(Arc::clone(observer));
            }
            observed.push(Observed { stage: step.name().to_owned(), status: runner.status() });
            running.spawn(runner.run());
        }
        Self { log, running, stop, observed }
    }

    /// Puts events on the topic of shots.
    pub async fn take(&self, events: impl IntoIterator<Item = Event>) {
        let key = |event: &Event| event.id.split('~').next().unwrap_or_default().to_owned();
        let all: Vec<Outgoing> = events
            .into_iter()
            .map(|event| Outgoing { topic: Topic::SHOTS, key: key(&event), event })
            .collect();
        self.log.publish(&all).await.expect("a log that takes shots");
    }

    /// Waits until the last stage has done so many.
    pub async fn explained(&self, count: u64) {
        let explainer = &self.observed[1].status;
        while explainer.get().meter.tally.done < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }

    /// Stops the stages.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.running.join_next().await {
            ended.expect("a stage that does not break off").expect("a stage that ends well");
        }
    }
}

/// A message that no stage can read.
pub fn unreadable() -> Event {
    let mut event = shot(3);
    (event.id, event.data) = ("nonsense".to_owned(), Bytes::from_static(b"{"));
    event
}

/// Shots with duplicates among them, and one that can't be read.
#[tokio::main]
#[expect(clippy::print_stdout, reason = "a page to pipe on")]
async fn main() {
    let folder = std::env::temp_dir().join(format!("castwatch-telemetry-{}", std::process::id()));
    let line = Line::start(&folder, None);
    line.take((0..50).map(shot).chain([unreadable()])).await;
    line.explained(45).await;
    if let Some(address) = std::env::args().nth(1) {
        let listener = tokio::net::TcpListener::bind(address.parse::<SocketAddr>().expect("an address"))
            .await
            .expect("a free address");
        let observed = line.observed.clone();
        let ending = async { tokio::signal::ctrl_c().await.expect("a signal") };
        let router = health::router(Arc::new(move || observed.clone()), STALL);
        let serving = tokio::spawn(health::serve(listener, router, ending));
        let mut cycle = 50;
        while !serving.is_finished() {
            line.take((cycle..cycle + 20).map(shot)).await;
            cycle += 20;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    } else {
        print!("{}", metrics::text(&line.observed, STALL));
    }
    line.end().await;
    let _ = std::fs::remove_dir_all(folder);
}
