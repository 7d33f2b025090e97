//! Charts and snapshots on Amazon S3, or on a server that speaks its protocol.
//!
//! **A chart is there whole or not at all; a snapshot is saved only by who took its partition
//! last.** Both stand on what S3 promises: an object is replaced as a whole, a read sees the last
//! write that was acknowledged, and a conditional write is refused when the object is another by
//! then. [`S3::check`] tries the last one, because a server that ignores it would fence nobody.
//!
//! Below the prefix lie `objects/` with the charts and `snapshots/` with the progress of stages.

mod objects;
mod snapshots;
mod transfer;

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::create_bucket::CreateBucketError;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration, ServerSideEncryption};
use bytes::Bytes;
use castwatch_core::PortError;

use crate::aws::{AwsSettings, port_error, sdk_config, status};
use snapshots::Held;
use transfer::{Condition, Put, Written};

/// Where objects are kept, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// How AWS is reached.
    pub aws: AwsSettings,
    /// The bucket. Only `castwatch doctor --create` makes one.
    pub bucket: String,
    /// What every key begins with, such as `plant1/`; empty for a bucket of castwatch's own.
    pub prefix: String,
    /// How S3 is asked to encrypt what is stored.
    pub encryption: Encryption,
    /// Whether the bucket is named in the path, as servers want that are not AWS.
    pub path_style: bool,
    /// How long a browser may keep a chart, in seconds.
    pub cache_seconds: u32,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            aws: AwsSettings::default(),
            bucket: String::new(),
            prefix: String::new(),
            encryption: Encryption::None,
            path_style: false,
            cache_seconds: 86_400,
        }
    }
}

/// How S3 is asked to encrypt what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket says, which is with S3's own keys unless it says otherwise.
    #[default]
    None,
    /// With S3's own keys (AES256).
    S3,
    /// With a key of KMS: this one, or the account's own for S3.
    Kms(Option<String>),
}

/// Objects and snapshots in one bucket; clones share it.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    client: Client,
    settings: S3Settings,
    held: Held,
}

impl S3 {
    /// A bucket by its settings. It is not asked yet.
    pub async fn open(settings: S3Settings) -> Self {
        let config = sdk_config(&settings.aws).await;
        let config = aws_sdk_s3::config::Builder::from(&config).force_path_style(settings.path_style).build();
        Self(Arc::new(Inner { client: Client::from_conf(config), settings, held: Held::default() }))
    }

    /// Makes the bucket where it is missing; S3 keeps a new one from the public.
    ///
    /// # Errors
    /// When it can't be made, or belongs to somebody else.
    pub async fn create_bucket(&self) -> Result<(), PortError> {
        let Inner { client, settings, .. } = &*self.0;
        let (bucket, what) = (&settings.bucket, format!("making of the bucket {}", settings.bucket));
        match client.head_bucket().bucket(bucket).send().await {
            Ok(_) => return Ok(()),
            Err(e) if status(&e) == Some(404) => {}
            Err(e) => return Err(port_error(what, e)),
        }
        // The oldest region has no name here, and servers that are not AWS have none at all.
        let region = client.config().region().map(|region| region.as_ref());
        let place = region.filter(|region| *region != "us-east-1" && settings.aws.endpoint.is_none());
        let place = place.map(|region| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region))
                .build()
        });
        match client.create_bucket().bucket(bucket).set_create_bucket_configuration(place).send().await {
            Ok(_) => Ok(()),
            Err(e) if e.as_service_error().is_some_and(CreateBucketError::is_bucket_already_owned_by_you) => {
                Ok(())
            }
            Err(e) => Err(port_error(what, e)),
        }
    }

    /// Writes, reads and deletes an object, looks whether conditional writes are refused as they
    /// should be, and tells what bucket this is.
    ///
    /// # Errors
    /// What does not work here and what to do about it.
    pub async fn check(&self) -> Result<String, PortError> {
        let (bucket, key) =
            (&self.0.settings.bucket, format!("{}castwatch-check/{}", self.0.settings.prefix, unique()));
        let what = |did: &str| format!("{did} in the bucket {bucket}");
        let probe = Bytes::from_static(b"castwatch was here");
        let written = self
            .put_object(
                &what("write"),
                &key,
                probe.clone(),
                Put { condition: Condition::Absent, ..Put::default() },
            )
            .await?;
        let result = async {
            let Written::Done(_) = written else {
                return Err(PortError::refused(
                    what("conditional write"),
                    "a new key was refused as if it were there",
                ));
            };
            for condition in [Condition::Absent, Condition::Is("\"00000000000000000000000000000000\"".into())]
            {
                let again = Put { condition, ..Put::default() };
                if let Written::Done(_) = self.put_object(&what("write"), &key, probe.clone(), again).await? {
                    let cause = "the server ignores If-None-Match or If-Match, so that a stage could not be kept from \
                                 overwriting another one's progress; use Amazon S3 or a server that honours them";
                    return Err(PortError::refused(what("conditional write"), cause));
                }
            }
            match self.get_object(&what("read"), &key).await? {
                Some(read) if read.bytes == probe => Ok(()),
                _ => Err(PortError::refused(what("read"), "other bytes came back than were written")),
            }
        };
        let result = result.await;
        let deleted = self.delete_object(&what("delete"), &key).await;
        result?;
        deleted?;
        Ok(self.described().await)
    }

    /// Deletes everything below the prefix: for what a measurement made, never for a plant's.
    ///
    /// # Errors
    /// When there is no prefix, which would be the whole bucket, or an object can't be deleted.
    pub async fn remove_all(&self) -> Result<(), PortError> {
        let (bucket, prefix) = (&self.0.settings.bucket, &self.0.settings.prefix);
        let what = format!("removal of all objects below `{prefix}` in the bucket {bucket}");
        if prefix.is_empty() {
            return Err(PortError::refused(what, "that is the whole bucket"));
        }
        for key in self.keys(&what, prefix).await? {
            self.delete_object(&what, &key).await?;
        }
        Ok(())
    }

    /// The bucket in words, with what its settings say where they may be seen.
    async fn described(&self) -> String {
        let Inner { client, settings, .. } = &*self.0;
        let bucket = &settings.bucket;
        let versioning = match client.get_bucket_versioning().bucket(bucket).send().await {
            Ok(answer) => answer.status().map_or("off", |s| s.as_str()).to_lowercase(),
            Err(_) => "not to be seen".into(),
        };
        let encryption = match client.get_bucket_encryption().bucket(bucket).send().await {
            Ok(answer) => answer
                .server_side_encryption_configuration()
                .and_then(|c| c.rules().first())
                .and_then(|r| r.apply_server_side_encryption_by_default())
                .map_or("none named", |d| d.sse_algorithm().as_str())
                .to_owned(),
            Err(e) if status(&e) == Some(404) => "none named".into(),
            Err(_) => "not to be seen".into(),
        };
        let region = client.config().region().map_or("no region", |r| r.as_ref());
        let place = settings.aws.endpoint.as_deref().unwrap_or(region);
        format!(
            "bucket {bucket} at {place}, below `{}`: wrote, read and deleted a probe; conditional writes are honoured; \
             versioning {versioning}; encryption {encryption}",
            settings.prefix
        )
    }

    /// The encryption of what is written, as S3 wants to be told.
    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.0.settings.encryption {
            Encryption::None => (None, None),
            Encryption::S3 => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms(key) => (Some(ServerSideEncryption::AwsKms), key.clone()),
        }
    }

    async fn delete_object(&self, what: &str, key: &str) -> Result<(), PortError> {
        let delete = self.0.client.delete_object().bucket(&self.0.settings.bucket).key(key);
        delete.send().await.map(drop).map_err(|e| port_error(what, e))
    }
}

/// A text that no other process and no other call makes.
fn unique() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // The standard library's random seeds: unforgeable they need not be, only different.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:012x}-{:016x}", jiff::Timestamp::now().as_millisecond(), random())
}
