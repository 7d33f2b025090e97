//! The built binary is killed at random under load, 50 times, and the books balance.
//!
//! `CASTWATCH_KILLS=500` kills more often.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use castwatch_core::ports::Publisher;
use castwatch_ingest::simulator::Kind;
use castwatch_ingest::{SimSettings, Simulator};
use castwatch_platform::Embedded;
use castwatch_sim::binary::{Running, json, parse, root, run, succeed};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[test]
fn books_balance_after_fifty_kills() {
    let kills: usize =
        std::env::var("CASTWATCH_KILLS").map_or(50, |n| n.parse().expect("CASTWATCH_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data_arg = data.to_str().unwrap();
    let alerts = folder.path().join("alerts.jsonl");
    let config = folder.path().join("castwatch.toml");
    // Progress is saved often enough that a process that lives for half a second saves some.
    let settings = format!(
        "[runner]
save_every_ms = 100
[[channel]]
kind = \"file\"
path = {:?}
",
        alerts.to_str().unwrap()
    );
    std::fs::write(&config, settings).unwrap();
    let config = config.to_str().unwrap();

    // A second plant's history comes by `castwatch ingest`, which is killed as well.
    let history = folder.path().join("history.jsonl");
    let history_arg = history.to_str().unwrap();
    succeed(&["simulate", "--shots", "20000", "--seed", "99", "--machines", "3", "--out", history_arg]);
    let plant = root().join("tests/plants/simulated.toml");
    let plant = plant.to_str().unwrap();

    // The live plant: 400 shots a second from this process while stages come and go.
    let load = Embedded::open(&data).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let feeder = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut sent = BTreeSet::new();
            let plant = SimSettings { seed: 42, machines: 6, broken: 0.01, ..SimSettings::default() };
            for (number, message) in Simulator::new(plant).enumerate() {
                let mut event = message.outgoing().unwrap();
                // Other machines than those of the history.
                if let Kind::Shot { mut shot, .. } | Kind::Again(mut shot) = message.kind {
                    shot.machine = format!("LIVE-{}", shot.machine);
                    event.key.clone_from(&shot.machine);
                    event.event = castwatch_core::Event::of_shot(&shot, "/test/plant").unwrap();
                    sent.insert(event.event.id.clone());
                }
                load.publish(std::slice::from_ref(&event)).await.unwrap();
                if number % 4 == 3 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if stopped.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            }
            sent.len() as u64
        })
    });

    let mut rng = StdRng::seed_from_u64(2026);
    let began = Instant::now();
    let mut ingest = Some(Running::start(&["ingest", history_arg, "--plant", plant, "--data", data_arg]));
    for kill in 0..kills {
        let line = Running::start(&[
            "run",
            "scorer",
            "explainer",
            "notifier",
            "--data",
            data_arg,
            "--config",
            config,
        ]);
        std::thread::sleep(Duration::from_millis(rng.random_range(20..700)));
        line.kill();
        if kill % 5 == 0
            && let Some(running) = ingest.take()
        {
            running.kill();
            ingest = Some(Running::start(&["ingest", history_arg, "--plant", plant, "--data", data_arg]));
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let live = feeder.join().unwrap();
    if let Some(mut running) = ingest.take() {
        running.0.wait().unwrap();
    }
    // Whatever the killed ones left: the rest of the file, or the word that nothing is left.
    run(&["ingest", history_arg, "--plant", plant, "--data", data_arg]);
    succeed(&["run", "scorer", "explainer", "notifier", "--drain", "--data", data_arg, "--config", config]);

    let books = json(&["books", "--json", "--data", data_arg]);
    println!("{kills} kills in {:.1?}: {}", began.elapsed(), books["log"]);
    assert_eq!(books["balanced"], true, "{books:#}");
    assert_eq!(books["log"]["shots"].as_u64(), Some(live + 20_000), "every shot is there");
    assert_eq!(books["log"]["dead_letters"], books["log"]["unreadable"], "what can't be read is kept");
    assert!(
        books["log"]["scores_again"].as_u64() > Some(0),
        "no kill came between a publish and its save: too calm"
    );
    let defects = books["log"]["defects"].as_u64().unwrap();
    assert!(defects > 100, "{defects} defects are too few to say anything");
    let told: Vec<String> = std::fs::read_to_string(&alerts)
        .unwrap()
        .lines()
        .map(|line| parse(line.as_bytes())["id"].as_str().unwrap().to_owned())
        .collect();
    let distinct: BTreeSet<&String> = told.iter().collect();
    assert_eq!(told.len(), distinct.len(), "no alert was told twice");
    assert_eq!(distinct.len() as u64, defects, "every defect was told");
}
