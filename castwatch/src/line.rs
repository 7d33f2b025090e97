//! Where stages meet adapters: the line on the embedded log.
//!
//! **The stages are the same code wherever they run**; only this module knows that the log is one
//! SQLite file and the charts a folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use castwatch_console::Feed;
use castwatch_core::ports::Forgetful;
use castwatch_core::runner::{Status, chain};
use castwatch_core::{Runner, RunnerSettings, Stage};
use castwatch_explainer::{ChartSettings, Explainer, Format, Lang};
use castwatch_models::Bundle;
use castwatch_notifier::{Channel, Console, File, Notifier, Secret, Webhook, WebhookSettings};
use castwatch_platform::config::{self, ChannelKind, ChannelSettings, Settings};
use castwatch_platform::{Embedded, Folder};
use castwatch_scorer::Scorer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::StageName;

/// The longest that a webhook's `Retry-After` is obeyed for; below the budget of a batch.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The stages of one process, on one data folder.
pub struct Line {
    /// The log, the records and the claims.
    pub log: Arc<Embedded>,
    /// The charts.
    pub charts: Folder,
    settings: Settings,
    bundle: Arc<Bundle>,
    stop: watch::Receiver<bool>,
    running: JoinSet<Result<()>>,
    statuses: Vec<(StageName, Status)>,
}

impl Line {
    /// Opens the data folder; stages started on it go on until `stop` turns true.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn open(settings: Settings, bundle: Arc<Bundle>, stop: watch::Receiver<bool>) -> Result<Self> {
        let log = Embedded::open_with(&settings.data, settings.embedded())
            .with_context(|| format!("opening the log in {}", settings.data.display()))?;
        let charts = charts(&settings.data);
        let running = JoinSet::new();
        Ok(Self { log, charts, settings, bundle, stop, running, statuses: Vec::new() })
    }

    /// Starts the scorer.
    pub fn scorer(&mut self) {
        self.start(StageName::Scorer, Scorer::new(Arc::clone(&self.bundle)));
    }

    /// Starts the explainer.
    pub fn explainer(&mut self) {
        let explainer = Explainer::new(
            Arc::clone(&self.bundle),
            Arc::clone(&self.log),
            self.charts.clone(),
            chart_settings(&self.settings.charts),
        );
        self.start(StageName::Explainer, explainer);
    }

    /// Starts the notifier on these channels.
    ///
    /// # Errors
    /// When two channels have one name.
    pub fn notifier(&mut self, channels: Vec<Channel>) -> Result<()> {
        let notifier = Notifier::new(Arc::clone(&self.log), channels)?;
        self.start(StageName::Notifier, notifier);
        Ok(())
    }

    /// Starts what keeps the page up to date; it begins near the end of the log each time.
    pub fn feed(&mut self, feed: Feed) {
        // Each page's process watches for itself: a later one does not take over from it.
        let name = format!("{}-{}", feed.name(), std::process::id());
        let consumer = self.log.consumer(&name, &feed.inputs());
        let settings =
            RunnerSettings { start: castwatch_core::ports::Start::Tail(200), ..self.settings.runner() };
        let runner =
            Runner::new(feed, consumer, Arc::clone(&self.log), Forgetful, settings, self.stop.clone());
        self.statuses.push((StageName::Console, runner.status()));
        self.spawn("stage console", runner.run());
    }

    fn start<S: Stage + 'static>(&mut self, name: StageName, stage: S) {
        let consumer = self.log.consumer(stage.name(), &stage.inputs());
        let (publisher, snapshots) = (Arc::clone(&self.log), Arc::clone(&self.log));
        let runner =
            Runner::new(stage, consumer, publisher, snapshots, self.settings.runner(), self.stop.clone());
        self.statuses.push((name, runner.status()));
        self.spawn(name.as_str(), runner.run());
    }

    /// Serves the page until the line is to stop.
    pub fn pages(&mut self, listener: TcpListener, feed: Feed) {
        let statuses = self.statuses.clone();
        let ready = move || match troubles(&statuses).as_slice() {
            [] => Ok(()),
            troubles => Err(troubles.join("; ")),
        };
        let router =
            castwatch_console::router(feed.clone(), Arc::clone(&self.log), self.charts.clone(), ready);
        let mut stop = self.stop.clone();
        let ending = async move {
            // A sender that is gone means the same as one that says so.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        self.spawn("page", castwatch_console::serve(listener, router, feed, ending));
    }

    fn spawn<E>(&mut self, name: &str, work: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<anyhow::Error> + Send + 'static,
    {
        let name = name.to_owned();
        self.running.spawn(async move {
            let ended: Result<()> = work.await.map_err(Into::into);
            ended.with_context(|| format!("{name} stopped"))
        });
    }

    /// Waits for the next part of the line to end; `None` when none is left.
    pub async fn ended(&mut self) -> Option<Result<()>> {
        let ended = self.running.join_next().await?;
        Some(ended.context("a part of the line broke off").flatten())
    }

    /// Waits until every stage that was started has taken everything that is in the log.
    ///
    /// # Errors
    /// When a stage ends instead, or the log can't be looked at.
    pub async fn drained(&mut self, mut tick: impl FnMut(&[Waiting])) -> Result<()> {
        let inspector = self.log.inspector()?;
        loop {
            while let Some(ended) = self.running.try_join_next() {
                ended.context("a part of the line broke off").flatten()?;
            }
            let waiting = self.waiting(&inspector)?;
            tick(&waiting);
            if waiting.iter().all(|w| w.left == 0) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn waiting(&self, inspector: &castwatch_platform::Inspector) -> Result<Vec<Waiting>> {
        let mut all = Vec::new();
        for (name, status) in &self.statuses {
            let progress = status.get();
            let topic = match name {
                StageName::Scorer => castwatch_core::Topic::SHOTS,
                StageName::Explainer => castwatch_core::Topic::DEFECTS,
                StageName::Notifier => castwatch_core::Topic::EXPLANATIONS,
                StageName::Console => continue,
            };
            let mut waiting = Waiting { stage: *name, done: 0, left: 0, trouble: progress.trouble };
            for extent in inspector.ends(&topic)? {
                let at = progress.partitions.get(&extent.partition).map_or(0, |standing| standing.position.0);
                waiting.done += at;
                waiting.left += extent.next.0.saturating_sub(at);
            }
            all.push(waiting);
        }
        Ok(all)
    }
}

/// How far a stage is.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The stage.
    pub stage: StageName,
    /// Messages behind it.
    pub done: u64,
    /// Messages before it.
    pub left: u64,
    /// Why it is not getting on.
    pub trouble: Option<String>,
}

/// Why the line is not ready, stage by stage; nothing when it is.
fn troubles(statuses: &[(StageName, Status)]) -> Vec<String> {
    statuses
        .iter()
        .filter_map(|(name, status)| status.get().trouble.map(|t| format!("{}: {t}", name.as_str())))
        .collect()
}

/// Where the charts of a data folder lie.
pub fn charts(data: &Path) -> Folder {
    Folder::new(data.join("objects"))
}

/// Loads a bundle and says in one line what it is.
///
/// # Errors
/// When it is not sound.
pub fn bundle(dir: &Path) -> Result<Arc<Bundle>> {
    let bundle = Bundle::load(dir).with_context(|| format!("loading the model bundle {}", dir.display()))?;
    tracing::info!(name = bundle.name(), digest = bundle.digest(), "model bundle loaded");
    Ok(Arc::new(bundle))
}

fn chart_settings(charts: &config::Charts) -> ChartSettings {
    let language = match charts.language {
        config::Language::Ko => Lang::Ko,
        config::Language::En => Lang::En,
    };
    let format = |format: &config::Format| match format {
        config::Format::Svg => Format::Svg,
        config::Format::Png => Format::Png,
    };
    ChartSettings {
        language,
        formats: charts.formats.iter().map(format).collect(),
        ..ChartSettings::default()
    }
}

/// Opens the channels of the settings.
///
/// # Errors
/// When a file can't be opened, or a webhook's settings can't work.
pub fn channels(settings: &[ChannelSettings]) -> Result<Vec<Channel>> {
    settings.iter().map(channel).collect()
}

fn channel(settings: &ChannelSettings) -> Result<Channel> {
    let channel = match &settings.kind {
        ChannelKind::Console => Ok(Channel::Console(Console::new(&settings.name, std::io::stdout()))),
        ChannelKind::File { path } => {
            File::open(&settings.name, path).map(Channel::File).map_err(anyhow::Error::from)
        }
        ChannelKind::Webhook { url, secrets, timeout } => webhook(&settings.name, url, secrets, *timeout),
    };
    channel.with_context(|| format!("opening the channel `{}`", settings.name))
}

fn webhook(name: &str, url: &str, secrets: &[config::Secret], timeout: Duration) -> Result<Channel> {
    let secrets = secrets.iter().map(|s| s.expose().parse()).collect::<Result<Vec<Secret>, _>>()?;
    let settings = WebhookSettings {
        name: name.to_owned(),
        url: url.to_owned(),
        secrets,
        timeout,
        longest_wait: LONGEST_RETRY_AFTER,
    };
    Ok(Channel::Webhook(Webhook::new(settings)?))
}

/// An error for a person: each cause once.
pub fn words(error: &anyhow::Error) -> String {
    chain(error.as_ref())
}
