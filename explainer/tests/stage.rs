//! The stage on the default bundle: what it stores and publishes, and what happens when it can't.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::event::{Event, Message, Partition, Position, Topic};
use castwatch_core::payload::{Defect, Explanation, Payload, Score};
use castwatch_core::ports::{Claim, RecordPage, RecordQuery, Stored};
use castwatch_core::stage::{Handler as _, Outbox, Outcome, Stage as _, Stop};
use castwatch_core::{Objects, PortError, Records, Shot};
use castwatch_explainer::{
    ADDITIVE, ChartSettings, ExplainError, Explainer, Format, Lang, chart, chart_key, explain,
};
use castwatch_models::golden::Golden;
use castwatch_models::{Bundle, DieHistory};

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
    object_faults: Mutex<usize>,
    refuse_objects: bool,
    hang: bool,
    tries: Mutex<usize>,
}

impl Records for World {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        if let Some(error) = self.record_faults.lock().unwrap().pop() {
            return Err(error);
        }
        let mut records = self.records.lock().unwrap();
        let shot = record.score.shot.to_string();
        if records.contains_key(&shot) {
            return Ok(Stored::Already);
        }
        records.insert(shot, record.clone());
        Ok(Stored::New)
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        Ok(self.records.lock().unwrap().get(shot).cloned())
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
        if self.hang {
            std::future::pending::<()>().await;
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

async fn run(world: &Arc<World>, messages: &[Message]) -> (Outcome, Vec<Explanation>, Vec<u8>) {
    let stage = Explainer::new(BUNDLE.clone(), world.clone(), world.clone(), ChartSettings::default());
    assert_eq!((stage.name(), stage.inputs()), ("explainer", vec![Topic::DEFECTS]));
    let mut handler = stage.open(&Partition::new(Topic::DEFECTS, 0), &Bytes::new()).unwrap();
    let mut out = Outbox::default();
    let outcome = handler.handle(messages, &mut out).await;
    assert_eq!(out.duplicates(), 0);
    let told = out.events().iter().map(|e| serde_json::from_slice(&e.event.data).unwrap()).collect();
    let bytes = out.events().iter().flat_map(|e| format!("{e:?}").into_bytes()).collect();
    (outcome, told, bytes)
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
    let hanging = World { hang: true, ..World::default() };
    for (what, world, most) in [
        ("down", down(), Duration::from_millis(500)),
        ("refusing", refusing, Duration::ZERO),
        ("hanging", hanging, Duration::from_secs(2)),
    ] {
        let world = Arc::new(world);
        let start = tokio::time::Instant::now();
        let (outcome, told, bytes) = run(&world, &batch).await;
        assert!(outcome.done == 3 && outcome.stop.is_none() && told.len() == 3, "{what}");
        assert_eq!(bytes, expected, "{what}: other events than with a store that works");
        assert!(world.objects.lock().unwrap().is_empty());
        assert!(start.elapsed() <= most + Duration::from_millis(50), "{what}: {:?} lost", start.elapsed());
        if what == "refusing" {
            assert_eq!(*world.tries.lock().unwrap(), 6, "what is refused for good is not tried again");
        }
    }
    // A short fault is sat out, and the chart is there.
    let world = Arc::new(World { object_faults: Mutex::new(2), ..World::default() });
    let (_, _, bytes) = run(&world, &batch[..1]).await;
    assert_eq!(world.objects.lock().unwrap().len(), 2);
    assert_eq!(bytes, run(&Arc::new(World::default()), &batch[..1]).await.2);
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
