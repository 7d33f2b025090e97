//! What DynamoDB's errors mean to a port.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use castwatch_core::PortError;

use super::DynamoDb;
use super::item::Item;

/// The table is not there: what to do is said, since only a person can do it.
#[derive(Debug, thiserror::Error)]
#[error("there is no table `{table}`: `castwatch doctor --create` makes it")]
struct NoTable {
    table: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What DynamoDB says of an item that it will never take. All else that it finds invalid is the
/// table's fault, such as keys of another make: then it says so of every item.
const ITEMS_OWN: [&str; 3] = ["size", "Size", "empty"];

impl DynamoDb {
    /// An error of the SDK as a port's. A table that is missing is an outage: a record is not to be
    /// set aside because somebody forgot the table.
    pub(super) fn error<E>(&self, what: &str, error: SdkError<E, HttpResponse>) -> PortError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if error.code() == Some("ResourceNotFoundException") {
            let table = self.settings.table.clone();
            return PortError::unavailable(what, NoTable { table, source: error.into() });
        }
        let own = error.message().is_some_and(|m| ITEMS_OWN.iter().any(|own| m.contains(own)));
        match crate::aws::port_error(what, error) {
            PortError::Refused { what, source } if !own => PortError::Unavailable { what, source },
            error => error,
        }
    }
}

/// Errors of conditional writes, which hand back what was there.
pub(super) trait Conditional {
    /// Whether the condition was what failed, and the item as it was.
    fn failed(&self) -> Option<Option<&Item>>;
}

macro_rules! conditional {
    ($($error:ident),*) => {$(
        impl Conditional for $error {
            fn failed(&self) -> Option<Option<&Item>> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => Some(failed.item()),
                    _ => None,
                }
            }
        }
    )*};
}
conditional!(PutItemError, UpdateItemError);

/// Whether a condition failed.
pub(super) fn condition_failed<E: Conditional, R>(error: &SdkError<E, R>) -> bool {
    error.as_service_error().is_some_and(|e| e.failed().is_some())
}

/// The item that a condition failed on.
pub(super) fn held<E: Conditional, R>(error: &SdkError<E, R>) -> Option<&Item> {
    error.as_service_error()?.failed()?
}
