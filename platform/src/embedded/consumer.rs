//! Reading topics.
//!
//! **A partition is read in order from where it was started**, and partitions take turns, so that
//! a long one does not keep the others waiting.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use castwatch_core::ports::{Generation, Start};
use castwatch_core::{Consumer, Delivery, Event, Message, Partition, PortError, Position, Topic};
use rusqlite::{Connection, Row, types::Type};
use tokio::sync::watch;
use tokio::time::Instant;

use super::publish::{Head, heads, heads_or_create};
use super::schema::{self, POSITION_BITS};
use super::{Embedded, read};

/// A batch ends early above so many bytes of data.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How often the ends of partitions are looked at, for who wants to know how much waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One partition that is read.
#[derive(Clone, Debug)]
struct Track {
    partition: Partition,
    /// The id of the partition in the file.
    id: i64,
    /// The next position to read; `None` until it is started.
    next: Option<u64>,
    /// The end of the partition when it was last looked at.
    end: Option<u64>,
}

/// The only member of a stage's group: the one that was made last. An earlier one is told that it
/// is out ([`PortError::Fenced`]) at its next read.
#[derive(Debug)]
pub struct EmbeddedConsumer {
    log: Arc<Embedded>,
    stage: String,
    topics: Vec<Topic>,
    /// Its own connection, opened when it is first needed.
    db: Option<Arc<Mutex<Connection>>>,
    commits: watch::Receiver<u64>,
    /// Which of the stage's consumers it is, counted since the file was made; `None` at first.
    generation: Option<i64>,
    /// The partition whose turn it is comes first.
    tracks: Vec<Track>,
    /// When the ends of the partitions were last looked at.
    looked: Option<Instant>,
}

impl EmbeddedConsumer {
    pub(super) fn new(log: Arc<Embedded>, stage: &str, topics: &[Topic]) -> Self {
        let commits = log.commits.clone();
        Self {
            log,
            stage: stage.to_owned(),
            topics: topics.to_vec(),
            db: None,
            commits,
            generation: None,
            tracks: Vec::new(),
            looked: None,
        }
    }

    fn db(&mut self) -> Result<Arc<Mutex<Connection>>, PortError> {
        if let Some(db) = &self.db {
            return Ok(Arc::clone(db));
        }
        let db = schema::open_to_read(&self.log.file).map_err(|e| PortError::unavailable(self.what(), e))?;
        Ok(Arc::clone(self.db.insert(Arc::new(Mutex::new(db)))))
    }

    fn what(&self) -> String {
        let topics: Vec<&str> = self.topics.iter().map(Topic::as_str).collect();
        format!("read of {} for {}", topics.join(", "), self.stage)
    }

    async fn assign(&mut self) -> Result<Delivery, PortError> {
        let (topics, partitions) = (self.topics.clone(), self.log.settings.partitions);
        let stage = self.stage.clone();
        let work = move |db: &Connection| {
            let generation: i64 = db.query_row(
                "INSERT INTO stages (stage, generation) VALUES (?, 1) \
                 ON CONFLICT DO UPDATE SET generation = generation + 1 RETURNING generation",
                [stage],
                |row| row.get(0),
            )?;
            let mut tracks = Vec::new();
            for topic in topics {
                for Head { id, number, .. } in heads_or_create(db, &topic, partitions)? {
                    tracks.push(Track {
                        partition: Partition::new(topic.clone(), number),
                        id,
                        next: None,
                        end: None,
                    });
                }
            }
            Ok((tracks, generation))
        };
        let (tracks, generation) = self.log.writer.run(|| self.what(), work).await?;
        self.tracks = tracks;
        self.generation = Some(generation);
        let partitions = self.tracks.iter().map(|t| t.partition.clone()).collect();
        Ok(Delivery::Assigned(Generation(generation.cast_unsigned()), partitions))
    }

    /// Notes where the partitions end.
    async fn look(&mut self) -> Result<(), PortError> {
        let ids: Vec<i64> = self.tracks.iter().map(|t| t.id).collect();
        let ends = read(&self.db()?, &self.what(), move |db| {
            let mut select = db.prepare_cached("SELECT next FROM partitions WHERE id = ?")?;
            ids.iter().map(|id| select.query_row([id], |row| row.get(0))).collect::<Result<Vec<i64>, _>>()
        })
        .await?;
        for (track, end) in self.tracks.iter_mut().zip(ends) {
            track.end = Some(end.cast_unsigned());
        }
        Ok(())
    }

    /// The next batch that is there already, unless a later consumer of this stage has taken over.
    async fn take(&mut self, generation: i64) -> Result<Option<Delivery>, PortError> {
        let started: Vec<(usize, i64, u64)> =
            self.tracks.iter().enumerate().filter_map(|(i, t)| Some((i, t.id, t.next?))).collect();
        let limit = self.log.settings.batch.max(1);
        let stage = self.stage.clone();
        let now = Instant::now();
        if self.looked.is_none_or(|at| now - at >= LOOK_EVERY) {
            self.looked = Some(now);
            self.look().await?;
        }
        let found = read(&self.db()?, &self.what(), move |db| {
            let newest: i64 = db
                .prepare_cached("SELECT generation FROM stages WHERE stage = ?")?
                .query_row([stage], |row| row.get(0))?;
            if newest > generation {
                return Ok(Err(()));
            }
            for (index, id, next) in started {
                let messages = messages(db, id, next, limit)?;
                if !messages.is_empty() {
                    return Ok(Ok(Some((index, messages))));
                }
            }
            Ok(Ok(None))
        })
        .await?;
        let found = found.map_err(|()| PortError::Fenced { what: self.what() })?;
        let Some((index, messages)) = found else { return Ok(None) };
        self.tracks[index].next = messages.last().map(|m| m.position.next().0);
        let partition = self.tracks[index].partition.clone();
        // The others come before this one from now on.
        self.tracks.rotate_left(index + 1);
        Ok(Some(Delivery::Batch(partition, messages)))
    }
}

impl Consumer for EmbeddedConsumer {
    async fn next(&mut self, wait: Duration) -> Result<Delivery, PortError> {
        let Some(generation) = self.generation else { return self.assign().await };
        let deadline = Instant::now() + wait;
        loop {
            // Seen before looking: a commit in between ends the wait below at once.
            self.commits.mark_unchanged();
            if let Some(batch) = self.take(generation).await? {
                return Ok(batch);
            }
            match tokio::time::timeout_at(deadline, self.commits.changed()).await {
                Ok(Ok(())) => {}
                // The writer is gone: whoever waits gets what there is, in its own time.
                Ok(Err(_)) => {
                    tokio::time::sleep_until(deadline).await;
                    return Ok(Delivery::Idle);
                }
                Err(_) => return Ok(Delivery::Idle),
            }
        }
    }

    async fn start(&mut self, partition: &Partition, start: Start) -> Result<(), PortError> {
        let Some(index) = self.tracks.iter().position(|t| t.partition == *partition) else {
            return Err(PortError::refused(
                format!("start of {partition}"),
                "it is not assigned to this consumer",
            ));
        };
        let next = match start {
            Start::Earliest => 0,
            Start::At(position) => position.0,
            Start::Tail(count) => {
                let topic = partition.topic.clone();
                let heads = read(&self.db()?, &self.what(), move |db| heads(db, &topic)).await?;
                let end = heads.iter().find(|h| h.number == partition.index).map_or(0, |h| h.next);
                u64::try_from(end).unwrap_or(0).saturating_sub(count)
            }
        };
        self.tracks[index].next = Some(next);
        Ok(())
    }

    async fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        self.tracks.retain(|t| !partitions.contains(&t.partition));
        Ok(())
    }

    fn ends(&self) -> Vec<(Partition, Position)> {
        self.tracks.iter().filter_map(|t| Some((t.partition.clone(), Position(t.end?)))).collect()
    }
}

/// Up to `limit` messages of the partition with this id, from a position on; fewer when they are
/// large.
///
/// A damaged page may look like the end of the partition. So that no reader waits there for ever,
/// what the partition says it has must be there without a gap.
pub(super) fn messages(db: &Connection, id: i64, from: u64, limit: usize) -> rusqlite::Result<Vec<Message>> {
    let next: i64 =
        db.prepare_cached("SELECT next FROM partitions WHERE id = ?")?.query_row([id], |row| row.get(0))?;
    let there = next.cast_unsigned().saturating_sub(from).min(limit as u64);
    if there == 0 {
        return Ok(Vec::new());
    }
    let mut select = db.prepare_cached(
        "SELECT at, key, written_ms, id, type, source, subject, time, traceparent, extensions, data \
         FROM messages WHERE at >= ? ORDER BY at LIMIT ?",
    )?;
    let first = (id << POSITION_BITS) | from.cast_signed();
    let mut rows = select.query([first, there.cast_signed()])?;
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for position in from..from + there {
        let message = rows.next()?.map(message).transpose()?.filter(|m| m.position.0 == position);
        let message = message.ok_or_else(|| gap(position))?;
        bytes += message.event.data.len();
        messages.push(message);
        if bytes > MAX_BATCH_BYTES {
            break;
        }
    }
    Ok(messages)
}

fn gap(position: u64) -> rusqlite::Error {
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(corrupt, Some(format!("the message at {position} is gone")))
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    let at: i64 = row.get(0)?;
    Ok(Message {
        position: Position((at & ((1 << POSITION_BITS) - 1)).cast_unsigned()),
        key: row.get(1)?,
        written_ms: row.get(2)?,
        event: Event {
            id: row.get(3)?,
            ty: row.get(4)?,
            source: row.get(5)?,
            subject: row.get(6)?,
            time: parsed(row, 7, |text: &str| text.parse())?,
            traceparent: row.get(8)?,
            extensions: parsed(row, 9, |text: &str| serde_json::from_str(text))?.unwrap_or_default(),
            data: row.get::<_, Vec<u8>>(10)?.into(),
        },
    })
}

/// A column whose text means something, where there is one.
pub(super) fn parsed<T, E>(
    row: &Row<'_>,
    column: usize,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> rusqlite::Result<Option<T>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    parse(text)
        .map(Some)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}
