//! The stage on the default bundle: what it stores and publishes, and what happens when it can't.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::event::{Event, Message, Partition, Position, Topic};
use castwatch_core::payload::{Alert, Defect, Explanation, Payload, Score};
use castwatch_core::ports::{Claim, RecordPage, RecordQuery, Stored};
use castwatch_core::stage::{Handler as _, Outbox, Outcome, Stage as _, Stop};
use castwatch_core::{Objects, PortError, Records, Shot, ShotId};
use castwatch_explainer::{
    ADDITIVE, ChartSettings, ExplainError, ExplainHandler, Explainer, Format, Lang, chart, chart_key, explain,
};
use castwatch_models::golden::Golden;
use castwatch_models::{Bundle, DieHistory};
use tokio::time::Instant;

static BUNDLE: LazyLock<Arc<Bundle>> = LazyLock::new(|| Arc::new(Bundle::load(&folder()).unwrap()));

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/bundles/default")
}

/// A die that casts one good shot over and over, and then `bad`, whose defect it gives whatever
/// the verdict: the explainer explains what it is handed.
fn defect_of(bad: impl Fn(&str, f64) -> Option<f64>) -> Defect {
    let golden: Golden =
        serde_json::from_slice(&std::fs::read(folder().join("golden.json")).unwrap()).unwrap();
    let shot = &golden.shots.last().unwrap().shot;
    let mut die = DieHistory::default();
    let start = shot.ended_at.instant();
    for i in 0..60_i64 {
        let mut good: Shot = shot.clone();
        good.cycle = i as u64;
        let instant = start.checked_add(jiff::SignedDuration::from_secs(120 * i)).unwrap();
        good.ended_at = castwatch_core::EndedAt::new(instant, shot.ended_at.offset()).unwrap();
        // A little noise of its own for each reading, the same on every run.
        good.readings = shot
            .readings
            .iter()
            .enumerate()
            .map(|(j, (name, v))| {
                (name, v.map(|v| v * (1.0 + 0.002 * (((i * 7 + j as i64 * 3) % 5) as f64 - 2.0))))
            })
            .collect();
        if i < 59 {
            BUNDLE.extract(&good, &mut die);
            continue;
        }
        good.readings = good.readings.iter().map(|(name, v)| (name, v.and_then(|v| bad(name, v)))).collect();
        let features = BUNDLE.extract(&good, &mut die);
        let judgement = BUNDLE.judge(&[&features]).unwrap().remove(0);
        return Defect {
            score: Score {
                shot: good.id(),
                machine: good.machine.clone(),
                die: good.die.clone(),
                cycle: good.cycle,
                ended_at: good.ended_at,
                try_shot: false,
                verdict: judgement.verdict,
                probability: Some(judgement.probability),
                margin: Some(judgement.margin),
                anomaly: judgement.anomaly,
                missing: features.missing,
                reason: None,
                bundle: BUNDLE.digest().into(),
            },
            readings: good.readings,
            features: features.values.iter().map(|v| (!v.is_nan()).then_some(*v)).collect(),
            usual: features.usual,
        };
    }
    unreachable!()
}

fn low_pressure() -> Defect {
    defect_of(|name, v| Some(if name == "cast_pressure" { v - 90.0 } else { v }))
}

/// What the ports do at the next calls, by name: an error each time until the list is used up.
#[derive(Debug, Default)]
struct World {
    records: Mutex<BTreeMap<String, Explanation>>,
    objects: Mutex<BTreeMap<String, (String, Bytes)>>,
    record_faults: Mutex<Vec<PortError>>,
    /// The record of this shot is not taken.
    bad_record: Mutex<Option<String>>,
    hang_records: bool,
    object_faults: Mutex<usize>,
    /// Keys with this in them are never taken.
    bad_key: Option<String>,
    refuse_objects: bool,
    /// Objects are neither taken nor given while it is set.
    hang: AtomicBool,
    /// So long each call for an object takes.
    slow: Duration,
    tries: Mutex<usize>,
}

impl World {
    async fn answer(&self) {
        if self.hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if !self.slow.is_zero() {
            tokio::time::sleep(self.slow).await;
        }
    }

    fn objects(&self) -> usize {
        self.objects.lock().unwrap().len()
    }
}

impl Records for World {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        if let Some(error) = self.record_faults.lock().unwrap().pop() {
            return Err(error);
        }
        if self.hang_records {
            std::future::pending::<()>().await;
        }
        let mut records = self.records.lock().unwrap();
        let shot = record.score.shot.to_string();
        if self.bad_record.lock().unwrap().as_ref() == Some(&shot) {
            return Err(PortError::unavailable("put a record", "this one never works"));
        }
        if records.contains_key(&shot) {
            return Ok(Stored::Already);
        }
        records.insert(shot, record.clone());
        Ok(Stored::New)
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        Ok(self.records.lock().unwrap().get(shot).cloned())
    }

    async fn told(&self, _: &Alert) -> Result<(), PortError> {
        unreachable!("the explainer tells nobody")
    }

    async fn list(&self, _: &RecordQuery) -> Result<RecordPage, PortError> {
        unreachable!("the explainer lists nothing")
    }

    async fn claim(&self, _: &str) -> Result<Claim, PortError> {
        unreachable!("the explainer claims nothing")
    }

    async fn settle(&self, _: &str) -> Result<(), PortError> {
        unreachable!("the explainer settles nothing")
    }
}

impl Objects for World {
    async fn put(&self, key: &str, content_type: &str, bytes: Bytes) -> Result<(), PortError> {
        *self.tries.lock().unwrap() += 1;
        self.answer().await;
        if self.bad_key.as_ref().is_some_and(|bad| key.contains(bad)) {
            return Err(PortError::unavailable("store a chart", "this one never works"));
        }
        if self.refuse_objects {
            return Err(PortError::refused("store a chart", "no such bucket"));
        }
        let mut faults = self.object_faults.lock().unwrap();
        if *faults > 0 {
            *faults -= 1;
            return Err(PortError::unavailable("store a chart", "slow down"));
        }
        self.objects.lock().unwrap().insert(key.into(), (content_type.into(), bytes));
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        self.answer().await;
        Ok(self.objects.lock().unwrap().get(key).map(|(_, bytes)| bytes.clone()))
    }
}

fn message(position: u64, data: Vec<u8>) -> Message {
    let event = Event {
        id: "defect:x".into(),
        ty: Defect::TYPE.into(),
        source: "/castwatch/scorer".into(),
        subject: "x".into(),
        time: None,
        traceparent: None,
        extensions: vec![],
        data: data.into(),
    };
    Message { position: Position(position), key: "m".into(), written_ms: 0, event }
}

fn messages(defects: &[Defect]) -> Vec<Message> {
    (0..).zip(defects).map(|(i, d)| message(i, serde_json::to_vec(d).unwrap())).collect()
}

type Tested = ExplainHandler<Arc<World>, Arc<World>>;

fn open(world: &Arc<World>, state: &Bytes) -> Tested {
    let stage = Explainer::new(BUNDLE.clone(), world.clone(), world.clone(), ChartSettings::default());
    assert_eq!((stage.name(), stage.inputs()), ("explainer", vec![Topic::DEFECTS]));
    stage.open(&Partition::new(Topic::DEFECTS, 0), state).unwrap()
}

/// Hands a batch to the handler part by part, as its runner would.
async fn work(handler: &mut Tested, messages: &[Message]) -> (Outcome, Vec<Explanation>, Vec<u8>) {
    let (mut out, mut done) = (Outbox::default(), 0);
    let outcome = loop {
        let handled = handler.handle(&messages[done..], &mut out);
        let outcome = tokio::time::timeout(Duration::from_secs(3600), handled).await.expect("it ends");
        done += outcome.done;
        if done == messages.len() || outcome.stop.is_some() {
            break Outcome { done, ..outcome };
        }
        assert!(outcome.done > 0);
    };
    assert_eq!(out.duplicates(), 0);
    let told = out.events().iter().map(|e| serde_json::from_slice(&e.event.data).unwrap()).collect();
    let bytes = out.events().iter().flat_map(|e| format!("{e:?}").into_bytes()).collect();
    (outcome, told, bytes)
}

async fn run(world: &Arc<World>, messages: &[Message]) -> (Outcome, Vec<Explanation>, Vec<u8>) {
    work(&mut open(world, &Bytes::new()), messages).await
}

/// So many defects of different shots.
fn defects(n: usize) -> Vec<Message> {
    let defect = low_pressure();
    let named = |i| {
        let mut defect = defect.clone();
        defect.score.shot = ShotId::from_text(format!("shot-{i}."));
        defect
    };
    messages(&(0..n).map(named).collect::<Vec<_>>())
}

fn owed(handler: &Tested) -> Vec<String> {
    let state = handler.state();
    let owed: Vec<serde_json::Value> =
        if state.is_empty() { vec![] } else { serde_json::from_slice(&state).unwrap() };
    owed.iter().map(|o| o["shot"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn real_attributions_add_up_and_find_what_was_changed() {
    let told = explain(&BUNDLE, &low_pressure()).unwrap();
    assert_eq!(told.cause, "cast_pressure", "{told:#?}");
    assert!(told.summary.ko.contains("보다 훨씬 낮음"), "{}", told.summary.ko);
    assert!(told.summary.en.contains("far below this die's usual"), "{}", told.summary.en);
    let expected = BUNDLE.readings().len() + BUNDLE.features().iter().filter(|f| f.of.is_none()).count();
    assert_eq!(told.attributions.len(), expected);
    let golden: Golden =
        serde_json::from_slice(&std::fs::read(folder().join("golden.json")).unwrap()).unwrap();
    for row in &golden.rows {
        let mut defect = low_pressure();
        defect.features.clone_from(&row.features);
        let features: Vec<f32> = row.features.iter().map(|f| f.unwrap_or(f32::NAN)).collect();
        defect.score.margin = Some(BUNDLE.attribute(&features).unwrap().margin);
        let told = explain(&BUNDLE, &defect).unwrap();
        let sum = told.base + told.attributions.iter().map(|a| a.contribution).sum::<f64>();
        assert!((sum - told.score.margin.unwrap()).abs() <= ADDITIVE);
        assert!((sum - row.margin).abs() <= 1e-4, "{sum} is not the golden {}", row.margin);
    }
}

#[tokio::test]
async fn a_defect_becomes_charts_a_record_and_an_explanation() {
    let world = Arc::new(World::default());
    let defect = low_pressure();
    let batch = messages(std::slice::from_ref(&defect));
    let (outcome, told, bytes) = run(&world, &batch).await;
    assert!(outcome.done == 1 && outcome.stop.is_none());
    let [told] = &told[..] else { panic!("one explanation") };
    let key = chart_key(&defect.score, Format::Png);
    assert_eq!(told.chart.as_deref(), Some(key.as_str()));
    let objects = world.objects.lock().unwrap().clone();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[&key], ("image/png".into(), chart::png(told, Lang::Ko).into()));
    let svg = chart_key(&defect.score, Format::Svg);
    assert_eq!(objects[&svg], ("image/svg+xml".into(), chart::svg(told, Lang::Ko).into()));
    assert_eq!(world.records.lock().unwrap()[defect.score.shot.as_str()], *told);

    // A replay changes nothing and says the same again.
    let (outcome, _, again) = run(&world, &batch).await;
    assert!(outcome.done == 1 && outcome.stop.is_none());
    assert_eq!(bytes, again);
    assert_eq!(*world.objects.lock().unwrap(), objects);
    assert_eq!(world.records.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_can_not_be_explained_is_refused_with_its_neighbours_done() {
    let good = low_pressure();
    let mut other = good.clone();
    other.score.bundle = "feedfacefeedface".into();
    let mut wrong = good.clone();
    wrong.score.margin = good.score.margin.map(|m| m + 1e-3);
    let mut short = good.clone();
    short.features.pop();
    let cases = [
        (b"{not json".to_vec(), "key must be a string"),
        (b"{}".to_vec(), "missing field"),
        (
            serde_json::to_vec(&other).unwrap(),
            "was judged by the bundle feedfacefeedface, but the bundle here is",
        ),
        (serde_json::to_vec(&wrong).unwrap(), "add up to"),
        (serde_json::to_vec(&short).unwrap(), "can't be computed"),
    ];
    for (data, expected) in cases {
        let world = Arc::new(World::default());
        let batch = [messages(std::slice::from_ref(&good)).remove(0), message(1, data)];
        let (outcome, told, _) = run(&world, &batch).await;
        assert_eq!((outcome.done, told.len(), world.records.lock().unwrap().len()), (1, 1, 1));
        let Some(Stop::Refuse(error)) = outcome.stop else { panic!("{expected}: not refused") };
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(matches!(explain(&BUNDLE, &other), Err(ExplainError::OtherBundle { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_chart_store_never_stops_an_alert_and_never_changes_it() {
    let batch = messages(&[low_pressure(), low_pressure(), low_pressure()]);
    let (_, _, expected) = run(&Arc::new(World::default()), &batch).await;
    let down = || World { object_faults: Mutex::new(usize::MAX), ..World::default() };
    let refusing = World { refuse_objects: true, ..World::default() };
    let hanging = World { hang: true.into(), ..World::default() };
    for (what, world, most) in [
        ("down", down(), Duration::from_millis(500)),
        ("refusing", refusing, Duration::ZERO),
        ("hanging", hanging, Duration::from_secs(2)),
    ] {
        let world = Arc::new(world);
        // The second time the records are there, and the charts are looked for first.
        for time in ["first", "second"] {
            *world.tries.lock().unwrap() = 0;
            let start = Instant::now();
            let (outcome, told, bytes) = run(&world, &batch).await;
            assert!(outcome.done == 3 && outcome.stop.is_none() && told.len() == 3, "{what} {time}");
            assert_eq!(bytes, expected, "{what} {time}: other events than with a store that works");
            assert_eq!(world.objects(), 0);
            let lost = start.elapsed();
            assert!(lost <= most + Duration::from_millis(50), "{what} {time}: {lost:?} lost");
            if what == "refusing" {
                assert_eq!(*world.tries.lock().unwrap(), 6, "what is refused for good is not tried again");
            }
        }
    }
    // A short fault is sat out, and the chart is there.
    let world = Arc::new(World { object_faults: Mutex::new(2), ..World::default() });
    let (_, _, bytes) = run(&world, &batch[..1]).await;
    assert_eq!(world.objects(), 2);
    assert_eq!(bytes, run(&Arc::new(World::default()), &batch[..1]).await.2);
}

#[tokio::test(start_paused = true)]
async fn slow_charts_hand_over_a_part_and_are_owed_before_they_hold_up_a_burst() {
    let world = Arc::new(World { slow: Duration::from_millis(300), ..World::default() });
    let (batch, mut handler) = (defects(320), open(&world, &Bytes::new()));
    let start = Instant::now();
    let mut out = Outbox::default();
    let outcome = handler.handle(&batch, &mut out).await;
    assert!(outcome.stop.is_none() && (outcome.done, out.events().len()) == (16, 16));
    assert_eq!((start.elapsed(), world.objects()), (Duration::from_millis(300), 32));
    let (outcome, told, _) = work(&mut handler, &batch[16..]).await;
    assert!(outcome.done == 304 && told.len() == 304);
    // Nine rounds took 1.8 s more than is fair; there were 0.2 s left for the tenth.
    assert_eq!((start.elapsed(), world.objects()), (Duration::from_millis(2900), 9 * 32));
    assert_eq!(owed(&handler).len(), 11 * 32);
    // They are drawn little by little, and messages come first in between.
    for paid in (0..24).step_by(6) {
        assert_eq!(owed(&handler).len(), 11 * 32 - paid);
        let start = Instant::now();
        assert!(handler.tend().await);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        assert!(!handler.tend().await, "at rest");
        tokio::time::sleep(Duration::from_secs(18)).await;
    }
    while !owed(&handler).is_empty() {
        handler.tend().await;
        tokio::time::sleep(Duration::from_secs(18)).await;
    }
    assert_eq!(world.objects(), 640);
}

#[tokio::test(start_paused = true)]
async fn defects_are_stored_together_and_told_in_order() {
    let world = Arc::new(World { slow: Duration::from_millis(8), ..World::default() });
    let (batch, start) = (defects(40), Instant::now());
    let (outcome, told, bytes) = run(&world, &batch).await;
    assert!(outcome.done == 40 && outcome.stop.is_none());
    assert_eq!((start.elapsed(), world.objects()), (Duration::from_millis(3 * 8), 80));
    let named = |i: usize| format!("shot-{i}.");
    assert!(told.iter().enumerate().all(|(i, told)| told.score.shot.as_str() == named(i)));
    // A record that fails stops the batch there; what was done after it is done again, to the byte.
    let world = Arc::new(World { bad_record: Some(named(21)).into(), ..World::default() });
    let mut handler = open(&world, &Bytes::new());
    let (outcome, first, before) = work(&mut handler, &batch).await;
    assert!(outcome.done == 21 && matches!(outcome.stop, Some(Stop::Retry(_))));
    assert_eq!((first.len(), world.records.lock().unwrap().len()), (21, 31));
    *world.bad_record.lock().unwrap() = None;
    let (outcome, _, after) = work(&mut handler, &batch[21..]).await;
    assert!(outcome.done == 19 && outcome.stop.is_none());
    assert_eq!((bytes, world.objects()), ([before, after].concat(), 80));
}

#[tokio::test(start_paused = true)]
async fn a_record_is_not_waited_for_for_ever() {
    let world = Arc::new(World { hang_records: true, ..World::default() });
    let start = Instant::now();
    let (outcome, told, _) = run(&world, &defects(2)).await;
    assert!(matches!(outcome.stop, Some(Stop::Retry(PortError::Unavailable { .. }))));
    assert_eq!((outcome.done, told.len(), start.elapsed()), (0, 0, Duration::from_secs(10)));
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_drawn_beside_the_line_are_the_same() {
    let world = Arc::new(World::default());
    let (outcome, told, _) = run(&world, &defects(20)).await;
    assert!(outcome.done == 20 && outcome.stop.is_none());
    let objects = world.objects.lock().unwrap();
    assert!(told.iter().all(|told| objects[told.chart.as_ref().unwrap()].1 == chart::png(told, Lang::Ko)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_waited_for_once_until_it_took_an_owed_chart() {
    let world = Arc::new(World { hang: true.into(), ..World::default() });
    let (batch, mut handler) = (defects(6), open(&world, &Bytes::new()));
    let start = Instant::now();
    for part in batch.chunks(2) {
        assert_eq!(work(&mut handler, part).await.0.done, 2);
    }
    assert_eq!((start.elapsed(), owed(&handler).len()), (Duration::from_secs(2), 12));
    let start = Instant::now();
    assert!(!handler.tend().await);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    let _ = work(&mut handler, &batch[..1]).await;
    assert_eq!((start.elapsed(), owed(&handler).len()), (Duration::from_secs(2), 14));
    world.hang.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(18)).await;
    assert!(handler.tend().await);
    assert_eq!((world.objects(), owed(&handler).len(), handler.state().len()), (12, 0, 0));
    // It is asked again.
    world.objects.lock().unwrap().clear();
    let _ = work(&mut handler, &batch[..1]).await;
    assert_eq!((world.objects(), owed(&handler).len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn charts_that_never_work_keep_none_of_the_others() {
    let world = Arc::new(World { bad_key: Some("shot-0.".into()), hang: true.into(), ..World::default() });
    let mut handler = open(&world, &Bytes::new());
    let _ = work(&mut handler, &defects(5)).await;
    assert_eq!(owed(&handler).len(), 10);
    world.hang.store(false, Ordering::SeqCst);
    assert!(handler.tend().await);
    assert_eq!((world.objects(), owed(&handler)), (8, vec!["shot-0.".to_owned(); 2]));
    // A store that takes nothing is not asked for every chart that is owed.
    let world = Arc::new(World { object_faults: Mutex::new(usize::MAX), ..World::default() });
    let mut handler = open(&world, &Bytes::new());
    let _ = work(&mut handler, &defects(5)).await;
    *world.tries.lock().unwrap() = 0;
    assert!(!handler.tend().await);
    assert_eq!((*world.tries.lock().unwrap(), owed(&handler).len()), (3, 10));
}

#[tokio::test]
async fn drawing_what_is_owed_ends_in_time_too() {
    let world = Arc::new(World::default());
    let _ = run(&world, &defects(1)).await;
    let many = vec![serde_json::json!({ "shot": "shot-0.", "format": "png" }); 5000];
    let settings = ChartSettings { timeout: Duration::from_millis(300), ..ChartSettings::default() };
    let stage = Explainer::new(BUNDLE.clone(), world.clone(), world.clone(), settings);
    let state = serde_json::to_vec(&many).unwrap().into();
    let mut handler = stage.open(&Partition::new(Topic::DEFECTS, 0), &state).unwrap();
    assert!(handler.tend().await);
    let left = owed(&handler).len();
    assert!(left > 0 && left < 5000, "{left} left");
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_very_many_charts_owed_are_given_up() {
    let world = Arc::new(World { hang: true.into(), ..World::default() });
    let many: Vec<_> =
        (0..10_000).map(|i| serde_json::json!({ "shot": format!("old-{i}"), "format": "svg" })).collect();
    let mut handler = open(&world, &serde_json::to_vec(&many).unwrap().into());
    let _ = work(&mut handler, &defects(2)).await;
    let owed = owed(&handler);
    assert_eq!((owed.len(), owed[0].as_str(), owed[9999].as_str()), (10_000, "old-4", "shot-1."));
}

#[tokio::test]
async fn a_record_that_can_not_be_stored_stops_the_batch() {
    let batch = messages(&[low_pressure(), low_pressure()]);
    let world = Arc::new(World::default());
    world.record_faults.lock().unwrap().push(PortError::unavailable("put a record", "throttled"));
    let (outcome, told, _) = run(&world, &batch).await;
    assert!(matches!(outcome.stop, Some(Stop::Retry(PortError::Unavailable { .. }))));
    assert_eq!((outcome.done, told.len()), (0, 0));
    let (outcome, told, _) = run(&world, &batch).await;
    assert!(outcome.done == 2 && outcome.stop.is_none() && told.len() == 2);
    world.record_faults.lock().unwrap().push(PortError::refused("put a record", "too large"));
    let (outcome, _, _) = run(&world, &batch).await;
    assert!(outcome.done == 0 && matches!(outcome.stop, Some(Stop::Refuse(_))));
}
