//! How DynamoDB is used.

use std::time::Duration;

use crate::aws::AwsSettings;

/// How DynamoDB is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamoSettings {
    /// `[aws]`, and `endpoint` where the server is not AWS's own.
    pub aws: AwsSettings,
    /// `table`. `castwatch`.
    pub table: String,
    /// `keep_days`: records and claims older than that may go. They are kept for ever.
    pub retention: Option<Duration>,
    /// `shards`: parts of a day's index (1 to 256); it must not shrink. 16.
    pub shards: u32,
}

impl Default for DynamoSettings {
    fn default() -> Self {
        Self { aws: AwsSettings::default(), table: "castwatch".into(), retention: None, shards: 16 }
    }
}
