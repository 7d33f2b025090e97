//! Records on Amazon DynamoDB.
//!
//! **A defect is one item, and what a call returned for stays**: a record is put by one conditional
//! write, its alert is added to the same item once, and a claim is an item of its own that is begun
//! by one conditional write. Each such write carries a mark of its call, so that a write which took
//! effect without its answer coming back is known as this call's own when it is tried again: it is
//! `New` or `Fresh` as it would have been, and nobody else's becomes so.
//!
//! # The table
//!
//! | item | `pk` | `sk` | attributes |
//! |---|---|---|---|
//! | a defect | `shot#<shot>` | `defect` | `machine`, `die`, `cause`, `ended_at`, `probability`, `told` (`pending` or `told`), `explanation` (the record, JSON), `alert` (JSON, once told), `moment`, `day_shard`, `pending_shard` (while pending) |
//! | a claim | `claim#<id>` | `claim` | `claim` (`begun` or `settled`) |
//! | a day | `days` | `<day>` | `shards`, that this day's records are spread over |
//!
//! `moment` is `<ended_at>#<shot>`, the time in UTC with nine digits: moments sort as lists do and
//! no two are the same, so a moment is also the cursor between two pages. `expires` (seconds since
//! 1970) is there when a retention is set, and DynamoDB removes the item some time after.
//!
//! | index | key | sorted by | holds |
//! |---|---|---|---|
//! | `by-machine` | `machine` | `moment` | every defect |
//! | `by-die` | `die` | `moment` | every defect |
//! | `by-day` | `day_shard`: `<UTC day>#<shard>` | `moment` | every defect |
//! | `pending` | `pending_shard`: `<shard>` | `moment` | defects not told yet |
//!
//! A partition of DynamoDB takes 1,000 write units a second. All defects of a plant fall on one day,
//! so the day is spread over 16 keys by a hash of the shot: at 3,000 defects a second each takes 190
//! entries a second, twice when they are told. The indexes hold the keys, `machine`, `die`, `cause`,
//! `told`, `ended_at` and `probability`: an entry is one write unit, where the whole item is about
//! five. Lists look in an index and fetch what they found by key.
//!
//! Days are items, written before the first record of a day, so that a list over all machines goes
//! from day to day and within a day merges the shards, newest first. **Nothing here scans but
//! [`DynamoDb::claims`]**, which the audit alone asks for.
//!
//! # What lists may miss
//!
//! DynamoDB writes the indexes after the item, mostly within a second: a record put in this moment
//! may be missing from a list that begins in this moment, and one told in this moment is not given
//! as pending. Pages that follow each other go down by moment: no record comes twice, and none is
//! left out that was in the index when the first page was read. Items themselves are read
//! consistently.

mod check;
mod error;
mod item;
mod list;
mod settings;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{Claim, RecordPage, RecordQuery, Stored};
use castwatch_core::{PortError, Records};
use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::aws;
use crate::embedded::Claims;

use item::{Item, MAX_ALERT, MAX_RECORD, attr, text};

pub use settings::*;

/// An entry of `days` is written anew so often: it must expire after the records of its day.
const DAY_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// And so much later than they do.
const DAY_LONGER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Parts of the table that an audit reads side by side.
const SEGMENTS: i32 = 4;

/// A table of DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoDb {
    client: Client,
    settings: Arc<DynamoSettings>,
    /// The days whose item this process wrote, and when.
    days: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl DynamoDb {
    /// The table of these settings. Nothing is asked of it yet.
    pub async fn open(settings: DynamoSettings) -> Self {
        let client = Client::new(&aws::sdk_config(&settings.aws).await);
        Self { client, settings: Arc::new(settings), days: Arc::default() }
    }

    /// How many effects were begun and how many took place. **This reads the whole table**, in
    /// parts side by side: it is for an audit, not for every minute.
    ///
    /// # Errors
    /// [`PortError::Unavailable`].
    pub async fn claims(&self) -> Result<Claims, PortError> {
        let mut segments = JoinSet::new();
        for segment in 0..SEGMENTS {
            let db = self.clone();
            segments.spawn(async move { db.claims_of(segment).await });
        }
        let mut all = Claims::default();
        while let Some(counted) = segments.join_next().await {
            let counted = counted.map_err(|e| PortError::unavailable("count of claims", e))??;
            all.begun += counted.begun;
            all.settled += counted.settled;
        }
        Ok(all)
    }

    async fn claims_of(&self, segment: i32) -> Result<Claims, PortError> {
        let (mut claims, mut from) = (Claims::default(), None);
        loop {
            let scan = self.client.scan().table_name(&self.settings.table);
            let page = scan
                .segment(segment)
                .total_segments(SEGMENTS)
                .set_exclusive_start_key(from)
                .filter_expression("#sk = :claim")
                .projection_expression("#claim")
                .expression_attribute_names("#sk", attr::SK)
                .expression_attribute_names("#claim", attr::CLAIM)
                .expression_attribute_values(":claim", text(item::CLAIM))
                .send()
                .await
                .map_err(|e| self.error("count of claims", e))?;
            for claim in page.items() {
                match settled(claim) {
                    true => claims.settled += 1,
                    false => claims.begun += 1,
                }
            }
            match page.last_evaluated_key {
                Some(key) if !key.is_empty() => from = Some(key),
                _ => return Ok(claims),
            }
        }
    }

    /// Sees to the item of a day: whoever puts a record has written its day before.
    async fn note_day(&self, day: &str) -> Result<(), PortError> {
        let written = self.days.lock().unwrap_or_else(PoisonError::into_inner).get(day).copied();
        if written.is_some_and(|at| at.elapsed() < DAY_AGAIN) {
            return Ok(());
        }
        let mut shards = self.settings.shards;
        loop {
            let update = self.update(item::day_key(day), self.expires(DAY_LONGER));
            let answer = update
                .condition_expression("attribute_not_exists(#shards) OR #shards <= :shards")
                .update_expression(self.set("#shards = :shards"))
                .expression_attribute_names("#shards", attr::SHARDS)
                .expression_attribute_values(":shards", AttributeValue::N(shards.to_string()))
                .send()
                .await;
            match answer {
                Ok(_) => break,
                // Other processes spread this day over more: readers must go on looking there.
                Err(error) => match error::held(&error).and_then(item::shards) {
                    Some(more) if more > shards => shards = more,
                    _ => return Err(self.error(&format!("day {day}"), error)),
                },
            }
        }
        self.days.lock().unwrap_or_else(PoisonError::into_inner).insert(day.to_owned(), Instant::now());
        Ok(())
    }

    /// An update of the item of `key` that tells what was there where its condition fails.
    fn update(
        &self,
        key: [(&'static str, AttributeValue); 2],
        expires: Option<AttributeValue>,
    ) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
        let update = self
            .client
            .update_item()
            .table_name(&self.settings.table)
            .set_key(Some(key.map(|(name, value)| (name.to_owned(), value)).into()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match expires {
            Some(at) => update
                .expression_attribute_names("#expires", attr::EXPIRES)
                .expression_attribute_values(":expires", at),
            None => update,
        }
    }

    /// The expression of an update that also moves the time of removal, where there is one.
    fn set(&self, what: &str) -> String {
        let expires = if self.settings.retention.is_some() { ", #expires = :expires" } else { "" };
        format!("SET {what}{expires}")
    }

    /// When an item written now may go, in seconds since 1970.
    fn expires(&self, longer: Duration) -> Option<AttributeValue> {
        let keep = self.settings.retention?.saturating_add(longer).as_secs();
        let at = Timestamp::now().as_second().saturating_add_unsigned(keep);
        Some(AttributeValue::N(at.to_string()))
    }

    /// Puts an item unless its key has one; what was there otherwise.
    async fn put_new(&self, what: &str, mut item: Item) -> Result<Option<Item>, PortError> {
        let mark = mark();
        item.insert(attr::MARK.to_owned(), text(&mark));
        item.extend(self.expires(Duration::ZERO).map(|at| (attr::EXPIRES.to_owned(), at)));
        let put = self
            .client
            .put_item()
            .table_name(&self.settings.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match put.send().await {
            Ok(_) => Ok(None),
            Err(error) => match error::held(&error) {
                // Written by this very call, whose first answer was lost.
                Some(held) if item::get(held, attr::MARK) == Some(mark.as_str()) => Ok(None),
                Some(held) => Ok(Some(held.clone())),
                None => Err(self.error(what, error)),
            },
        }
    }
}

/// A text that no other call has.
fn mark() -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    // Each `RandomState` has keys of its own, drawn by chance.
    let chance = RandomState::new().hash_one(CALLS.fetch_add(1, Ordering::Relaxed));
    let more = RandomState::new().hash_one(Timestamp::now().as_nanosecond());
    format!("{chance:016x}{more:016x}")
}

fn settled(claim: &HashMap<String, AttributeValue>) -> bool {
    item::get(claim, attr::CLAIM) == Some(item::SETTLED)
}

impl Records for DynamoDb {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        let what = format!("record of {}", record.score.shot);
        let item = item::defect(record, self.settings.shards).map_err(|e| PortError::refused(&what, e))?;
        let bytes = item::size(&item);
        if bytes > MAX_RECORD {
            return Err(PortError::refused(
                what,
                format!("its item has {bytes} bytes; DynamoDB takes {MAX_RECORD} and an alert beside it"),
            ));
        }
        self.note_day(&item::day(record.score.ended_at.instant())).await?;
        Ok(match self.put_new(&what, item).await? {
            None => Stored::New,
            Some(_) => Stored::Already,
        })
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        let what = "read of a record";
        let [pk, sk] = item::defect_key(shot);
        let get = self.client.get_item().table_name(&self.settings.table).key(pk.0, pk.1).key(sk.0, sk.1);
        let got = get.consistent_read(true).send().await.map_err(|e| self.error(what, e))?;
        let record = got.item.as_ref().map(item::explanation);
        record.transpose().map_err(|e| PortError::refused(format!("record of {shot}"), e))
    }

    async fn told(&self, alert: &Alert) -> Result<(), PortError> {
        let what = || format!("alert {}", alert.id);
        let json = serde_json::to_string(alert).map_err(|e| PortError::refused(what(), e))?;
        if json.len() > MAX_ALERT {
            let bytes = json.len();
            return Err(PortError::refused(
                what(),
                format!("it has {bytes} bytes; beside a record there is room for {MAX_ALERT}"),
            ));
        }
        let update = self
            .update(item::defect_key(alert.shot.as_str()), None)
            .condition_expression("attribute_exists(pk) AND attribute_not_exists(#alert)")
            .update_expression("SET #alert = :alert, #told = :told REMOVE #pending")
            .expression_attribute_names("#alert", attr::ALERT)
            .expression_attribute_names("#told", attr::TOLD)
            .expression_attribute_names("#pending", attr::PENDING)
            .expression_attribute_values(":alert", text(&json))
            .expression_attribute_values(":told", text(item::TOLD));
        match update.send().await {
            Ok(_) => Ok(()),
            // There is no record, or it has its alert.
            Err(error) if error::condition_failed(&error) => Ok(()),
            Err(error) => Err(self.error(&what(), error)),
        }
    }

    async fn list(&self, query: &RecordQuery) -> Result<RecordPage, PortError> {
        list::page(self, query).await
    }

    async fn claim(&self, id: &str) -> Result<Claim, PortError> {
        let what = format!("claim of {id}");
        let held = self.put_new(&what, item::claim(&what, id)?).await?;
        Ok(match held {
            None => Claim::Fresh,
            Some(held) if settled(&held) => Claim::Settled,
            Some(_) => Claim::Begun,
        })
    }

    async fn settle(&self, id: &str) -> Result<(), PortError> {
        let what = format!("settling of {id}");
        let update = self
            .update(item::claim_key(&what, id)?, self.expires(Duration::ZERO))
            .update_expression(self.set("#claim = :settled"))
            .expression_attribute_names("#claim", attr::CLAIM)
            .expression_attribute_values(":settled", text(item::SETTLED));
        update.send().await.map(drop).map_err(|e| self.error(&what, e))
    }
}
