//! `castwatch bench line`: what the line costs on this machine.
//!
//! **It measures the line that plants run**: stages in processes of their own, started from this
//! program, on fresh topics. It says what it found and on what; whether that is enough, it does
//! not say.

mod bed;
mod latency;
mod memory;
mod process;
mod report;
mod throughput;

use std::io::Write;

use anyhow::{Context, Result, bail};
use castwatch_platform::config::Settings;
use castwatch_platform::shutdown::Shutdown;

use self::bed::Bed;
use self::report::{Asked, LineReport, Report};
use crate::cli::{Bench, BenchLine, Measure, On};
use crate::commands::{bundle_dir, out, runtime, say};
use crate::line;

/// Runs a measurement.
pub fn run(command: Bench) -> Result<()> {
    let Bench::Line(args) = command;
    castwatch_platform::telemetry::init("warn", false).context("starting the log")?;
    let report = runtime()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        tokio::select! {
            report = measure(&args) => report,
            () = shutdown.wait() => bail!("stopped before everything was measured"),
        }
    })?;
    if args.json {
        return out(&report);
    }
    write!(std::io::stdout(), "{}", report.table())?;
    Ok(())
}

async fn measure(args: &BenchLine) -> Result<Report> {
    let settings = Settings::load(args.config.as_deref())?;
    let bundle = line::bundle(&bundle_dir(settings.bundle.as_deref())?)?;
    let mut report = Report::new(Asked::from(args), format!("{} {}", bundle.name(), bundle.digest()));
    for on in &args.on {
        report
            .lines
            .push(measure_on(args, *on).await.with_context(|| format!("measuring on {}", on.as_str()))?);
    }
    report.compare();
    Ok(report)
}

/// Measures one line, each part on a bed of its own.
async fn measure_on(args: &BenchLine, on: On) -> Result<LineReport> {
    let mut line = LineReport::new(on);
    for part in [Measure::Throughput, Measure::Latency, Measure::Memory] {
        if !args.wants(part) {
            continue;
        }
        say(format_args!("{}: {}", on.as_str(), format!("{part:?}").to_lowercase()));
        let bed = Bed::make(args.config.as_deref(), on).await?;
        line.stands_on = bed.stands_on();
        let outcome = match part {
            Measure::Throughput => throughput::measure(args, &bed).await.map(|t| line.throughput = Some(t)),
            Measure::Latency => latency::measure(args, &bed).await.map(|l| line.latency = Some(l)),
            Measure::Memory => memory::measure(args, &bed).await.map(|m| line.memory = Some(m)),
        };
        for left in bed.clear().await {
            say(format_args!("  left: {left}"));
        }
        outcome?;
    }
    Ok(line)
}
