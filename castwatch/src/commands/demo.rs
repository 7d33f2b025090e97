//! `castwatch demo`: a whole plant in one process, and the proof that nothing was lost.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use castwatch_console::{Feed, FeedSettings};
use castwatch_core::event::Topic;
use castwatch_core::ports::Publisher;
use castwatch_ingest::{SimSettings, Simulator};
use castwatch_notifier::{Channel, Console, File};
use castwatch_platform::shutdown::Shutdown;
use serde::Serialize;

use super::books::{self, Report};
use crate::cli::Demo;
use crate::commands::{bundle_dir, out, runtime, say, settings};
use crate::line::{self, Line};
use crate::stores::{Log, LogInspector};

/// One message in so many is broken, so that dead letters are seen.
const BROKEN: f64 = 0.005;
/// How long the line may take to finish what is in the log at the end.
const DRAIN: Duration = Duration::from_secs(60);

/// What a demo did.
#[derive(Debug, Serialize)]
struct Outcome {
    seconds: f64,
    page: String,
    data: PathBuf,
    bundle: String,
    messages: u64,
    shots: u64,
    scores: u64,
    defects: u64,
    records: u64,
    charts: u64,
    alerts: u64,
    dead_letters: u64,
    duplicates: u64,
    shots_per_second: f64,
    latency_ms: Latency,
    books: Report,
}

/// From the shot in the log to its alert in the log.
#[derive(Debug, Serialize)]
struct Latency {
    alerts: usize,
    p50: Option<i64>,
    p99: Option<i64>,
    max: Option<i64>,
}

/// Runs the demo; `false` when the books do not balance.
pub fn run(args: Demo) -> Result<bool> {
    let mut settings = settings(&args.common)?;
    let kept = args.common.data.is_some();
    if !kept {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        settings.data =
            std::env::temp_dir().join(format!("castwatch-demo-{}-{}", std::process::id(), now.as_nanos()));
    } else if settings.data.join(castwatch_platform::embedded::FILE).exists() {
        // The same seed would send the same shots again, and the counts would be of both.
        bail!("{} holds a log already: a demo needs a folder of its own", settings.data.display());
    }
    castwatch_platform::telemetry::init("warn", false).context("starting the log")?;
    castwatch_console::check_address(args.listen, settings.listen_open)?;
    let data = settings.data.clone();
    let outcome = runtime()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let bundle = line::bundle(&bundle_dir(args.bundle.as_deref())?)?;
        let digest = bundle.digest().to_owned();
        // The line goes on after Ctrl-C until what is in the log is finished.
        let stop = Shutdown::new();
        let mut line = Line::open(settings, bundle, stop.watch()).await?;
        play(args.clone(), &mut line, &shutdown, &stop, digest, &data).await
    });
    if !kept {
        // A folder of our own making, by process id; what can't be removed is only litter.
        let _ = std::fs::remove_dir_all(&data);
    }
    let outcome = outcome?;
    let balanced = outcome.books.balanced;
    if args.common.json {
        out(&outcome)?;
    } else {
        tell(&outcome, kept)?;
    }
    Ok(balanced)
}

async fn play(
    args: Demo,
    line: &mut Line,
    shutdown: &Shutdown,
    stop: &Shutdown,
    bundle: String,
    data: &Path,
) -> Result<Outcome> {
    let listener = tokio::net::TcpListener::bind(args.listen).await.with_context(|| {
        format!("listening on {}; give another address with --listen, such as 127.0.0.1:0", args.listen)
    })?;
    let page = format!("http://{}/", listener.local_addr()?);
    let feed = Feed::new(FeedSettings::default());
    let mut channels = vec![Channel::File(File::open("file", data.join("alerts.jsonl"))?)];
    if !args.common.json {
        channels.push(Channel::Console(Console::new("console", std::io::stdout())));
    }
    line.scorer();
    line.explainer();
    line.notifier(channels)?;
    line.feed(feed.clone());
    line.pages(listener, feed);
    say(format_args!(
        "castwatch demo: {} machines, {} shots a second; the page is {page}",
        args.machines, args.rate
    ));
    say(format_args!(
        "{}",
        args.duration.map_or("Ctrl-C ends it.".into(), |d| format!("It ends after {d:?}, or with Ctrl-C."))
    ));

    let began = Instant::now();
    let over = args.duration;
    let ending = Shutdown::new();
    let mut cast = tokio::spawn(cast(args, line.stores.log.clone(), ending.clone()));
    let over = async {
        match over {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        cast = &mut cast => drop(cast??),
        () = over => {}
        () = shutdown.wait() => say("Finishing what is in the log; Ctrl-C again ends at once."),
        ended = line.ended() => ended.unwrap_or(Ok(()))?,
    }
    let seconds = began.elapsed().as_secs_f64();
    ending.trigger();
    let sent = if cast.is_finished() { 0 } else { cast.await?? };
    let drained = tokio::time::timeout(DRAIN, line.drained(|_| {})).await;
    drained.context("the line did not finish what is in the log")??;
    stop.trigger();
    while let Some(ended) = line.ended().await {
        ended?;
    }
    let report = books::audit(&line.stores).await?;
    let latency = latency(&line.stores.log.inspector()?)?;
    let taken = report.stages.first().map(|s| s.tally).unwrap_or_default();
    Ok(Outcome {
        seconds,
        page,
        data: data.to_owned(),
        bundle,
        messages: report.log.shot_messages,
        shots: report.log.shots,
        scores: report.log.scores,
        defects: report.log.defects,
        records: report.log.records,
        charts: report.log.charts,
        alerts: report.log.alerts,
        dead_letters: report.log.dead_letters,
        duplicates: taken.duplicates,
        shots_per_second: sent as f64 / seconds,
        latency_ms: latency,
        books: report,
    })
}

/// The plant: puts simulated messages into the log at the rate asked for, until it is told to
/// end; returns how many.
async fn cast(args: Demo, log: Log, ending: Shutdown) -> Result<u64> {
    let plant = SimSettings {
        seed: args.seed,
        machines: args.machines.into(),
        broken: BROKEN,
        ..SimSettings::default()
    };
    let began = tokio::time::Instant::now();
    let mut sent = 0_u64;
    for message in Simulator::new(plant) {
        let due = began + Duration::from_secs_f64(sent as f64 / args.rate.max(0.001));
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = ending.wait() => break,
        }
        log.publish(&[message.outgoing()?]).await?;
        sent += 1;
    }
    Ok(sent)
}

fn latency(inspector: &LogInspector) -> Result<Latency> {
    let waits = inspector.waits(&Topic::SHOTS, &Topic::ALERTS)?;
    let at = |part: f64| {
        waits.get(((waits.len() as f64 * part) as usize).min(waits.len().saturating_sub(1))).copied()
    };
    Ok(Latency { alerts: waits.len(), p50: at(0.5), p99: at(0.99), max: waits.last().copied() })
}

fn tell(outcome: &Outcome, kept: bool) -> Result<()> {
    let mut screen = std::io::stdout().lock();
    writeln!(screen, "\n{}", books::table(&outcome.books))?;
    let l = &outcome.latency_ms;
    if let (Some(p50), Some(p99), Some(max)) = (l.p50, l.p99, l.max) {
        writeln!(
            screen,
            "From shot to alert: p50 {p50} ms, p99 {p99} ms, longest {max} ms, over {} alerts.",
            l.alerts
        )?;
    }
    if kept {
        writeln!(
            screen,
            "Kept in {}; `castwatch books --data {}` counts again.",
            outcome.data.display(),
            outcome.data.display()
        )?;
    } else {
        writeln!(screen, "Nothing was kept; `--data DIR` keeps the log, the records and the charts.")?;
    }
    Ok(())
}
