//! From shot to verdict and to alert, at a given rate.
//!
//! **Both ends are by the log's clock**: when it took the shot and when it took the verdict or the
//! alert. Nothing is left out: the first shots, at stages that have just started, count too.

use std::time::{Duration, Instant};

use anyhow::Result;
use castwatch_core::{Publisher, Topic};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::bed::Bed;
use super::process::StageProcess;
use super::throughput::{STAGES, plant};
use crate::cli::BenchLine;
use crate::commands::say;

/// Shots that are due are published together, so often.
const TICK: Duration = Duration::from_millis(5);
/// How long the line may take to finish what is in the log at the end.
const DRAIN: Duration = Duration::from_secs(60);
/// Below this share of the rate asked for, the generator did not keep it.
const KEPT: f64 = 0.99;

/// How long shots took.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Shots a second asked for.
    pub rate_asked: f64,
    /// Shots a second published.
    pub rate: f64,
    /// Whether that is what was asked for.
    pub rate_kept: bool,
    /// By so much a shot was published too late, at most.
    pub published_late_ms: f64,
    /// Shots published.
    pub shots: u64,
    /// From shot to verdict.
    pub verdict: Waits,
    /// From shot to alert, of the defects among them.
    pub alert: Waits,
    /// Whether the line finished what was in the log; else `verdict` and `alert` lack the slowest.
    pub drained: bool,
    /// CPU seconds a second of each stage while shots were published.
    pub cores: Vec<(&'static str, f64)>,
}

/// How long, in milliseconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Waits {
    /// Of so many.
    pub count: usize,
    /// Half of them took no longer.
    pub p50: Option<i64>,
    /// 99 % of them took no longer.
    pub p99: Option<i64>,
    /// 99.9 % of them took no longer.
    pub p999: Option<i64>,
    /// The longest.
    pub max: Option<i64>,
}

impl Waits {
    /// Of waits in rising order.
    fn of(waits: &[i64]) -> Self {
        let at = |part| percentile(waits, part);
        Self { count: waits.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: waits.last().copied() }
    }
}

/// The smallest value that `part` of all, which rise, do not exceed.
fn percentile(rising: &[i64], part: f64) -> Option<i64> {
    // A hair below, so that 0.999 of 1,000 is 999 and not the next one above its rounding.
    let rank = (part * rising.len() as f64 - 1e-9).ceil() as usize;
    rising.get(rank.saturating_sub(1)).copied()
}

/// Runs the line at the rate asked for.
pub async fn measure(args: &BenchLine, bed: &Bed) -> Result<Latency> {
    let mut running = Vec::new();
    for stage in STAGES {
        running.push(StageProcess::start(bed, stage, false)?);
    }
    for stage in &mut running {
        stage.opened(bed.partitions()).await?;
    }
    say(format_args!("  {} shots a second for {:?}", args.rate, args.duration));
    let before = running.iter().map(StageProcess::cpu).collect::<Result<Vec<_>>>()?;
    let sent = send(args, bed).await?;
    let mut cores = Vec::new();
    for ((name, stage), before) in STAGES.iter().zip(&running).zip(before) {
        cores.push((name.as_str(), (stage.cpu()? - before) / sent.seconds));
    }
    let drained = drained(bed).await?;
    for stage in running {
        stage.stop().await?;
    }
    let inspector = bed.stores.log.inspector()?;
    let rate = sent.shots as f64 / sent.seconds;
    Ok(Latency {
        rate_asked: args.rate,
        rate,
        rate_kept: rate >= args.rate * KEPT,
        published_late_ms: sent.late.as_secs_f64() * 1000.0,
        shots: sent.shots,
        verdict: Waits::of(&inspector.waits(&Topic::SHOTS, &Topic::SCORES)?),
        alert: Waits::of(&inspector.waits(&Topic::SHOTS, &Topic::ALERTS)?),
        drained,
        cores,
    })
}

struct Sent {
    shots: u64,
    seconds: f64,
    late: Duration,
}

/// Publishes what is due, until the time is over.
async fn send(args: &BenchLine, bed: &Bed) -> Result<Sent> {
    let mut plant = plant(args.machines, 2);
    let (mut shots, mut late) = (0, Duration::ZERO);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    loop {
        ticks.tick().await;
        let now = began.elapsed().min(args.duration);
        let due = (now.as_secs_f64() * args.rate) as u64;
        let events = plant.by_ref().take((due - shots) as usize).collect::<Result<Vec<_>, _>>()?;
        if !events.is_empty() {
            bed.stores.log.publish(&events).await?;
            // The first of them waited the longest.
            let first_due = Duration::from_secs_f64(shots as f64 / args.rate);
            late = late.max(began.elapsed().saturating_sub(first_due));
            shots = due;
        }
        if now == args.duration {
            return Ok(Sent { shots, seconds: began.elapsed().as_secs_f64(), late });
        }
    }
}

/// Waits until every stage has saved that it took everything; `false` when that takes too long.
async fn drained(bed: &Bed) -> Result<bool> {
    let began = Instant::now();
    let inspector = bed.stores.log.inspector()?;
    for (stage, topic) in STAGES.into_iter().zip([Topic::SHOTS, Topic::DEFECTS, Topic::EXPLANATIONS]) {
        loop {
            let saved = bed.stores.snapshots.of(stage.as_str()).await?;
            let done = |extent: &castwatch_platform::embedded::Extent| {
                let at = saved.iter().find(|(partition, _)| *partition == extent.partition);
                at.map_or(extent.first, |(_, snapshot)| snapshot.position) >= extent.next
            };
            if inspector.ends(&topic)?.iter().all(done) {
                break;
            }
            if began.elapsed() >= DRAIN {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values_and_holds_for_its_part() {
        let thousand: Vec<i64> = (1..=1000).collect();
        assert_eq!(percentile(&thousand, 0.5), Some(500));
        assert_eq!(percentile(&thousand, 0.99), Some(990));
        assert_eq!(percentile(&thousand, 0.999), Some(999));
        assert_eq!(percentile(&thousand, 1.0), Some(1000));
        assert_eq!(percentile(&[7], 0.5), Some(7));
        assert_eq!(percentile(&[1, 2, 3], 0.99), Some(3));
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(Waits::of(&[]), Waits { count: 0, p50: None, p99: None, p999: None, max: None });
    }
}
