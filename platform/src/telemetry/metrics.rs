//! The metrics of a process in Prometheus' text format.
//!
//! **Nothing is measured here**: runners count as they go, and this writes down what they counted when
//! somebody asks. Counts begin at zero with the process; `castwatch_books_messages` is what is saved
//! with the positions and survives restarts.

use std::fmt;
use std::time::Duration;

use castwatch_core::ports::Tally;
use castwatch_core::runner::{BOUNDS, Histogram, Progress};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Observed;

/// What [`text`] is, for the answer's `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Gives a count of a stage.
type Count = fn(&Progress) -> u64;
/// Gives the times of something a stage does.
type Times = fn(&Progress) -> &Histogram;
type Labels = Vec<(&'static str, String)>;

/// Everything there is to scrape. A partition that stands still for `stall` with messages waiting
/// makes its stage not ready.
#[must_use]
pub fn text(observed: &[Observed], stall: Duration) -> String {
    let stages = observed.iter().map(|o| (o.stage.clone(), o.status.get())).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { stages, stall }));
    let mut text = String::new();
    // Writing to a string does not fail. The marker that ends OpenMetrics is left out: this is the
    // older format, which everything that scrapes can read.
    let _ = text::encode_registry(&mut text, &registry);
    text
}

/// One moment of all stages.
#[derive(Debug)]
struct Scrape {
    stages: Vec<(String, Progress)>,
    stall: Duration,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.counters(&mut page)?;
        self.partitions(&mut page)?;
        self.histograms(&mut page)?;
        process(&mut page)
    }
}

impl Scrape {
    fn counters(&self, page: &mut Page<'_>) -> fmt::Result {
        let ready = |p: &Progress| u64::from(p.ready(self.stall).is_ok());
        page.family(GAUGE, "castwatch_ready", "Whether the stage gets on", self.each(ready))?;
        let messages = self.stages.iter().flat_map(|(stage, progress)| {
            outcomes(&progress.meter.tally)
                .map(|(outcome, n)| (of(stage, [("outcome", outcome.to_owned())]), n))
        });
        let name = "castwatch_messages_total";
        page.family(COUNTER, name, "Messages finished, by what became of them", messages)?;
        let of_meter: [(&str, &str, Count); 6] = [
            ("castwatch_events_published_total", "Events published and acknowledged", |p| p.meter.published),
            ("castwatch_state_saved_bytes_total", "Bytes of state saved", |p| p.meter.saved_bytes),
            ("castwatch_retries_total", "Times that something failed and was tried again", |p| {
                p.meter.retries
            }),
            ("castwatch_fenced_total", "Times that another owner had taken a partition over", |p| {
                p.meter.fenced
            }),
            ("castwatch_partitions_opened_total", "Times that a partition was opened", |p| p.meter.opened),
            ("castwatch_batches_total", "Batches, or parts of them, that were handled", |p| {
                p.meter.handle.count
            }),
        ];
        for (name, help, get) in of_meter {
            page.family(COUNTER, name, help, self.each(get))?;
        }
        let unopened = self.each(|p| p.unopened.len() as u64);
        page.family(GAUGE, "castwatch_partitions_unopened", "Partitions assigned that are not open", unopened)
    }

    fn partitions(&self, page: &mut Page<'_>) -> fmt::Result {
        let standings = || {
            self.stages.iter().flat_map(|(stage, progress)| {
                progress.partitions.iter().map(move |(partition, standing)| {
                    let place =
                        [("topic", partition.topic.to_string()), ("partition", partition.index.to_string())];
                    (of(stage, place), standing)
                })
            })
        };
        let at = standings().map(|(place, standing)| (place, standing.position.0));
        page.family(GAUGE, "castwatch_position", "The next message to take", at)?;
        let saved = standings().map(|(place, standing)| (place, standing.saved.0));
        page.family(GAUGE, "castwatch_saved_position", "Where a restart would go on", saved)?;
        let lag = standings().filter_map(|(place, standing)| {
            standing.end.map(|end| (place, end.0.saturating_sub(standing.position.0)))
        });
        page.family(GAUGE, "castwatch_lag_messages", "Messages that wait, as far as it is known", lag)?;
        let books = standings().flat_map(|(place, standing)| {
            let taken = ("taken", standing.tally.taken);
            outcomes(&standing.tally).into_iter().chain([taken]).map(move |(outcome, n)| {
                let mut labels = place.clone();
                labels.push(("outcome", outcome.to_owned()));
                (labels, n)
            })
        });
        let help = "The books of a partition since its beginning: taken is done, duplicate and dead_letter";
        page.family(GAUGE, "castwatch_books_messages", help, books)
    }

    fn histograms(&self, page: &mut Page<'_>) -> fmt::Result {
        let all: [(&str, &str, Times); 4] = [
            ("castwatch_handle_seconds", "The effects of a batch", |p| &p.meter.handle),
            ("castwatch_publish_seconds", "Publishing a batch's events, to the acknowledgement", |p| {
                &p.meter.publish
            }),
            ("castwatch_save_seconds", "Saving one partition's progress", |p| &p.meter.save),
            (
                "castwatch_message_age_seconds",
                "From when the log took a message to when it was finished",
                |p| &p.meter.age,
            ),
        ];
        for (name, help, get) in all {
            let mut encoder = page.begin(name, help, MetricType::Histogram)?;
            for (stage, progress) in &self.stages {
                let histogram = get(progress);
                // The library takes the largest number for "and everything above".
                let bounds = BOUNDS.into_iter().chain([f64::MAX]);
                let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
                encoder.encode_family(&of(stage, []))?.encode_histogram::<NoLabelSet>(
                    histogram.sum,
                    histogram.count,
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    /// One value a stage.
    fn each(&self, get: impl Fn(&Progress) -> u64) -> impl Iterator<Item = (Labels, u64)> {
        self.stages.iter().map(move |(stage, progress)| (of(stage, []), get(progress)))
    }
}

/// The labels of a stage and what else there is.
fn of<const N: usize>(stage: &str, more: [(&'static str, String); N]) -> Labels {
    std::iter::once(("stage", stage.to_owned())).chain(more).collect()
}

const fn outcomes(tally: &Tally) -> [(&'static str, u64); 4] {
    [
        ("done", tally.done),
        ("duplicate", tally.duplicates),
        ("dead_letter", tally.dead_letters),
        ("missed", tally.missed),
    ]
}

/// What of the process itself is worth a graph; on Linux alone, and as Prometheus' own clients call it.
fn process(page: &mut Page<'_>) -> fmt::Result {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.family(GAUGE, "castwatch_build_info", "Always 1; which castwatch this is", [(version, 1_u64)])?;
    let Ok(me) = procfs::process::Process::myself() else { return Ok(()) };
    if let Ok(stat) = me.stat() {
        let ticks = procfs::ticks_per_second() as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        page.one(COUNTER, "process_cpu_seconds_total", "CPU time, user and system", cpu)?;
        let rss = (stat.rss * procfs::page_size()) as f64;
        page.one(GAUGE, "process_resident_memory_bytes", "Resident memory", rss)?;
        page.one(GAUGE, "process_virtual_memory_bytes", "Virtual memory", stat.vsize as f64)?;
        page.one(GAUGE, "process_threads", "Threads", stat.num_threads as f64)?;
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = boot as f64 + stat.starttime as f64 / ticks;
            page.one(GAUGE, "process_start_time_seconds", "When the process began, since 1970", start)?;
        }
    }
    if let Ok(open) = me.fd_count() {
        page.one(GAUGE, "process_open_fds", "Open file descriptors", open as f64)?;
    }
    if let Ok(limits) = me.limits()
        && let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit
    {
        page.one(GAUGE, "process_max_fds", "The most file descriptors there may be", most as f64)?;
    }
    Ok(())
}

const GAUGE: MetricType = MetricType::Gauge;
const COUNTER: MetricType = MetricType::Counter;

/// Writes one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    /// Counters are written as gauges are: their names end in `_total` already, also where the format
    /// names their type.
    fn family<V: EncodeGaugeValue>(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(name, help, kind)?;
        for (labels, value) in values {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn one(&mut self, kind: MetricType, name: &str, help: &str, value: f64) -> fmt::Result {
        self.begin(name, help, kind)?.encode_gauge(&value)
    }
}
