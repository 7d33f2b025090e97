//! Real shots of two plants through the whole line, where they are at hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use castwatch_core::event::Topic;
use castwatch_core::payload::{Payload, Score};
use castwatch_platform::Inspector;
use castwatch_sim::binary::{json, real_data, root, run, succeed, text};

fn plant(name: &str) -> String {
    root().join("tests/plants").join(name).to_str().unwrap().to_owned()
}

#[test]
fn all_shots_of_the_first_plant_go_through_and_agree_with_the_offline_engine() {
    let Some(dir) = real_data() else { return };
    let file = dir.join("casting_process_train.csv.gz");
    let (file, plant) = (file.to_str().unwrap(), plant("casting_process.toml"));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data_arg = data.to_str().unwrap();

    let began = Instant::now();
    let sent = json(&["ingest", file, "--plant", &plant, "--data", data_arg, "--json"]);
    let ingested = began.elapsed();
    assert_eq!(sent["rows"], 63_310, "{sent}");
    assert_eq!(sent["refused"], 0, "{sent}");
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", data_arg]);
    let all = began.elapsed();
    let books = json(&["books", "--json", "--data", data_arg]);
    println!(
        "63,310 real shots: ingested in {ingested:.1?}, through the line in {all:.1?}: {}",
        books["log"]
    );
    assert_eq!(books["balanced"], true, "{books:#}");
    assert_eq!(books["log"]["shots"], 63_310);
    assert_eq!(books["log"]["scores"], 63_310);

    // A second run of the same file finds that it was sent.
    let again = run(&["ingest", file, "--plant", &plant, "--data", data_arg]);
    assert!(
        !again.status.success() && text(&again.stderr).contains("was sent before"),
        "{}",
        text(&again.stderr)
    );

    // The offline engine says the same of every shot, to the last bit.
    let csv = folder.path().join("scores.csv");
    succeed(&["score", file, "--plant", &plant, "--out", csv.to_str().unwrap()]);
    let mut online = BTreeMap::new();
    let log = Inspector::open(&data).unwrap();
    log.each(&Topic::SCORES, |_, message| {
        let score = Score::read(&message).unwrap();
        online.insert((score.die.clone(), score.ended_at.to_string(), score.cycle), score);
        ControlFlow::Continue(())
    })
    .unwrap();
    let csv = std::fs::read_to_string(csv).unwrap();
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("row,machine,die,cycle,ended_at,try_shot,probability,anomaly,verdict,bundle")
    );
    let mut compared = 0;
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let score = &online[&(cells[2].to_owned(), cells[4].to_owned(), cells[3].parse().unwrap())];
        assert_eq!(cells[6], score.probability.map_or(String::new(), |p| p.to_string()), "{line}");
        assert_eq!(cells[7], score.anomaly.map_or(String::new(), |p| p.to_string()), "{line}");
        assert_eq!(cells[8], score.verdict.as_str(), "{line}");
        compared += 1;
    }
    assert_eq!(compared, 63_310);
}

#[test]
fn the_second_plant_has_none_of_the_bundles_readings_and_says_so() {
    let Some(dir) = real_data() else { return };
    let file = dir.join("casting_quality30_train.csv.gz");
    let (file, plant) = (file.to_str().unwrap(), plant("casting_quality30.toml"));
    let folder = tempfile::tempdir().unwrap();
    let data_arg = folder.path().to_str().unwrap();
    let sent = json(&["ingest", file, "--plant", &plant, "--data", data_arg, "--json"]);
    assert_eq!((sent["rows"].as_u64(), sent["refused"].as_u64()), (Some(3_231), Some(0)), "{sent}");
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", data_arg]);
    let books = json(&["books", "--json", "--data", data_arg]);
    assert_eq!(books["balanced"], true, "{books:#}");
    assert_eq!(books["log"]["scores"], 3_231);
    assert_eq!(books["log"]["defects"], 0, "a shot without its readings is unscorable, not a defect");
}
