//! Bytes to and from the bucket: in one request, or in parts at once where they are many.
//!
//! **A write is one replacement of the whole object**, in parts too: they become an object when
//! all are there, and nothing before.

use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use castwatch_core::PortError;
use tokio::task::JoinSet;

use super::S3;
use crate::aws::{port_error, status};

/// What is larger has more time than other requests.
const LARGE: usize = 256 << 10;
/// What is larger goes in parts of this size.
const PART: usize = 8 << 20;
/// S3 takes no more parts of an object.
const MAX_PARTS: usize = 10_000;
/// So many parts are on their way at once.
const AT_ONCE: usize = 4;
/// How long one try to move a part may take: 1.1 Mbit/s will do.
const ATTEMPT: Duration = Duration::from_secs(60);
/// How long all tries to move a part may take.
const OPERATION: Duration = Duration::from_secs(150);

/// When a write may take place.
#[derive(Clone, Debug, Default)]
pub(super) enum Condition {
    /// Always.
    #[default]
    None,
    /// When the key has no object.
    Absent,
    /// When the object is the one of this entity tag.
    Is(String),
}

/// How an object is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Put {
    pub condition: Condition,
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Written {
    /// It took place; the object's entity tag.
    Done(String),
    /// The condition did not hold, perhaps because of this very write, whose answer was lost.
    Not,
}

/// An object that was read.
pub(super) struct Got {
    pub bytes: Bytes,
    pub tag: String,
}

impl S3 {
    /// Writes an object in one request.
    pub(super) async fn put_object(
        &self,
        what: &str,
        key: &str,
        bytes: Bytes,
        put: Put,
    ) -> Result<Written, PortError> {
        let large = bytes.len() > LARGE;
        let (encryption, kms_key) = self.encryption();
        let mut request = (self.0.client.put_object())
            .bucket(&self.0.settings.bucket)
            .key(key)
            .set_content_type(put.content_type)
            .set_cache_control(put.cache_control)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .body(ByteStream::from(bytes));
        let conditional = !matches!(put.condition, Condition::None);
        request = match put.condition {
            Condition::None => request,
            Condition::Absent => request.if_none_match("*"),
            Condition::Is(tag) => request.if_match(tag),
        };
        let sent = if large {
            request.customize().config_override(patient()).send().await
        } else {
            request.send().await
        };
        match sent {
            Ok(written) => Ok(Written::Done(written.e_tag.unwrap_or_default())),
            Err(e) if conditional && unmet(&e) => Ok(Written::Not),
            Err(e) => Err(port_error(what, e)),
        }
    }

    /// Writes an object whatever was there, in parts where it is large.
    pub(super) async fn upload(
        &self,
        what: &str,
        key: &str,
        bytes: Bytes,
        put: Put,
    ) -> Result<(), PortError> {
        if bytes.len() <= PART {
            return self.put_object(what, key, bytes, put).await.map(drop);
        }
        let (client, bucket) = (&self.0.client, &self.0.settings.bucket);
        let (encryption, kms_key) = self.encryption();
        let begun = (client.create_multipart_upload())
            .bucket(bucket)
            .key(key)
            .set_content_type(put.content_type)
            .set_cache_control(put.cache_control)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .checksum_algorithm(ChecksumAlgorithm::Crc32);
        let begun = begun.send().await.map_err(|e| port_error(what, e))?;
        let upload =
            begun.upload_id.ok_or_else(|| PortError::unavailable(what, "the upload was given no id"))?;
        let sent = async {
            let parts = self.upload_parts(what, key, &upload, &bytes).await?;
            let complete = (client.complete_multipart_upload())
                .bucket(bucket)
                .key(key)
                .upload_id(&upload)
                .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
            // Putting the parts together may take long.
            complete.customize().config_override(patient()).send().await.map_err(|e| port_error(what, e))
        };
        match sent.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // The bucket's lifecycle rule removes what this can't.
                let _ =
                    client.abort_multipart_upload().bucket(bucket).key(key).upload_id(&upload).send().await;
                Err(error)
            }
        }
    }

    async fn upload_parts(
        &self,
        what: &str,
        key: &str,
        upload: &str,
        bytes: &Bytes,
    ) -> Result<Vec<CompletedPart>, PortError> {
        let size = PART.max(bytes.len().div_ceil(MAX_PARTS));
        let requests = (0..bytes.len().div_ceil(size)).map(|n| {
            let part = bytes.slice(n * size..bytes.len().min((n + 1) * size));
            let number = i32::try_from(n + 1).unwrap_or(i32::MAX);
            let request = (self.0.client.upload_part())
                .bucket(&self.0.settings.bucket)
                .key(key)
                .upload_id(upload)
                .part_number(number)
                .checksum_algorithm(ChecksumAlgorithm::Crc32);
            let what = what.to_owned();
            async move {
                let request = request.body(ByteStream::from(part)).customize().config_override(patient());
                let sent = request.send().await.map_err(|e| port_error(what, e))?;
                Ok(CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(sent.e_tag)
                    .set_checksum_crc32(sent.checksum_crc32)
                    .build())
            }
        });
        some_at_once(requests).await
    }

    /// An object and its entity tag, in one request.
    pub(super) async fn get_object(&self, what: &str, key: &str) -> Result<Option<Got>, PortError> {
        self.get_range(what, key, None).await
    }

    /// An object of known length, in parts where it is large.
    pub(super) async fn download(
        &self,
        what: &str,
        key: &str,
        length: usize,
    ) -> Result<Option<Bytes>, PortError> {
        if length <= PART {
            return Ok(self.get_object(what, key).await?.map(|got| got.bytes));
        }
        let requests = (0..length.div_ceil(PART)).map(|n| {
            let (s3, what, key) = (self.clone(), what.to_owned(), key.to_owned());
            let range = format!("bytes={}-{}", n * PART, length.min((n + 1) * PART) - 1);
            async move { s3.get_range(&what, &key, Some(range)).await }
        });
        let parts: Option<Vec<Got>> = some_at_once(requests).await?.into_iter().collect();
        Ok(parts.map(|parts| {
            let mut whole = BytesMut::with_capacity(length);
            parts.iter().for_each(|part| whole.extend_from_slice(&part.bytes));
            whole.freeze()
        }))
    }

    async fn get_range(
        &self,
        what: &str,
        key: &str,
        range: Option<String>,
    ) -> Result<Option<Got>, PortError> {
        let request = self.0.client.get_object().bucket(&self.0.settings.bucket).key(key).set_range(range);
        let read = async {
            let got = match request.send().await {
                Ok(got) => got,
                Err(e) if missing(&e) => return Ok(None),
                Err(e) => return Err(port_error(what, e)),
            };
            let tag = got.e_tag.unwrap_or_default();
            let bytes = got.body.collect().await.map_err(|e| PortError::unavailable(what, e))?;
            Ok(Some(Got { bytes: bytes.into_bytes(), tag }))
        };
        // The SDK's own times end where the bytes begin.
        tokio::time::timeout(OPERATION, read)
            .await
            .unwrap_or_else(|late| Err(PortError::unavailable(what, late)))
    }
}

/// The results of tasks in their order, a few tasks at once; the first error ends all.
async fn some_at_once<T: Send + 'static>(
    tasks: impl Iterator<Item = impl Future<Output = Result<T, PortError>> + Send + 'static>,
) -> Result<Vec<T>, PortError> {
    let mut waiting = tasks.enumerate();
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    loop {
        for (n, task) in waiting.by_ref().take(AT_ONCE - running.len()) {
            running.spawn(async move { task.await.map(|result| (n, result)) });
        }
        match running.join_next().await {
            Some(Ok(result)) => done.push(result?),
            Some(Err(panicked)) => return Err(PortError::unavailable("transfer", panicked)),
            None => break,
        }
    }
    done.sort_unstable_by_key(|(n, _)| *n);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// Time enough for many bytes.
fn patient() -> aws_sdk_s3::config::Builder {
    let times =
        TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(OPERATION).build();
    aws_sdk_s3::Config::builder().timeout_config(times)
}

/// Whether a conditional write was refused because of its condition: the object is another one, is
/// gone, or is being written.
fn unmet(error: &SdkError<PutObjectError, HttpResponse>) -> bool {
    match status(error) {
        Some(412) => true,
        Some(409) => error.code() == Some("ConditionalRequestConflict"),
        Some(404) => error.code() == Some("NoSuchKey"),
        _ => false,
    }
}

/// Whether there is no such object; a bucket that is missing is another matter.
fn missing(error: &SdkError<GetObjectError, HttpResponse>) -> bool {
    error.as_service_error().is_some_and(GetObjectError::is_no_such_key)
}
