//! What S3 and DynamoDB share: how AWS is reached, and what its errors mean.
//!
//! **An error is refused only where it is the item's own fault**; everything that time or an
//! operator can mend is an outage, so that a missing permission never makes dead letters.
//!
//! The SDK tries a request [`ATTEMPTS`] times, with growing and jittered waits where AWS throttles
//! or fails; what still fails then is the runner's to wait for.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use castwatch_core::PortError;

use crate::config::Secret;

/// How often a request is tried before its error is told.
const ATTEMPTS: u32 = 4;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// How long one try may take. Large transfers have their own time.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long all tries together may take: several such waits must fit in the time that a consumer
/// may be silent.
const OPERATION: Duration = Duration::from_secs(12);
/// The region of a server that is not AWS, which has none.
const NOWHERE: &str = "us-east-1";

/// How AWS is reached. By default as the machine is set up: region and credentials from the
/// environment, the shared files, or the role of the container or the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// The region; otherwise what `AWS_REGION`, the profile or the machine says.
    pub region: Option<String>,
    /// The address of a server that is not AWS, or of a VPC endpoint.
    pub endpoint: Option<String>,
    /// A fixed access key, for test servers.
    pub access_key: Option<String>,
    /// The secret that goes with it.
    pub secret_key: Option<Secret>,
}

/// What AWS said, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{said}{}{advice}", if advice.is_empty() { "" } else { "; " })]
pub struct AwsError {
    said: String,
    advice: &'static str,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The SDK's configuration for these settings. It reaches nothing but, where no region is set, the
/// machine's own metadata.
pub async fn sdk_config(settings: &AwsSettings) -> SdkConfig {
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        // Bytes that stop coming end a transfer after the same time.
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(ATTEMPT).build())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT)
                .operation_attempt_timeout(ATTEMPT)
                .operation_timeout(OPERATION)
                .build(),
        );
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if settings.access_key.is_some() || settings.secret_key.is_some() {
        // A half that is missing is empty, which every server refuses by name.
        let access = settings.access_key.clone().unwrap_or_default();
        let secret = settings.secret_key.as_ref().map_or("", Secret::expose);
        loader =
            loader.credentials_provider(Credentials::new(access, secret, None, None, "castwatch settings"));
    }
    let config = loader.load().await;
    if config.region().is_none() && settings.endpoint.is_some() {
        return config.into_builder().region(Region::new(NOWHERE)).build();
    }
    config
}

/// The port's error for an error of the SDK: `what` was tried.
pub(crate) fn port_error<E>(what: impl Into<String>, error: SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default();
    let own_fault = own_fault(code, error.message().unwrap_or_default());
    let explained = AwsError::new(error);
    if own_fault { PortError::refused(what, explained) } else { PortError::unavailable(what, explained) }
}

/// The HTTP status of an answer that is an error.
pub(crate) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

impl AwsError {
    /// What an error of the SDK says, in one line.
    fn new<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let request = error.raw_response().and_then(|response| {
            let headers = response.headers();
            headers.get("x-amz-request-id").or_else(|| headers.get("x-amzn-requestid")).map(str::to_owned)
        });
        let request = request.map(|id| format!(", request {id}")).unwrap_or_default();
        match (&error, status(&error)) {
            (SdkError::ServiceError(_), Some(status)) => {
                let code = error.code().unwrap_or_default();
                let message = error.message().unwrap_or_default();
                let between = if code.is_empty() || message.is_empty() { "" } else { ": " };
                let said = format!("AWS answered {status} {code}{between}{message}{request}");
                Self { said, advice: advice(code, message), source: None }
            }
            (SdkError::TimeoutError(_), _) => {
                let advice = "check the network, the endpoint and the region";
                Self { said: "AWS did not answer in time".into(), advice, source: error.into_source().ok() }
            }
            (SdkError::DispatchFailure(failure), _) if failure.is_io() || failure.is_timeout() => {
                let advice = "check the network, the endpoint and the region";
                Self { said: "AWS could not be reached".into(), advice, source: error.into_source().ok() }
            }
            (SdkError::ResponseError(_), status) => {
                let status = status.map(|s| format!(" {s}")).unwrap_or_default();
                let said = format!("AWS's answer{status} can't be read{request}");
                let advice = "something between may have cut or replaced it; check the endpoint and proxies";
                Self { said, advice, source: error.into_source().ok() }
            }
            _ => {
                let advice = "check that a region (aws.region, AWS_REGION) and credentials (a role, a profile, \
                              AWS_ACCESS_KEY_ID) are there and in force";
                Self { said: "no request could be made".into(), advice, source: error.into_source().ok() }
            }
        }
    }
}

/// Whether the item itself is why AWS refuses it, so that it would do so for ever.
fn own_fault(code: &str, message: &str) -> bool {
    match code {
        "EntityTooLarge"
        | "KeyTooLongError"
        | "InvalidURI"
        | "MetadataTooLarge"
        | "SerializationException" => true,
        "ItemCollectionSizeLimitExceededException" => true,
        // A table of another make says ValidationException too, to every item alike.
        "ValidationException" => !other_table(message),
        _ => false,
    }
}

/// Whether a validation failed because the table is not one of castwatch's.
fn other_table(message: &str) -> bool {
    message.contains("does not match the schema") || message.contains("does not have the specified index")
}

/// What an operator can do about an error; empty where waiting is all.
fn advice(code: &str, message: &str) -> &'static str {
    match code {
        "AccessDenied" | "AccessDeniedException" | "AllAccessDisabled" | "Forbidden" => {
            "allow it in the policy of castwatch's role and of the bucket, table or key; docs/operators.md lists the actions"
        }
        "NoSuchBucket" => "make the bucket, or name the right one and its region",
        "BucketAlreadyExists" => "somebody else has a bucket of this name; choose another one",
        "ResourceNotFoundException" => "make the table, or name the right one and its region",
        "ValidationException" if other_table(message) => {
            "the table has another key design; name one that castwatch made"
        }
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            "the credentials have expired; they are read anew with the next try, so renew them"
        }
        "InvalidAccessKeyId" | "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidToken" => {
            "the access key is not known there; check the credentials and the endpoint"
        }
        "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken" => "check the secret key, and that access key and secret are both set",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            "the bucket lies in another region; set aws.region to it"
        }
        "RequestTimeTooSkewed" | "RequestExpired" => "set this machine's clock",
        "NotImplemented" => "this server does not know the request; use one that does",
        code if code.starts_with("KMS") || code.contains("KMS.") => {
            "check the KMS key, its state and its policy"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_items_own_fault_is_refused() {
        assert!(own_fault("ValidationException", "Item size has exceeded the maximum allowed size"));
        assert!(own_fault("EntityTooLarge", ""));
        let to_mend =
            ["AccessDenied", "NoSuchBucket", "ResourceNotFoundException", "ExpiredToken", "SlowDown", ""];
        for code in to_mend {
            assert!(!own_fault(code, ""), "{code}");
        }
        let other_table = "The provided key element does not match the schema";
        assert!(!own_fault("ValidationException", other_table));
        assert!(advice("ValidationException", other_table).contains("key design"));
    }

    #[tokio::test]
    async fn settings_come_before_the_environment() {
        let settings = AwsSettings {
            region: Some("ap-northeast-2".into()),
            endpoint: Some("http://127.0.0.1:9".into()),
            access_key: Some("key".into()),
            secret_key: Some(Secret::new("hidden".into())),
        };
        let config = sdk_config(&settings).await;
        assert_eq!(config.region().unwrap().as_ref(), "ap-northeast-2");
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:9"));
        assert!(config.http_client().is_some(), "an HTTPS client is there");
        assert_eq!(config.retry_config().unwrap().max_attempts(), ATTEMPTS);
        assert!(!format!("{settings:?}").contains("hidden"));
    }
}
