//! Tokens for Amazon MSK's IAM: a presigned request that nobody sends.
//!
//! **A token says no more than who asks**, for 15 minutes, and librdkafka asks for the next one in
//! time. Its form is that of Amazon's own aws-msk-iam-sasl-signer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;

use crate::aws::{AwsSettings, sdk_config};

type Error = Box<dyn std::error::Error + Send + Sync>;

const VALID: Duration = Duration::from_secs(900);

/// A token of this process's AWS credentials for the clusters of `region`.
pub(super) fn token(region: &str) -> Result<OAuthToken, Error> {
    let settings = AwsSettings { region: Some(region.to_owned()), ..AwsSettings::default() };
    // librdkafka asks from whatever thread polls it, which may be one of a runtime already.
    let asked = std::thread::spawn(move || -> Result<Credentials, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let config = sdk_config(&settings).await;
            let provider = config.credentials_provider().ok_or("no AWS credentials are set")?;
            Ok(provider.provide_credentials().await?)
        })
    });
    let credentials = asked.join().map_err(|_| "looking for AWS credentials failed")??;
    signed(region, credentials, SystemTime::now())
}

/// The token of these credentials at this time.
fn signed(region: &str, credentials: Credentials, now: SystemTime) -> Result<OAuthToken, Error> {
    let principal_name = credentials.access_key_id().to_owned();
    let mut url = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(VALID);
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kafka-cluster")
        .time(now)
        .settings(settings)
        .build()?;
    let request = SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (signature, _) = sign(request, &parameters.into())?.into_parts();
    for (name, value) in signature.params() {
        url.push('&');
        url.push_str(name);
        url.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    url.push(char::from(byte));
                }
                _ => url.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    url.push_str("&User-Agent=castwatch");
    let until = now.duration_since(UNIX_EPOCH)? + VALID;
    Ok(OAuthToken {
        token: URL_SAFE_NO_PAD.encode(url),
        principal_name,
        lifetime_ms: i64::try_from(until.as_millis())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_fields_of_amazons_own_signer() {
        let now = UNIX_EPOCH + Duration::from_secs(1_768_000_000);
        let credentials =
            Credentials::new("MOCK-ACCESS-KEY", "MOCK-SECRET-KEY", Some("a/b+c=".into()), None, "test");
        let token = signed("us-west-2", credentials, now).unwrap();
        assert_eq!(token.lifetime_ms, 1_768_000_900_000);
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(&token.token).unwrap()).unwrap();
        let (host, query) = url.split_once("/?").unwrap();
        assert_eq!(host, "https://kafka.us-west-2.amazonaws.com");
        let fields: Vec<(&str, &str)> = query.split('&').map(|f| f.split_once('=').unwrap()).collect();
        let of = |name: &str| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        assert_eq!(of("Action"), Some("kafka-cluster%3AConnect"));
        assert_eq!(of("X-Amz-Algorithm"), Some("AWS4-HMAC-SHA256"));
        let scope = "MOCK-ACCESS-KEY%2F20260109%2Fus-west-2%2Fkafka-cluster%2Faws4_request";
        assert_eq!(of("X-Amz-Credential"), Some(scope));
        assert_eq!(of("X-Amz-Date"), Some("20260109T230640Z"));
        assert_eq!(of("X-Amz-Expires"), Some("900"));
        assert_eq!(of("X-Amz-SignedHeaders"), Some("host"));
        assert_eq!(of("X-Amz-Security-Token"), Some("a%2Fb%2Bc%3D"));
        assert_eq!(of("X-Amz-Signature").map(str::len), Some(64));
        assert!(of("User-Agent").is_some());
    }
}
