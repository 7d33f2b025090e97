//! Ten thousand schedules of faults through the real stages and runner, and the proof that they
//! can fail: every planted bug is caught.
//!
//! `CASTWATCH_SCHEDULES=1000000` runs more; `CASTWATCH_SEED=4711` replays one and prints it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use castwatch_core::contract;
use castwatch_ingest::{SimSettings, Simulator};
use castwatch_models::Bundle;
use castwatch_sim::bugs::Bug;
use castwatch_sim::ports::{Ports, SimConsumer};
use castwatch_sim::schedule::{Cast, Deeds, run, run_in};
use castwatch_sim::world::{Member, World};

fn cast() -> Cast {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let bundle = Bundle::load(&root.join("models/bundles/default")).expect("the default bundle loads");
    let shots = Simulator::new(SimSettings { seed: 5, ..SimSettings::default() })
        .filter_map(|s| s.shot().map(|(shot, _)| shot.clone()))
        .take(600)
        .collect();
    Cast { bundle: Arc::new(bundle), shots: Arc::new(shots) }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs seeds on every core; the first broken seed with what it broke.
fn first_broken(
    cast: &Cast,
    seeds: std::ops::Range<u64>,
    bug: Option<Bug>,
) -> (Deeds, Option<(u64, Vec<String>)>) {
    let next = AtomicU64::new(seeds.start);
    let broken = std::sync::Mutex::new(None::<(u64, Vec<String>)>);
    let total = std::sync::Mutex::new(Deeds::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || broken.lock().unwrap().is_some() {
                        break;
                    }
                    match run(cast, seed, bug) {
                        Ok(deeds) => {
                            let mut total = total.lock().unwrap();
                            total.shots += deeds.shots;
                            total.defects += deeds.defects;
                            total.crashes += deeds.crashes;
                            total.moves += deeds.moves;
                            total.calls += deeds.calls;
                        }
                        Err(promises) => {
                            let mut broken = broken.lock().unwrap();
                            if broken.as_ref().is_none_or(|(other, _)| *other > seed) {
                                *broken = Some((seed, promises));
                            }
                        }
                    }
                }
            });
        }
    });
    (total.into_inner().unwrap(), broken.into_inner().unwrap())
}

#[test]
fn ten_thousand_schedules_keep_every_promise() {
    let cast = cast();
    let seeds = match number("CASTWATCH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CASTWATCH_SCHEDULES").unwrap_or(10_000),
    };
    let count = seeds.end - seeds.start;
    let began = std::time::Instant::now();
    let (deeds, broken) = first_broken(&cast, seeds, None);
    if let Some((seed, promises)) = broken {
        panic!("seed {seed} broke:\n  {}\nreplay it alone with CASTWATCH_SEED={seed}", promises.join("\n  "));
    }
    assert!(
        count == 1 || deeds.defects > 0 && deeds.crashes > 0 && deeds.moves > 0,
        "nothing happened: {deeds:?}"
    );
    println!("{count} schedules in {:.1?}: {deeds:?}", began.elapsed());
}

#[test]
fn every_planted_bug_is_caught() {
    let cast = cast();
    for bug in Bug::ALL {
        let (_, broken) = first_broken(&cast, 0..2_000, Some(bug));
        let (seed, promises) = broken.unwrap_or_else(|| panic!("{bug:?} was not caught in 2,000 schedules"));
        println!(
            "{bug:?} caught at seed {seed}: {}",
            promises.first().map_or("", |p| &p[..p.len().min(160)])
        );
    }
}

#[test]
fn planted_bugs_are_caught_because_of_faults() {
    let cast = cast();
    for bug in Bug::ALL {
        let broken = (0..25).find_map(|seed| run_in(&cast, World::calm(seed, Some(bug))).err());
        assert_eq!(broken.is_none(), bug.needs_faults(), "{bug:?} where nothing goes wrong: {broken:?}");
    }
}

#[test]
fn the_simulated_ports_keep_the_contract_of_real_ones() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let world = World::calm(1, None);
        let member = Member { stage: "contract", number: 0, incarnation: 0 };
        let ports = Ports::new(world.clone(), member);
        contract::log(&ports, |stage, topics| SimConsumer::alone(&world, stage, topics)).await;
        contract::snapshots(&ports).await;
        contract::records(&ports).await;
        contract::objects(&ports).await;
    });
}

#[test]
fn a_seed_is_a_schedule() {
    let cast = cast();
    for seed in 0..50 {
        assert_eq!(run(&cast, seed, None).unwrap(), run(&cast, seed, None).unwrap(), "seed {seed}");
    }
}
