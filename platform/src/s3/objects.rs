//! Charts.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use castwatch_core::{Objects, PortError};

use super::S3;
use super::transfer::Put;
use crate::aws::port_error;
use crate::folder::checked;

/// Signature version 4 is valid no longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

impl S3 {
    /// Where the object of `key` lies in the bucket.
    fn object(&self, what: &str, key: &str) -> Result<String, PortError> {
        let key = checked(key).map_err(|e| PortError::refused(what, e))?;
        Ok(format!("{}objects/{key}", self.0.settings.prefix))
    }
}

impl Objects for S3 {
    async fn put(&self, key: &str, content_type: &str, bytes: Bytes) -> Result<(), PortError> {
        let what = format!("store of {key}");
        let at = self.object(&what, key)?;
        let put = Put {
            content_type: Some(content_type.to_owned()),
            // The bytes of a key never change: a chart is a function of its shot and its model.
            cache_control: Some(format!("private, max-age={}, immutable", self.0.settings.cache_seconds)),
            ..Put::default()
        };
        self.upload(&what, &at, bytes, put).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        let what = format!("read of {key}");
        let at = self.object(&what, key)?;
        Ok(self.get_object(&what, &at).await?.map(|got| got.bytes))
    }

    /// A presigned address. It ends with the credentials that signed it, if they end earlier, and
    /// leads nowhere while the key has no bytes.
    async fn link(&self, key: &str, valid: Duration) -> Result<Option<String>, PortError> {
        let what = format!("link to {key}");
        let at = self.object(&what, key)?;
        if valid < Duration::from_secs(1) || valid > LONGEST {
            let cause =
                format!("{valid:?} is not between 1 s and 7 days, how long a link of S3 may be valid");
            return Err(PortError::refused(what, cause));
        }
        let times = PresigningConfig::expires_in(valid).map_err(|e| PortError::refused(&what, e))?;
        let request = self.0.client.get_object().bucket(&self.0.settings.bucket).key(at);
        let signed = request.presigned(times).await.map_err(|e| port_error(what, e))?;
        Ok(Some(signed.uri().to_owned()))
    }
}
