//! How many defects a second the stage explains on stores that take so long to answer, one after
//! another and as it takes them:
//! `cargo run --release -p castwatch-explainer --example stage_times [RECORD_MS OBJECT_MS]`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use castwatch_core::payload::{Alert, Defect, Explanation, Payload, Score};
use castwatch_core::ports::{Claim, RecordPage, RecordQuery, Stored};
use castwatch_core::{
    Event, Handler, Message, Objects, Outbox, Partition, PortError, Position, Records, ShotId, Stage, Topic,
};
use castwatch_explainer::{ChartSettings, Explainer};
use castwatch_models::golden::Golden;
use castwatch_models::{Bundle, DieHistory};

/// Defects in each measurement.
const DEFECTS: usize = 320;

/// Stores that keep nothing and take their time.
#[derive(Clone, Copy)]
struct Far {
    record: Duration,
    object: Duration,
}

impl Records for Far {
    async fn put(&self, _: &Explanation) -> Result<Stored, PortError> {
        tokio::time::sleep(self.record).await;
        Ok(Stored::New)
    }
    async fn get(&self, _: &str) -> Result<Option<Explanation>, PortError> {
        Ok(None)
    }
    async fn told(&self, _: &Alert) -> Result<(), PortError> {
        Ok(())
    }
    async fn list(&self, _: &RecordQuery) -> Result<RecordPage, PortError> {
        Ok(RecordPage::default())
    }
    async fn claim(&self, _: &str) -> Result<Claim, PortError> {
        Ok(Claim::Fresh)
    }
    async fn settle(&self, _: &str) -> Result<(), PortError> {
        Ok(())
    }
}

impl Objects for Far {
    async fn put(&self, _: &str, _: &str, _: Bytes) -> Result<(), PortError> {
        tokio::time::sleep(self.object).await;
        Ok(())
    }
    async fn get(&self, _: &str) -> Result<Option<Bytes>, PortError> {
        Ok(None)
    }
}

/// The shots of a bundle's golden values, as defects whatever the verdict.
fn defects(bundle: &Bundle, folder: &Path) -> Vec<Message> {
    let golden: Golden = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let mut die = DieHistory::default();
    let shots = golden.shots.iter().cycle().take(DEFECTS).map(|golden| &golden.shot);
    let defect = |(at, shot): (usize, &castwatch_core::Shot)| {
        let features = bundle.extract(shot, &mut die);
        let judgement = bundle.judge(&[&features]).unwrap().remove(0);
        let defect = Defect {
            score: Score {
                shot: ShotId::from_text(format!("shot-{at}")),
                machine: shot.machine.clone(),
                die: shot.die.clone(),
                cycle: shot.cycle,
                ended_at: shot.ended_at,
                try_shot: false,
                verdict: judgement.verdict,
                probability: Some(judgement.probability),
                margin: Some(judgement.margin),
                anomaly: judgement.anomaly,
                missing: features.missing,
                reason: None,
                bundle: bundle.digest().into(),
            },
            readings: shot.readings.clone(),
            features: features.values.iter().map(|v| (!v.is_nan()).then_some(*v)).collect(),
            usual: features.usual,
        };
        let event = defect.outgoing("scorer", &Event::default()).unwrap().event;
        Message { position: Position(at as u64), key: String::new(), written_ms: 0, event }
    };
    shots.enumerate().map(defect).collect()
}

#[tokio::main]
async fn main() {
    let mut ms = std::env::args().skip(1).map(|arg| Duration::from_millis(arg.parse().unwrap()));
    let record = ms.next().unwrap_or(Duration::from_millis(5));
    let far = Far { record, object: ms.next().unwrap_or(Duration::from_millis(10)) };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/bundles/default");
    let bundle = Arc::new(Bundle::load(&folder).unwrap());
    let messages = defects(&bundle, &folder);
    let stage = Explainer::new(bundle, far, far, ChartSettings::default());
    println!("a record takes {:?}, a chart {:?} to store", far.record, far.object);
    for (how, at_once) in [("one after another", 1), ("as they come", DEFECTS)] {
        let mut handler = stage.open(&Partition::new(Topic::DEFECTS, 0), &Bytes::new()).unwrap();
        let (mut done, mut first) = (0, None);
        let began = Instant::now();
        while done < messages.len() {
            let batch = &messages[done..messages.len().min(done + at_once)];
            let outcome = handler.handle(batch, &mut Outbox::default()).await;
            assert!(outcome.stop.is_none());
            done += outcome.done;
            first.get_or_insert(began.elapsed());
        }
        let rate = DEFECTS as f64 / began.elapsed().as_secs_f64();
        println!(
            "{how:18} {rate:6.0} defects/s, the first handed over after {:?}",
            first.unwrap_or_default()
        );
    }
}
