//! What S3 and DynamoDB share: how AWS is reached.

use crate::config::Secret;

/// How AWS is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `region`; without it the environment's.
    pub region: Option<String>,
    /// A server other than AWS's own.
    pub endpoint: Option<String>,
    /// `access_key`, for servers that are not AWS's: elsewhere the default chain finds an identity.
    pub access_key: Option<String>,
    /// `secret_key`, that goes with it.
    pub secret_key: Option<Secret>,
}
