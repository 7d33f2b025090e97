//! `castwatch run`: stages of the line until told to stop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use castwatch_console::{Feed, FeedSettings};
use castwatch_platform::shutdown::Shutdown;

use crate::cli::{Run, StageName};
use crate::commands::{bundle_dir, runtime, say, settings};
use crate::line::{self, Line};

/// How often a run says how far it is.
const REPORT: Duration = Duration::from_secs(5);

/// Runs the stages; returns when they were told to stop, or with the first error of one.
pub fn run(args: Run) -> Result<()> {
    let settings = settings(&args.common)?;
    castwatch_platform::telemetry::init(&settings.log.filter, settings.log.json)
        .context("starting the log")?;
    runtime()?.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let bundle = line::bundle(&bundle_dir(args.bundle.as_deref().or(settings.bundle.as_deref()))?)?;
        let listen = args.listen.unwrap_or(settings.listen);
        let channels = settings.channels();
        let (open, metrics) = (settings.listen_open, settings.telemetry.listen);
        let mut line = Line::open(settings, bundle, shutdown.watch()).await?;
        let mut stages = args.stages.clone();
        stages.sort_unstable();
        stages.dedup();
        let mut pages = None;
        for stage in &stages {
            match stage {
                StageName::Scorer => line.scorer(),
                StageName::Explainer => line.explainer(),
                StageName::Notifier => line.notifier(line::channels(&channels)?)?,
                StageName::Console => {
                    castwatch_console::check_address(listen, open)?;
                    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| {
                        format!("listening on {listen}; choose another address with --listen")
                    })?;
                    say(format_args!("castwatch: the page is http://{}/", listener.local_addr()?));
                    let feed = Feed::new(FeedSettings::default());
                    line.feed(feed.clone());
                    pages = Some((listener, feed));
                }
            }
        }
        if let Some((listener, feed)) = pages {
            line.pages(listener, feed);
        }
        if let Some(address) = metrics {
            let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
                format!("listening on {address} for metrics; `telemetry.listen` names another address")
            })?;
            say(format_args!("castwatch: metrics and health at http://{}/", listener.local_addr()?));
            line.health(listener);
        }
        work(&mut line, &shutdown, args.drain).await
    })
}

async fn work(line: &mut Line, shutdown: &Shutdown, drain: bool) -> Result<()> {
    let began = Instant::now();
    let drained = if drain {
        let mut said = Instant::now();
        tokio::select! {
            drained = line.drained(|waiting| {
                if said.elapsed() >= REPORT {
                    said = Instant::now();
                    for w in waiting {
                        tracing::info!(stage = w.stage.as_str(), done = w.done, left = w.left, trouble = w.trouble, "progress");
                    }
                }
            }) => drained,
            () = shutdown.wait() => Ok(()),
        }
    } else {
        // One part that ends, ends the process, so that whoever watches it sees.
        line.ended().await.unwrap_or(Ok(()))
    };
    shutdown.trigger();
    let mut outcome = drained;
    while let Some(ended) = line.ended().await {
        outcome = outcome.and(ended);
    }
    line.finish().await;
    line.tell();
    if drain && outcome.is_ok() {
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "drained");
    }
    outcome
}
