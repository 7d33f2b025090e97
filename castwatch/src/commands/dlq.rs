//! `castwatch dlq`: what was set aside, and how to put it back.

use std::ops::ControlFlow;

use anyhow::{Context, Result, bail};
use castwatch_core::event::{Event, Message, Outgoing, Partition, Topic};
use castwatch_core::ports::{Claim, Publisher, Records};
use castwatch_core::runner::dlq;
use castwatch_ingest::pump::{DLQ_FILE, DLQ_ROW};
use serde::Serialize;

use crate::cli::Place;
use crate::stores::{LogInspector, Stores};

/// One dead letter, for people and machines.
#[derive(Debug, Serialize)]
pub struct Letter {
    /// Where it lies: `TOPIC.dlq/PARTITION@POSITION`.
    pub place: String,
    /// The stage that set it aside.
    pub stage: String,
    /// Why.
    pub error: String,
    /// Where it came from: `TOPIC/PARTITION@POSITION`, or a file and its row.
    pub from: String,
    /// The key it had.
    pub key: String,
    /// Its size.
    pub bytes: usize,
}

/// Every dead letter, oldest first within its partition.
///
/// # Errors
/// When the log can't be read.
pub fn letters(
    inspector: &LogInspector,
    stage: Option<&str>,
    limit: usize,
) -> Result<Vec<(Partition, Message)>> {
    let mut found = Vec::new();
    for topic in inspector.topics()?.into_iter().filter(|t| t.as_str().ends_with(".dlq")) {
        inspector.each(&topic, |partition, message| {
            if found.len() == limit {
                return ControlFlow::Break(());
            }
            if stage.is_none_or(|s| message.event.extension(dlq::STAGE) == Some(s)) {
                found.push((partition.clone(), message));
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(found)
}

/// Describes a dead letter.
pub fn describe(partition: &Partition, message: &Message) -> Letter {
    let of = |name| message.event.extension(name).unwrap_or("?").to_owned();
    Letter {
        place: format!("{partition}@{}", message.position),
        stage: of(dlq::STAGE),
        error: of(dlq::ERROR),
        from: match message.event.extension(DLQ_FILE) {
            Some(file) => format!("{file} row {}", of(DLQ_ROW)),
            None => format!("{}/{}@{}", of(dlq::TOPIC), of(dlq::PARTITION), of(dlq::POSITION)),
        },
        key: message.key.clone(),
        bytes: message.event.data.len(),
    }
}

/// The dead letter at a place that `list` printed.
///
/// # Errors
/// When nothing lies there.
pub fn at(inspector: &LogInspector, place: &Place) -> Result<(Partition, Message)> {
    let Place { partition, position } = place.clone();
    match inspector.scan(&partition, position, 1)?.into_iter().next() {
        Some(message) if message.position == position => Ok((partition, message)),
        _ => bail!("nothing lies at {partition}@{position}; `castwatch dlq list` shows what there is"),
    }
}

/// The event as it came, without what was noted when it was set aside.
fn original(message: &Message) -> Event {
    let mut event = message.event.clone();
    event.id = event.extension(dlq::ID).unwrap_or_default().to_owned();
    event.extensions.retain(|(name, _)| !name.starts_with("dlq"));
    event
}

/// What a replay did.
#[derive(Debug, Default, Serialize)]
pub struct Replayed {
    /// Letters put back.
    pub replayed: u64,
    /// Letters that were put back before.
    pub replayed_before: u64,
    /// Rows of files: they never lay in a topic, so the file is mended and ingested again.
    pub rows_of_files: u64,
}

/// Puts dead letters back, each once: a claim remembers which went back before.
///
/// # Errors
/// When a letter names no topic, or the log is away.
pub async fn replay(stores: &Stores, letters: &[(Partition, Message)]) -> Result<Replayed> {
    let Stores { log, records, .. } = stores;
    let mut done = Replayed::default();
    for (partition, message) in letters {
        if message.event.extension(DLQ_FILE).is_some() {
            done.rows_of_files += 1;
            continue;
        }
        let claim = format!("replay:{}", message.event.id);
        if records.claim(&claim).await? == Claim::Settled {
            done.replayed_before += 1;
            continue;
        }
        let topic = message.event.extension(dlq::TOPIC).with_context(|| {
            format!("the dead letter {partition}@{} does not say where it came from", message.position)
        })?;
        let outgoing =
            Outgoing { topic: Topic::named(topic), key: message.key.clone(), event: original(message) };
        log.publish(&[outgoing]).await?;
        records.settle(&claim).await?;
        done.replayed += 1;
    }
    Ok(done)
}
