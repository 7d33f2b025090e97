//! `castwatch bench line` on an embedded log, small: every figure is there and can be true. Whether
//! it is fast, no test says: machines differ.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use castwatch_sim::binary::{castwatch, json, parse, run, text};
use serde_json::Value;

fn number(document: &Value, path: &str) -> f64 {
    let found = document.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {path} in {document:#}"))
}

#[test]
fn a_small_measurement_has_every_figure_and_none_is_absurd() {
    let document = json(&[
        "bench",
        "line",
        "--json",
        "--shots",
        "4000",
        "--machines",
        "5",
        "--rate",
        "200",
        "--for",
        "3s",
        "--dies",
        "300",
        "--shots-a-die",
        "2",
    ]);
    assert!(number(&document, "/machine/cores") >= 1.0);
    assert!(!document["machine"]["cpu"].as_str().unwrap().is_empty());
    assert!(document["bundle"].as_str().unwrap().len() > 8, "its name and digest");
    assert_eq!(document["ratios"], serde_json::json!({}), "one line has nothing to be compared with");
    let line = &document["lines"][0];
    assert_eq!(
        (line["on"].as_str(), line["stands_on"]["durability"].as_str()),
        (Some("embedded"), Some("full"))
    );

    let stages = line["throughput"]["stages"].as_array().unwrap();
    assert_eq!(
        stages.iter().map(|s| s["stage"].as_str().unwrap()).collect::<Vec<_>>(),
        ["scorer", "explainer", "notifier"]
    );
    let taken: Vec<f64> = stages.iter().map(|s| number(s, "/taken")).collect();
    assert_eq!(taken[0], 4000.0, "the scorer takes every shot");
    assert!(taken[1] > 0.0 && taken[1] < 1000.0 && taken[1] == taken[2], "each defect once: {taken:?}");
    for stage in stages {
        let (seconds, cpu) = (number(stage, "/seconds"), number(stage, "/cpu_seconds"));
        assert!(seconds > 0.0 && seconds < 60.0, "{stage:#}");
        // The clock of CPU time ticks a hundred times a second.
        assert!(cpu < seconds * number(&document, "/machine/cores") + 0.5, "{stage:#}");
        assert!(number(stage, "/start_up_cpu_seconds") < 10.0, "{stage:#}");
        assert!(
            number(stage, "/peak_memory_mib") > 5.0 && number(stage, "/peak_memory_mib") < 2000.0,
            "{stage:#}"
        );
        let spent: f64 = ["handle", "publish", "save", "fetch_and_wait"]
            .iter()
            .map(|part| number(stage, &format!("/time/{part}")))
            .sum();
        assert!((spent - seconds).abs() < 0.1 * seconds + 0.05, "the parts add up to the whole: {stage:#}");
        assert!(!stage["cpu_by_thread"].as_object().unwrap().is_empty(), "{stage:#}");
    }

    let latency = &line["latency"];
    assert_eq!(number(latency, "/shots"), 600.0);
    assert_eq!(number(latency, "/verdict/count"), 600.0, "each shot has a verdict once it is drained");
    assert_eq!(latency["drained"], true);
    for waits in ["/verdict", "/alert"] {
        let at = |part: &str| number(latency, &format!("{waits}/{part}"));
        assert!(at("count") > 0.0, "{latency:#}");
        assert!(at("p50") <= at("p99") && at("p99") <= at("p999") && at("p999") <= at("max"), "{latency:#}");
        assert!(at("p50") >= 0.0 && at("max") < 60_000.0, "{latency:#}");
    }

    let memory = &line["memory"];
    assert_eq!((number(memory, "/dies"), number(memory, "/machines")), (300.0, 3.0));
    assert!((1.0..=3.0).contains(&number(memory, "/snapshots")), "three machines on four partitions");
    assert!(number(memory, "/snapshot_bytes") > 300.0 * 100.0, "{memory:#}");
    let restarts = memory["restarts"].as_array().unwrap();
    assert_eq!(restarts.len(), 3);
    for restart in restarts {
        let [model, first, ready] =
            ["model", "first_partition", "ready"].map(|part| number(restart, &format!("/{part}_seconds")));
        assert!(0.0 < model && model <= first && first <= ready && ready < 60.0, "{restart:#}");
        assert!(number(restart, "/memory_mib") > 5.0, "{restart:#}");
    }
}

#[test]
fn only_what_is_asked_for_is_measured_and_people_get_a_table() {
    let output = run(&["bench", "line", "--only", "throughput", "--shots", "500"]);
    let (table, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    for figure in [
        "scorer: messages a second per core of its CPU",
        "explainer: peak memory",
        "CPU of the notifier by thread",
    ] {
        assert!(table.contains(figure), "{figure}: {table}");
    }
    assert!(!table.contains("latency") && !table.contains("dies"), "{table}");
    assert!(said.contains("putting 500 shots"), "it says what it does: {said}");
}

#[test]
fn kafka_without_brokers_is_said_before_anything_is_measured() {
    let mut command = castwatch(&["bench", "line", "--on", "kafka"]);
    let output = command.env_remove("CASTWATCH_KAFKA_BROKERS").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`kafka.brokers` is missing"), "{}", text(&output.stderr));
}

#[test]
fn two_lines_are_set_in_relation_and_nothing_of_them_stays() {
    let Ok(brokers) = std::env::var("CASTWATCH_TEST_KAFKA") else {
        eprintln!("skipped: no CASTWATCH_TEST_KAFKA; tests/run brings one up");
        return;
    };
    let mut command = castwatch(&["bench", "line", "--on", "embedded,kafka", "--json", "--shots", "2000"]);
    command.args(["--only", "throughput,latency", "--rate", "100", "--for", "2s"]);
    command.env("CASTWATCH_KAFKA_BROKERS", &brokers).env("CASTWATCH_KAFKA_REPLICATION", "1");
    command.env("CASTWATCH_KAFKA_PARTITIONS", "3");
    if let Ok(endpoint) = std::env::var("CASTWATCH_TEST_DYNAMODB") {
        command.env("CASTWATCH_RECORDS", "dynamodb").env("CASTWATCH_DYNAMODB_ENDPOINT", endpoint);
        command.env("CASTWATCH_AWS_REGION", "us-east-1");
        command.env("CASTWATCH_AWS_ACCESS_KEY", "castwatch").env("CASTWATCH_AWS_SECRET_KEY", "castwatch");
    }
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("left:"), "{said}");
    let document = parse(&output.stdout);
    for line in document["lines"].as_array().unwrap() {
        assert_eq!(number(line, "/throughput/stages/0/taken"), 2000.0);
        assert_eq!(number(line, "/latency/verdict/count"), 200.0);
    }
    let kafka = &document["lines"][1]["stands_on"];
    assert!(kafka["events"].as_str().unwrap().contains(&brokers), "{kafka:#}");
    assert_eq!(number(&document["ratios"], "/scorer: messages"), 1.0);
}
