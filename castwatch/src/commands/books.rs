//! `castwatch books`: is every shot accounted for?
//!
//! **Two independent counts must agree.** The stages' own tallies, saved with their positions, and
//! the log itself against records and charts: distinct shots, scores, defects, explanations,
//! records, charts and alerts.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use castwatch_core::Shot;
use castwatch_core::event::{Position, Topic};
use castwatch_core::ports::{Objects, RecordQuery, Records, Tally};
use castwatch_platform::{Embedded, Folder, Inspector};
use serde::Serialize;

/// The answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is missing, doubled or waiting.
    pub balanced: bool,
    /// What is wrong, in words.
    pub problems: Vec<String>,
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

/// Counts everything in a data folder.
///
/// # Errors
/// When the folder holds no log, or it can't be read.
pub async fn audit(data: &Path, charts: &Folder) -> Result<Report> {
    let inspector =
        Inspector::open(data).with_context(|| format!("opening the log in {}", data.display()))?;
    let mut problems = Vec::new();
    let stages = stages(&inspector, &mut problems)?;
    let mut log = count_log(&inspector)?;
    let embedded = Embedded::open(data)?;
    count_records(&embedded, charts, &mut log).await?;
    let scored = stages.iter().find(|s| s.stage == "scorer").map_or(0, |s| s.tally.done);
    let aside = |topic: Topic| inspector.distinct_ids(&topic.dead_letters());
    let (unexplained, untold) = (aside(Topic::DEFECTS)?, aside(Topic::EXPLANATIONS)?);
    let mut agree = |what: &str, a: u64, b: u64, set_aside: u64| {
        // What was set aside may be missing further on; after a replay it is there again.
        if b > a || a - b > set_aside {
            problems.push(format!("{what}: {a} and {b}, with {set_aside} set aside"));
        }
    };
    agree("distinct shots and scores differ", log.shots, log.scores, 0);
    agree("the scorer's count and the scores differ", scored, log.scores, 0);
    agree("defects and explanations differ", log.defects, log.explanations, unexplained);
    agree("explanations and records differ", log.explanations, log.records, 0);
    agree("records and charts differ", log.records, log.charts, 0);
    agree("explanations and alerts differ", log.explanations, log.alerts, untold);
    Ok(Report { balanced: problems.is_empty(), problems, stages, log })
}

fn stages(inspector: &Inspector, problems: &mut Vec<String>) -> Result<Vec<StageBooks>> {
    let mut books = Vec::new();
    for (stage, topic) in STAGES {
        let snapshots = inspector.snapshots_of(stage)?;
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
        if waiting > 0 {
            problems.push(format!("{stage}: {waiting} messages of `{topic}` wait to be taken"));
        }
        books.push(StageBooks { stage: stage.into(), waiting, balances: tally.balances(), tally });
    }
    Ok(books)
}

fn count_log(inspector: &Inspector) -> Result<LogBooks> {
    let mut shots = BTreeSet::new();
    let mut unreadable = 0;
    let mut messages = 0;
    for extent in inspector.ends(&Topic::SHOTS)? {
        let mut at = extent.first;
        loop {
            let page = inspector.scan(&extent.partition, at, 1000)?;
            let Some(last) = page.last() else { break };
            at = Position(last.position.0 + 1);
            for message in page {
                messages += 1;
                match Shot::from_json(&message.event.data) {
                    Ok(shot) => {
                        shots.insert(shot.id());
                    }
                    Err(_) => unreadable += 1,
                }
            }
        }
    }
    let mut dead_letters = 0;
    for topic in inspector.topics()? {
        if topic.as_str().ends_with(".dlq") {
            dead_letters += inspector.distinct_ids(&topic)?;
        }
    }
    let scores = inspector.distinct_ids(&Topic::SCORES)?;
    Ok(LogBooks {
        shot_messages: messages,
        shots: shots.len() as u64,
        unreadable,
        scores,
        scores_again: inspector.count(&Topic::SCORES)? - scores,
        defects: inspector.distinct_ids(&Topic::DEFECTS)?,
        explanations: inspector.distinct_ids(&Topic::EXPLANATIONS)?,
        alerts: inspector.distinct_ids(&Topic::ALERTS)?,
        dead_letters,
        ..LogBooks::default()
    })
}

async fn count_records(embedded: &Embedded, charts: &Folder, log: &mut LogBooks) -> Result<()> {
    let mut query = RecordQuery { limit: 500, ..RecordQuery::default() };
    loop {
        let page = embedded.list(&query).await?;
        for record in page.records {
            log.records += 1;
            if let Some(key) = &record.chart
                && charts.get(key).await?.is_some()
            {
                log.charts += 1;
            }
        }
        match page.next {
            Some(next) => query.before = Some(next),
            None => return Ok(()),
        }
    }
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
