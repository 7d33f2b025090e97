//! Rows into the log.
//!
//! **Each row is published once it is durable, as a shot or as a dead letter, in the order of the
//! table**; [`Summary::next_row`] is the first row that may not be. Going on from there after an
//! interruption may publish rows of the last batch again: their ids are the same, so whoever reads
//! them can tell.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use castwatch_core::backoff::{Backoff, Patience};
use castwatch_core::event::trace_root;
use castwatch_core::runner::{chain, dlq};
use castwatch_core::{Event, Outgoing, PortError, Publisher, Topic};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::row::{Row, RowError};

/// The stage in dead letters.
pub const STAGE: &str = "ingest";
/// The `source` of ingested events.
pub const SOURCE: &str = "/castwatch/ingest";
/// The attribute of a dead letter that names the file it came from.
pub const DLQ_FILE: &str = "dlqfile";
/// The attribute of a dead letter that numbers its row in the file, from 1.
pub const DLQ_ROW: &str = "dlqrow";
/// How many reasons for refusals a summary keeps.
const REASONS: usize = 5;
/// How long rows wait for others to share their publish: a shot that is piped in live is judged
/// within a second.
const LINGER: Duration = Duration::from_millis(100);
/// The longest wait between two rows at `speed`: a broken clock must not stop the pump for good.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 86_400);

/// How rows are pumped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PumpSettings {
    /// So many times as fast as the shots' own clock; as fast as can be without it.
    pub speed: Option<f64>,
    /// The most rows in one publish.
    pub batch: usize,
    /// The first row to publish, from 1; rows before it are read and passed over.
    pub from_row: u64,
    /// How long a publish, or saving progress, is tried again.
    pub patience: Patience,
    /// So many refused rows in a row are a wrong plant file, not bad data: the pump stops.
    pub max_refused_in_a_row: u64,
}

impl Default for PumpSettings {
    fn default() -> Self {
        Self {
            speed: None,
            batch: 512,
            from_row: 1,
            patience: Patience::default(),
            max_refused_in_a_row: 100,
        }
    }
}

/// What became of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rows that are durable now, as shots or as dead letters.
    pub rows: u64,
    /// Those that are shots.
    pub published: u64,
    /// Those that are dead letters.
    pub refused: u64,
    /// Why the first few were refused.
    pub reasons: Vec<String>,
    /// How often a reading's value was a code for "no sensor" and was made null.
    pub nulled: BTreeMap<String, u64>,
    /// Where to go on.
    pub next_row: u64,
}

impl Summary {
    fn new(next_row: u64) -> Self {
        Self { rows: 0, published: 0, refused: 0, reasons: Vec::new(), nulled: BTreeMap::new(), next_row }
    }
}

/// Why the pump stopped before the end of the table. The summary says how far it came.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The log did not take a batch.
    #[error("the log does not take rows from row {} on", summary.next_row)]
    Publish {
        /// How far it came.
        summary: Box<Summary>,
        /// Why.
        #[source]
        source: PortError,
    },
    /// The rows are in the log, but where to go on could not be saved.
    #[error("progress could not be saved; rows up to {} are in the log", summary.next_row - 1)]
    Progress {
        /// How far it came.
        summary: Box<Summary>,
        /// Why.
        #[source]
        source: PortError,
    },
    /// One row after the other was refused, up to the limit or through the whole table. They are
    /// set aside as dead letters.
    #[error(
        "rows {row} to {} were refused one after the other, the first because: {why}; this looks like \
         a wrong plant file, not like bad rows: correct it and send the table again from its \
         beginning (--again); the same command as before goes on after these rows",
        summary.next_row - 1
    )]
    TooManyRefused {
        /// How far it came.
        summary: Box<Summary>,
        /// The first of the rows.
        row: u64,
        /// Why it was refused.
        why: String,
    },
    /// The table can't be read to its end; everything before is published.
    #[error("{} rows were taken before the table broke off", summary.rows)]
    Table {
        /// How far it came.
        summary: Box<Summary>,
        /// Where and why.
        #[source]
        source: RowError,
    },
    /// A shot can't be written as JSON.
    #[error("row {row} can't be written as an event")]
    Event {
        /// The row.
        row: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The speed is not above 0.
    #[error("speed {0} is not a number above 0")]
    Speed(f64),
}

/// A batch is published early above so many bytes: lines that are no shots may be large.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Rows that wait for their publish.
#[derive(Debug)]
struct Pending {
    events: Vec<Outgoing>,
    bytes: usize,
    /// The summary once they are durable.
    then: Summary,
}

/// Refused rows with no shot between them.
#[derive(Debug, Default)]
struct Run {
    count: u64,
    /// Number and reason of the first.
    first: Option<(u64, String)>,
}

impl Run {
    fn add(&mut self, row: u64, why: &str) {
        self.count += 1;
        self.first.get_or_insert_with(|| (row, why.to_owned()));
    }
}

/// Publishes the rows of `file` through `publisher`. `progress` hears of every batch that is
/// durable, and may save [`Summary::next_row`]; where that is not possible for the moment, it hears
/// of it again.
///
/// The rows are read on a thread of their own, so that one that is slow to come (from a pipe)
/// holds nothing up, and so that this can be dropped at any time.
///
/// # Errors
/// [`IngestError`]; whatever was durable before stays so.
pub async fn ingest<P: Publisher>(
    file: &str,
    rows: impl Iterator<Item = Result<Row, RowError>> + Send + 'static,
    publisher: &P,
    settings: &PumpSettings,
    mut progress: impl AsyncFnMut(&Summary) -> Result<(), PortError>,
) -> Result<Summary, IngestError> {
    if let Some(speed) = settings.speed.filter(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(IngestError::Speed(speed));
    }
    let mut done = Summary::new(settings.from_row.max(1));
    let mut pending = Pending { events: Vec::new(), bytes: 0, then: done.clone() };
    let mut pace = settings.speed.map(Pace::new);
    let mut broken = None;
    let mut run = Run::default();
    let mut too_many = false;
    let batch = settings.batch.max(1);
    let (send, mut coming) = mpsc::channel(2 * batch);
    let reader = std::thread::spawn(move || {
        for row in rows {
            if send.blocking_send(row).is_err() {
                break;
            }
        }
    });

    loop {
        let row = if pending.events.is_empty() {
            coming.recv().await
        } else {
            match timeout(LINGER, coming.recv()).await {
                Ok(row) => row,
                Err(_) => {
                    flush(publisher, settings, &mut pending, &mut done, &mut progress).await?;
                    continue;
                }
            }
        };
        let Some(row) = row else { break };
        let number = match &row {
            Ok(row) => row.number,
            Err(error) => error.number(),
        };
        if number < done.next_row && !matches!(row, Err(RowError::Broken { .. })) {
            continue;
        }
        let event = match row {
            Ok(row) => {
                let due = pace.as_mut().map(|pace| pace.due(row.shot.ended_at.seconds()));
                if let Some(due) = due.filter(|due| *due > Instant::now()) {
                    flush(publisher, settings, &mut pending, &mut done, &mut progress).await?;
                    tokio::time::sleep_until(due).await;
                }
                for &at in &row.nulled {
                    if let Some((name, _)) = row.shot.readings.iter().nth(at) {
                        *pending.then.nulled.entry(name.to_owned()).or_default() += 1;
                    }
                }
                pending.then.published += 1;
                run = Run::default();
                let event = Event::of_shot(&row.shot, SOURCE)
                    .map_err(|source| IngestError::Event { row: number, source })?;
                Outgoing { topic: Topic::SHOTS, key: row.shot.machine, event }
            }
            Err(RowError::Refused { row, why, bytes }) => {
                pending.then.refused += 1;
                run.add(row, &why);
                if pending.then.reasons.len() < REASONS {
                    pending.then.reasons.push(format!("row {row}: {why}"));
                }
                dead_letter(file, row, &why, bytes)
            }
            Err(error @ RowError::Broken { .. }) => {
                broken = Some(error);
                break;
            }
        };
        pending.bytes += event.event.data.len();
        pending.events.push(event);
        pending.then.rows += 1;
        pending.then.next_row = number + 1;
        if run.count >= settings.max_refused_in_a_row.max(1) {
            too_many = true;
            break;
        }
        if pending.events.len() >= batch || pending.bytes >= MAX_BATCH_BYTES {
            flush(publisher, settings, &mut pending, &mut done, &mut progress).await?;
        }
    }
    flush(publisher, settings, &mut pending, &mut done, &mut progress).await?;
    if let Some(source) = broken {
        return Err(IngestError::Table { summary: Box::new(done), source });
    }
    // A short table can be refused as a whole below the limit.
    if (too_many || done.next_row - 1 == run.count)
        && let Some((row, why)) = run.first
    {
        return Err(IngestError::TooManyRefused { summary: Box::new(done), row, why });
    }
    // The reader has ended, or it panicked: that must not look like the end.
    if let Err(panic) = reader.join() {
        std::panic::resume_unwind(panic);
    }
    Ok(done)
}

/// Publishes what is pending and says so, each again and again while the budget lasts.
async fn flush<P: Publisher>(
    publisher: &P,
    settings: &PumpSettings,
    pending: &mut Pending,
    done: &mut Summary,
    progress: &mut impl AsyncFnMut(&Summary) -> Result<(), PortError>,
) -> Result<(), IngestError> {
    if pending.events.is_empty() {
        return Ok(());
    }
    let mut backoff = Backoff::new(settings.patience, done.next_row);
    while let Err(source) = publisher.publish(&pending.events).await {
        if !again(&mut backoff, &source, "the log took no rows").await {
            return Err(IngestError::Publish { summary: Box::new(done.clone()), source });
        }
    }
    pending.events.clear();
    pending.bytes = 0;
    done.clone_from(&pending.then);
    let mut backoff = Backoff::new(settings.patience, done.next_row);
    while let Err(source) = progress(done).await {
        if !again(&mut backoff, &source, "progress was not saved").await {
            return Err(IngestError::Progress { summary: Box::new(done.clone()), source });
        }
    }
    Ok(())
}

/// Waits for the next try; `false` when there is none.
async fn again(backoff: &mut Backoff, error: &PortError, what: &str) -> bool {
    if !matches!(error, PortError::Unavailable { .. }) {
        return false;
    }
    tracing::warn!(tries = backoff.tries() + 1, "{what}: {}", chain(error));
    backoff.wait().await
}

/// Turns the shots' clock into ours. A clock that is set back makes no one wait.
#[derive(Debug)]
struct Pace {
    speed: f64,
    /// When the row of that time was due.
    last: Option<(Instant, f64)>,
}

impl Pace {
    fn new(speed: f64) -> Self {
        Self { speed, last: None }
    }

    fn due(&mut self, seconds: f64) -> Instant {
        let due = match self.last {
            None => Instant::now(),
            Some((due, before)) => {
                let wait = Duration::try_from_secs_f64((seconds - before).max(0.0) / self.speed);
                due + wait.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
            }
        };
        self.last = Some((due, seconds));
        due
    }
}

/// The dead letter of a refused row: its bytes as they came, and where it comes from.
fn dead_letter(file: &str, row: u64, why: &str, bytes: Bytes) -> Outgoing {
    let name = Path::new(file).file_name().map_or(file.into(), |name| name.to_string_lossy());
    let id = format!("dlq:{STAGE}:{name}:{row}");
    let origin = [
        (dlq::STAGE, STAGE.to_owned()),
        (dlq::ERROR, why.to_owned()),
        (dlq::TOPIC, Topic::SHOTS.to_string()),
        (DLQ_FILE, file.to_owned()),
        (DLQ_ROW, row.to_string()),
    ];
    Outgoing {
        topic: Topic::SHOTS.dead_letters(),
        key: name.to_string(),
        event: Event {
            traceparent: Some(trace_root(&id)),
            id,
            ty: Event::SHOT.into(),
            source: SOURCE.into(),
            subject: String::new(),
            time: None,
            extensions: origin.map(|(name, value)| (name.to_owned(), value)).into(),
            data: bytes,
        },
    }
}

#[cfg(test)]
mod tests;
