//! The contract suite finds what it is there to find: each port below has one planted fault.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{Claim, Generation, RecordPage, RecordQuery, Snapshot, Start, Stored, Token};
use castwatch_core::{
    Consumer, Delivery, Objects, Outgoing, Partition, PortError, Position, Publisher, Records, Snapshots,
    contract,
};
use castwatch_platform::{Durability, Embedded, EmbeddedConsumer, EmbeddedSettings, Folder};

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    LosesTheLast,
    WritesTwice,
    TurnsBatchesAround,
    DropsExtensions,
    SkipsAtStart,
    SleepsThroughPublishes,
    FencesNobody,
    TakesLate,
    ForgetsTheTally,
    ReplacesRecords,
    RepeatsRecordsOfPages,
    LosesRecordsOfPages,
    ForgetsAlerts,
    IgnoresCauses,
    TakesAnyCursor,
    ClaimsByPresence,
    CutsObjects,
    TakesAnyKey,
}

/// A port with a fault in front of one without.
struct Faulty<P>(P, Fault);

impl Publisher for Faulty<Arc<Embedded>> {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        let mut events = events.to_vec();
        match self.1 {
            Fault::LosesTheLast if events.len() > 100 => events.truncate(events.len() - 1),
            Fault::WritesTwice => events.extend(events.first().cloned()),
            Fault::TurnsBatchesAround => events.reverse(),
            Fault::DropsExtensions => events.iter_mut().for_each(|e| e.event.extensions.clear()),
            _ => {}
        }
        self.0.publish(&events).await
    }
}

impl Consumer for Faulty<EmbeddedConsumer> {
    async fn next(&mut self, wait: Duration) -> Result<Delivery, PortError> {
        if self.1 == Fault::SleepsThroughPublishes && wait > Duration::from_secs(1) {
            tokio::time::sleep(wait / 2).await;
        }
        self.0.next(wait).await
    }

    async fn start(&mut self, partition: &Partition, start: Start) -> Result<(), PortError> {
        match start {
            Start::At(Position(at)) if self.1 == Fault::SkipsAtStart => {
                self.0.start(partition, Start::At(Position(at + 1))).await
            }
            start => self.0.start(partition, start).await,
        }
    }

    async fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        self.0.release(partitions).await
    }
}

impl Snapshots for Faulty<Arc<Embedded>> {
    async fn take(
        &self,
        stage: &str,
        at: &Partition,
        generation: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        let generation = if self.1 == Fault::TakesLate { Generation(9) } else { generation };
        self.0.take(stage, at, generation).await
    }

    async fn save(
        &self,
        stage: &str,
        at: &Partition,
        token: &Token,
        what: &Snapshot,
    ) -> Result<(), PortError> {
        let mut what = what.clone();
        match self.1 {
            Fault::ForgetsTheTally => what.tally = Default::default(),
            Fault::FencesNobody => {
                let (newest, _) = self.0.take(stage, at, Generation(5)).await?;
                return self.0.save(stage, at, &newest, &what).await;
            }
            _ => {}
        }
        self.0.save(stage, at, token, &what).await
    }
}

impl Records for Faulty<Arc<Embedded>> {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        let stored = self.0.put(record).await?;
        Ok(if self.1 == Fault::ReplacesRecords { Stored::New } else { stored })
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        self.0.get(shot).await
    }

    async fn told(&self, alert: &Alert) -> Result<(), PortError> {
        if self.1 == Fault::ForgetsAlerts { Ok(()) } else { self.0.told(alert).await }
    }

    async fn list(&self, query: &RecordQuery) -> Result<RecordPage, PortError> {
        let mut query = query.clone();
        match self.1 {
            Fault::IgnoresCauses => query.cause = None,
            Fault::TakesAnyCursor => query.before = query.before.filter(|before| before.contains('~')),
            _ => {}
        }
        let mut page = self.0.list(&query).await?;
        let last = page.next.as_ref().and_then(|_| page.defects.pop());
        match self.1 {
            Fault::RepeatsRecordsOfPages => page.defects.extend(page.defects.last().cloned()),
            Fault::LosesRecordsOfPages => {}
            _ => page.defects.extend(last),
        }
        Ok(page)
    }

    async fn claim(&self, id: &str) -> Result<Claim, PortError> {
        match self.0.claim(id).await? {
            Claim::Begun if self.1 == Fault::ClaimsByPresence => Ok(Claim::Settled),
            claim => Ok(claim),
        }
    }

    async fn settle(&self, id: &str) -> Result<(), PortError> {
        self.0.settle(id).await
    }
}

impl Objects for Faulty<Folder> {
    async fn put(&self, key: &str, content_type: &str, bytes: Bytes) -> Result<(), PortError> {
        let cut = if self.1 == Fault::CutsObjects { bytes.len() / 2 } else { bytes.len() };
        match self.0.put(key, content_type, bytes.slice(..cut)).await {
            Err(PortError::Refused { .. }) if self.1 == Fault::TakesAnyKey => Ok(()),
            other => other,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        self.0.get(key).await
    }
}

/// What the suite says of ports with `fault`.
async fn said(fault: Fault) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let settings = EmbeddedSettings { durability: Durability::Normal, ..EmbeddedSettings::default() };
    let log = Embedded::open_with(folder.path().join("log"), settings).unwrap();
    let objects = Faulty(Folder::new(folder.path().join("objects")), fault);
    let suite = tokio::spawn(async move {
        let faulty = Faulty(Arc::clone(&log), fault);
        contract::objects(&objects).await;
        contract::snapshots(&faulty).await;
        contract::records(&faulty).await;
        contract::log(&faulty, |stage, topics| Faulty(log.consumer(stage, topics), fault)).await;
    });
    let panicked = suite.await.err()?.into_panic();
    let text = panicked.downcast_ref::<String>().cloned();
    text.or_else(|| panicked.downcast_ref::<&str>().map(|text| (*text).to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_is_found() {
    let faults = [
        (Fault::WritesTwice, "every event must be read once"),
        (Fault::TurnsBatchesAround, "in the order they were published"),
        (Fault::DropsExtensions, "every attribute must survive"),
        (Fault::SkipsAtStart, "messages came of 19"),
        (Fault::SleepsThroughPublishes, "the wait must end with the publish"),
        (Fault::FencesNobody, "must be fenced"),
        (Fault::TakesLate, "of an older generation must be fenced"),
        (Fault::ForgetsTheTally, "position and tally belong together"),
        (Fault::ReplacesRecords, "one record a shot"),
        (Fault::RepeatsRecordsOfPages, "no record may be listed twice"),
        (Fault::LosesRecordsOfPages, "what fits is listed, and nothing else"),
        (Fault::ForgetsAlerts, "the first alert stays beside its record"),
        (Fault::IgnoresCauses, "what fits is listed, and nothing else"),
        (Fault::TakesAnyCursor, "must be refused"),
        (Fault::ClaimsByPresence, "begun is not done"),
        (Fault::CutsObjects, "must survive"),
        (Fault::TakesAnyKey, "must be refused"),
        (Fault::LosesTheLast, "messages came of 1500"),
    ];
    let sound = tokio::spawn(said(Fault::None));
    let mut found = tokio::task::JoinSet::new();
    for (fault, expected) in faults {
        found.spawn(async move { (said(fault).await, expected) });
    }
    while let Some(outcome) = found.join_next().await {
        let (said, expected) = outcome.unwrap();
        let said = said.unwrap_or_else(|| panic!("a fault was not found: {expected}"));
        assert!(said.contains(expected), "expected {expected}\nsaid {said}");
    }
    assert_eq!(sound.await.unwrap(), None, "the ports themselves pass");
}
