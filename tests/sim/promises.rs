//! The promises: what must be true of the world when the line has come to rest, whatever befell it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use castwatch_core::Verdict;
use castwatch_core::event::Topic;
use castwatch_core::payload::{Payload, Score};
use castwatch_core::ports::Tally;
use castwatch_core::runner::dlq;
use castwatch_core::stage::{Handler, Outbox, Stage};
use castwatch_scorer::Scorer;

use crate::schedule::{Cast, Deeds, Input};
use crate::world::State;

/// The promises that a schedule broke.
pub(crate) fn check(cast: &Cast, state: &State, input: &Input, calm: bool, deeds: &mut Deeds) -> Vec<String> {
    let mut broken: Vec<String> = state.broken.iter().cloned().collect();
    let mut promise = |what: &str, holds: bool, detail: &dyn Debug| {
        if !holds {
            broken.push(format!("{what}: {detail:?}"));
        }
    };

    // One score a shot, the same bytes as in a world without faults, wherever it was written again.
    let scores = by_id(state, &Topic::SCORES, &mut promise);
    let want = reference(cast, state);
    let scored: BTreeSet<String> = want.scores.keys().cloned().collect();
    let shots: BTreeSet<String> = input.good.iter().map(|id| format!("score:{id}")).collect();
    promise("the reference scores every shot", scored == shots, &(scored.len(), shots.len()));
    promise("one score a shot", scores.keys().eq(want.scores.keys()), &difference(&scores, &want.scores));
    promise(
        "scores do not depend on what went wrong",
        scores == want.scores,
        &unequal(&scores, &want.scores),
    );
    let defects = by_id(state, &Topic::DEFECTS, &mut promise);
    promise("one defect event a defect", defects == want.defects, &difference(&defects, &want.defects));

    // One explanation, one record, one chart, one alert a defect.
    let ids: BTreeSet<&str> = want.defects.keys().filter_map(|id| id.strip_prefix("defect:")).collect();
    let explanations = by_id(state, &Topic::EXPLANATIONS, &mut promise);
    let alerts = by_id(state, &Topic::ALERTS, &mut promise);
    let explained: BTreeSet<&str> =
        explanations.keys().filter_map(|id| id.strip_prefix("explanation:")).collect();
    let alerted: BTreeSet<&str> = alerts.keys().filter_map(|id| id.strip_prefix("alert:")).collect();
    let recorded: BTreeSet<&str> = state.records.keys().map(String::as_str).collect();
    let told: BTreeSet<&str> = state.inbox.iter().filter_map(|(id, _)| id.strip_prefix("alert:")).collect();
    promise("one explanation a defect", explained == ids, &(explained.len(), ids.len()));
    promise("one record a defect", recorded == ids, &(recorded.len(), ids.len()));
    promise("one alert event a defect", alerted == ids, &(alerted.len(), ids.len()));
    promise("every defect is told", told == ids, &(told.len(), ids.len()));
    let mut told_bytes: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (id, bytes) in &state.inbox {
        promise("an alert told again is the same alert", *told_bytes.entry(id).or_insert(bytes) == bytes, id);
    }
    promise("claims are settled", state.claims.values().all(|settled| *settled), &state.claims);
    let charts: BTreeSet<String> = state
        .records
        .values()
        .filter_map(|r| r.chart.clone())
        .filter(|key| state.objects.contains_key(key))
        .collect();
    promise("one chart a defect", charts.len() == ids.len(), &(charts.len(), ids.len()));
    promise("no other charts", state.objects.keys().all(|k| charts.contains(k)), &state.objects.len());

    // What can't be read is kept as it came.
    let kept = by_id(state, &Topic::SHOTS.dead_letters(), &mut promise);
    let bytes: BTreeSet<&[u8]> = kept.values().map(Vec::as_slice).collect();
    let sent: BTreeSet<&[u8]> = input.broken.iter().map(|e| &e.event.data[..]).collect();
    promise("broken messages are kept as they came", bytes == sent && kept.len() == sent.len(), &kept.len());
    let named = state.messages(&Topic::SHOTS.dead_letters()).all(|m| m.event.extension(dlq::ERROR).is_some());
    promise("dead letters say why", named, &());

    // The books balance, to the shot.
    let mut tally = Tally::default();
    for ((_, partition), kept) in &state.snapshots {
        if let Some(snapshot) = &kept.snapshot {
            promise("the books balance", snapshot.tally.balances(), &(partition, snapshot.tally));
            if partition.topic == Topic::SHOTS {
                tally.add(&snapshot.tally);
            }
        }
    }
    let expected = Tally {
        taken: input.events.len() as u64,
        done: input.good.len() as u64,
        duplicates: input.duplicates,
        dead_letters: input.broken.len() as u64,
        missed: 0,
    };
    promise("the scorer's books are exact", tally == expected, &(tally, expected));

    if calm {
        let messages = |topic: &Topic| state.messages(topic).count();
        promise(
            "without faults nothing is written twice",
            messages(&Topic::SCORES) == scores.len(),
            &scores.len(),
        );
        promise("without faults nothing is told twice", state.inbox.len() == ids.len(), &state.inbox.len());
    }
    deeds.shots = input.good.len();
    deeds.defects = ids.len();
    broken
}

/// The data of a topic by event id; the same id must carry the same bytes.
fn by_id(
    state: &State,
    topic: &Topic,
    promise: &mut impl FnMut(&str, bool, &dyn Debug),
) -> BTreeMap<String, Vec<u8>> {
    let mut events = BTreeMap::new();
    for message in state.messages(topic) {
        let data = message.event.data.to_vec();
        let there = events.entry(message.event.id.clone()).or_insert_with(|| data.clone());
        promise("an event written again is the same event", *there == data, &message.event.id);
    }
    events
}

struct Reference {
    scores: BTreeMap<String, Vec<u8>>,
    defects: BTreeMap<String, Vec<u8>>,
}

/// What one scorer that nothing befalls makes of the same log, message by message.
fn reference(cast: &Cast, state: &State) -> Reference {
    let scorer = Scorer::new(Arc::clone(&cast.bundle));
    let mut reference = Reference { scores: BTreeMap::new(), defects: BTreeMap::new() };
    for (partition, messages) in state.log.iter().filter(|(p, _)| p.topic == Topic::SHOTS) {
        let Ok(mut handler) = scorer.open(partition, &bytes::Bytes::new()) else { continue };
        for message in messages {
            let mut out = Outbox::default();
            poll_once(handler.handle(std::slice::from_ref(message), &mut out));
            for event in out.into_events() {
                let data = event.event.data.to_vec();
                match event.topic == Topic::SCORES {
                    true => reference.scores.insert(event.event.id, data),
                    false => reference.defects.insert(event.event.id, data),
                };
            }
        }
    }
    let defects = reference.scores.values().filter_map(|d| serde_json::from_slice::<Score>(d).ok());
    assert_eq!(defects.filter(|s| s.verdict == Verdict::Defect).count(), reference.defects.len());
    assert!(reference.scores.keys().all(|id| id.starts_with(Score::KIND)));
    reference
}

/// The scorer waits for nothing, so that one poll is its whole work.
fn poll_once<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_ready(), "the scorer waited for something");
}

fn difference<V>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> (Vec<String>, Vec<String>) {
    let only = |a: &BTreeMap<String, V>, b: &BTreeMap<String, V>| {
        a.keys().filter(|k| !b.contains_key(*k)).take(3).cloned().collect()
    };
    (only(a, b), only(b, a))
}

fn unequal(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<(String, String)> {
    a.iter()
        .filter_map(|(k, x)| b.get(k).filter(|y| *y != x).map(|y| (x, y)))
        .take(1)
        .map(|(x, y)| (String::from_utf8_lossy(x).into_owned(), String::from_utf8_lossy(y).into_owned()))
        .collect()
}
