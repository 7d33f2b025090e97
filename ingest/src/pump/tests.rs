use std::io::Cursor;
use std::sync::Mutex;

use super::*;
use crate::{Plant, Table};

const PLANT: &str = r#"
name = "p"
[machine]
column = "machine"
[die]
constant = "D1"
[cycle]
rows = true
[time]
column = "at"
zone = "Asia/Seoul"
[[reading]]
column = "t"
range = [0, 9]
no_sensor = [999]
ko = "온도"
en = "Temperature"
"#;

fn table(rows: u64) -> Table {
    let mut text = String::from("machine,at,t\n");
    for row in 1..=rows {
        let t = match row {
            _ if row % 10 == 3 => "x".to_owned(),
            _ if row % 10 == 5 => "999".to_owned(),
            _ => row.to_string(),
        };
        let second = row * 2;
        text +=
            &format!("M1,2026-01-15 {:02}:{:02}:{:02},{t}\n", second / 3600, second / 60 % 60, second % 60);
    }
    Table::from_reader("dir/t.csv", Cursor::new(text.into_bytes()), &Plant::read("p.toml", PLANT).unwrap())
        .unwrap()
}

/// Takes every batch, and may then say that the call of that number failed.
struct Log {
    taken: Mutex<Vec<Outgoing>>,
    calls: Mutex<u64>,
    fails: fn(u64) -> Option<PortError>,
}

impl Publisher for Log {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        self.taken.lock().unwrap().extend_from_slice(events);
        (self.fails)(call).map_or(Ok(()), Err)
    }
}

fn log(fails: fn(u64) -> Option<PortError>) -> Log {
    Log { taken: Mutex::default(), calls: Mutex::default(), fails }
}

/// Batches of `batch`, tried again for as long as a test can wait.
fn batches(batch: usize) -> PumpSettings {
    let patience = Patience {
        first: Duration::from_millis(1),
        most: Duration::from_millis(1),
        budget: Duration::from_millis(20),
    };
    PumpSettings { batch, patience, ..PumpSettings::default() }
}

async fn pump(log: &Log, rows: u64, settings: PumpSettings) -> (Result<Summary, IngestError>, Vec<u64>) {
    let mut heard = Vec::new();
    let result = ingest("dir/t.csv", table(rows), log, &settings, async |s: &Summary| {
        heard.push(s.next_row);
        Ok(())
    })
    .await;
    (result, heard)
}

#[tokio::test]
async fn every_row_is_a_shot_or_a_dead_letter_in_order() {
    let log = log(|_| None);
    let settings = batches(16);
    let (summary, heard) = pump(&log, 100, settings).await;
    let summary = summary.unwrap();
    assert_eq!((summary.rows, summary.published, summary.refused, summary.next_row), (100, 90, 10, 101));
    assert_eq!(summary.nulled, BTreeMap::from([("t".to_owned(), 10)]));
    assert_eq!(summary.reasons.len(), 5);
    assert_eq!(summary.reasons[0], "row 3: column `t`: `x` is not a number");
    assert_eq!(heard, [17, 33, 49, 65, 81, 97, 101]);

    let taken = log.taken.into_inner().unwrap();
    assert_eq!(taken.len(), 100);
    let letter = &taken[2];
    assert_eq!((letter.topic.as_str(), letter.event.id.as_str()), ("shots.dlq", "dlq:ingest:t.csv:3"));
    assert_eq!(&letter.event.data[..], b"M1,2026-01-15 00:00:06,x");
    assert_eq!(letter.event.extension(dlq::STAGE), Some("ingest"));
    assert_eq!(letter.event.extension(dlq::ERROR), Some("column `t`: `x` is not a number"));
    assert_eq!(letter.event.extension(DLQ_FILE), Some("dir/t.csv"));
    assert_eq!(letter.event.extension(DLQ_ROW), Some("3"));
    let names = letter.event.extensions.iter().map(|(name, _)| name.as_str());
    assert!(names.flat_map(str::bytes).all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    let shot = &taken[3];
    assert_eq!((shot.topic.as_str(), shot.key.as_str()), ("shots", "M1"));
    assert_eq!(castwatch_core::Shot::from_json(&shot.event.data).unwrap().cycle, 4);
}

#[tokio::test]
async fn a_batch_that_fails_is_tried_again_with_the_same_ids() {
    let log = log(|call| (call % 3 != 0).then(|| PortError::unavailable("publish", "down")));
    let settings = batches(8);
    let (summary, _) = pump(&log, 40, settings).await;
    assert_eq!(summary.unwrap().rows, 40);
    let taken = log.taken.into_inner().unwrap();
    assert_eq!(taken.len(), 3 * 40, "every lost acknowledgement wrote the batch");
    let ids: std::collections::HashSet<&str> = taken.iter().map(|o| o.event.id.as_str()).collect();
    assert_eq!(ids.len(), 40);
}

#[tokio::test]
async fn an_interrupted_ingest_goes_on_where_it_stopped() {
    let settings = batches(8);
    let first = log(|call| (call > 2).then(|| PortError::unavailable("publish", "gone")));
    let error = pump(&first, 40, settings).await.0.unwrap_err();
    let IngestError::Publish { summary, .. } = &error else { panic!("{error}") };
    assert_eq!(
        (summary.next_row, error.to_string().as_str()),
        (17, "the log does not take rows from row 17 on")
    );

    let second = log(|_| None);
    let rest = PumpSettings { from_row: summary.next_row, ..settings };
    let summary = pump(&second, 40, rest).await.0.unwrap();
    assert_eq!((summary.rows, summary.next_row), (24, 41));
    let taken = second.taken.into_inner().unwrap();
    assert_eq!(castwatch_core::Shot::from_json(&taken[0].event.data).unwrap().cycle, 17, "counts go on, too");
    let done = pump(&log(|_| None), 40, PumpSettings { from_row: 41, ..settings }).await.0.unwrap();
    assert_eq!((done.rows, done.next_row), (0, 41));
}

#[tokio::test]
async fn what_the_log_refuses_is_not_tried_again() {
    let log = log(|_| Some(PortError::refused("publish", "no such topic")));
    let (result, heard) = pump(&log, 5, PumpSettings::default()).await;
    assert!(matches!(result.unwrap_err(), IngestError::Publish { source: PortError::Refused { .. }, .. }));
    assert_eq!((*log.calls.lock().unwrap(), heard.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn speed_follows_the_shots_clock() {
    let taken = log(|_| None);
    let start = Instant::now();
    let settings = PumpSettings { speed: Some(4.0), ..PumpSettings::default() };
    pump(&taken, 101, settings).await.0.unwrap();
    let took = start.elapsed().as_secs_f64();
    assert!((49.9..50.5).contains(&took), "200 s of shots at 4 times the speed took {took} s");
    assert!(*taken.calls.lock().unwrap() > 80, "each shot goes out when it is due");
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let settings = PumpSettings { speed: Some(speed), ..PumpSettings::default() };
        assert!(matches!(pump(&log(|_| None), 2, settings).await.0.unwrap_err(), IngestError::Speed(_)));
    }
}

#[tokio::test]
async fn a_table_that_breaks_off_keeps_what_came_before() {
    let rows = table(20).take(12).chain([Err(RowError::Broken {
        file: "t.csv.gz".into(),
        row: 13,
        what: "its gzip data is cut off or damaged",
        source: "eof".into(),
    })]);
    let log = log(|_| None);
    let result = ingest("t.csv.gz", rows, &log, &PumpSettings::default(), async |_| Ok(())).await;
    let error = result.unwrap_err();
    let IngestError::Table { summary, source } = &error else { panic!("{error}") };
    assert_eq!((summary.rows, summary.next_row, log.taken.lock().unwrap().len()), (12, 13, 12));
    assert_eq!(
        source.to_string(),
        "t.csv.gz can't be read on at row 13: its gzip data is cut off or damaged"
    );
}

/// A table of `rows` where only the rows `good` says are shots.
fn mostly_wrong(rows: u64, good: fn(u64) -> bool) -> Table {
    let mut text = String::from("machine,at,t\n");
    for row in 1..=rows {
        let time = if good(row) { "2026-01-15 00:00:01" } else { "15.01.2026" };
        text += &format!("M1,{time},1\n");
    }
    Table::from_reader("t.csv", Cursor::new(text.into_bytes()), &Plant::read("p.toml", PLANT).unwrap())
        .unwrap()
}

#[tokio::test]
async fn a_wrong_plant_file_is_noticed_and_the_run_can_go_on() {
    let first = log(|_| None);
    let rows = mostly_wrong(1000, |row| row <= 20);
    let mut saved = 0;
    let result = ingest("t.csv", rows, &first, &batches(64), async |s: &Summary| {
        saved = s.next_row;
        Ok(())
    })
    .await;
    let error = result.unwrap_err();
    let text = error.to_string();
    let IngestError::TooManyRefused { summary, row, why } = error else { panic!("{text}") };
    assert_eq!((row, summary.refused, summary.published, summary.next_row), (21, 100, 20, 121));
    assert_eq!((first.taken.lock().unwrap().len(), saved), (120, 121), "what came before is durable");
    assert!(why.contains("15.01.2026"), "{why}");
    assert!(text.starts_with("rows 21 to 120 were refused one after the other, the first because: column"));
    assert!(text.contains(&why) && text.contains("wrong plant file") && text.contains("--again"), "{text}");

    let second = log(|_| None);
    let rest = PumpSettings { from_row: summary.next_row, ..batches(64) };
    let rows = mostly_wrong(1000, |row| row > 190);
    let summary = ingest("t.csv", rows, &second, &rest, async |_| Ok(())).await.unwrap();
    assert_eq!((summary.refused, summary.published, summary.next_row), (70, 810, 1001));
}

#[tokio::test]
async fn only_refusals_in_a_row_are_too_many() {
    let (taken, settings) = (log(|_| None), batches(64));
    let rows = mostly_wrong(500, |row| row % 100 == 0);
    let most = ingest("t.csv", rows, &taken, &settings, async |_| Ok(())).await;
    assert_eq!(most.unwrap().refused, 495);
    let short = ingest("t.csv", mostly_wrong(7, |_| false), &taken, &settings, async |_| Ok(())).await;
    let IngestError::TooManyRefused { summary, row: 1, .. } = short.unwrap_err() else { panic!() };
    assert_eq!((summary.refused, summary.next_row), (7, 8), "a short table, too");
    let end = PumpSettings { from_row: 7, ..settings };
    let end = ingest("t.csv", mostly_wrong(7, |_| false), &taken, &end, async |_| Ok(())).await;
    assert_eq!(end.unwrap().refused, 1, "the rest of a table says nothing of all of it");
}

#[tokio::test]
async fn progress_is_saved_again_and_named_when_it_fails() {
    let taken = log(|_| None);
    let mut tries = 0;
    let summary = ingest("t.csv", table(40), &taken, &batches(8), async |_| {
        tries += 1;
        if tries % 3 == 0 { Ok(()) } else { Err(PortError::unavailable("save", "locked")) }
    })
    .await;
    assert_eq!((summary.unwrap().rows, tries, taken.taken.lock().unwrap().len()), (40, 15, 40));

    for fails in [|| PortError::unavailable("save", "gone"), || PortError::Fenced { what: "save".into() }] {
        let mut tries = 0;
        let error = ingest("t.csv", table(40), &log(|_| None), &batches(8), async |s: &Summary| {
            tries += 1;
            if s.next_row < 17 { Ok(()) } else { Err(fails()) }
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "progress could not be saved; rows up to 16 are in the log");
        let IngestError::Progress { summary, source } = &error else { panic!("{error}") };
        assert_eq!(summary.next_row, 17);
        assert_eq!(matches!(source, PortError::Fenced { .. }), tries == 2, "{tries} tries");
    }
}

/// Rows of a pipe: the second comes only once the first is in the log.
#[tokio::test]
async fn a_row_does_not_wait_for_the_next() {
    let (wake, woken) = std::sync::mpsc::channel();
    let mut heard = 0;
    let mut rows = table(2);
    let rows = std::iter::from_fn(move || rows.next()).enumerate().map(move |(at, row)| {
        if at == 1 {
            woken.recv().unwrap();
        }
        row
    });
    let log = log(|_| None);
    let summary = ingest("-", rows, &log, &batches(512), async |_| {
        heard += 1;
        let _ = wake.send(());
        Ok(())
    })
    .await;
    assert_eq!((summary.unwrap().rows, heard), (2, 2));
}

#[tokio::test]
#[should_panic(expected = "the reader broke")]
async fn a_reader_that_panics_does_not_look_like_the_end() {
    let rows = table(9).take(3).chain(std::iter::from_fn(|| panic!("the reader broke")));
    let _ = ingest("t.csv", rows, &log(|_| None), &batches(2), async |_| Ok(())).await;
}
