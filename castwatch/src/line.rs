//! Where stages meet adapters.
//!
//! **The stages are the same code wherever they run**; what they stand on is in [`Stores`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use castwatch_console::Feed;
use castwatch_core::ports::Forgetful;
use castwatch_core::runner::{Observer, Status, chain};
use castwatch_core::{Runner, RunnerSettings, Stage};
use castwatch_explainer::{ChartSettings, Explainer, Format, Lang};
use castwatch_models::Bundle;
use castwatch_notifier::{Channel, Console, File, Notifier, Secret, Webhook, WebhookSettings};
use castwatch_platform::config::{self, ChannelKind, ChannelSettings, Settings};
use castwatch_platform::telemetry::Observed;
use castwatch_platform::telemetry::health::{self, Readiness, Stages};
use castwatch_platform::telemetry::trace::{Otlp, OtlpSettings};
use castwatch_scorer::Scorer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::StageName;
use crate::stores::{LogInspector, Stores};

/// The longest that a webhook's `Retry-After` is obeyed for; below the budget of a batch.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The stages of one process.
pub struct Line {
    /// What they stand on.
    pub stores: Stores,
    settings: Settings,
    bundle: Arc<Bundle>,
    stop: watch::Receiver<bool>,
    running: JoinSet<Result<()>>,
    statuses: Vec<(StageName, Status)>,
    spans: Option<Arc<Otlp>>,
}

impl Line {
    /// Opens the stores; stages started on them go on until `stop` turns true.
    ///
    /// # Errors
    /// When they can't be used.
    pub async fn open(settings: Settings, bundle: Arc<Bundle>, stop: watch::Receiver<bool>) -> Result<Self> {
        let stores = Stores::open(&settings).await?;
        let spans = settings.telemetry.otlp.as_ref().map(|otlp| {
            Otlp::start(&OtlpSettings {
                endpoint: otlp.endpoint.clone(),
                sample: otlp.sample,
                headers: Vec::new(),
                service: "castwatch".into(),
            })
        });
        let spans = spans.transpose().context("setting up spans")?;
        Ok(Self { stores, settings, bundle, stop, running: JoinSet::new(), statuses: Vec::new(), spans })
    }

    /// Starts the scorer.
    pub fn scorer(&mut self) {
        self.start(StageName::Scorer, Scorer::new(Arc::clone(&self.bundle)));
    }

    /// Starts the explainer.
    pub fn explainer(&mut self) {
        let explainer = Explainer::new(
            Arc::clone(&self.bundle),
            self.stores.records.clone(),
            self.stores.objects.clone(),
            chart_settings(&self.settings.charts),
        );
        self.start(StageName::Explainer, explainer);
    }

    /// Starts the notifier on these channels.
    ///
    /// # Errors
    /// When two channels have one name.
    pub fn notifier(&mut self, channels: Vec<Channel>) -> Result<()> {
        let notifier = Notifier::new(self.stores.records.clone(), channels)?;
        self.start(StageName::Notifier, notifier);
        Ok(())
    }

    /// Starts what keeps the page up to date; it begins near the end of the log each time.
    pub fn feed(&mut self, feed: Feed) {
        // Each page's process watches for itself: a later one does not take over from it.
        let name = format!("{}-{}", feed.name(), std::process::id());
        let consumer = self.stores.log.consumer(&name, &feed.inputs());
        let settings =
            RunnerSettings { start: castwatch_core::ports::Start::Tail(200), ..self.settings.runner() };
        let runner =
            Runner::new(feed, consumer, self.stores.log.clone(), Forgetful, settings, self.stop.clone());
        self.statuses.push((StageName::Console, runner.status()));
        self.spawn("stage console", runner.run());
    }

    fn start<S: Stage + 'static>(&mut self, name: StageName, stage: S) {
        let consumer = self.stores.log.consumer(stage.name(), &stage.inputs());
        let (publisher, snapshots) = (self.stores.log.clone(), self.stores.snapshots.clone());
        let mut runner =
            Runner::new(stage, consumer, publisher, snapshots, self.settings.runner(), self.stop.clone());
        if let Some(spans) = &self.spans {
            runner = runner.observed(Arc::clone(spans) as Arc<dyn Observer>);
        }
        self.statuses.push((name, runner.status()));
        self.spawn(name.as_str(), runner.run());
    }

    /// Serves the page until the line is to stop.
    pub fn pages(&mut self, listener: TcpListener, feed: Feed) {
        let (stages, stall) = (self.stages(), self.settings.telemetry.stall);
        let ready = move || match troubles(&Readiness::of(&stages(), stall)).as_slice() {
            [] => Ok(()),
            troubles => Err(troubles.join("; ")),
        };
        let router = castwatch_console::router(
            feed.clone(),
            self.stores.records.clone(),
            self.stores.objects.clone(),
            ready,
        );
        let ending = self.ending();
        self.spawn("page", castwatch_console::serve(listener, router, feed, ending));
    }

    /// Serves metrics and health until the line is to stop.
    pub fn health(&mut self, listener: TcpListener) {
        let router = health::router(self.stages(), self.settings.telemetry.stall);
        let ending = self.ending();
        self.spawn("metrics", health::serve(listener, router, ending));
    }

    /// The stages started so far, for whoever looks on.
    fn stages(&self) -> Stages {
        let observed: Vec<Observed> = self
            .statuses
            .iter()
            .map(|(name, status)| Observed { stage: name.as_str().into(), status: status.clone() })
            .collect();
        Arc::new(move || observed.clone())
    }

    fn ending(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.clone();
        async move {
            // A sender that is gone means the same as one that says so.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Sends the spans that wait.
    pub async fn finish(&mut self) {
        if let Some(spans) = self.spans.take() {
            spans.shutdown().await;
        }
    }

    /// Says where the time of each stage went.
    pub fn tell(&self) {
        for (name, status) in &self.statuses {
            let meter = status.get().meter;
            tracing::info!(
                stage = name.as_str(),
                taken = meter.tally.taken,
                handle_seconds = meter.handle.sum,
                publish_seconds = meter.publish.sum,
                save_seconds = meter.save.sum,
                "stage ended"
            );
        }
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
    /// When a stage ends instead, or no look at the log can be had.
    pub async fn drained(&mut self, mut tick: impl FnMut(&[Waiting])) -> Result<()> {
        let inspector = self.stores.log.inspector()?;
        loop {
            while let Some(ended) = self.running.try_join_next() {
                ended.context("a part of the line broke off").flatten()?;
            }
            match self.waiting(&inspector).await {
                Ok(waiting) => {
                    tick(&waiting);
                    if waiting.iter().all(|w| w.left == 0) {
                        return Ok(());
                    }
                }
                // The stages wait for a log that is away, and so does this.
                Err(error) => tracing::warn!(error = words(&error), "can't see yet how much is left"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn waiting(&self, inspector: &LogInspector) -> Result<Vec<Waiting>> {
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
            let mut positions: BTreeMap<_, _> = progress
                .partitions
                .iter()
                .map(|(partition, standing)| (partition.clone(), standing.position))
                .collect();
            let extents = inspector.ends(&topic)?;
            if extents.iter().any(|e| !positions.contains_key(&e.partition)) {
                // Another process has them, or had them when it ended.
                for (partition, snapshot) in self.stores.snapshots.of(name.as_str()).await? {
                    positions.entry(partition).or_insert(snapshot.position);
                }
            }
            for extent in extents {
                let at = positions.get(&extent.partition).map_or(extent.first.0, |position| position.0);
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
fn troubles(readiness: &Readiness) -> Vec<String> {
    let stages = readiness.stages.iter().filter(|s| !s.ready);
    stages.map(|s| format!("{}: {}", s.stage, s.reasons.join(", "))).collect()
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
