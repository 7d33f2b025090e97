//! How S3 is used.

use crate::aws::AwsSettings;

/// Encryption at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// The bucket's own.
    #[default]
    None,
    /// S3's keys (SSE-S3).
    S3,
    /// A key of KMS, or the account's own.
    Kms(Option<String>),
}

/// How S3 is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// `[aws]`, and `endpoint` where the server is not AWS's own.
    pub aws: AwsSettings,
    /// `bucket`.
    pub bucket: String,
    /// `prefix`: stands before each key, such as `plant1/`. Empty.
    pub prefix: String,
    /// `encryption`: `none`, `s3` or `kms`, with `kms_key`. `none`.
    pub encryption: Encryption,
    /// `path_style`: whether the bucket stands in the path and not in the host name. `false`.
    pub path_style: bool,
    /// `cache_seconds`: how long browsers may keep a chart. 86400.
    pub cache_seconds: u32,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            aws: AwsSettings::default(),
            bucket: String::new(),
            prefix: String::new(),
            encryption: Encryption::default(),
            path_style: false,
            cache_seconds: 86_400,
        }
    }
}
