//! Is every shot accounted for, and was nothing told twice?
//!
//! **Three counts must agree that know nothing of each other**: what the plant had acknowledged,
//! what the topics, the table, the bucket and the receiver hold, and `castwatch books`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use castwatch_core::ports::{Objects as _, RecordQuery, Records as _};
use castwatch_sim::binary::{castwatch, text};
use serde_json::Value;

use crate::ledger::Ledger;
use crate::member::Member;
use crate::plant::Sent;
use crate::receiver::Inbox;
use crate::site::{Disturbance, Site};

/// How long a line may take to finish after the last fault.
const PATIENCE: Duration = Duration::from_secs(90);
/// A send is noted as done so soon after it took place; who is cut off in between sends again. A
/// repeat whose first sending was not so close to a fault was told twice.
const SETTLES: Duration = Duration::from_millis(750);

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Distinct shots in the log.
    pub shots: usize,
    /// Distinct defects.
    pub defects: usize,
    /// Score events written again under the same id.
    pub scores_again: u64,
    /// What is missing somewhere.
    pub lost: Vec<String>,
    /// Alerts that a receiver that goes by the webhook id shows twice, and repeats that no fault
    /// explains.
    pub told_twice: Vec<String>,
    /// Alerts sent again under the same id.
    pub repeats: usize,
    /// From the end of the faults until everything was done.
    pub recovery: Duration,
    /// What else is wrong.
    pub problems: Vec<String>,
}

impl Audit {
    /// Whether every promise was kept.
    pub fn kept(&self) -> bool {
        self.lost.is_empty() && self.told_twice.is_empty() && self.problems.is_empty()
    }

    /// What is wrong, line by line.
    pub fn findings(&self) -> Vec<String> {
        let first = |what: &str, all: &[String]| {
            (!all.is_empty()).then(|| format!("{} {what}, such as {}", all.len(), all[0]))
        };
        let mut findings: Vec<String> = self.problems.clone();
        findings.extend(first("lost", &self.lost));
        findings.extend(first("told twice", &self.told_twice));
        findings
    }
}

/// Waits until the line has finished, stops its members, and looks at everything. `removed` are
/// shots that the log removed before anybody read them.
pub async fn audit(site: &Site, sent: &Sent, mut members: Vec<Member>, removed: &BTreeSet<String>) -> Audit {
    let mut found = Audit::default();
    let began = Instant::now();
    let missing = loop {
        let missing = missing(site, sent, removed).await;
        match missing {
            Ok(missing) if missing.is_empty() => break missing,
            Ok(missing) if began.elapsed() > PATIENCE => break missing,
            Err(error) if began.elapsed() > PATIENCE => break vec![error],
            _ => {}
        }
        for member in &mut members {
            if !member.alive() {
                found.problems.push(format!("{} ended by itself: {}", member.name, member.last_words()));
                return found;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    found.recovery = began.elapsed();
    found.lost = missing;
    if !found.lost.is_empty() {
        for member in &members {
            found.problems.push(format!("{} last said:\n{}", member.name, member.last_words()));
        }
    }
    for member in members {
        found.problems.extend(tokio::task::block_in_place(|| member.stop()).err());
    }
    look_closer(site, sent, &mut found).await;
    if found.lost.is_empty() {
        found.problems.extend(books(site, removed.len()));
    }
    found
}

/// What has not arrived yet.
async fn missing(site: &Site, sent: &Sent, removed: &BTreeSet<String>) -> Result<Vec<String>, String> {
    let mut lost = Vec::new();
    let told: BTreeSet<String> = site.receiver.inbox.by_alert().into_keys().collect();
    let explained = tokio::task::block_in_place(|| {
        let mut ledger = site.ledger.lock().unwrap();
        ledger.follow().map_err(|error| error.to_string())?;
        let has = |topic: &str| ledger.book(topic).subjects();
        let mut step = |what: &str, all: &BTreeSet<String>, there: &BTreeSet<String>| {
            let gone = all.iter().filter(|id| !there.contains(*id) && !removed.contains(*id));
            lost.extend(gone.map(|id| format!("{id} {what}")));
        };
        let (shots, scores, defects) = (has("shots"), has("scores"), has("defects"));
        let (explanations, alerts) = (has("explanations"), has("alerts"));
        step("is acknowledged and not in the log", &sent.acknowledged, &shots);
        step("has no score", &shots, &scores);
        step("is a defect and has no event of it", &ledger.book("scores").bad, &defects);
        step("has no explanation", &defects, &explanations);
        step("has no alert", &explanations, &alerts);
        let told: BTreeSet<String> =
            told.iter().filter_map(|id| id.strip_prefix("alert:")).map(str::to_owned).collect();
        step("was not told", &explanations, &told);
        let letters = ledger.book("shots.dlq").others.len();
        if letters < ledger.book("shots").others.len() {
            lost.push(format!(
                "{} unreadable messages have {letters} dead letters",
                ledger.book("shots").others.len()
            ));
        }
        Ok::<_, String>(explanations)
    })?;
    if lost.is_empty() {
        let records = records(site).await?;
        let recorded: BTreeSet<&String> = records.iter().map(|record| &record.shot).collect();
        lost.extend(
            explained.iter().filter(|id| !recorded.contains(id)).map(|id| format!("{id} has no record")),
        );
        for Record { shot, chart, told } in &records {
            if !told {
                lost.push(format!("{shot} has no alert beside its record"));
            }
            let Some(key) = chart else { continue };
            match site.objects.get(key).await {
                Ok(Some(_)) => {}
                Ok(None) => lost.push(format!("{shot} has no chart")),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
    Ok(lost)
}

/// A record of a defect.
struct Record {
    shot: String,
    chart: Option<String>,
    told: bool,
}

/// Every record there is.
async fn records(site: &Site) -> Result<Vec<Record>, String> {
    let mut all = Vec::new();
    let mut query = RecordQuery { limit: 500, ..RecordQuery::default() };
    loop {
        let page = site.records.list(&query).await.map_err(|error| error.to_string())?;
        all.extend(page.defects.into_iter().map(|kept| Record {
            shot: kept.record.score.shot.to_string(),
            chart: kept.record.chart,
            told: kept.alert.is_some(),
        }));
        match page.next {
            Some(next) => query.before = Some(next),
            None => return Ok(all),
        }
    }
}

async fn look_closer(site: &Site, sent: &Sent, found: &mut Audit) {
    let followed = tokio::task::block_in_place(|| site.ledger.lock().unwrap().follow());
    found.problems.extend(followed.err().map(|error| error.to_string()));
    match records(site).await {
        Ok(records) => {
            let distinct: BTreeSet<&String> = records.iter().map(|record| &record.shot).collect();
            if distinct.len() != records.len() {
                found.problems.push(format!("{} defects have {} records", distinct.len(), records.len()));
            }
        }
        Err(error) => found.problems.push(error),
    }
    compare(&site.ledger.lock().unwrap(), sent, found);
    told(&site.receiver.inbox, &site.disturbances.lock().unwrap(), found);
}

/// What the topics say of each other.
fn compare(ledger: &Ledger, sent: &Sent, found: &mut Audit) {
    let (shots, scores) = (ledger.book("shots"), ledger.book("scores"));
    found.shots = shots.events.len();
    found.defects = ledger.book("defects").events.len();
    found.scores_again = scores.messages - scores.events.len() as u64;
    for topic in ["scores", "defects", "explanations", "alerts"] {
        let differing = &ledger.book(topic).differing;
        if let Some(shot) = differing.first() {
            found
                .problems
                .push(format!("{} shots have {topic} that differ, such as {shot}", differing.len()));
        }
    }
    let mut only = |what: &str, these: &BTreeSet<String>, of: &BTreeSet<String>| {
        let mut rest = these.difference(of);
        if let Some(first) = rest.next() {
            found.problems.push(format!("{} {what}, such as {first}", rest.count() + 1));
        }
    };
    only("shots were never sent", &shots.subjects(), &sent.tried);
    only("scores have no shot", &scores.subjects(), &shots.subjects());
    only("defects are no defects", &ledger.book("defects").subjects(), &scores.bad);
    let letters = ledger.book("shots.dlq").others.len();
    if letters != shots.others.len() {
        found.problems.push(format!("{} unreadable messages, {letters} dead letters", shots.others.len()));
    }
    for topic in ["defects.dlq", "explanations.dlq"] {
        let letters = ledger.book(topic).others.len();
        if letters > 0 {
            found.problems.push(format!("{letters} dead letters in {topic}"));
        }
    }
}

/// What the receiver was told more than once.
pub fn told(inbox: &Inbox, disturbances: &[Disturbance], found: &mut Audit) {
    let close = |at: Instant| {
        disturbances.iter().any(|d| at + SETTLES >= d.from && d.to.is_none_or(|to| at <= to + SETTLES))
    };
    for (alert, (ids, times)) in inbox.by_alert() {
        found.repeats += times.len() - 1;
        // Either the first sender was cut off before it could note the send, or the second one was
        // frozen between looking and sending.
        let unexplained = times.windows(2).any(|pair| !close(pair[0]) && !close(pair[1]));
        if ids.len() > 1 || unexplained {
            found.told_twice.push(alert);
        }
    }
}

/// What is wrong with what `castwatch books` says: it balances, or it names the messages that were
/// removed and counts exactly these.
fn books(site: &Site, removed: usize) -> Option<String> {
    let output = castwatch(&["books", "--json", "--config", site.config.to_str().unwrap()]).output().unwrap();
    let books: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let stages = books["stages"].as_array().into_iter().flatten();
    let missed: u64 = stages.filter_map(|stage| stage["missed"].as_u64()).sum();
    let said = format!("{removed} messages of `shots` were removed before they were read");
    let problems = books["problems"].as_array();
    let named = problems.is_some_and(|all| all.iter().any(|p| p.as_str().is_some_and(|p| p.contains(&said))));
    let well = if removed == 0 {
        output.status.success() && books["balanced"] == true
    } else {
        output.status.code() == Some(1) && missed == removed as u64 && named
    };
    (!well).then(|| format!("castwatch books: {}{}", text(&output.stdout), text(&output.stderr)))
}
