//! How many shots a second, at what cost, and where the time goes.
//!
//! **Stages are measured one after the other**, each with everything there before it starts, so
//! that none waits for another and none takes another's CPU. What a stage costs on empty topics,
//! which is loading and checking the model, is taken off.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use castwatch_ingest::{SimSettings, Simulator};
use serde::Serialize;

use super::bed::Bed;
use super::process::{Ended, StageProcess};
use crate::cli::{BenchLine, StageName};
use crate::commands::say;

/// The stages that are measured, in the order of the line.
pub const STAGES: [StageName; 3] = [StageName::Scorer, StageName::Explainer, StageName::Notifier];

/// What the line gets done.
#[derive(Debug, Serialize)]
pub struct Throughput {
    /// Shots put into the log.
    pub shots: u64,
    /// Shots put into the log a second, by one process that simulates them.
    pub published_per_second: f64,
    /// The stages.
    pub stages: Vec<StageCost>,
}

/// What one stage gets done, and what it costs.
#[derive(Debug, Serialize)]
pub struct StageCost {
    /// Its name.
    pub stage: &'static str,
    /// Messages taken.
    pub taken: u64,
    /// Seconds from the first partition opened until nothing was left and progress was saved.
    pub seconds: f64,
    /// CPU seconds, without those of starting.
    pub cpu_seconds: f64,
    /// Messages a second.
    pub per_second: Option<f64>,
    /// Messages a second of CPU time: what one core of its own would take.
    pub per_second_per_core: Option<f64>,
    /// CPU seconds a message.
    pub cpu_seconds_each: Option<f64>,
    /// CPU seconds of starting on empty topics.
    pub start_up_cpu_seconds: f64,
    /// The most memory it had.
    pub peak_memory_mib: f64,
    /// Where the seconds went.
    pub time: Time,
    /// CPU seconds by kind of thread, those of starting among them; looked at ten times a second.
    pub cpu_by_thread: BTreeMap<String, f64>,
}

/// Where the seconds went: they add up to all of them.
#[derive(Debug, Serialize)]
pub struct Time {
    /// Effects: scoring, explaining, telling.
    pub handle: f64,
    /// Publishing, to the acknowledgement.
    pub publish: f64,
    /// Saving progress.
    pub save: f64,
    /// The rest: fetching, and waiting for messages.
    pub fetch_and_wait: f64,
}

/// Measures the stages one by one.
pub async fn measure(args: &BenchLine, bed: &Bed) -> Result<Throughput> {
    let mut idle = Vec::new();
    for stage in STAGES {
        idle.push(StageProcess::start(bed, stage, true)?.ended().await?.cpu);
    }
    say(format_args!("  putting {} shots into the log", args.shots));
    let began = Instant::now();
    let shots = bed.publish(plant(args.machines, 1).take(args.shots as usize)).await?;
    let published_per_second = shots as f64 / began.elapsed().as_secs_f64();
    let mut stages = Vec::new();
    for (stage, idle) in STAGES.into_iter().zip(idle) {
        say(format_args!("  {} at work", stage.as_str()));
        let ended = StageProcess::start(bed, stage, true)?.ended().await?;
        stages.push(cost(stage, &ended, idle)?);
    }
    Ok(Throughput { shots, published_per_second, stages })
}

/// Shots of a simulated plant, each once.
pub fn plant(
    machines: u16,
    seed: u64,
) -> impl Iterator<Item = Result<castwatch_core::Outgoing, serde_json::Error>> {
    let settings = SimSettings { seed, machines: machines.into(), duplicates: 0.0, ..SimSettings::default() };
    Simulator::new(settings).map(|simulated| simulated.outgoing())
}

fn cost(stage: StageName, ended: &Ended, idle: f64) -> Result<StageCost> {
    let seen = &ended.seen;
    let (first, drained) = seen
        .opened
        .values()
        .min()
        .zip(seen.drained)
        .with_context(|| format!("the {} did not say when it worked", stage.as_str()))?;
    let spent = seen.spent.with_context(|| format!("the {} did not say what it did", stage.as_str()))?;
    let seconds = drained.duration_since(first.0).as_secs_f64();
    let cpu_seconds = (ended.cpu - idle).max(0.0);
    let taken = Some(spent.taken as f64).filter(|taken| *taken > 0.0);
    let per = |under: f64| taken.map(|taken| taken / under).filter(|per| per.is_finite());
    Ok(StageCost {
        stage: stage.as_str(),
        taken: spent.taken,
        seconds,
        cpu_seconds,
        per_second: per(seconds),
        per_second_per_core: per(cpu_seconds),
        cpu_seconds_each: taken.map(|taken| cpu_seconds / taken),
        start_up_cpu_seconds: idle,
        peak_memory_mib: ended.peak_mib,
        time: Time {
            handle: spent.handle,
            publish: spent.publish,
            save: spent.save,
            fetch_and_wait: (seconds - spent.handle - spent.publish - spent.save).max(0.0),
        },
        cpu_by_thread: ended.threads.clone(),
    })
}
