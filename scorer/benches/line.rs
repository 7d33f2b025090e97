//! How long a shot takes from its message to its score, step by step, and how long the state of
//! many dies takes to read and to write: `cargo bench -p castwatch-scorer`.
//!
//! The steps are those of [`castwatch_scorer::Scoring`], each on the same simulated shots; what
//! `handle` takes beyond their sum is the rest of the handler.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::RefCell;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};

use bytes::Bytes;
use castwatch_core::payload::{Payload, Score};
use castwatch_core::stage::{Handler, Outbox, Stage};
use castwatch_core::{Message, Partition, Position, Shot, Topic};
use castwatch_ingest::{SimSettings, Simulator};
use castwatch_models::{Bundle, DieHistory, Features};
use castwatch_scorer::{Case, Judge, NAME, Scorer, Scoring};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

/// Shots that are behind the plant before it is measured, and the shots measured.
const BEFORE: usize = 6_000;
const MEASURED: usize = 30_000;
/// Shots in a batch.
const BATCHES: [usize; 4] = [1, 16, 64, 256];
/// Machines and dies of a large plant on one partition.
const PLANT: (usize, usize) = (1_000, 100);
/// Shots of each die there: enough for each machine's window of shots seen to be full.
const ROUNDS: u64 = 41;

static BUNDLE: LazyLock<Arc<Bundle>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/bundles/default");
    Arc::new(Bundle::load(&dir).unwrap())
});

/// Messages of a plant of 24 machines, no duplicates.
static MESSAGES: LazyLock<Vec<Message>> = LazyLock::new(|| {
    let settings = SimSettings { seed: 7, machines: 24, duplicates: 0.0, ..SimSettings::default() };
    let simulated = Simulator::new(settings).take(BEFORE + MEASURED).enumerate();
    let message = |(at, simulated): (usize, castwatch_ingest::Simulated)| Message {
        position: Position(at as u64),
        key: String::new(),
        written_ms: 0,
        event: simulated.outgoing().unwrap().event,
    };
    simulated.map(message).collect()
});

/// The state after the first of them.
static WARM: LazyLock<Bytes> = LazyLock::new(|| {
    let mut scoring = open(&Bytes::new());
    for messages in MESSAGES[..BEFORE].chunks(256) {
        handle(&mut scoring, messages, &mut Outbox::default());
    }
    scoring.state()
});

/// The state of a large plant: every die with the history of one that has cast for long.
static LARGE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut judge = Judge::fresh(Arc::clone(&BUNDLE));
    let template = Shot::from_json(&MESSAGES[0].event.data).unwrap();
    for machine in 0..PLANT.0 {
        for round in 0..ROUNDS {
            for die in 0..PLANT.1 {
                let mut shot = template.clone();
                (shot.machine, shot.die) = (format!("DCM-{machine:04}"), format!("{die:04}"));
                shot.cycle = round;
                judge.features(&shot).unwrap();
            }
        }
    }
    judge.state().into()
});

fn main() {
    divan::main();
}

fn open(state: &Bytes) -> Scoring {
    Scorer::new(Arc::clone(&BUNDLE)).open(&Partition::new(Topic::SHOTS, 0), state).unwrap()
}

/// The scorer waits for nothing: one poll is its whole work.
fn handle(scoring: &mut Scoring, messages: &[Message], out: &mut Outbox) {
    let work = pin!(scoring.handle(messages, out));
    assert!(work.poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

fn batch(n: usize) -> &'static [Message] {
    &MESSAGES[BEFORE..BEFORE + n]
}

fn shots(n: usize) -> Vec<Shot> {
    batch(n).iter().map(|message| Shot::from_json(&message.event.data).unwrap()).collect()
}

fn warm() -> Judge {
    Judge::new(Arc::clone(&BUNDLE), &WARM).unwrap()
}

fn cases(n: usize) -> Vec<Case> {
    warm().judge(shots(n)).into_iter().flatten().collect()
}

/// All of it, batch after batch of new shots: messages in, events out and dropped.
#[divan::bench(args = BATCHES)]
fn handler(bencher: Bencher<'_, '_>, n: usize) {
    let mut batches = MESSAGES[BEFORE..].chunks_exact(n);
    let scoring = RefCell::new(open(&WARM));
    bencher
        .counter(ItemsCount::new(n))
        .with_inputs(|| {
            batches.next().unwrap_or_else(|| {
                scoring.replace(open(&WARM));
                batches = MESSAGES[BEFORE..].chunks_exact(n);
                batches.next().unwrap()
            })
        })
        .bench_local_values(|messages| {
            let mut out = Outbox::default();
            handle(&mut scoring.borrow_mut(), messages, &mut out);
            assert_eq!(out.duplicates(), 0);
        });
}

/// Message to shot.
#[divan::bench(args = BATCHES)]
fn step_1_parse(bencher: Bencher<'_, '_>, n: usize) {
    bencher.counter(ItemsCount::new(n)).bench_local(|| shots(n));
}

/// Seen before? And the features, as the die's history makes them.
#[divan::bench(args = BATCHES)]
fn step_2_seen_and_features(bencher: Bencher<'_, '_>, n: usize) {
    let shots = shots(n);
    bencher
        .counter(ItemsCount::new(n))
        .with_inputs(warm)
        .bench_local_refs(|judge| shots.iter().map(|shot| judge.features(shot).unwrap()).collect::<Vec<_>>());
}

/// The features alone.
#[divan::bench(args = BATCHES)]
fn step_2b_features(bencher: Bencher<'_, '_>, n: usize) {
    let shots = shots(n);
    let mut die = DieHistory::default();
    bencher
        .counter(ItemsCount::new(n))
        .bench_local(|| shots.iter().map(|shot| BUNDLE.extract(shot, &mut die)).collect::<Vec<_>>());
}

/// Network, trees and calibration.
#[divan::bench(args = BATCHES)]
fn step_3_models(bencher: Bencher<'_, '_>, n: usize) {
    let cases = cases(n);
    let rows: Vec<&Features> = cases.iter().map(|case| &case.features).collect();
    bencher.counter(ItemsCount::new(n)).bench_local(|| BUNDLE.judge(&rows).unwrap());
}

/// Score to event.
#[divan::bench(args = BATCHES)]
fn step_4_write(bencher: Bencher<'_, '_>, n: usize) {
    let cases = cases(n);
    bencher.counter(ItemsCount::new(n)).with_inputs(|| Vec::with_capacity(n)).bench_local_refs(|out| {
        for (message, case) in batch(n).iter().zip(&cases) {
            let score: Score = case.score(&BUNDLE);
            out.push(score.outgoing(NAME, &message.event).unwrap());
        }
    });
}

/// A restart on 100,000 dies.
#[divan::bench(sample_count = 10)]
fn state_read(bencher: Bencher<'_, '_>) {
    let state = &*LARGE;
    bencher.counter(BytesCount::new(state.len())).bench_local(|| open(state));
}

/// What is saved each time.
#[divan::bench(sample_count = 10)]
fn state_written(bencher: Bencher<'_, '_>) {
    let scoring = open(&LARGE);
    bencher.counter(BytesCount::new(LARGE.len())).bench_local(|| scoring.state());
}
