//! Records of defects, and claims on their alerts.

use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{Claim, Kept, RecordPage, RecordQuery, Stored, Told};
use castwatch_core::{EndedAt, PortError, Records};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::Embedded;
use super::consumer::parsed;

/// The most records of one page.
const MAX_PAGE: usize = 1000;

impl Records for Embedded {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        let score = &record.score;
        let what = || format!("record of {}", score.shot);
        let json = serde_json::to_string(record).map_err(|e| PortError::refused(what(), e))?;
        let (shot, machine, die) = (score.shot.to_string(), score.machine.clone(), score.die.clone());
        let cause = record.cause.clone();
        let ended_ns = nanoseconds(score.ended_at);
        let new = self
            .writer
            .run(what, move |db| {
                db.prepare_cached(
                    "INSERT INTO records (shot, machine, die, ended_ns, json, cause) VALUES (?, ?, ?, ?, ?, ?) \
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![shot, machine, die, ended_ns, json, cause])
            })
            .await?;
        Ok(if new == 0 { Stored::Already } else { Stored::New })
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        let shot = shot.to_owned();
        self.read("read of a record", move |db| {
            db.prepare_cached("SELECT json FROM records WHERE shot = ?")?
                .query_row([shot], |row| parsed(row, 0, |text| serde_json::from_str(text)))
                .optional()
                .map(Option::flatten)
        })
        .await
    }

    async fn told(&self, alert: &Alert) -> Result<(), PortError> {
        let what = || format!("alert {}", alert.id);
        let json = serde_json::to_string(alert).map_err(|e| PortError::refused(what(), e))?;
        let shot = alert.shot.to_string();
        self.writer
            .run(what, move |db| {
                db.prepare_cached("UPDATE records SET alert = ? WHERE shot = ? AND alert IS NULL")?
                    .execute(params![json, shot])
                    .map(drop)
            })
            .await
    }

    async fn list(&self, query: &RecordQuery) -> Result<RecordPage, PortError> {
        let what = "list of records";
        if query.limit == 0 || query.limit > MAX_PAGE {
            return Err(PortError::refused(
                what,
                format!("a page has 1 to {MAX_PAGE} records, not {}", query.limit),
            ));
        }
        let before = match query.before.as_deref() {
            Some(text) => Some(cursor(text).ok_or_else(|| {
                PortError::refused(what, "the cursor is not one that a page before gave".to_owned())
            })?),
            None => None,
        };
        let query = query.clone();
        self.read(what, move |db| page(db, query, before)).await
    }

    async fn claim(&self, id: &str) -> Result<Claim, PortError> {
        let (what, id) = (|| format!("claim of {id}"), id.to_owned());
        self.writer
            .run(what, move |db| {
                let new = db
                    .prepare_cached("INSERT INTO claims (id, settled) VALUES (?, 0) ON CONFLICT DO NOTHING")?
                    .execute([&id])?;
                if new == 1 {
                    return Ok(Claim::Fresh);
                }
                let settled = db
                    .prepare_cached("SELECT settled FROM claims WHERE id = ?")?
                    .query_row([&id], |row| row.get(0))?;
                Ok(if settled { Claim::Settled } else { Claim::Begun })
            })
            .await
    }

    async fn settle(&self, id: &str) -> Result<(), PortError> {
        let (what, id) = (|| format!("settling of {id}"), id.to_owned());
        self.writer
            .run(what, move |db| {
                db.prepare_cached(
                    "INSERT INTO claims (id, settled) VALUES (?, 1) ON CONFLICT DO UPDATE SET settled = 1",
                )?
                .execute([id])
                .map(drop)
            })
            .await
    }
}

/// Times of shots lie between 2000 and 2100, where nanoseconds fit.
fn nanoseconds(at: EndedAt) -> i64 {
    time_ns(at.instant())
}

fn time_ns(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time.as_nanosecond() < 0 { i64::MIN } else { i64::MAX })
}

/// The place of the last record of a page: its time and its shot.
fn cursor(text: &str) -> Option<(i64, String)> {
    let (ended_ns, shot) = text.split_once('/')?;
    Some((ended_ns.parse().ok()?, shot.to_owned()))
}

/// The question as SQL. Every condition is one that an index of the layout serves.
fn question(query: RecordQuery, before: Option<(i64, String)>) -> (String, Vec<Value>) {
    let mut sql = String::from("SELECT json, ended_ns, shot, alert FROM records WHERE 1");
    let mut values: Vec<Value> = Vec::new();
    for (column, wanted) in [("machine", query.machine), ("die", query.die), ("cause", query.cause)] {
        if let Some(wanted) = wanted {
            sql.push_str(&format!(" AND {column} = ?"));
            values.push(wanted.into());
        }
    }
    for (comparison, time) in [(">=", query.from), ("<", query.to)] {
        if let Some(time) = time {
            sql.push_str(&format!(" AND ended_ns {comparison} ?"));
            values.push(time_ns(time).into());
        }
    }
    match query.told {
        Some(Told::Pending) => sql.push_str(" AND alert IS NULL"),
        Some(Told::Told) => sql.push_str(" AND alert IS NOT NULL"),
        None => {}
    }
    if let Some((ended_ns, shot)) = before {
        sql.push_str(" AND (ended_ns, shot) < (?, ?)");
        values.extend([Value::from(ended_ns), Value::from(shot)]);
    }
    sql.push_str(" ORDER BY ended_ns DESC, shot DESC LIMIT ?");
    // One more than asked for says whether another page follows.
    values.push(Value::from(query.limit as i64 + 1));
    (sql, values)
}

fn page(db: &Connection, query: RecordQuery, before: Option<(i64, String)>) -> rusqlite::Result<RecordPage> {
    let limit = query.limit;
    let (sql, values) = question(query, before);
    let mut select = db.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let (mut page, mut last) = (RecordPage::default(), None);
    while let Some(row) = rows.next()? {
        if page.defects.len() == limit {
            page.next = last;
            break;
        }
        let alert = parsed(row, 3, |text| serde_json::from_str(text))?;
        let record = parsed(row, 0, |text| serde_json::from_str(text))?;
        page.defects.extend(record.map(|record| Kept { record, alert }));
        last = Some(format!("{}/{}", row.get::<_, i64>(1)?, row.get::<_, String>(2)?));
    }
    Ok(page)
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
