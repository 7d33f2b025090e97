//! Lists: which index serves a question, and how its parts become one row of defects.
//!
//! **A page costs a bounded number of reads, and the cursor says how far was looked**: all that
//! lies above it was looked at, and given where it fits. So a page may be short.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use castwatch_core::PortError;
use castwatch_core::backoff::{Backoff, Patience};
use castwatch_core::ports::{Kept, RecordPage, RecordQuery, Told};
use castwatch_core::time::{EARLIEST, LATEST};
use jiff::Timestamp;
use jiff::civil::Date;
use tokio::task::JoinSet;

use super::item::{self, Item, attr, text};
use super::{DynamoDb, table};

/// The most records of one page.
const MAX_PAGE: usize = 1000;
/// So often the parts of an index are read for one page, all of them side by side.
const MAX_ROUNDS: usize = 10;
/// So many entries are looked at in a round where not all of them fit.
const LOOKED_AT: usize = 1000;
/// Days that are asked for at once.
const DAYS: i32 = 32;
/// Items that DynamoDB gives at once.
const BATCH: usize = 100;
/// How long items that were not given are asked for again.
const PATIENCE: Patience = Patience {
    first: Duration::from_millis(20),
    most: Duration::from_secs(1),
    budget: Duration::from_secs(10),
};
const WHAT: &str = "list of records";

/// One page of a list.
pub(super) async fn page(db: &DynamoDb, query: &RecordQuery) -> Result<RecordPage, PortError> {
    if query.limit == 0 || query.limit > MAX_PAGE {
        return Err(PortError::refused(
            WHAT,
            format!("a page has 1 to {MAX_PAGE} records, not {}", query.limit),
        ));
    }
    if query.before.as_deref().is_some_and(|before| !item::is_cursor(before)) {
        return Err(PortError::refused(WHAT, "the cursor is not one that a page before gave"));
    }
    let mut walk = Walk::new(db, query);
    let next = match walk.way() {
        (index, key, Some(parts)) => {
            let mut streams: Vec<Stream> = parts.into_iter().map(|part| walk.stream(part)).collect();
            match walk.merge(index, key, &mut streams).await? {
                End::Full(left) => left.then(|| walk.found.last().cloned()).flatten(),
                End::Spent(looked) => Some(looked),
                End::Done => None,
            }
        }
        (index, key, None) => walk.days(index, key).await?,
    };
    let defects = walk.fetch().await?;
    Ok(RecordPage { defects, next })
}

/// How a walk down some parts of an index ended.
enum End {
    /// The page is full, and whether the parts have more.
    Full(bool),
    /// It cost enough; all above this moment was looked at.
    Spent(String),
    /// There is no more.
    Done,
}

/// One partition of an index, read downwards.
struct Stream {
    key: String,
    /// Moments that fit, newest first.
    heads: VecDeque<String>,
    /// All from here on was read.
    until: String,
    /// Whether nothing is below.
    done: bool,
}

/// The making of one page.
struct Walk<'a> {
    db: &'a DynamoDb,
    query: &'a RecordQuery,
    /// The lowest moment asked for.
    low: String,
    /// All moments asked for are below it.
    high: String,
    found: Vec<String>,
    rounds: usize,
}

impl<'a> Walk<'a> {
    fn new(db: &'a DynamoDb, query: &'a RecordQuery) -> Self {
        // No shot ended outside of these years, and in them texts sort as times do.
        let bound = |at: Timestamp| item::time(at.clamp(second(EARLIEST), second(LATEST)));
        let low = bound(query.from.unwrap_or(Timestamp::MIN));
        let mut high = bound(query.to.unwrap_or(Timestamp::MAX));
        if let Some(before) = query.before.as_ref().filter(|before| **before < high) {
            high.clone_from(before);
        }
        Self { db, query, low, high, found: Vec::new(), rounds: 0 }
    }

    /// The index that serves the question, its key, and its parts; none where they are the days'.
    ///
    /// What is pending is little, and a die is seldom in more than one machine: the narrower index
    /// is the one to look in, and the other conditions filter.
    fn way(&self) -> (&'static str, &'static str, Option<Vec<String>>) {
        let RecordQuery { machine, die, told, .. } = self.query;
        match (told, die, machine) {
            (Some(Told::Pending), ..) => {
                let parts = (0..item::PENDING_SHARDS).map(item::pending_shard).collect();
                (table::PENDING, attr::PENDING, Some(parts))
            }
            (_, Some(die), _) => (table::BY_DIE, attr::DIE, Some(vec![die.clone()])),
            (_, None, Some(machine)) => (table::BY_MACHINE, attr::MACHINE, Some(vec![machine.clone()])),
            (_, None, None) => (table::BY_DAY, attr::DAY, None),
        }
    }

    fn stream(&self, key: String) -> Stream {
        let done = self.low >= self.high;
        Stream { key, heads: VecDeque::new(), until: self.high.clone(), done }
    }

    /// Goes from day to day, newest first; returns the cursor of the next page.
    async fn days(&mut self, index: &'static str, key: &'static str) -> Result<Option<String>, PortError> {
        let day = |moment: &str| moment.get(..10).unwrap_or(moment).to_owned();
        let (oldest, mut newest) = (day(&self.low), day(&self.high));
        while oldest <= newest {
            let asked = self.db.days(&oldest, &newest).await?;
            let more = asked.len() == DAYS as usize;
            for (day, shards) in asked {
                if self.rounds >= MAX_ROUNDS {
                    return Ok(Some(item::begin_of_day(&newest)));
                }
                let shards = shards.max(self.db.settings.shards);
                let parts = (0..shards).map(|shard| item::day_shard(&day, shard));
                let mut streams: Vec<Stream> = parts.map(|part| self.stream(part)).collect();
                match self.merge(index, key, &mut streams).await? {
                    // Whether older days have any is seen by who asks for the next page.
                    End::Full(_) => return Ok(self.found.last().cloned()),
                    End::Spent(looked) => return Ok(Some(looked)),
                    End::Done => newest = day,
                }
            }
            if !more {
                break;
            }
            newest = day_before(&newest);
        }
        Ok(None)
    }

    /// Takes the newest of all streams again and again, and reads on where one has run out.
    async fn merge(
        &mut self,
        index: &'static str,
        key: &'static str,
        streams: &mut [Stream],
    ) -> Result<End, PortError> {
        loop {
            // What a stream that has run out may have yet lies below its `until`.
            let open = streams.iter().filter(|s| s.heads.is_empty() && !s.done);
            let looked = open.map(|s| s.until.clone()).max();
            let newest =
                streams.iter_mut().filter(|s| !s.heads.is_empty()).max_by(|a, b| a.heads[0].cmp(&b.heads[0]));
            match (newest, looked) {
                (Some(stream), looked) if looked.as_ref().is_none_or(|looked| stream.heads[0] > *looked) => {
                    self.found.extend(stream.heads.pop_front());
                    if self.found.len() == self.query.limit {
                        return Ok(End::Full(streams.iter().any(|s| !s.done || !s.heads.is_empty())));
                    }
                }
                (_, None) => return Ok(End::Done),
                (_, Some(looked)) if self.rounds >= MAX_ROUNDS => return Ok(End::Spent(looked)),
                _ => self.read_on(index, key, streams).await?,
            }
        }
    }

    /// Reads the next entries of every stream that has run out.
    async fn read_on(
        &mut self,
        index: &'static str,
        key: &'static str,
        streams: &mut [Stream],
    ) -> Result<(), PortError> {
        self.rounds += 1;
        let each = self.query.limit.div_ceil(streams.len());
        let limit = match self.filter().is_empty() && streams.len() == 1 {
            true => each,
            // Shards are not exactly even, and where there is a filter most do not fit.
            false if self.filter().is_empty() => each * 2,
            false => LOOKED_AT.div_ceil(streams.len()).max(each),
        };
        let mut asked = JoinSet::new();
        for (at, stream) in streams.iter().enumerate().filter(|(_, s)| s.heads.is_empty() && !s.done) {
            let query = self.read(index, key, stream, limit);
            asked.spawn(async move { (at, query.send().await) });
        }
        while let Some(answered) = asked.join_next().await {
            let (at, answer) = answered.map_err(|e| PortError::unavailable(WHAT, e))?;
            let answer = answer.map_err(|e| self.db.error(WHAT, e))?;
            let stream = &mut streams[at];
            let moments = answer.items().iter().filter_map(|i| item::get(i, attr::MOMENT));
            // `BETWEEN` includes its ends.
            stream.heads = moments.filter(|m| *m < stream.until.as_str()).map(str::to_owned).collect();
            match answer.last_evaluated_key.as_ref().and_then(|last| item::get(last, attr::MOMENT)) {
                Some(last) => stream.until = last.to_owned(),
                None => stream.done = true,
            }
        }
        Ok(())
    }

    fn read(&self, index: &str, key: &str, stream: &Stream, limit: usize) -> QueryFluentBuilder {
        let mut query = self
            .db
            .query()
            .index_name(index)
            .key_condition_expression("#key = :key AND #moment BETWEEN :low AND :high")
            .projection_expression("#moment")
            .expression_attribute_names("#key", key)
            .expression_attribute_names("#moment", attr::MOMENT)
            .expression_attribute_values(":key", text(&stream.key))
            .expression_attribute_values(":low", text(&self.low))
            .expression_attribute_values(":high", text(&stream.until))
            .limit(i32::try_from(limit + 1).unwrap_or(i32::MAX));
        let conditions = self.filter();
        for (name, wanted) in &conditions {
            query = query
                .expression_attribute_names(format!("#{name}"), *name)
                .expression_attribute_values(format!(":{name}"), text(wanted));
        }
        let conditions: Vec<String> =
            conditions.iter().map(|(name, _)| format!("#{name} = :{name}")).collect();
        if conditions.is_empty() { query } else { query.filter_expression(conditions.join(" AND ")) }
    }

    /// The conditions that the key does not see to.
    fn filter(&self) -> Vec<(&'static str, &str)> {
        let RecordQuery { machine, die, cause, told, .. } = self.query;
        let (_, key, _) = self.way();
        let told = told.filter(|told| *told == Told::Told).map(|_| item::TOLD);
        [
            (attr::MACHINE, machine.as_deref()),
            (attr::DIE, die.as_deref()),
            (attr::CAUSE, cause.as_deref()),
            (attr::TOLD, told),
        ]
        .into_iter()
        .filter(|(name, _)| *name != key)
        .filter_map(|(name, wanted)| Some((name, wanted?)))
        .collect()
    }

    /// The defects that were found, whole and as they are now.
    async fn fetch(&self) -> Result<Vec<Kept>, PortError> {
        let mut items = HashMap::with_capacity(self.found.len());
        for batch in self.found.chunks(BATCH) {
            for item in self.db.get_all(batch).await? {
                if let Some(moment) = item::get(&item, attr::MOMENT) {
                    items.insert(moment.to_owned(), item);
                }
            }
        }
        let mut defects = Vec::with_capacity(self.found.len());
        // An item that expired meanwhile is in the index alone.
        for item in self.found.iter().filter_map(|moment| items.get(moment)) {
            let kept = item::kept(item).map_err(|e| {
                let pk = item::get(item, attr::PK).unwrap_or_default();
                PortError::refused(WHAT, format!("the item {pk} can't be read: {e}"))
            })?;
            // The index may lag behind the item.
            let state = if kept.alert.is_some() { Told::Told } else { Told::Pending };
            if self.query.told.is_none_or(|told| told == state) {
                defects.push(kept);
            }
        }
        Ok(defects)
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}

/// The day before, or a text before all days.
fn day_before(day: &str) -> String {
    let day: Option<Date> = day.parse().ok();
    day.and_then(|day| day.yesterday().ok()).map_or_else(String::new, |day| day.to_string())
}

impl DynamoDb {
    fn query(&self) -> QueryFluentBuilder {
        self.client.query().table_name(&self.settings.table).scan_index_forward(false)
    }

    /// The days that have records, newest first, with the number of their shards.
    async fn days(&self, oldest: &str, newest: &str) -> Result<Vec<(String, u32)>, PortError> {
        let answer = self
            .query()
            .consistent_read(true)
            .key_condition_expression("#pk = :days AND #sk BETWEEN :oldest AND :newest")
            .expression_attribute_names("#pk", attr::PK)
            .expression_attribute_names("#sk", attr::SK)
            .expression_attribute_values(":days", text(item::DAYS))
            .expression_attribute_values(":oldest", text(oldest))
            .expression_attribute_values(":newest", text(newest))
            .limit(DAYS)
            .send()
            .await
            .map_err(|e| self.error(WHAT, e))?;
        let day = |i: &Item| Some((item::get(i, attr::SK)?.to_owned(), item::shards(i)?));
        Ok(answer.items().iter().filter_map(day).collect())
    }

    /// The items of these moments, as far as they are there.
    async fn get_all(&self, moments: &[String]) -> Result<Vec<Item>, PortError> {
        let key = |moment: &String| -> Item {
            item::defect_key(item::shot(moment)).map(|(name, value)| (name.to_owned(), value)).into()
        };
        let mut keys: Vec<Item> = moments.iter().map(key).collect();
        let (mut items, mut backoff) =
            (Vec::with_capacity(keys.len()), Backoff::new(PATIENCE, keys.len() as u64));
        while !keys.is_empty() {
            let wanted =
                KeysAndAttributes::builder().set_keys(Some(keys.clone())).consistent_read(true).build();
            let wanted = wanted.map_err(|e| PortError::refused(WHAT, e))?;
            let get = self.client.batch_get_item().request_items(&self.settings.table, wanted);
            let answer = get.send().await.map_err(|e| self.error(WHAT, e))?;
            let left = answer.unprocessed_keys.unwrap_or_default().remove(&self.settings.table);
            items.extend(
                answer.responses.unwrap_or_default().remove(&self.settings.table).unwrap_or_default(),
            );
            let left = left.map(|left| left.keys).unwrap_or_default();
            if left.len() < keys.len() {
                backoff = Backoff::new(PATIENCE, left.len() as u64);
            }
            keys = left;
            if !keys.is_empty() && !backoff.wait().await {
                let left = format!("DynamoDB keeps {} items back: it is asked for too much", keys.len());
                return Err(PortError::unavailable(WHAT, left));
            }
        }
        Ok(items)
    }
}
