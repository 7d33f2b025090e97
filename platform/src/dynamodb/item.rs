//! Items: their keys, their attributes, their size.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};

use aws_sdk_dynamodb::types::AttributeValue;
use castwatch_core::PortError;
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::Kept;
use jiff::Timestamp;

/// The names of attributes.
pub(super) mod attr {
    pub const PK: &str = "pk";
    pub const SK: &str = "sk";
    pub const MACHINE: &str = "machine";
    pub const DIE: &str = "die";
    pub const CAUSE: &str = "cause";
    pub const ENDED_AT: &str = "ended_at";
    pub const PROBABILITY: &str = "probability";
    pub const TOLD: &str = "told";
    pub const EXPLANATION: &str = "explanation";
    pub const ALERT: &str = "alert";
    pub const MOMENT: &str = "moment";
    pub const DAY: &str = "day_shard";
    pub const PENDING: &str = "pending_shard";
    pub const CLAIM: &str = "claim";
    pub const SHARDS: &str = "shards";
    pub const MARK: &str = "mark";
    pub const EXPIRES: &str = "expires";
}

/// `told` of a defect that was not told by all channels yet.
pub(super) const PENDING: &str = "pending";
/// `told` of one that was.
pub(super) const TOLD: &str = "told";
/// `claim` of an effect that was begun.
const BEGUN: &str = "begun";
/// `claim` of one that took place.
pub(super) const SETTLED: &str = "settled";
/// `sk` of a defect.
const DEFECT: &str = "defect";
/// `sk` of a claim.
pub(super) const CLAIM: &str = "claim";
/// `pk` of days.
pub(super) const DAYS: &str = "days";

/// The parts of the index of pending defects. An entry stays as long as the telling takes.
pub(super) const PENDING_SHARDS: u32 = 16;

/// The largest item that DynamoDB takes, in bytes.
const MAX_ITEM: usize = 400 * 1024;
/// What is left free in the item of a record, so that its alert always fits.
const ROOM: usize = 64 * 1024;
/// The largest item of a record without its alert.
pub(super) const MAX_RECORD: usize = MAX_ITEM - ROOM;
/// The largest alert, as JSON; the attribute's name and `told` take a few bytes too.
pub(super) const MAX_ALERT: usize = ROOM - 64;
/// The longest `pk`, in bytes.
const MAX_KEY: usize = 2048;

/// An item, or its key.
pub(super) type Item = HashMap<String, AttributeValue>;
/// A key of the table.
pub(super) type Key = [(&'static str, AttributeValue); 2];

pub(super) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

/// A text of an item.
pub(super) fn get<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

/// How many shards the item of a day names.
pub(super) fn shards(day: &Item) -> Option<u32> {
    day.get(attr::SHARDS)?.as_n().ok()?.parse().ok()
}

fn key(pk: String, sk: &str) -> Key {
    [(attr::PK, AttributeValue::S(pk)), (attr::SK, text(sk))]
}

pub(super) fn defect_key(shot: &str) -> Key {
    key(format!("shot#{shot}"), DEFECT)
}

pub(super) fn day_key(day: &str) -> Key {
    key(DAYS.to_owned(), day)
}

/// The key of a claim; ids of foreign events may be longer than DynamoDB's keys.
pub(super) fn claim_key(what: &str, id: &str) -> Result<Key, PortError> {
    let pk = format!("claim#{id}");
    if pk.len() > MAX_KEY {
        return Err(PortError::refused(what, format!("its key has {} bytes; {MAX_KEY} are taken", pk.len())));
    }
    Ok(key(pk, CLAIM))
}

/// The item of a claim that is begun.
pub(super) fn claim(what: &str, id: &str) -> Result<Item, PortError> {
    let mut item: Item = claim_key(what, id)?.map(|(name, value)| (name.to_owned(), value)).into();
    item.insert(attr::CLAIM.to_owned(), text(BEGUN));
    Ok(item)
}

/// A time as items have it: in UTC, and always as long, so that texts sort as times do.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.9}")
}

/// The day of a time, in UTC.
pub(super) fn day(at: Timestamp) -> String {
    let mut text = time(at);
    text.truncate("2026-01-15".len());
    text
}

/// The first time of a day, below all its moments.
pub(super) fn begin_of_day(day: &str) -> String {
    format!("{day}T00:00:00.000000000Z")
}

/// The place of a shot in every list.
pub(super) fn moment(at: Timestamp, shot: &str) -> String {
    format!("{}#{shot}", time(at))
}

/// The shot of a moment.
pub(super) fn shot(moment: &str) -> &str {
    moment.split_once('#').map_or("", |(_, shot)| shot)
}

/// Whether a cursor is one that a page gave: a moment, or a bare time between two days.
pub(super) fn is_cursor(text: &str) -> bool {
    let (at, shot) = match text.split_once('#') {
        Some((at, shot)) => (at, Some(shot)),
        None => (text, None),
    };
    shot != Some("") && at.parse::<Timestamp>().is_ok_and(|parsed| time(parsed) == at)
}

/// The shard of a shot among so many. Items say which one they are in, so it may differ from one
/// version to the next.
pub(super) fn shard(shot: &str, shards: u32) -> u32 {
    let mut hasher = DefaultHasher::new();
    hasher.write(shot.as_bytes());
    (hasher.finish() % u64::from(shards.max(1))) as u32
}

/// The key of a part of a day.
pub(super) fn day_shard(day: &str, shard: u32) -> String {
    format!("{day}#{shard:02}")
}

/// The key of a part of what is pending.
pub(super) fn pending_shard(shard: u32) -> String {
    format!("{shard:02}")
}

/// The item of a record, not told yet.
pub(super) fn defect(record: &Explanation, shards: u32) -> Result<Item, serde_json::Error> {
    let score = &record.score;
    let (at, shot) = (score.ended_at.instant(), score.shot.as_str());
    let mut item: Item = defect_key(shot).map(|(name, value)| (name.to_owned(), value)).into();
    let mut put = |name: &str, value: String| item.insert(name.to_owned(), AttributeValue::S(value));
    put(attr::MACHINE, score.machine.clone());
    put(attr::DIE, score.die.clone());
    put(attr::CAUSE, record.cause.clone());
    put(attr::ENDED_AT, time(at));
    put(attr::TOLD, PENDING.to_owned());
    put(attr::MOMENT, moment(at, shot));
    put(attr::DAY, day_shard(&day(at), shard(shot, shards)));
    put(attr::PENDING, pending_shard(shard(shot, PENDING_SHARDS)));
    put(attr::EXPLANATION, serde_json::to_string(record)?);
    if let Some(probability) = score.probability {
        // For analysts' comparisons; to the last bit it stands in the record. A number of DynamoDB
        // may not be as small as one of IEEE 754.
        item.insert(attr::PROBABILITY.to_owned(), AttributeValue::N(format!("{probability:.6}")));
    }
    Ok(item)
}

/// The record of a defect's item.
pub(super) fn explanation(item: &Item) -> Result<Explanation, serde_json::Error> {
    serde_json::from_str(get(item, attr::EXPLANATION).unwrap_or_default())
}

/// The record and the alert of a defect's item.
pub(super) fn kept(item: &Item) -> Result<Kept, serde_json::Error> {
    let alert: Option<Alert> = get(item, attr::ALERT).map(serde_json::from_str).transpose()?;
    Ok(Kept { record: explanation(item)?, alert })
}

/// How large DynamoDB takes an item to be: the names and the values. A number is at most 21 bytes.
pub(super) fn size(item: &Item) -> usize {
    let value = |value: &AttributeValue| value.as_s().map_or(21, String::len);
    item.iter().map(|(name, v)| name.len() + value(v)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_sort_as_times_do() {
        let times = ["2000-01-01T00:00:00Z", "2026-01-15T07:45:06Z", "2026-01-15T07:45:06.25Z"];
        let moments: Vec<String> = times.iter().map(|t| moment(t.parse().unwrap(), "a~b")).collect();
        assert_eq!(moments[1], "2026-01-15T07:45:06.000000000Z#a~b");
        assert!(moments.is_sorted());
        assert_eq!(shot(&moments[1]), "a~b");
        assert_eq!(day(times[2].parse().unwrap()), "2026-01-15");
        let bare = time(times[1].parse().unwrap());
        assert!(bare < moments[1] && moments[0] < bare, "a bare time lies before the shots of its instant");
    }

    #[test]
    fn cursors_are_moments_or_bare_times() {
        for good in ["2026-01-15T07:45:06.000000000Z#주조기~1", "2026-01-15T00:00:00.000000000Z"] {
            assert!(is_cursor(good), "{good}");
        }
        for wrong in
            ["", "#", "x", "2026-01-15", "2026-01-15T07:45:06Z#a", "2026-01-15T07:45:06.000000000Z#", "한#a"]
        {
            assert!(!is_cursor(wrong), "{wrong}");
        }
    }

    #[test]
    fn shots_spread_over_shards() {
        // What is alike in every shot of a plant, and what counts up, must not gather them.
        let mut counts = [0_u32; 16];
        for cycle in 0..48_000 {
            let machine = cycle % 40;
            let second = cycle / 3000;
            counts
                [shard(&format!("DCM-{machine:02}~8722~20260115T0745{second:02}Z~{cycle}"), 16) as usize] +=
                1;
        }
        assert!(counts.iter().all(|n| (2700..3300).contains(n)), "{counts:?}");
        assert!((0..1000).all(|n| shard(&n.to_string(), 3) < 3));
    }
}
