//! The channel of a webhook: a signed HTTP request as Standard Webhooks 1.0 has it.
//!
//! **A request carries the alert's id, however often it is sent**, so that its receiver can tell.
//! 2xx is told; 408, 425, 429, 5xx and a connection that failed may pass; anything else is the
//! receiver's refusal. Redirects are not followed, because the signature is for one address.
//! Secrets and addresses are never shown: an address often is one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use castwatch_core::payload::{Alert, Payload};
use hmac::{Hmac, Mac};
use jiff::Timestamp;
use reqwest::{StatusCode, Url, header};
use serde::Serialize;
use sha2::Sha256;
use tokio::time::Instant;

use crate::sender::{SendError, Sender};

/// So much of a refusal's words is kept.
const WORDS: usize = 512;

/// Sends alerts to one address.
pub struct Webhook {
    name: String,
    url: Url,
    secrets: Vec<Secret>,
    longest_wait: Duration,
    client: reqwest::Client,
    /// No request before this moment: the receiver asked for it.
    not_before: Mutex<Option<Instant>>,
}

/// How to reach a webhook.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The channel's name in claims and logs.
    pub name: String,
    /// Where to send, `http://` or `https://`.
    pub url: String,
    /// What to sign with: one secret, or the old and the new one while they are changed.
    pub secrets: Vec<Secret>,
    /// How long one request may take.
    pub timeout: Duration,
    /// The longest that a receiver's `Retry-After` is obeyed for.
    pub longest_wait: Duration,
}

/// Why a webhook can't be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is none; it is not shown.
    #[error("webhook `{name}`: the address is not an http or https URL")]
    Url {
        /// The channel.
        name: String,
    },
    /// Nothing to sign with.
    #[error("webhook `{name}` has no secret to sign with")]
    NoSecret {
        /// The channel.
        name: String,
    },
    /// TLS or the HTTP client can't be set up.
    #[error("webhook `{name}`: the HTTP client can't be set up")]
    Client {
        /// The channel.
        name: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A signing secret, `whsec_` and 24 to 64 bytes in base64. It is never shown.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// Why a text is not a secret; the text is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook's secret is `whsec_` and 24 to 64 bytes in base64")]
pub struct SecretError;

impl std::str::FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let bytes = text.strip_prefix("whsec_").and_then(|t| STANDARD.decode(t).ok()).ok_or(SecretError)?;
        if (24..=64).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(SecretError) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<String, hmac::digest::InvalidLength> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    }
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    /// When the shot ended, not when it is told.
    timestamp: String,
    data: &'a Alert,
}

/// What a receiver answered instead of 2xx.
#[derive(Debug, thiserror::Error)]
#[error("it answered {status}{}{words}", if words.is_empty() { "" } else { ": " })]
struct Answer {
    status: StatusCode,
    words: String,
}

impl Webhook {
    /// A channel to the address of `settings`.
    ///
    /// # Errors
    /// [`WebhookError`] when the settings can't work.
    pub fn new(settings: WebhookSettings) -> Result<Self, WebhookError> {
        let WebhookSettings { name, url, secrets, timeout, longest_wait } = settings;
        let url = Url::parse(&url).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let Some(url) = url else { return Err(WebhookError::Url { name }) };
        if secrets.is_empty() {
            return Err(WebhookError::NoSecret { name });
        }
        match client(timeout, is_loopback(&url)) {
            Ok(client) => Ok(Self { name, url, secrets, longest_wait, client, not_before: Mutex::default() }),
            Err(source) => Err(WebhookError::Client { name, source }),
        }
    }

    /// Sends one request.
    async fn post(&self, alert: &Alert) -> Result<(), SendError> {
        let body = Body { r#type: Alert::TYPE, timestamp: alert.ended_at.instant().to_string(), data: alert };
        let body = serde_json::to_vec(&body).map_err(SendError::refused)?;
        let id = header_id(&alert.id);
        // The time of the attempt: receivers refuse old ones, so that nobody can play them again.
        let timestamp = Timestamp::now().as_second();
        let signatures: Result<Vec<String>, _> =
            self.secrets.iter().map(|s| s.sign(&id, timestamp, &body)).collect();
        let response = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures.map_err(SendError::refused)?.join(" "))
            .body(body)
            .send()
            .await
            .map_err(|e| failed(e.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        self.wait_as_asked(response.headers());
        let answer = Answer { status, words: words(response).await };
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            Err(SendError::transient(answer))
        } else {
            Err(SendError::refused(answer))
        }
    }

    /// Notes for how long a receiver wants to be left alone.
    fn wait_as_asked(&self, headers: &header::HeaderMap) {
        let asked = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let Some(wait) = asked.and_then(|text| retry_after(text, Timestamp::now())) else { return };
        let until = Instant::now() + wait.min(self.longest_wait);
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

impl Sender for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        let until = self.not_before.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        self.post(alert).await
    }
}

/// A client with its own TLS provider: nothing depends on what the process installed.
fn client(
    timeout: Duration,
    loopback: bool,
) -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .user_agent(concat!("castwatch/", env!("CARGO_PKG_VERSION")));
    // A proxy could not reach what runs beside us.
    let builder = if loopback { builder.no_proxy() } else { builder };
    Ok(builder.build()?)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A request that can't be built is ours for good; anything else is the connection.
fn failed(error: reqwest::Error) -> SendError {
    if error.is_builder() { SendError::refused(error) } else { SendError::transient(error) }
}

/// The first words of an answer, for the dead letter.
async fn words(mut response: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < WORDS {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(WORDS - bytes.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    crate::text::one_line(String::from_utf8_lossy(&bytes).trim())
}

/// An id as a header may carry it: anything but letters, digits, `-`, `_`, `~`, `:` and `%` is
/// percent-encoded. A full stop too, because the signature is over `id.timestamp.body`. Ids that
/// differ stay different, because a shot's id writes its own `%` as `%25`.
fn header_id(id: &str) -> String {
    use fmt::Write as _;
    id.bytes().fold(String::with_capacity(id.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_~:%".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}

/// How long `Retry-After` asks to wait: seconds, or an HTTP date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
