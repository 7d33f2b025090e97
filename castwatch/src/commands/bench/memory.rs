//! A scorer that knows many dies: its memory, its snapshots, and how soon it is back.
//!
//! **The dies are learnt through the line**, and the scorer that is measured at its restart loads
//! what the one before it saved.

use anyhow::{Context, Result};
use castwatch_core::{Event, Outgoing, Topic};
use castwatch_ingest::{SimSettings, Simulator, simulator};
use jiff::Timestamp;
use serde::Serialize;

use super::bed::Bed;
use super::process::StageProcess;
use crate::cli::{BenchLine, StageName};
use crate::commands::say;

/// Dies of one machine.
const DIES_A_MACHINE: u64 = 100;
/// Machines whose shots are lent to the dies.
const LENDERS: usize = 50;
/// How often the restart is measured.
const RESTARTS: usize = 3;

/// What many dies cost.
#[derive(Debug, Serialize)]
pub struct ManyDies {
    /// Dies.
    pub dies: u64,
    /// Machines that cast them.
    pub machines: u64,
    /// Shots of each die; a machine's last 4,096 are remembered.
    pub shots_a_die: u64,
    /// The most memory of the scorer that learnt them.
    pub peak_memory_mib: f64,
    /// Snapshots, one for each partition with shots.
    pub snapshots: usize,
    /// Their bytes.
    pub snapshot_bytes: u64,
    /// The bytes of the largest.
    pub largest_snapshot_bytes: u64,
    /// Scorers that were started on them.
    pub restarts: Vec<Restart>,
}

/// One restart.
#[derive(Debug, Serialize)]
pub struct Restart {
    /// From the start of the process until all partitions were open.
    pub ready_seconds: f64,
    /// Of these, until the model was loaded and checked.
    pub model_seconds: f64,
    /// Of these, until the first partition was open: joining the group, and one snapshot.
    pub first_partition_seconds: f64,
    /// Memory when it was ready.
    pub memory_mib: f64,
    /// The most memory until then.
    pub peak_memory_mib: f64,
}

impl ManyDies {
    /// The restart that took neither longest nor least.
    pub fn median(&self) -> Option<&Restart> {
        let mut by_time: Vec<&Restart> = self.restarts.iter().collect();
        by_time.sort_by(|a, b| a.ready_seconds.total_cmp(&b.ready_seconds));
        by_time.get(by_time.len() / 2).copied()
    }
}

/// Teaches a scorer many dies and restarts it.
pub async fn measure(args: &BenchLine, bed: &Bed) -> Result<ManyDies> {
    say(format_args!("  putting {} shots of {} dies into the log", args.dies * args.shots_a_die, args.dies));
    bed.publish(shots(args.dies, args.shots_a_die)).await?;
    say("  scorer at work");
    let learnt = StageProcess::start(bed, StageName::Scorer, true)?.ended().await?;
    let (mut restarts, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..RESTARTS {
        say("  scorer restarts");
        let mut scorer = StageProcess::start(bed, StageName::Scorer, false)?;
        let seen = scorer.opened(bed.partitions()).await?;
        let memory = scorer.memory()?;
        let began = scorer.began;
        scorer.stop().await?;
        let opened = || seen.opened.values().map(|(at, _)| *at);
        let (first, last) = opened().min().zip(opened().max()).context("it opened no partition")?;
        let loaded = seen.loaded.context("it loaded no model")?;
        let after = |at: Timestamp| at.duration_since(began).as_secs_f64();
        restarts.push(Restart {
            ready_seconds: after(last),
            model_seconds: after(loaded),
            first_partition_seconds: after(first),
            memory_mib: memory.now,
            peak_memory_mib: memory.peak,
        });
        sizes = seen.opened.values().map(|(_, bytes)| *bytes).filter(|bytes| *bytes > 0).collect();
    }
    Ok(ManyDies {
        dies: args.dies,
        machines: args.dies.div_ceil(DIES_A_MACHINE),
        shots_a_die: args.shots_a_die,
        peak_memory_mib: learnt.peak_mib,
        snapshots: sizes.len(),
        snapshot_bytes: sizes.iter().sum(),
        largest_snapshot_bytes: sizes.iter().copied().max().unwrap_or_default(),
        restarts,
    })
}

/// The dies in turn, `rounds` times, each shot with the readings and the time of a simulated one.
fn shots(dies: u64, rounds: u64) -> impl Iterator<Item = Result<Outgoing, serde_json::Error>> {
    let settings = SimSettings { machines: LENDERS, duplicates: 0.0, ..SimSettings::default() };
    let lent =
        Simulator::new(settings).filter_map(|simulated| simulated.shot().map(|(shot, _)| shot.clone()));
    (0..rounds).flat_map(move |round| (0..dies).map(move |die| (round, die))).zip(lent).map(
        |((round, die), mut shot)| {
            shot.machine = format!("DCM-{:04}", die / DIES_A_MACHINE);
            shot.die = format!("D{die:06}");
            // Dies of a machine share its time here, but not its counter.
            shot.cycle = round * DIES_A_MACHINE + die % DIES_A_MACHINE + 1;
            let event = Event::of_shot(&shot, simulator::SOURCE)?;
            Ok(Outgoing { topic: Topic::SHOTS, key: shot.machine, event })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_die_has_its_shots_and_no_shot_is_another_again() {
        let events: Vec<Outgoing> = shots(250, 3).collect::<Result<_, _>>().unwrap();
        let ids: BTreeSet<&str> = events.iter().map(|e| e.event.id.as_str()).collect();
        let machines: BTreeSet<&str> = events.iter().map(|e| e.key.as_str()).collect();
        assert_eq!((events.len(), ids.len(), machines.len()), (750, 750, 3));
    }
}
