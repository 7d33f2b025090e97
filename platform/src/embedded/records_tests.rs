use std::path::Path;

use castwatch_core::Records as _;
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{RecordQuery, Told};
use rusqlite::Connection;

use super::*;
use crate::embedded::{FILE, Inspector};

/// What the first castwatch wrote, but for tables that records have nothing to do with.
const LAYOUT_1: &str = "
PRAGMA journal_mode = wal;
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    next INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number)
);
CREATE TABLE messages (
    at INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    written_ms INTEGER NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    source TEXT NOT NULL,
    subject TEXT NOT NULL,
    time TEXT,
    traceparent TEXT,
    extensions TEXT,
    data BLOB NOT NULL
);
CREATE TABLE stages (stage TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (
    stage TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER,
    tally TEXT,
    state BLOB,
    PRIMARY KEY (stage, topic, partition)
);
CREATE TABLE records (
    shot TEXT PRIMARY KEY,
    machine TEXT NOT NULL,
    die TEXT NOT NULL,
    ended_ns INTEGER NOT NULL,
    json TEXT NOT NULL
);
CREATE INDEX records_by_time ON records (ended_ns, shot);
CREATE INDEX records_by_machine ON records (machine, ended_ns, shot);
CREATE INDEX records_by_die ON records (die, ended_ns, shot);
CREATE TABLE claims (id TEXT PRIMARY KEY, settled INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA application_id = 0x43415354;
PRAGMA user_version = 1;
";

fn explanation(cycle: u64, cause: &str) -> Explanation {
    let words = serde_json::json!({"ko": "말", "en": "words"});
    let at = format!("2026-01-15T16:45:{cycle:02}+09:00");
    let json = serde_json::json!({
        "shot": format!("DCM-03~8722~{cycle}"), "machine": "DCM-03", "die": "8722", "cycle": cycle, "ended_at": at,
        "try_shot": false, "verdict": "defect", "probability": 0.9, "margin": 2.0, "anomaly": null, "missing": 0,
        "bundle": "sha256:0", "base": 0.0, "attributions": [], "cause": cause, "summary": words,
        "equipment": words, "advice": words, "chart": null,
    });
    serde_json::from_value(json).unwrap()
}

/// As the first castwatch wrote it: alerts did not name the cause.
fn alert(of: &Explanation) -> serde_json::Value {
    serde_json::json!({
        "id": format!("alert:{}", of.score.shot), "shot": of.score.shot, "machine": of.score.machine,
        "die": of.score.die, "cycle": of.score.cycle, "ended_at": of.score.ended_at, "probability": 0.9,
        "title": of.summary, "body": of.advice, "chart": null, "channels": ["console"],
    })
}

fn old_file(file: &Path, records: &[Explanation], told: &[Explanation]) {
    let db = Connection::open(file).unwrap();
    db.execute_batch(LAYOUT_1).unwrap();
    for record in records {
        db.execute(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
            params![
                record.score.shot.as_str(),
                record.score.machine,
                record.score.die,
                nanoseconds(record.score.ended_at),
                serde_json::to_string(record).unwrap()
            ],
        )
        .unwrap();
    }
    db.execute("INSERT INTO partitions VALUES (3, 'alerts', 1, ?)", [told.len() as i64]).unwrap();
    for (position, record) in told.iter().enumerate() {
        db.execute(
            "INSERT INTO messages VALUES (?, 'DCM-03', 0, 'id', 'type', 'source', ?, NULL, NULL, NULL, ?)",
            params![
                (3_i64 << 40) + position as i64,
                record.score.shot.as_str(),
                serde_json::to_vec(&alert(record)).unwrap()
            ],
        )
        .unwrap();
    }
}

#[tokio::test]
async fn a_file_of_the_first_layout_is_brought_to_todays() {
    let records: Vec<Explanation> =
        (0..6).map(|n| explanation(n, ["cast_pressure", "슬리브 온도"][n as usize % 2])).collect();
    // One alert lies in the log twice, as after a restart.
    let told = [records[1].clone(), records[4].clone(), records[1].clone()];
    let list = async |log: &Embedded, query: RecordQuery| {
        let page = log.list(&RecordQuery { limit: 100, ..query }).await.unwrap();
        page.defects.iter().map(|d| d.record.score.cycle).collect::<Vec<_>>()
    };
    for read_first in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        old_file(&folder.path().join(FILE), &records, &told);
        if read_first {
            let inspector = Inspector::open(folder.path()).unwrap();
            assert_eq!(inspector.records().unwrap(), 6, "who only reads brings it to today's layout too");
        }
        let log = Embedded::open(folder.path()).unwrap();
        assert_eq!(list(&log, RecordQuery::default()).await, [5, 4, 3, 2, 1, 0]);
        let pending = RecordQuery { told: Some(Told::Pending), ..RecordQuery::default() };
        assert_eq!(list(&log, pending).await, [5, 3, 2, 0], "what was told is not pending");
        let cause = RecordQuery { cause: Some("슬리브 온도".into()), ..RecordQuery::default() };
        assert_eq!(list(&log, cause).await, [5, 3, 1]);
        let page = log.list(&RecordQuery { limit: 2, ..RecordQuery::default() }).await.unwrap();
        let wanted: Alert = serde_json::from_value(alert(&records[4])).unwrap();
        assert_eq!(page.defects[1].alert, Some(wanted));
        drop(log);
        let again = Embedded::open(folder.path()).unwrap();
        assert_eq!(list(&again, RecordQuery::default()).await.len(), 6, "it is done once");
        let layout: Vec<String> = ["a new file", "an old file"]
            .iter()
            .map(|which| {
                let new = tempfile::tempdir().unwrap();
                let dir = if *which == "a new file" { new.path() } else { folder.path() };
                drop(Embedded::open(dir).unwrap());
                let db = Connection::open(dir.join(FILE)).unwrap();
                let mut select =
                    db.prepare("SELECT name FROM sqlite_schema WHERE type = 'index' ORDER BY name").unwrap();
                let names = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
                names.map(Result::unwrap).filter(|n| n.starts_with("records")).collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(layout[0], layout[1], "an old file has the indexes of a new one");
    }
}

#[tokio::test]
async fn every_question_is_served_by_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open(folder.path()).unwrap();
    drop(log);
    let db = Connection::open(folder.path().join(FILE)).unwrap();
    let (some, at) = (Some("x".to_owned()), explanation(1, "x").score.ended_at.instant());
    let cases = [
        (RecordQuery::default(), "records_by_time"),
        (RecordQuery { machine: some.clone(), ..RecordQuery::default() }, "records_by_machine"),
        (RecordQuery { die: some.clone(), ..RecordQuery::default() }, "records_by_die"),
        (RecordQuery { cause: some.clone(), ..RecordQuery::default() }, "records_by_cause"),
        (RecordQuery { told: Some(Told::Pending), ..RecordQuery::default() }, "records_pending"),
    ];
    for (query, index) in cases {
        for from in [None, Some(at)] {
            for before in [None, Some((7, "x".to_owned()))] {
                let query = RecordQuery { from, to: from, limit: 10, ..query.clone() };
                let (sql, values) = question(query.clone(), before);
                let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
                let plan =
                    explain.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
                let plan: Vec<String> = plan.map(Result::unwrap).collect();
                assert!(plan.len() == 1 && plan[0].contains(index), "{query:?}: {plan:?}");
            }
        }
    }
}
