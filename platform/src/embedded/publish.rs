//! Writing to topics.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use castwatch_core::event::partition_of;
use castwatch_core::{Outgoing, PortError, Publisher, Topic};
use rusqlite::{Connection, params};

use super::Embedded;
use super::schema::POSITION_BITS;

/// The largest event that is taken: far above a shot, so that bad input is kept as it came.
const MAX_DATA: usize = 64 * 1024 * 1024;

/// One partition of a topic as it is written.
pub(super) struct Head {
    /// Its id, the upper bits of its messages' keys.
    pub(super) id: i64,
    /// Its number in the topic.
    pub(super) number: u32,
    /// The position of the next message.
    pub(super) next: i64,
}

/// The partitions of `topic` in order; none when it does not exist.
pub(super) fn heads(db: &Connection, topic: &Topic) -> rusqlite::Result<Vec<Head>> {
    db.prepare_cached("SELECT id, number, next FROM partitions WHERE topic = ? ORDER BY number")?
        .query_map([topic.as_str()], |row| {
            Ok(Head { id: row.get(0)?, number: row.get(1)?, next: row.get(2)? })
        })?
        .collect()
}

/// The partitions of `topic`, which gets `partitions` of them if it does not exist.
pub(super) fn heads_or_create(
    db: &Connection,
    topic: &Topic,
    partitions: u32,
) -> rusqlite::Result<Vec<Head>> {
    let found = heads(db, topic)?;
    if !found.is_empty() {
        return Ok(found);
    }
    let mut insert = db.prepare_cached("INSERT INTO partitions (topic, number) VALUES (?, ?)")?;
    for number in 0..partitions.max(1) {
        insert.execute(params![topic.as_str(), number])?;
    }
    heads(db, topic)
}

impl Publisher for Embedded {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        if events.is_empty() {
            return Ok(());
        }
        if let Some(large) = events.iter().find(|e| e.event.data.len() > MAX_DATA) {
            let size = large.event.data.len();
            let message = format!("its data has {size} bytes; {MAX_DATA} can be kept");
            return Err(PortError::refused(
                format!("publish of {} to {}", large.event.id, large.topic),
                message,
            ));
        }
        let partitions = self.settings.partitions;
        let owned = events.to_vec();
        let what = || format!("publish to {}", events[0].topic);
        self.writer.run(what, move |db| append(db, &owned, partitions)).await
    }
}

fn append(db: &Connection, events: &[Outgoing], partitions: u32) -> rusqlite::Result<()> {
    let written_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let mut topics: HashMap<&Topic, Vec<Head>> = HashMap::new();
    // A batch has few keys, and choosing a partition costs a digest.
    let mut chosen: HashMap<(&str, usize), usize> = HashMap::new();
    let mut insert = db.prepare_cached(
        "INSERT INTO messages \
         (at, key, written_ms, id, type, source, subject, time, traceparent, extensions, data) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for Outgoing { topic, key, event } in events {
        if !topics.contains_key(topic) {
            topics.insert(topic, heads_or_create(db, topic, partitions)?);
        }
        let Some(heads) = topics.get_mut(topic) else { continue };
        let count = heads.len();
        let at = *chosen.entry((key, count)).or_insert_with(|| partition_of(key, count as u32) as usize);
        let head = &mut heads[at];
        insert.execute(params![
            (head.id << POSITION_BITS) | head.next,
            key,
            written_ms,
            event.id,
            event.ty,
            event.source,
            event.subject,
            event.time.map(|t| t.to_string()),
            event.traceparent,
            extensions(&event.extensions),
            &event.data[..],
        ])?;
        head.next += 1;
    }
    let mut advance = db.prepare_cached("UPDATE partitions SET next = ?2 WHERE id = ?1 AND next < ?2")?;
    for head in topics.values().flatten() {
        advance.execute([head.id, head.next])?;
    }
    Ok(())
}

/// Pairs as a JSON list; most events have none.
fn extensions(pairs: &[(String, String)]) -> Option<String> {
    if pairs.is_empty() { None } else { serde_json::to_string(pairs).ok() }
}
