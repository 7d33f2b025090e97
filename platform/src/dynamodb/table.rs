//! Making the table, and what it must look like.

use std::time::Duration;

use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata as _};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
    Projection, ProjectionType, ScalarAttributeType, TableDescription, TableStatus, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use castwatch_core::PortError;
use tokio::time::Instant;

use super::DynamoDb;
use super::item::attr;

/// The index by machine and time.
pub(super) const BY_MACHINE: &str = "by-machine";
/// The index by die and time.
pub(super) const BY_DIE: &str = "by-die";
/// The index by day and time.
pub(super) const BY_DAY: &str = "by-day";
/// The index of what is not told yet.
pub(super) const PENDING: &str = "pending";

/// The indexes and their keys; all are sorted by moment.
pub(super) const INDEXES: [(&str, &str); 4] =
    [(BY_MACHINE, attr::MACHINE), (BY_DIE, attr::DIE), (BY_DAY, attr::DAY), (PENDING, attr::PENDING)];
/// What indexes hold beside the keys.
pub(super) const HELD: [&str; 6] =
    [attr::MACHINE, attr::DIE, attr::CAUSE, attr::TOLD, attr::ENDED_AT, attr::PROBABILITY];

/// How long a table that is made may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

impl DynamoDb {
    /// Makes the table where it is missing, with its indexes and its removal of what expires, paid
    /// by request; returns when it can be used.
    ///
    /// # Errors
    /// [`PortError::Unavailable`], also when it is not ready after five minutes.
    pub async fn create_table(&self) -> Result<(), PortError> {
        let what = format!("making of table {}", self.settings.table);
        let parts = parts().map_err(|e| PortError::refused(&what, e))?;
        let create = self
            .client
            .create_table()
            .table_name(&self.settings.table)
            .billing_mode(BillingMode::PayPerRequest)
            .set_attribute_definitions(Some(parts.attributes))
            .set_key_schema(Some(parts.keys))
            .set_global_secondary_indexes(Some(parts.indexes));
        match create.send().await {
            Ok(_) => {}
            // It is there, or somebody makes it just now.
            Err(error) if error.code() == Some("ResourceInUseException") => {}
            Err(error) => return Err(self.error(&what, error)),
        }
        let began = Instant::now();
        while !ready(&self.described(&what).await?) {
            if began.elapsed() > PATIENCE {
                let late = format!("it is not ready after {} s", PATIENCE.as_secs());
                return Err(PortError::unavailable(what, late));
            }
            tokio::time::sleep(LOOK).await;
        }
        if !self.expires_items(&what).await? {
            let expiry =
                TimeToLiveSpecification::builder().enabled(true).attribute_name(attr::EXPIRES).build();
            let update = self.client.update_time_to_live().table_name(&self.settings.table);
            let expiry = expiry.map_err(|e| PortError::refused(&what, e))?;
            let update = update.time_to_live_specification(expiry).send().await;
            update.map_err(|e| self.error(&what, e))?;
        }
        Ok(())
    }

    /// Removes the table with all that is in it: for what a measurement made, never for a plant's.
    ///
    /// # Errors
    /// [`PortError`], when it can't be removed.
    pub async fn remove_table(&self) -> Result<(), PortError> {
        let what = format!("removal of table {}", self.settings.table);
        let removed = self.client.delete_table().table_name(&self.settings.table).send().await;
        removed.map(drop).map_err(|e| self.error(&what, e))
    }

    /// What DynamoDB says of the table.
    pub(super) async fn described(&self, what: &str) -> Result<TableDescription, PortError> {
        let described = self.client.describe_table().table_name(&self.settings.table).send().await;
        let table = described.map_err(|e| self.error(what, e))?.table;
        table.ok_or_else(|| PortError::unavailable(what, "the answer describes no table"))
    }

    /// Whether items go when they expire.
    pub(super) async fn expires_items(&self, what: &str) -> Result<bool, PortError> {
        let described = self.client.describe_time_to_live().table_name(&self.settings.table).send().await;
        let expiry = described.map_err(|e| self.error(what, e))?.time_to_live_description;
        Ok(expiry.is_some_and(|e| {
            let on = [TimeToLiveStatus::Enabled, TimeToLiveStatus::Enabling];
            e.attribute_name() == Some(attr::EXPIRES)
                && e.time_to_live_status().is_some_and(|status| on.contains(status))
        }))
    }
}

/// Whether the table and its indexes can be used.
fn ready(table: &TableDescription) -> bool {
    table.table_status() == Some(&TableStatus::Active)
        && table.global_secondary_indexes().iter().all(|i| i.index_status() == Some(&IndexStatus::Active))
}

struct Parts {
    attributes: Vec<AttributeDefinition>,
    keys: Vec<KeySchemaElement>,
    indexes: Vec<GlobalSecondaryIndex>,
}

fn parts() -> Result<Parts, BuildError> {
    let keys = |hash: &str, range: &str| -> Result<Vec<KeySchemaElement>, BuildError> {
        [(hash, KeyType::Hash), (range, KeyType::Range)]
            .into_iter()
            .map(|(name, kind)| KeySchemaElement::builder().attribute_name(name).key_type(kind).build())
            .collect()
    };
    let index = |(name, hash): &(&str, &str)| {
        let held = HELD.iter().filter(|h| *h != hash).map(|h| (*h).to_owned()).collect();
        let projection = Projection::builder().projection_type(ProjectionType::Include);
        GlobalSecondaryIndex::builder()
            .index_name(*name)
            .set_key_schema(Some(keys(hash, attr::MOMENT)?))
            .projection(projection.set_non_key_attributes(Some(held)).build())
            .build()
    };
    let attribute = |name: &str| {
        AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
    };
    let names = [attr::PK, attr::SK, attr::MOMENT].into_iter().chain(INDEXES.map(|(_, hash)| hash));
    Ok(Parts {
        attributes: names.map(attribute).collect::<Result<_, _>>()?,
        keys: keys(attr::PK, attr::SK)?,
        indexes: INDEXES.iter().map(index).collect::<Result<_, _>>()?,
    })
}
