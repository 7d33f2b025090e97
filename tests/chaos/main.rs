//! The line on real Kafka, DynamoDB and S3, while everything around it fails.
//!
//! **After each scenario nothing is lost, nothing was told twice, and the books balance.** Stages
//! are the built binary; the broker is the test's own, so that it can be killed; networks and
//! services fail in proxies of the test's own.
//!
//! `CASTWATCH_CHAOS=long` kills 100 times with everything mixed; `CASTWATCH_CHAOS_ONLY=kills,disk`
//! runs some scenarios; `CASTWATCH_CHAOS_SEED=7` chooses the same faults again (what meets them
//! when is up to the machine).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

mod audit;
mod broker;
mod disk;
mod http;
mod ledger;
mod member;
mod plant;
mod proxy;
mod receiver;
mod scenarios;
mod site;
#[cfg(test)]
mod tests;
mod world;

use std::time::Instant;

use audit::Audit;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use world::{Services, World};

/// The short suite, in order.
const SHORT: [&str; 12] = [
    "input",
    "kills",
    "broker",
    "classic",
    "consumer",
    "frozen",
    "network",
    "stores",
    "receiver",
    "retention",
    "away",
    "disk",
];
/// The long run: so many kills in each of its parts.
const LONG: [(&str, u32); 4] = [("mixed-1", 25), ("mixed-2", 25), ("mixed-3", 25), ("mixed-4", 25)];

#[test]
fn nothing_is_lost_and_nothing_is_told_twice() {
    let Some(services) = Services::from_env() else { return };
    let seed = match std::env::var("CASTWATCH_CHAOS_SEED") {
        Ok(text) => text.parse().expect("CASTWATCH_CHAOS_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000),
    };
    println!("CASTWATCH_CHAOS_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let broken = runtime.block_on(run(services, seed));
    assert!(broken.is_empty(), "promises were broken in {}; CASTWATCH_CHAOS_SEED={seed}", broken.join(", "));
}

async fn run(services: Services, seed: u64) -> Vec<String> {
    let mut world = World::start(services, seed).await;
    let long = std::env::var("CASTWATCH_CHAOS").is_ok_and(|value| value == "long");
    let only = std::env::var("CASTWATCH_CHAOS_ONLY").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.split(',').any(|one| one == name));
    let names: Vec<(&str, u32)> =
        if long { LONG.into() } else { SHORT.iter().map(|name| (*name, 0)).collect() };
    let mut broken = Vec::new();
    println!(
        "| {:<9} | {:<62} | {:>6} | {:>7} | {:>4} | {:>10} | {:>7} | {:>12} | {:>10} | {:>7} |",
        "scenario",
        "faults",
        "shots",
        "defects",
        "lost",
        "told twice",
        "repeats",
        "scores again",
        "recovery s",
        "total s"
    );
    println!("|{}|", [11, 64, 8, 9, 6, 12, 9, 14, 12, 9].map(|width| "-".repeat(width)).join("|"));
    for (name, kills) in names.into_iter().filter(|(name, _)| wanted(name)) {
        let began = Instant::now();
        let mut chance = StdRng::seed_from_u64(seed ^ name.bytes().fold(0, |h, b| h * 31 + u64::from(b)));
        let told = match name {
            "input" => scenarios::bad_input(&mut world, &mut chance).await,
            "kills" => scenarios::killed_stages(&mut world, &mut chance).await,
            "broker" => scenarios::killed_broker(&mut world, &mut chance).await,
            "classic" | "consumer" => scenarios::rebalances(&mut world, &mut chance, name).await,
            "frozen" => scenarios::frozen_members(&mut world, &mut chance).await,
            "network" => scenarios::bad_network(&mut world, &mut chance).await,
            "stores" => scenarios::bad_stores(&mut world, &mut chance).await,
            "receiver" => scenarios::bad_receiver(&mut world, &mut chance).await,
            "retention" => scenarios::retention(&mut world, &mut chance).await,
            "away" => scenarios::broker_away(&mut world, &mut chance).await,
            "disk" => disk::full_disk(&mut world).await,
            _ => scenarios::mixed(&mut world, &mut chance, name, kills).await,
        };
        world.heal();
        let (faults, found) = told.unwrap_or_else(|error| {
            ("broke off".to_owned(), Audit { problems: vec![error], ..Audit::default() })
        });
        println!(
            "| {name:<9} | {faults:<62} | {:>6} | {:>7} | {:>4} | {:>10} | {:>7} | {:>12} | {:>10.1} | {:>7.1} |",
            found.shots,
            found.defects,
            found.lost.len(),
            found.told_twice.len(),
            found.repeats,
            found.scores_again,
            found.recovery.as_secs_f64(),
            began.elapsed().as_secs_f64()
        );
        if !found.kept() {
            for finding in found.findings() {
                println!("  {finding}");
            }
            broken.push(name.to_owned());
        }
    }
    if !broken.is_empty() {
        world.folder.disable_cleanup(true);
        println!("what each process said is in {}", world.folder.path().display());
    }
    broken
}
