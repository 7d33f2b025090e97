//! `castwatch books`: is every shot accounted for?
//!
//! **Two independent counts must agree.** The stages' own tallies, saved with their positions, and
//! the log itself against records and charts: distinct shots, scores, defects, explanations,
//! records, charts and alerts.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use anyhow::Result;
use castwatch_core::Shot;
use castwatch_core::event::Topic;
use castwatch_core::ports::{Kept, Objects, RecordQuery, Records, Tally};
use castwatch_core::runner::dlq;
use serde::Serialize;

use crate::stores::{LogInspector, SnapshotStore, Stores};

/// The answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is missing, doubled or waiting.
    pub balanced: bool,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// What could not be compared, since a topic does not reach back to its beginning.
    pub notes: Vec<String>,
    /// Each stage's counts over all partitions.
    pub stages: Vec<StageBooks>,
    /// What the log and the stores hold.
    pub log: LogBooks,
}

/// The counts of one stage.
#[derive(Debug, Serialize)]
pub struct StageBooks {
    /// The stage.
    pub stage: String,
    /// Messages not taken yet.
    pub waiting: u64,
    /// Messages taken, done, known already and set aside.
    #[serde(flatten)]
    pub tally: Tally,
    /// Whether the counts add up.
    pub balances: bool,
}

/// What the log and the stores hold, counted one by one.
#[derive(Debug, Default, Serialize)]
pub struct LogBooks {
    /// Messages on `shots`.
    pub shot_messages: u64,
    /// Distinct shots among them.
    pub shots: u64,
    /// Messages on `shots` that are no shot.
    pub unreadable: u64,
    /// Distinct scores.
    pub scores: u64,
    /// Score events that were written again after a restart, with the same id.
    pub scores_again: u64,
    /// Distinct defects.
    pub defects: u64,
    /// Distinct explanations.
    pub explanations: u64,
    /// Records.
    pub records: u64,
    /// Charts in the store.
    pub charts: u64,
    /// Distinct alerts.
    pub alerts: u64,
    /// Dead letters on every topic.
    pub dead_letters: u64,
}

/// The stages that keep books, with what they read.
const STAGES: [(&str, Topic); 3] =
    [("scorer", Topic::SHOTS), ("explainer", Topic::DEFECTS), ("notifier", Topic::EXPLANATIONS)];

/// Counts everything.
///
/// # Errors
/// When a store can't be read.
pub async fn audit(stores: &Stores) -> Result<Report> {
    let inspector = stores.log.inspector()?;
    let mut problems = Vec::new();
    let stages = stages(&inspector, &stores.snapshots, &mut problems).await?;
    let (mut log, sets) = count_log(&inspector)?;
    let records = records(stores, &mut log, &mut problems).await?;
    let (short, notes) = cut_short(&inspector)?;

    let mut missing = |what: &str,
                       ids: &BTreeSet<String>,
                       topic: &Topic,
                       of: &BTreeSet<String>,
                       aside: &BTreeSet<String>| {
        if short.contains(topic) {
            return;
        }
        let gone: Vec<&String> = ids.iter().filter(|id| !of.contains(*id) && !aside.contains(*id)).collect();
        if let Some(first) = gone.first() {
            problems.push(format!("{} {what}, such as {first}", gone.len()));
        }
    };
    let none = BTreeSet::new();
    let Sets { shots, scores, defects, explanations, alerts, .. } = &sets;
    missing("shots have no score", shots, &Topic::SCORES, scores, &none);
    missing("scores have no shot", scores, &Topic::SHOTS, shots, &none);
    missing("defects have no explanation", defects, &Topic::EXPLANATIONS, explanations, &sets.unexplained);
    missing("explanations have no defect", explanations, &Topic::DEFECTS, defects, &none);
    // Records lie in no topic: nothing cuts them short.
    missing("explanations have no record", explanations, &Topic::named(""), &records, &none);
    missing("records have no explanation", &records, &Topic::EXPLANATIONS, explanations, &none);
    missing("explanations have no alert", explanations, &Topic::ALERTS, alerts, &sets.untold);
    missing("alerts have no explanation", alerts, &Topic::EXPLANATIONS, explanations, &none);

    let whole = !short.contains(&Topic::SHOTS) && !short.contains(&Topic::SCORES);
    if let Some(scorer) = stages.iter().find(|s| s.stage == "scorer" && whole) {
        let counted = scorer.tally.taken + scorer.waiting;
        if counted != log.shot_messages {
            problems
                .push(format!("the scorer counts {counted} messages, the log holds {}", log.shot_messages));
        }
        // A shot that comes again long after its first time is judged again, under the same id.
        if !(log.scores..=log.scores + log.scores_again).contains(&scorer.tally.done) {
            problems.push(format!(
                "the scorer counts {} scores, the log holds {}",
                scorer.tally.done, log.scores
            ));
        }
        if scorer.waiting == 0 && log.unreadable != sets.unreadable {
            problems.push(format!(
                "{} messages can't be read, {} are kept as dead letters",
                log.unreadable, sets.unreadable
            ));
        }
    }
    Ok(Report { balanced: problems.is_empty(), problems, notes, stages, log })
}

/// The topics whose oldest messages were removed, as their retention says. What came before can't
/// be compared any more: those who come later in the line reach back further, or less far.
fn cut_short(inspector: &LogInspector) -> Result<(BTreeSet<Topic>, Vec<String>)> {
    let (mut short, mut notes) = (BTreeSet::new(), Vec::new());
    for topic in Topic::ALL {
        let removed: u64 = inspector.ends(&topic)?.iter().map(|extent| extent.first.0).sum();
        if removed > 0 {
            notes.push(format!(
                "the oldest {removed} messages of `{topic}` are gone: nothing is compared with them"
            ));
            short.insert(topic);
        }
    }
    Ok((short, notes))
}

async fn stages(
    inspector: &LogInspector,
    snapshots: &SnapshotStore,
    problems: &mut Vec<String>,
) -> Result<Vec<StageBooks>> {
    let mut books = Vec::new();
    for (stage, topic) in STAGES {
        let snapshots = snapshots.of(stage).await?;
        let mut tally = Tally::default();
        let mut waiting = 0;
        for extent in inspector.ends(&topic)? {
            let snapshot = snapshots.iter().find(|(p, _)| *p == extent.partition).map(|(_, s)| s);
            let position = snapshot.map_or(extent.first, |s| s.position);
            waiting += extent.next.0.saturating_sub(position.0);
            let counts = snapshot.map(|s| s.tally).unwrap_or_default();
            if !counts.balances() {
                problems.push(format!("{stage}: the counts of {} do not add up", extent.partition));
            }
            tally.add(&counts);
        }
        if tally.missed > 0 {
            problems.push(format!(
                "{stage}: {} messages of `{topic}` were removed before they were read",
                tally.missed
            ));
        }
        if waiting > 0 {
            problems.push(format!("{stage}: {waiting} messages of `{topic}` wait to be taken"));
        }
        books.push(StageBooks { stage: stage.into(), waiting, balances: tally.balances(), tally });
    }
    Ok(books)
}

/// The shots that each topic speaks of.
#[derive(Default)]
struct Sets {
    shots: BTreeSet<String>,
    scores: BTreeSet<String>,
    defects: BTreeSet<String>,
    explanations: BTreeSet<String>,
    alerts: BTreeSet<String>,
    /// Defects that the explainer set aside.
    unexplained: BTreeSet<String>,
    /// Explanations that the notifier set aside.
    untold: BTreeSet<String>,
    /// How many messages the scorer set aside.
    unreadable: u64,
}

/// The shots that a topic's events are about, of one stage's dead letters or of all events.
fn subjects(inspector: &LogInspector, topic: &Topic, stage: Option<&str>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    inspector.each(topic, |_, message| {
        if stage.is_none() || message.event.extension(dlq::STAGE) == stage {
            found.insert(message.event.subject);
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn count_log(inspector: &LogInspector) -> Result<(LogBooks, Sets)> {
    let mut sets = Sets::default();
    let mut log = LogBooks::default();
    inspector.each(&Topic::SHOTS, |_, message| {
        log.shot_messages += 1;
        match Shot::from_json(&message.event.data) {
            Ok(shot) => drop(sets.shots.insert(shot.id().to_string())),
            Err(_) => log.unreadable += 1,
        }
        ControlFlow::Continue(())
    })?;
    let mut letters = BTreeSet::new();
    inspector.each(&Topic::SHOTS.dead_letters(), |_, message| {
        if message.event.extension(dlq::STAGE) == Some("scorer") {
            letters.insert(message.event.id);
        }
        ControlFlow::Continue(())
    })?;
    sets.unreadable = letters.len() as u64;
    inspector.each(&Topic::SCORES, |_, message| {
        if !sets.scores.insert(message.event.subject) {
            log.scores_again += 1;
        }
        ControlFlow::Continue(())
    })?;
    sets.defects = subjects(inspector, &Topic::DEFECTS, None)?;
    sets.explanations = subjects(inspector, &Topic::EXPLANATIONS, None)?;
    sets.alerts = subjects(inspector, &Topic::ALERTS, None)?;
    sets.unexplained = subjects(inspector, &Topic::DEFECTS.dead_letters(), Some("explainer"))?;
    sets.untold = subjects(inspector, &Topic::EXPLANATIONS.dead_letters(), Some("notifier"))?;
    for topic in inspector.topics()?.iter().filter(|t| t.as_str().ends_with(".dlq")) {
        let mut ids = BTreeSet::new();
        inspector.each(topic, |_, message| {
            ids.insert(message.event.id);
            ControlFlow::Continue(())
        })?;
        log.dead_letters += ids.len() as u64;
    }
    log.shots = sets.shots.len() as u64;
    log.scores = sets.scores.len() as u64;
    log.defects = sets.defects.len() as u64;
    log.explanations = sets.explanations.len() as u64;
    log.alerts = sets.alerts.len() as u64;
    Ok((log, sets))
}

/// The shots that have a record; every chart that a record names must be there.
async fn records(
    stores: &Stores,
    log: &mut LogBooks,
    problems: &mut Vec<String>,
) -> Result<BTreeSet<String>> {
    let mut shots = BTreeSet::new();
    let mut lacking = 0;
    let mut query = RecordQuery { limit: 500, ..RecordQuery::default() };
    loop {
        let page = stores.records.list(&query).await?;
        for Kept { record, .. } in page.defects {
            if let Some(key) = &record.chart {
                match stores.objects.get(key).await? {
                    Some(_) => log.charts += 1,
                    None => lacking += 1,
                }
            }
            shots.insert(record.score.shot.to_string());
        }
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    if lacking > 0 {
        problems.push(format!("{lacking} records have no chart"));
    }
    log.records = shots.len() as u64;
    Ok(shots)
}

/// The report as a supervisor of the line reads it.
pub fn table(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<10} {:>10} {:>10} {:>11} {:>13} {:>9}",
        "stage", "taken", "done", "duplicates", "dead letters", "waiting"
    );
    for s in &report.stages {
        let _ = writeln!(
            out,
            "{:<10} {:>10} {:>10} {:>11} {:>13} {:>9}",
            s.stage, s.tally.taken, s.tally.done, s.tally.duplicates, s.tally.dead_letters, s.waiting
        );
    }
    let l = &report.log;
    let _ = writeln!(
        out,
        "\n{} messages: {} shots, {} unreadable, the rest sent twice\n{} scores ({} written again) · {} defects · {} explanations · {} records · {} charts · {} alerts · {} dead letters",
        l.shot_messages,
        l.shots,
        l.unreadable,
        l.scores,
        l.scores_again,
        l.defects,
        l.explanations,
        l.records,
        l.charts,
        l.alerts,
        l.dead_letters
    );
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    if report.balanced {
        let _ = writeln!(out, "\nThe books balance.");
    } else {
        let _ = writeln!(out, "\nThe books do not balance:");
        for problem in &report.problems {
            let _ = writeln!(out, "  - {problem}");
        }
    }
    out
}
