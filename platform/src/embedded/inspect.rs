//! Looking at a log without taking part in it: what books, dead letters and measurements need.
//!
//! **Nothing here writes.** The calls block; none takes longer than it must to read what it gives.

use std::ops::ControlFlow;
use std::path::Path;

use castwatch_core::ports::Snapshot;
use castwatch_core::{Message, Partition, Position, Topic};
use rusqlite::{Connection, params};

use super::consumer::messages;
use super::publish::heads;
use super::schema::{self, OpenError, POSITION_BITS};
use super::snapshots::snapshot;
use super::{FILE, Fault};

/// So many messages are read at once where all of them are.
const PAGE: usize = 1000;

/// A reading look at a data folder's database.
#[derive(Debug)]
pub struct Inspector {
    db: Connection,
}

/// What a partition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The partition.
    pub partition: Partition,
    /// The oldest message kept; equal to `next` when there is none.
    pub first: Position,
    /// Where the next message will lie.
    pub next: Position,
}

/// How many effects were begun and how many took place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Begun and not known to have taken place.
    pub begun: u64,
    /// Took place.
    pub settled: u64,
}

type Answer<T> = Result<T, Fault>;

impl Inspector {
    /// Looks at the database of `dir`, which must be there.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::at(&dir.as_ref().join(FILE))
    }

    pub(super) fn at(file: &Path) -> Result<Self, OpenError> {
        Ok(Self { db: schema::open_to_read(file)? })
    }

    /// The topics there are, by name.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn topics(&self) -> Answer<Vec<Topic>> {
        let mut select = self.db.prepare_cached("SELECT DISTINCT topic FROM partitions ORDER BY topic")?;
        let topics = select.query_map([], |row| row.get::<_, String>(0).map(Topic::named))?;
        Ok(topics.collect::<Result<_, _>>()?)
    }

    /// What each partition of `topic` holds; nothing for a topic that does not exist.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn ends(&self, topic: &Topic) -> Answer<Vec<Extent>> {
        let mut select = self.db.prepare_cached("SELECT min(at) FROM messages WHERE at >= ? AND at < ?")?;
        let mut ends = Vec::new();
        for head in heads(&self.db, topic)? {
            let base = head.id << POSITION_BITS;
            let first: Option<i64> =
                select.query_row([base, (head.id + 1) << POSITION_BITS], |row| row.get(0))?;
            ends.push(Extent {
                partition: Partition::new(topic.clone(), head.number),
                first: Position(first.map_or(head.next, |at| at - base).cast_unsigned()),
                next: Position(head.next.cast_unsigned()),
            });
        }
        Ok(ends)
    }

    /// Up to `limit` messages of a partition, from a position on; fewer when they are large, none
    /// at the end.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn scan(&self, partition: &Partition, from: Position, limit: usize) -> Answer<Vec<Message>> {
        let heads = heads(&self.db, &partition.topic)?;
        match heads.iter().find(|h| h.number == partition.index) {
            Some(head) => Ok(messages(&self.db, head.id, from.0, limit)?),
            None => Ok(Vec::new()),
        }
    }

    /// Hands over every message of `topic`, partition by partition in order, until `see` breaks off.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn each(
        &self,
        topic: &Topic,
        mut see: impl FnMut(&Partition, Message) -> ControlFlow<()>,
    ) -> Answer<()> {
        for extent in self.ends(topic)? {
            let mut at = extent.first;
            loop {
                let page = self.scan(&extent.partition, at, PAGE)?;
                let Some(last) = page.last() else { break };
                at = last.position.next();
                for message in page {
                    if see(&extent.partition, message).is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Where `stage` stands in each partition; a partition that was never saved is not listed.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn snapshots_of(&self, stage: &str) -> Answer<Vec<(Partition, Snapshot)>> {
        let mut select = self.db.prepare_cached(
            "SELECT position, tally, state, topic, partition FROM snapshots \
             WHERE stage = ? AND position IS NOT NULL ORDER BY topic, partition",
        )?;
        let mut rows = select.query([stage])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let partition = Partition::new(Topic::named(row.get::<_, String>(3)?), row.get(4)?);
            found.extend(snapshot(row)?.map(|s| (partition, s)));
        }
        Ok(found)
    }

    /// How many messages `topic` holds.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn count(&self, topic: &Topic) -> Answer<u64> {
        self.number(
            "SELECT count(*) FROM partitions p JOIN messages m \
             ON m.at >= p.id << ?2 AND m.at < (p.id + 1) << ?2 WHERE p.topic = ?1",
            topic,
        )
    }

    /// How many different ids the events of `topic` have. Events of foreign producers may have
    /// none; all of those count as one.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn distinct_ids(&self, topic: &Topic) -> Answer<u64> {
        self.number(
            "SELECT count(DISTINCT m.id) FROM partitions p JOIN messages m \
             ON m.at >= p.id << ?2 AND m.at < (p.id + 1) << ?2 WHERE p.topic = ?1",
            topic,
        )
    }

    /// How many defects have a record.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn records(&self) -> Answer<u64> {
        let count: i64 = self.db.query_row("SELECT count(*) FROM records", [], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// How far the claims are.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn claims(&self) -> Answer<Claims> {
        let sql = "SELECT count(*) FILTER (WHERE NOT settled), count(*) FILTER (WHERE settled) FROM claims";
        Ok(self.db.query_row(sql, [], |row| {
            Ok(Claims {
                begun: row.get::<_, i64>(0)?.cast_unsigned(),
                settled: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })?)
    }

    fn number(&self, sql: &str, topic: &Topic) -> Answer<u64> {
        let count: i64 = self
            .db
            .prepare_cached(sql)?
            .query_row(params![topic.as_str(), POSITION_BITS], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }
}
