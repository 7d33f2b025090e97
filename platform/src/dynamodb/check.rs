//! Comparing a table with what is needed, for `castwatch doctor`.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::{KeySchemaElement, KeyType, Projection, ProjectionType, TableStatus};
use castwatch_core::PortError;

use super::DynamoDb;
use super::item::attr;
use super::table::{HELD, INDEXES};

impl DynamoDb {
    /// Compares the table with what is needed, and says in a line what it is.
    ///
    /// # Errors
    /// [`PortError::Refused`] with everything that is wrong with it; [`PortError::Unavailable`]
    /// when it is not there or can't be asked.
    pub async fn check(&self) -> Result<String, PortError> {
        let what = format!("check of table {}", self.settings.table);
        let table = self.described(&what).await?;
        let mut wrong = Vec::new();
        let status = table.table_status().map_or("unknown", TableStatus::as_str);
        if status != TableStatus::Active.as_str() {
            wrong.push(format!("its status is {status}"));
        }
        if !keys_are(table.key_schema(), attr::PK, attr::SK) {
            wrong.push(format!("its key must be `{}` and `{}`", attr::PK, attr::SK));
        }
        for (name, hash) in INDEXES {
            let indexes = table.global_secondary_indexes();
            match indexes.iter().find(|i| i.index_name() == Some(name)) {
                None => wrong.push(format!("the index `{name}` is missing")),
                Some(index) if !keys_are(index.key_schema(), hash, attr::MOMENT) => {
                    wrong.push(format!("the key of `{name}` must be `{hash}` and `{}`", attr::MOMENT));
                }
                Some(index) => {
                    let lacks = lacking(index.projection(), hash);
                    if !lacks.is_empty() {
                        wrong.push(format!("the index `{name}` lacks {}", lacks.join(", ")));
                    }
                }
            }
        }
        let expires = self.expires_items(&what).await?;
        if self.settings.retention.is_some() && !expires {
            wrong.push(format!("items are to expire, but its time to live by `{}` is off", attr::EXPIRES));
        }
        if !wrong.is_empty() {
            return Err(PortError::refused(what, wrong.join("; ")));
        }
        let items = table.item_count().unwrap_or_default();
        let expiry = if expires { "on" } else { "off" };
        Ok(format!(
            "table {}, {} indexes, about {items} items, time to live {expiry}",
            self.settings.table,
            INDEXES.len()
        ))
    }
}

fn keys_are(keys: &[KeySchemaElement], hash: &str, range: &str) -> bool {
    let is =
        |name: &str, kind: &KeyType| keys.iter().any(|k| k.attribute_name() == name && k.key_type() == kind);
    keys.len() == 2 && is(hash, &KeyType::Hash) && is(range, &KeyType::Range)
}

/// What an index should hold and does not.
fn lacking(projection: Option<&Projection>, hash: &str) -> Vec<&'static str> {
    let Some(projection) = projection else { return HELD.to_vec() };
    if projection.projection_type() == Some(&ProjectionType::All) {
        return Vec::new();
    }
    let held: BTreeSet<&str> = projection.non_key_attributes().iter().map(String::as_str).collect();
    HELD.into_iter().filter(|name| *name != hash && !held.contains(name)).collect()
}
