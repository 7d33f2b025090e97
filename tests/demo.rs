//! The command line as people use it: the demo, its page, clear errors and exit statuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStderr, Stdio};
use std::time::Duration;

use castwatch_sim::binary::{Running, castwatch, json, parse, root, run, succeed, text};
use serde_json::Value;

/// Starts a demo and waits for the address of its page.
fn demo(args: &[&str]) -> (Running, BufReader<ChildStderr>, String) {
    let mut command = castwatch(&["demo", "--json", "--listen", "127.0.0.1:0"]);
    let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let running = Running(child);
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the demo ended before it said where its page is");
    }
    let address = line.split("http://").nth(1).unwrap().trim_end().trim_end_matches('/').to_owned();
    (running, lines, address)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

fn finish(mut running: Running) -> Value {
    let mut out = Vec::new();
    running.0.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(running.0.wait().unwrap().success());
    parse(&out)
}

#[test]
fn a_demo_shows_the_line_and_its_books_balance() {
    let (running, _lines, address) = demo(&["--for", "12s", "--rate", "60"]);
    std::thread::sleep(Duration::from_secs(6));
    let page = get(&address, "/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<html lang=\"ko\""), "{page}");
    let state = get(&address, "/api/state");
    assert!(state.contains("\"machines\""), "{state}");
    let ready = get(&address, "/health/ready");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let outcome = finish(running);
    println!(
        "{}",
        serde_json::json!({ "shots": outcome["shots"], "defects": outcome["defects"], "latency": outcome["latency_ms"] })
    );
    let count = |name: &str| outcome[name].as_u64().unwrap_or_else(|| panic!("no {name} in {outcome:#}"));
    assert!(count("shots") > 400 && count("defects") > 5, "{outcome:#}");
    assert_eq!(count("shots"), count("scores"));
    for effect in ["records", "charts", "alerts"] {
        assert_eq!(count("defects"), count(effect), "{effect}");
    }
    assert!(count("dead_letters") > 0, "the demo sends broken messages");
    assert!(outcome["latency_ms"]["p99"].as_i64().is_some());
    assert_eq!(outcome["books"]["balanced"], true);
}

#[test]
fn ctrl_c_ends_a_demo_well() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let (running, _lines, _) = demo(&["--data", data, "--rate", "100"]);
    std::thread::sleep(Duration::from_secs(3));
    running.signal("INT");
    let outcome = finish(running);
    assert!(outcome["shots"].as_u64().unwrap() > 50, "{outcome:#}");
    // What the demo left is taken up by the line.
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", data]);
    let books = json(&["books", "--json", "--data", data]);
    assert_eq!(books["balanced"], true, "{books:#}");
    let listed = json(&["dlq", "list", "--json", "--data", data]);
    assert_eq!(listed.as_array().unwrap().len() as u64, books["log"]["dead_letters"].as_u64().unwrap());
}

#[test]
fn dead_letters_are_listed_shown_and_put_back_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let outcome =
        json(&["demo", "--for", "6s", "--rate", "200", "--json", "--listen", "127.0.0.1:0", "--data", data]);
    let letters = json(&["dlq", "list", "--json", "--data", data]);
    let first = &letters[0];
    assert_eq!(first["stage"], "scorer", "{letters:#}");
    assert!(first["error"].as_str().unwrap().contains("not a shot"), "{first}");
    let shown = json(&["dlq", "show", first["place"].as_str().unwrap(), "--json", "--data", data]);
    assert_eq!(shown["data"].as_str().unwrap().len() as u64, first["bytes"].as_u64().unwrap());
    let n = letters.as_array().unwrap().len();
    assert_eq!(json(&["dlq", "replay", "--json", "--data", data])["replayed"], n);
    assert_eq!(json(&["dlq", "replay", "--json", "--data", data])["replayed_before"], n);
    // They are as broken as before, so they come back to the side, and the books still balance.
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", data]);
    let books = json(&["books", "--json", "--data", data]);
    assert_eq!(books["balanced"], true, "{books:#}");
    assert_eq!(books["log"]["dead_letters"].as_u64().unwrap(), outcome["dead_letters"].as_u64().unwrap() * 2);
}

#[test]
fn errors_say_what_to_do_and_statuses_tell_them_apart() {
    let cases: &[(&[&str], i32, &str)] = &[
        (&["frobnicate"], 2, "unrecognized subcommand"),
        (&["run"], 2, "STAGE"),
        (&["run", "ovens"], 2, "possible values"),
        (&["demo", "--for", "soon"], 2, "is not a time such as"),
        (&["explain", "x.csv", "--plant", "p.toml", "--row", "0"], 2, "0 is not in 1.."),
        (&["books", "--data", "no/such/folder"], 1, "no/such/folder"),
        (&["score", "no.csv", "--plant", "no.toml", "--out", "/dev/null"], 1, "no.toml"),
        (&["score", "no.csv", "--plant", "tests/plants/simulated.toml", "--out", "/dev/null"], 1, "no.csv"),
        (&["score", "x", "--plant", "p", "--bundle", "no/bundle", "--out", "/dev/null"], 1, "no/bundle"),
        (&["demo", "--listen", "0.0.0.0:0"], 1, "listen_open"),
        (&["validate"], 2, "--plant"),
        (&["dlq", "show", "nowhere", "--data", "no/such"], 2, "is not a place"),
        (&["demo", "--rate", "0"], 2, "is not a number above 0"),
        (&["ingest", "x.csv", "--plant", "p.toml", "--speed", "nan"], 2, "is not a number above 0"),
        (&["features", "x.csv", "--plant", "p.toml", "--out", "f.txt"], 2, "must end in .parquet or .csv"),
        (
            &["explain", "x.csv", "--plant", "p.toml", "--row", "1", "--chart", "a.jpg"],
            2,
            "must end in .png or .svg",
        ),
    ];
    for (args, status, expected) in cases {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*status), "castwatch {}: {said}", args.join(" "));
        assert!(said.contains(expected), "castwatch {}: {said}", args.join(" "));
        assert!(!said.contains("panicked"), "castwatch {}: {said}", args.join(" "));
    }
}

#[test]
fn everything_we_ship_is_valid_and_help_teaches() {
    succeed(&[
        "validate",
        "--plant",
        "tests/plants/casting_process.toml",
        "--plant",
        "tests/plants/casting_quality30.toml",
        "--plant",
        "tests/plants/simulated.toml",
        "--bundle",
        "models/bundles/default",
    ]);
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("plant.toml");
    std::fs::write(&wrong, "nam = 1\n[time]\nzone = 9\n").unwrap();
    let output = run(&["validate", "--plant", wrong.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.matches("plant.toml:").count() >= 3, "every mistake with its line: {said}");
    for command in [
        "demo", "run", "ingest", "score", "explain", "features", "simulate", "dlq", "books", "validate",
        "doctor",
    ] {
        let help = text(&succeed(&[command, "--help"]).stdout);
        assert!(help.contains("Example"), "castwatch {command} --help shows no example");
    }
    let root = root();
    let bundle = root.join("models/bundles/default");
    let checked = json(&[
        "doctor",
        "--json",
        "--data",
        folder.path().to_str().unwrap(),
        "--bundle",
        bundle.to_str().unwrap(),
    ]);
    assert!(
        checked.as_array().unwrap().iter().any(|f| f["what"] == "bundle" && f["well"] == true),
        "{checked:#}"
    );
}
