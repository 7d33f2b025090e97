//! `castwatch query` through the built binary: the same answers from both record stores.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use castwatch_sim::binary::{json, run, succeed, text};
use serde_json::Value;

const SHOTS: &str = "4000";

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Takes a simulated history through the line of a settings file.
fn line(folder: &Path, shots: &Path, config: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let file = folder.join("castwatch.toml");
    let channel = format!("[[channel]]\nkind = \"file\"\npath = {:?}\n", folder.join("alerts.jsonl"));
    std::fs::write(&file, format!("data_folder = \"data\"\n{config}\n{channel}")).unwrap();
    let file = arg(&file);
    succeed(&["doctor", "--create", "--config", file]);
    succeed(&["ingest", arg(shots), "--plant", "tests/plants/simulated.toml", "--config", file]);
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--config", file]);
}

/// What a query gives over one of them.
fn query(folder: &Path, words: &[&str]) -> Value {
    let config = folder.join("castwatch.toml");
    json(&[&["query"], words, &["--json", "--config", arg(&config)]].concat())
}

fn count(list: &Value) -> usize {
    let object = list.as_object().unwrap();
    object.values().find_map(Value::as_array).unwrap().len()
}

#[test]
fn both_stores_give_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let shots = folder.path().join("shots.jsonl");
    succeed(&["simulate", "--shots", SHOTS, "--seed", "3", "--out", arg(&shots)]);
    let embedded = folder.path().join("embedded");
    line(&embedded, &shots, "");

    let all = query(&embedded, &["defects", "--all"]);
    let defects = all["defects"].as_array().unwrap();
    assert!(defects.len() > 20, "{} defects", defects.len());
    let one = &defects[defects.len() / 2];
    let of = |name: &str| one[name].as_str().unwrap();
    let day = of("ended_at").get(..10).unwrap();
    let plant = "tests/plants/simulated.toml";
    let questions: Vec<Vec<&str>> = vec![
        vec!["defects", "--all"],
        vec!["defects", "--all", "--machine", of("machine")],
        vec!["defects", "--all", "--die", of("die")],
        vec!["defects", "--all", "--cause", of("cause")],
        vec!["defects", "--all", "--machine", of("machine"), "--cause", of("cause"), "--told"],
        vec!["defects", "--all", "--from", of("ended_at")],
        vec!["defects", "--all", "--to", of("ended_at")],
        vec!["defects", "--all", "--plant", plant, "--date", day],
        vec!["defects", "--all", "--plant", plant, "--date", day, "--shift", "Day"],
        vec!["defects", "--all", "--plant", plant, "--date", day, "--shift", "야간"],
        vec!["defects", "--pending"],
        vec!["alerts", "--all"],
        vec!["alerts", "--all", "--die", of("die")],
    ];
    let answers: Vec<Value> = questions.iter().map(|words| query(&embedded, words)).collect();
    let counts: Vec<usize> = answers.iter().map(count).collect();
    assert!(counts[1..6].iter().all(|n| (1..=counts[0]).contains(n)), "{counts:?}");
    assert_eq!(counts[5] + counts[6], counts[0], "a time parts the list in two: {counts:?}");
    // A night ends on the next day.
    assert!(counts[7] < counts[0] && counts[8] < counts[7] && counts[9] > 0, "{counts:?}");
    assert_eq!((counts[10], counts[11]), (0, counts[0]), "every defect was told");

    // The other forms say the same.
    let config = embedded.join("castwatch.toml");
    let config = arg(&config);
    let table = text(&succeed(&["query", "defects", "--limit", "3", "--config", config]).stdout);
    assert_eq!(table.lines().count(), 4, "{table}");
    let csv = text(&succeed(&["query", "alerts", "--all", "--csv", "--config", config]).stdout);
    assert_eq!(csv.lines().count(), counts[0] + 1);
    let output = run(&["query", "defects", "--before", "yesterday", "--config", config]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the cursor is not one that a page before gave"));
    let output = run(&["query", "defects", "--data", arg(&folder.path().join("nothing"))]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));

    // Page by page, as a script goes.
    let (mut seen, mut before) = (BTreeSet::new(), None);
    loop {
        let mut words = vec!["defects", "--limit", "9"];
        words.extend(before.as_deref().map(|cursor| ["--before", cursor]).into_iter().flatten());
        let page = query(&embedded, &words);
        for defect in page["defects"].as_array().unwrap() {
            assert!(seen.insert(defect["shot"].to_string()), "a defect came twice");
        }
        before = page["next"].as_str().map(str::to_owned);
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), counts[0]);

    let (Ok(dynamodb), Ok(s3)) =
        (std::env::var("CASTWATCH_TEST_DYNAMODB"), std::env::var("CASTWATCH_TEST_S3"))
    else {
        println!("skipped: no CASTWATCH_TEST_DYNAMODB or CASTWATCH_TEST_S3; tests/run brings both up");
        return;
    };
    let own = format!("query-{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos());
    let cloud = folder.path().join("cloud");
    let of = |name| std::env::var(name).unwrap_or_else(|_| "castwatch".into());
    let (key, secret) = (of("CASTWATCH_TEST_S3_KEY"), of("CASTWATCH_TEST_S3_SECRET"));
    let config = format!(
        r#"
records = "dynamodb"
objects = "s3"
[aws]
region = "us-east-1"
access_key = "{key}"
secret_key = "{secret}"
[s3]
bucket = "{own}"
endpoint = "{s3}"
path_style = true
[dynamodb]
table = "{own}"
endpoint = "{dynamodb}"
"#
    );
    line(&cloud, &shots, &config);
    for (words, wanted) in questions.iter().zip(&answers) {
        assert_eq!(query(&cloud, words), *wanted, "{words:?}");
    }
    let linked = query(&cloud, &["alerts", "--limit", "1", "--links"]);
    let link = linked["alerts"][0]["link"].as_str().unwrap();
    let chart = get(link);
    assert!(chart.starts_with(b"HTTP/1.1 200"), "{link}: {}", text(&chart));
    let page = query(&cloud, &["defects", "--limit", "5"]);
    let next = page["next"].as_str().unwrap();
    let rest = query(&cloud, &["defects", "--all", "--before", next]);
    assert_eq!(count(&page) + count(&rest), counts[0]);
}

/// What a plain HTTP request gets.
fn get(link: &str) -> Vec<u8> {
    let (host, path) = link.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}
