//! Scores, explanations and ports in memory, for tests and the preview.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use castwatch_console::Feed;
use castwatch_core::payload::{Alert, Attribution, Explanation, Payload, Score, Usual, Words};
use castwatch_core::ports::{Claim, Kept, PortError, RecordPage, RecordQuery, Stored};
use castwatch_core::stage::{Handler, Outbox, Outcome, Stage};
use castwatch_core::{EndedAt, Event, Message, Objects, Partition, Position, Records, ShotId, Verdict};

/// Records and charts in memory.
#[derive(Clone, Default)]
pub struct Memory {
    records: Arc<Mutex<BTreeMap<(EndedAt, ShotId), Explanation>>>,
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl Records for Memory {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        let key = (record.score.ended_at, record.score.shot.clone());
        Ok(match self.records.lock().unwrap().insert(key, record.clone()) {
            None => Stored::New,
            Some(_) => Stored::Already,
        })
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        Ok(self.records.lock().unwrap().values().find(|r| r.score.shot.as_str() == shot).cloned())
    }

    async fn list(&self, query: &RecordQuery) -> Result<RecordPage, PortError> {
        let before: usize = match &query.before {
            Some(text) => text.parse().map_err(|e| PortError::refused("reading the cursor", Box::new(e)))?,
            None => 0,
        };
        let records = self.records.lock().unwrap();
        let mut found = records.values().rev().filter(|r| {
            query.machine.as_ref().is_none_or(|m| *m == r.score.machine)
                && query.die.as_ref().is_none_or(|d| *d == r.score.die)
        });
        let page: Vec<Explanation> = found.by_ref().skip(before).take(query.limit).cloned().collect();
        let next = found.next().map(|_| (before + page.len()).to_string());
        let defects = page.into_iter().map(|record| Kept { record, alert: None }).collect();
        Ok(RecordPage { defects, next })
    }

    async fn told(&self, _: &Alert) -> Result<(), PortError> {
        Ok(())
    }

    async fn claim(&self, _: &str) -> Result<Claim, PortError> {
        Ok(Claim::Fresh)
    }

    async fn settle(&self, _: &str) -> Result<(), PortError> {
        Ok(())
    }
}

impl Objects for Memory {
    async fn put(&self, key: &str, _: &str, bytes: Bytes) -> Result<(), PortError> {
        self.objects.lock().unwrap().insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        Ok(self.objects.lock().unwrap().get(key).cloned())
    }
}

pub fn words(ko: &str, en: &str) -> Words {
    Words { ko: ko.into(), en: en.into() }
}

/// A score of machine `machine`'s shot `cycle`, 75 s after the one before.
pub fn score(machine: &str, die: &str, cycle: u64, verdict: Verdict, probability: f64) -> Score {
    let second = 6 * 3600 + cycle * 75;
    let (day, hour, minute) = (15 + second / 86_400 % 16, second / 3600 % 24, second / 60 % 60);
    let at = format!("2026-01-{day:02}T{hour:02}:{minute:02}:{:02}+09:00", second % 60);
    let ended_at = EndedAt::parse(&at).unwrap();
    Score {
        shot: ShotId::from_text(format!("{machine}~{die}~{cycle}")),
        machine: machine.into(),
        die: die.into(),
        cycle,
        ended_at,
        try_shot: false,
        verdict,
        probability: (verdict != Verdict::Unscorable).then_some(probability),
        margin: Some(0.0),
        anomaly: Some(1.0),
        missing: 0,
        reason: (verdict == Verdict::Unscorable).then(|| "12 of 21 readings are missing".into()),
        bundle: "b".into(),
    }
}

/// Why that shot is a defect.
pub fn explanation(score: Score, chart: Option<String>) -> Explanation {
    let name = words("주조 압력", "Casting pressure");
    let usual = Some(Usual { centre: 331.0, spread: 2.0 });
    Explanation {
        score,
        base: -3.0,
        attributions: vec![Attribution {
            reading: "cast_pressure".into(),
            name,
            unit: "bar".into(),
            value: Some(251.0),
            usual,
            contribution: 4.0,
        }],
        cause: "cast_pressure".into(),
        summary: words(
            "주조 압력이 251 bar로 평소(331 ± 2 bar)보다 낮습니다.",
            "Casting pressure is 251 bar, below its usual 331 ± 2 bar.",
        ),
        equipment: words("사출 유닛(증압기)", "Injection unit (intensifier)"),
        advice: words(
            "증압기 압력과 어큐뮬레이터 질소압을 확인하세요. 정상 범위는 325~337 bar입니다.",
            "Check the intensifier and the accumulator's nitrogen pressure. The usual range is 325 to 337 bar.",
        ),
        chart,
    }
}

/// The alert of an explanation.
pub fn alert(explanation: &Explanation) -> Alert {
    let Score { shot, machine, die, cycle, ended_at, probability, .. } = explanation.score.clone();
    Alert {
        id: format!("alert:{shot}"),
        title: words(
            &format!("불량 · {machine} · 금형 {die} · 샷 번호 {cycle}"),
            &format!("Defect · {machine} · die {die} · shot {cycle}"),
        ),
        body: explanation.summary.clone(),
        chart: explanation.chart.clone(),
        channels: vec!["console".into()],
        shot,
        machine,
        die,
        cycle,
        ended_at,
        probability,
        cause: explanation.cause.clone(),
    }
}

/// The message a payload lies in.
pub fn message(payload: &impl Payload) -> Message {
    let out = payload.outgoing("test", &Event::default()).unwrap();
    Message { position: Position(0), key: out.key, written_ms: 0, event: out.event }
}

/// Hands a payload to the feed as its runner would.
pub async fn feed_one<P: Payload>(feed: &Feed, payload: &P) -> (Outcome, u64) {
    let mut out = Outbox::default();
    let mut handler = feed.open(&Partition::new(P::TOPIC, 0), &Bytes::new()).unwrap();
    (handler.handle(&[message(payload)], &mut out).await, out.duplicates())
}
