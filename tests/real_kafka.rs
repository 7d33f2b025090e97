//! Real shots through Kafka, DynamoDB and S3 while scorers are killed, join and leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use castwatch_core::event::Topic;
use castwatch_platform::Inspector;
use castwatch_platform::kafka::{Kafka, KafkaInspector, KafkaSettings};
use castwatch_sim::binary::{Running, json, parse, real_data, root, succeed};

/// Where the services are, or `None` after saying that they are not there.
fn services() -> Option<[String; 3]> {
    let of = |name: &str| {
        let found = std::env::var(name).ok();
        if found.is_none() {
            println!("skipped: no {name}; tests/run brings one up");
        }
        found
    };
    Some([of("CASTWATCH_TEST_KAFKA")?, of("CASTWATCH_TEST_DYNAMODB")?, of("CASTWATCH_TEST_S3")?])
}

/// The machine of the real plant casts several dies in turn; each of them plays a machine here, so
/// that there is more than one key.
fn plant(folder: &Path) -> String {
    let text = std::fs::read_to_string(root().join("tests/plants/casting_process.toml")).unwrap();
    let several = text.replace("constant = \"DCM-A\"", "column = \"mold_code\"");
    assert_ne!(text, several);
    let file = folder.join("plant.toml");
    std::fs::write(&file, several).unwrap();
    file.to_str().unwrap().to_owned()
}

/// CPU time of a process so far, in clock ticks.
fn ticks(running: &Running) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.0.id())).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum()
}

/// Waits until `topic` holds so many messages.
fn reach(inspector: &KafkaInspector, topic: &Topic, count: u64) {
    let began = Instant::now();
    loop {
        let there: u64 = inspector.ends(topic).unwrap().iter().map(|e| e.next.0).sum();
        if there >= count {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{topic} has {there} messages of {count}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The scorer that works hardest.
fn busiest(scorers: &mut Vec<Running>) -> Running {
    let before: Vec<u64> = scorers.iter().map(ticks).collect();
    std::thread::sleep(Duration::from_millis(100));
    let work = |i: &usize| ticks(&scorers[*i]) - before[*i];
    let at = (0..scorers.len()).max_by_key(work).unwrap();
    scorers.swap_remove(at)
}

#[test]
fn the_scores_of_three_scorers_with_a_kill_and_rebalances_are_those_of_the_embedded_line() {
    let (Some(dir), Some([kafka, dynamodb, s3])) = (real_data(), services()) else { return };
    let file = dir.join("casting_process_train.csv.gz");
    let folder = tempfile::tempdir().unwrap();
    let (file, plant) = (file.to_str().unwrap(), plant(folder.path()));

    // What one scorer says that nothing happens to.
    let embedded = folder.path().join("embedded");
    let data = embedded.to_str().unwrap();
    succeed(&["ingest", file, "--plant", &plant, "--data", data]);
    succeed(&["run", "scorer", "--drain", "--data", data]);
    let mut expected = BTreeMap::new();
    let log = Inspector::open(&embedded).unwrap();
    log.each(&Topic::SCORES, |_, message| {
        expected.insert(message.event.id, message.event.data);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(expected.len(), 63_310);

    let own = format!("real-{}", std::process::id());
    let config = folder.path().join("castwatch.toml");
    let alerts = folder.path().join("alerts.jsonl");
    let text = format!(
        r#"stream = "kafka"
records = "dynamodb"
objects = "s3"
data_folder = "data"
[kafka]
brokers = "{kafka}"
topic_prefix = "{own}."
group_prefix = "{own}"
session_timeout_ms = 6000
partitions = 6
replication = 1
batch = 256
[aws]
region = "us-east-1"
access_key = "castwatch"
secret_key = "castwatch"
[s3]
bucket = "{own}"
endpoint = "{s3}"
path_style = true
[dynamodb]
table = "{own}"
endpoint = "{dynamodb}"
[runner]
save_every_ms = 200
[[channel]]
kind = "file"
path = {alerts:?}
"#
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    succeed(&["doctor", "--create", "--config", config]);
    let settings =
        KafkaSettings { brokers: kafka, topic_prefix: format!("{own}."), ..KafkaSettings::default() };
    let inspector = Kafka::open(settings).unwrap().inspector().unwrap();

    let began = Instant::now();
    let start = |stages: &[&str]| Running::start(&[&["run"], stages, &["--config", config]].concat());
    let mut scorers: Vec<Running> = (0..3).map(|_| start(&["scorer"])).collect();
    let ingest = Running::start(&["ingest", file, "--plant", &plant, "--config", config]);
    reach(&inspector, &Topic::SCORES, 3_000);
    busiest(&mut scorers).kill();
    reach(&inspector, &Topic::SCORES, 20_000);
    scorers.push(start(&["scorer"]));
    reach(&inspector, &Topic::SCORES, 40_000);
    let leaving = busiest(&mut scorers);
    leaving.signal("TERM");
    succeed(&["run", "scorer", "--drain", "--config", config]);
    let scored = began.elapsed();
    let mut ingest = ingest;
    assert!(ingest.0.wait().unwrap().success(), "the ingest did not end well");
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--config", config]);
    let all = began.elapsed();
    drop((scorers, leaving));

    let mut scores: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    let mut messages = 0;
    inspector
        .each(&Topic::SCORES, |_, message| {
            messages += 1;
            scores.entry(message.event.id).or_default().insert(message.event.data);
            ControlFlow::Continue(())
        })
        .unwrap();
    let books = json(&["books", "--json", "--config", config]);
    println!(
        "63,310 real shots through Kafka, DynamoDB and S3 with a kill and two rebalances: scored in {scored:.1?}, \
         all in {all:.1?}, {} scores written again: {}",
        messages - scores.len(),
        books["log"]
    );
    assert_eq!(scores.len(), expected.len(), "one score a shot");
    for (id, data) in &expected {
        let got = scores.get(id).unwrap_or_else(|| panic!("{id} is lost"));
        assert!(got.len() == 1 && got.contains(data), "{id} differs from the embedded line's");
    }
    assert_eq!(books["balanced"], true, "{books:#}");
    let told: Vec<String> = std::fs::read_to_string(&alerts)
        .unwrap()
        .lines()
        .map(|line| parse(line.as_bytes())["id"].as_str().unwrap().to_owned())
        .collect();
    let distinct: BTreeSet<&String> = told.iter().collect();
    assert_eq!(told.len(), distinct.len(), "no alert was told twice");
    assert_eq!(books["log"]["defects"].as_u64(), Some(distinct.len() as u64), "every defect was told");
}
