//! Bad input through the built binary: each kind has its clear error or its dead letter, no panic,
//! and no lost neighbour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use castwatch_core::event::{Event, Outgoing, Topic};
use castwatch_core::ports::Publisher;
use castwatch_platform::Embedded;
use castwatch_sim::binary::{castwatch, json, parse, root, run, succeed, text};
use serde_json::Value;

const PLANT: &str = r#"
name = "test"
[machine]
constant = "DCM-A"
[die]
column = "die"
[cycle]
column = "count"
[time]
column = "time"
format = "%Y-%m-%d %H:%M:%S"
zone = "Asia/Seoul"
[[reading]]
column = "cast_pressure"
unit = "bar"
range = [100, 500]
ko = "주조 압력"
en = "Casting pressure"
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("plant.toml", PLANT.as_bytes());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.arg(name)
    }

    /// Ingests a file that must be taken; what the summary and the dead letters say.
    fn ingest(&self, file: &str) -> (Value, Vec<Value>) {
        let (plant, data) = (self.arg("plant.toml"), self.arg("data"));
        let summary = json(&["ingest", file, "--plant", &plant, "--data", &data, "--json"]);
        let letters = json(&["dlq", "list", "--json", "--data", &data]);
        (summary, letters.as_array().unwrap().clone())
    }

    /// Ingests a file that must be refused; the status and the words.
    fn refuse(&self, file: &str) -> String {
        let output = run(&["ingest", file, "--plant", &self.arg("plant.toml"), "--data", &self.arg("data")]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }
}

#[test]
fn a_bad_row_is_kept_and_its_neighbours_go_on() {
    let folder = Folder::new();
    let table = "die,time,count,cast_pressure\n\
        8722,2026-01-15 16:45:06,1,331\n\
        8722,yesterday,2,331\n\
        8722,1970-01-01 00:00:00,3,331\n\
        8722,2100-06-01 00:00:00,4,331\n\
        8722,2026-01-15 16:46:06,minus,331\n\
        8722,2026-01-15 16:46:07,5,inf\n\
        8722,2026-01-15 16:46:08,6,high\n\
        8722,2026-01-15 16:46:09,7,NaN\n\
        8722,2026-01-15 16:46:10\n\
        8722,2026-01-15 16:46:11,8,\n\
        8722,2026-01-15 16:46:12,9,332\n";
    let (summary, letters) = folder.ingest(&folder.write("t.csv", table.as_bytes()));
    assert_eq!((summary["published"].as_u64(), summary["refused"].as_u64()), (Some(4), Some(7)), "{summary}");
    assert_eq!(letters.len(), 7);
    for (letter, row) in letters.iter().zip([2, 3, 4, 5, 6, 7, 9]) {
        let from = letter["from"].as_str().unwrap();
        assert!(
            letters.iter().any(|l| l["from"].as_str().unwrap().ends_with(&format!("row {row}"))),
            "{from}"
        );
        assert_eq!(letter["stage"], "ingest");
        assert!(letter["error"].as_str().unwrap().len() > 10, "{letter}");
    }
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", &folder.arg("data")]);
    let books = json(&["books", "--json", "--data", &folder.arg("data")]);
    assert_eq!(books["balanced"], true, "{books:#}");
    assert_eq!(books["log"]["scores"], 4);
}

#[test]
fn korean_files_in_cp949_are_read() {
    let folder = Folder::new();
    // "die,time,count,cast_pressure,상태" and a row with "가동" in CP949.
    let mut table = b"die,time,count,cast_pressure,\xbb\xf3\xc5\xc2\n".to_vec();
    table.extend_from_slice(b"\xb1\xdd\xc7\xfc1,2026-01-15 16:45:06,1,331,\xb0\xa1\xb5\xbf\n");
    let (summary, _) = folder.ingest(&folder.write("t.csv", &table));
    assert_eq!(summary["published"], 1, "{summary}");
    let csv = folder.arg("s.csv");
    succeed(&["score", &folder.arg("t.csv"), "--plant", &folder.arg("plant.toml"), "--out", &csv]);
    assert!(fs::read_to_string(csv).unwrap().contains("금형1"));
}

#[test]
fn files_that_are_no_tables_are_refused_in_words() {
    let folder = Folder::new();
    let good =
        "die,time,count,cast_pressure\n8722,2026-01-15 16:45:06,1,331\n8722,2026-01-15 16:46:06,2,331\n";
    assert!(folder.refuse(&folder.write("empty.csv", b"")).contains("empty"));
    let other =
        folder.refuse(&folder.write("other.csv", good.replace("cast_pressure", "cast_presure").as_bytes()));
    assert!(other.contains("cast_pressure") && other.contains("cast_presure"), "{other}");
    assert!(folder.refuse(&folder.arg("none.csv")).contains("none.csv"));

    let mut gz = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let many: String = (0..5000).fold(good.to_owned(), |t, n| {
        t + &format!("8722,2026-01-16 {:02}:{:02}:{:02},{n},331\n", n / 3600, n / 60 % 60, n % 60)
    });
    let mut stdin = gz.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(many.as_bytes()).unwrap());
    let whole = gz.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    let cut = folder.refuse(&folder.write("cut.csv.gz", &whole[..whole.len() / 2]));
    assert!(cut.contains("row") && cut.contains("cut.csv.gz"), "{cut}");
    let data = folder.arg("data");
    succeed(&["run", "scorer", "--drain", "--data", &data]);
    let taken = json(&["books", "--json", "--data", &data])["log"]["shots"].as_u64().unwrap();
    assert!(taken > 1000, "what was before the cut is kept: {taken}");
}

#[test]
fn events_that_are_no_shots_become_dead_letters_of_the_scorer() {
    let folder = Folder::new();
    let good = r#"{"machine":"DCM-03","die":"8722","cycle":1,"ended_at":"2026-01-15T16:45:06+09:00","readings":{"cast_pressure":331.0,"no_such_reading":1}}"#;
    let large = format!("{}{}", good, " ".repeat(10 * 1024 * 1024));
    let bad = [
        "not json".to_owned(),
        good.replace("331.0", "\"331.0\""),
        good.replace("331.0", "NaN"),
        good.replace("331.0", "1e999"),
        good.replace("\"machine\":\"DCM-03\",", ""),
        good.replace("\"ended_at\":\"2026-01-15T16:45:06+09:00\",", ""),
        good.replace("2026-01-15", "1970-01-15"),
        good.replace("2026-01-15", "2100-01-15"),
        good.replace("\"cycle\":1", "\"cycle\":\"one\""),
        large,
    ];
    let log = Embedded::open(folder.path("data")).unwrap();
    let event = |data: &str| Outgoing {
        topic: Topic::SHOTS,
        key: "DCM-03".into(),
        event: Event { data: data.to_owned().into(), ..Event::default() },
    };
    let mut events = Vec::new();
    for (n, bad) in bad.iter().enumerate() {
        events.push(event(&good.replace("\"cycle\":1", &format!("\"cycle\":{}", n + 10))));
        events.push(event(bad));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(log.publish(&events)).unwrap();
    drop(log);
    let data = folder.arg("data");
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", &data]);
    let books = json(&["books", "--json", "--data", &data]);
    assert_eq!(books["balanced"], true, "{books:#}");
    assert_eq!(books["log"]["scores"], bad.len());
    let letters = json(&["dlq", "list", "--json", "--data", &data]);
    assert_eq!(letters.as_array().unwrap().len(), bad.len());
    for letter in letters.as_array().unwrap() {
        let shown = json(&["dlq", "show", letter["place"].as_str().unwrap(), "--json", "--data", &data]);
        assert!(bad.iter().any(|b| shown["data"] == b.as_str()), "the bytes are as they came: {letter}");
    }
}

#[test]
fn a_stage_that_ends_ends_the_drain_with_its_words() {
    let folder = Folder::new();
    let log = Embedded::open(folder.path("data")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let event = Event { data: "nonsense".into(), ..Event::default() };
    let events = vec![Outgoing { topic: Topic::SHOTS, key: "DCM-03".into(), event }; 150];
    runtime.block_on(log.publish(&events)).unwrap();
    drop(log);
    let output = run(&["run", "scorer", "--drain", "--data", &folder.arg("data")]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("100 messages aside in a row") && said.contains("castwatch dlq list"), "{said}");
}

#[test]
fn a_wrong_plant_file_is_an_outage_not_four_thousand_dead_letters() {
    let folder = Folder::new();
    folder.write("plant.toml", PLANT.replace("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S").as_bytes());
    let rows: String =
        (0..4000).map(|n| format!("8722,2026-01-15 16:{:02}:{:02},{n},331\n", n / 60 % 60, n % 60)).collect();
    let file = folder.write("t.csv", format!("die,time,count,cast_pressure\n{rows}").as_bytes());
    let said = folder.refuse(&file);
    assert!(said.contains("plant file"), "{said}");
    // Mended, the same command takes the whole file.
    folder.write("plant.toml", PLANT.as_bytes());
    let (summary, _) = folder.ingest(&file);
    assert_eq!(summary["published"], 4000, "{summary}");
}

#[test]
fn damaged_bundles_are_refused_by_name() {
    let folder = Folder::new();
    let table = folder.write("t.csv", b"die,time,count,cast_pressure\n8722,2026-01-15 16:45:06,1,331\n");
    let damaged = |name: &str, damage: &dyn Fn(&Path)| {
        let bundle = folder.path(name);
        fs::create_dir(&bundle).unwrap();
        for entry in fs::read_dir(root().join("models/bundles/default")).unwrap().flatten() {
            fs::copy(entry.path(), bundle.join(entry.file_name())).unwrap();
        }
        damage(&bundle);
        let (plant, bundle, out) =
            (folder.arg("plant.toml"), bundle.to_str().unwrap().to_owned(), folder.arg("s.csv"));
        fs::write(&out, "before").unwrap();
        let output = run(&["score", &table, "--plant", &plant, "--bundle", &bundle, "--out", &out]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "before", "scores of before are not lost");
        said
    };
    let said = damaged("digest", &|b| {
        let mut bytes = fs::read(b.join("trees.onnx")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(b.join("trees.onnx"), bytes).unwrap();
    });
    assert!(said.contains("trees.onnx") && said.contains("digest"), "{said}");
    let said = damaged("missing", &|b| fs::remove_file(b.join("autoencoder.onnx")).unwrap());
    assert!(said.contains("autoencoder.onnx"), "{said}");
    let said = damaged("manifest", &|b| {
        let toml = fs::read_to_string(b.join("bundle.toml")).unwrap();
        fs::write(b.join("bundle.toml"), toml.replace("defect = 0.", "defct = 0.")).unwrap();
    });
    assert!(said.contains("bundle.toml:") && said.contains("defct"), "{said}");
}

#[test]
fn standard_input_is_live_and_a_bad_first_line_takes_nothing_along() {
    let folder = Folder::new();
    let data = folder.arg("data");
    let lines = json_lines(5);
    let mut child =
        castwatch(&["ingest", "-", "--plant", "tests/plants/simulated.toml", "--data", &data, "--json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("garbage\n{lines}").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary = parse(&output.stdout);
    assert_eq!((summary["published"].as_u64(), summary["refused"].as_u64()), (Some(5), Some(1)), "{summary}");
}

#[test]
fn who_stops_reading_is_no_error() {
    let shell = |line: &str| {
        let line = line.replace("CASTWATCH", castwatch_sim::binary::binary().to_str().unwrap());
        std::process::Command::new("bash")
            .args(["-c", &format!("set -o pipefail; {line}")])
            .current_dir(root())
            .output()
            .unwrap()
    };
    let output = shell("CASTWATCH simulate --shots 20000 | head -1");
    assert!(
        output.status.success() && !text(&output.stderr).contains("panicked"),
        "{}",
        text(&output.stderr)
    );
    let output = shell("CASTWATCH score none.csv --plant none.toml --out /dev/null 2>/dev/full");
    assert_eq!(output.status.code(), Some(1));
}

fn json_lines(n: usize) -> String {
    text(&succeed(&["simulate", "--shots", &n.to_string(), "--seed", "7"]).stdout)
}
