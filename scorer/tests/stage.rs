//! The stage on simulated shots with the bundle that ships: one shot, one score; the same log, the
//! same bytes, however it is cut into batches and wherever it is opened again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use castwatch_core::payload::{Defect, Payload, Score};
use castwatch_core::stage::{Handler, Outbox, Stage, Stop};
use castwatch_core::{Event, Message, Outgoing, Partition, Position, Shot, Topic, Verdict};
use castwatch_ingest::{SimSettings, Simulator};
use castwatch_models::Bundle;
use castwatch_scorer::{Judge, Scorer, Scoring};

static BUNDLE: LazyLock<Arc<Bundle>> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/bundles/default");
    Arc::new(Bundle::load(&dir).unwrap())
});

/// What became of a log.
#[derive(Debug, Default, PartialEq)]
struct Line {
    events: Vec<Outgoing>,
    duplicates: u64,
    /// Positions of the messages that became dead letters, and why.
    refused: Vec<(Position, String)>,
}

impl Line {
    fn all<P: Payload>(&self) -> Vec<P> {
        let of_topic = self.events.iter().filter(|event| event.topic == P::TOPIC);
        of_topic.map(|event| serde_json::from_slice(&event.event.data).unwrap()).collect()
    }

    fn verdicts(&self) -> HashMap<String, Verdict> {
        self.all::<Score>().into_iter().map(|score| (score.shot.to_string(), score.verdict)).collect()
    }
}

fn open(state: &Bytes) -> Scoring {
    Scorer::new(Arc::clone(&BUNDLE)).open(&Partition::new(Topic::SHOTS, 0), state).unwrap()
}

/// Hands `messages` over in batches, as a runner does.
async fn take(scoring: &mut Scoring, messages: &[Message], batch: usize) -> Line {
    let mut line = Line::default();
    for mut rest in messages.chunks(batch) {
        while !rest.is_empty() {
            let mut out = Outbox::default();
            let outcome = scoring.handle(rest, &mut out).await;
            line.duplicates += out.duplicates();
            line.events.extend(out.into_events());
            rest = &rest[outcome.done..];
            match outcome.stop {
                None => assert!(outcome.done > 0),
                Some(Stop::Refuse(error)) => {
                    line.refused.push((rest[0].position, error.to_string()));
                    rest = &rest[1..];
                }
                Some(Stop::Retry(error)) => panic!("{error}"),
            }
        }
    }
    line
}

fn message(at: usize, event: Event) -> Message {
    Message { position: Position(at as u64), key: String::new(), written_ms: 0, event }
}

/// The first messages of a simulated plant, and how many of them are new shots, shots told again,
/// and no shots.
fn log(count: usize, broken: f64) -> (Vec<Message>, [usize; 3]) {
    let settings = SimSettings { seed: 7, duplicates: 0.02, broken, ..SimSettings::default() };
    let mut kinds = [0; 3];
    let messages = Simulator::new(settings).take(count).enumerate().map(|(at, simulated)| {
        use castwatch_ingest::simulator::Kind;
        kinds[match &simulated.kind {
            Kind::Shot { .. } => 0,
            Kind::Again(_) => 1,
            Kind::Broken(_) => 2,
        }] += 1;
        message(at, simulated.outgoing().unwrap().event)
    });
    (messages.collect(), kinds)
}

#[tokio::test]
async fn every_shot_has_one_score_and_every_defect_one_event() {
    let (messages, [new, again, broken]) = log(3000, 0.02);
    assert!(new > 2500 && again > 20 && broken > 20, "{new} {again} {broken}");
    let line = take(&mut open(&Bytes::new()), &messages, 64).await;
    let scores = line.all::<Score>();
    assert_eq!((scores.len(), line.duplicates, line.refused.len()), (new, again as u64, broken));
    let ids: HashSet<&str> = scores.iter().map(|score| score.shot.as_str()).collect();
    assert_eq!(ids.len(), new);
    assert!(line.events.iter().all(|event| event.key == event.event.subject.split('~').next().unwrap()));

    let defects = line.all::<Defect>();
    let judged: Vec<&Score> = scores.iter().filter(|score| score.verdict == Verdict::Defect).collect();
    assert!(!judged.is_empty() && judged.len() < new / 4, "{} defects", judged.len());
    assert_eq!(defects.iter().map(|defect| &defect.score).collect::<Vec<_>>(), judged);
    for defect in &defects {
        assert_eq!(defect.features.len(), BUNDLE.features().len());
        assert_eq!(defect.usual.len(), BUNDLE.readings().len());
        assert!(defect.score.probability.is_some() && !defect.readings.is_empty());
    }
}

#[tokio::test]
async fn batches_of_any_size_make_the_same_bytes() {
    let (messages, _) = log(700, 0.02);
    let mut one_by_one = open(&Bytes::new());
    let expected = take(&mut one_by_one, &messages, 1).await;
    assert!(!expected.all::<Defect>().is_empty() && !expected.refused.is_empty());
    for batch in [2, 7, 64, 700] {
        let mut scoring = open(&Bytes::new());
        assert!(take(&mut scoring, &messages, batch).await == expected, "batches of {batch}");
        assert_eq!(scoring.state(), one_by_one.state(), "batches of {batch}");
    }
}

#[tokio::test]
async fn a_state_read_back_goes_on_with_the_same_bytes() {
    let (messages, _) = log(1200, 0.02);
    let mut whole = open(&Bytes::new());
    let expected = take(&mut whole, &messages, 50).await;
    for cut in [1, 333, 600, 1199] {
        let mut first = open(&Bytes::new());
        let mut line = take(&mut first, &messages[..cut], 50).await;
        let mut second = open(&first.state());
        let rest = take(&mut second, &messages[cut..], 50).await;
        line.events.extend(rest.events);
        line.duplicates += rest.duplicates;
        line.refused.extend(rest.refused);
        assert!(line == expected, "cut at {cut}");
        assert_eq!(second.state(), whole.state(), "cut at {cut}");
    }
    let twice = take(&mut whole, &messages, 50).await;
    assert_eq!((twice.events.len(), twice.duplicates as usize), (0, messages.len() - twice.refused.len()));
}

#[tokio::test]
async fn what_is_no_shot_is_refused_where_it_lies_and_its_neighbours_are_scored() {
    let (mut messages, _) = log(40, 0.0);
    let clean = take(&mut open(&Bytes::new()), &messages, 40).await.verdicts();
    let bad = Event { data: Bytes::from_static(b"<shot/>"), ..messages[0].event.clone() };
    messages.insert(11, message(11, bad));
    messages[12..].iter_mut().for_each(|message| message.position.0 += 1);

    let mut scoring = open(&Bytes::new());
    let mut out = Outbox::default();
    let outcome = scoring.handle(&messages, &mut out).await;
    assert_eq!(outcome.done, 11);
    let Some(Stop::Refuse(error)) = outcome.stop else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("not a shot: expected value"), "{error}");

    let line = take(&mut open(&Bytes::new()), &messages, 41).await;
    assert_eq!(line.refused.iter().map(|(at, _)| at.0).collect::<Vec<_>>(), [11]);
    assert_eq!(line.verdicts(), clean);
}

#[tokio::test]
async fn a_shot_with_too_little_to_go_by_is_unscorable_and_says_why() {
    let (mut messages, _) = log(30, 0.0);
    let shot = Shot::from_json(&messages[20].event.data).unwrap();
    let bare = Shot { readings: shot.readings.iter().take(5).collect(), ..shot };
    messages[20].event.data = serde_json::to_vec(&bare).unwrap().into();
    let line = take(&mut open(&Bytes::new()), &messages, 30).await;
    let score = line.all::<Score>().into_iter().find(|score| score.shot == bare.id()).unwrap();
    assert_eq!((score.verdict, score.probability, score.margin), (Verdict::Unscorable, None, None));
    assert_eq!(score.missing as usize, BUNDLE.readings().len() - 5);
    let reason = score.reason.unwrap();
    assert!(reason.contains("readings are missing, more than the 8 the bundle allows"), "{reason}");
    assert!(line.all::<Score>().iter().all(|s| (s.verdict == Verdict::Unscorable) == (s.shot == bare.id())));
}

#[test]
fn a_judge_of_files_says_what_the_stage_says() {
    let (messages, _) = log(300, 0.0);
    let shots = messages.iter().map(|message| Shot::from_json(&message.event.data).unwrap());
    let cases = Judge::fresh(Arc::clone(&BUNDLE)).judge(shots);
    let scores: Vec<Score> = cases.iter().flatten().map(|case| case.score(&BUNDLE)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let line = runtime.block_on(take(&mut open(&Bytes::new()), &messages, 32));
    assert_eq!(line.all::<Score>(), scores);
}
