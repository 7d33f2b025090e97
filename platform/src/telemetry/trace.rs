//! Spans that follow a shot across topics, sent to an OpenTelemetry collector.
//!
//! **The ids need no propagation**: an event's trace is its shot's and its span follows from its id, so
//! each stage makes the span of the event it made, below the span of the event it took, and they fit
//! together whatever process made them. A shot is sampled by its trace id: in all stages or in none.
//! A collector that is away or slow costs spans and nothing else; that is said once, until it is back.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use castwatch_core::Event;
use castwatch_core::event::{Message, Outgoing, Topic, trace_root};
use castwatch_core::runner::{Finished, Observer, dlq};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks, SpanProcessor,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::TelemetryError;

/// So many spans wait for the collector; more are dropped.
const QUEUE: usize = 16_384;
/// So many are sent at once.
const BATCH: usize = 512;
/// How long one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long sending the rest at the end may take.
const LAST: Duration = Duration::from_secs(5);
/// Where OTLP over HTTP takes spans.
const PATH: &str = "/v1/traces";

/// Where spans go, and how many.
#[derive(Clone, Debug)]
pub struct OtlpSettings {
    /// The collector's address, such as `http://127.0.0.1:4318`, with or without `/v1/traces`.
    pub endpoint: String,
    /// The part of all shots that is followed, 0 to 1.
    pub sample: f64,
    /// Further headers, such as a key.
    pub headers: Vec<(String, String)>,
    /// The name of this service: `castwatch`.
    pub service: String,
}

/// Sends a span for what each message became.
#[derive(Debug)]
pub struct Otlp {
    sample: Sample,
    scope: InstrumentationScope,
    processor: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    dropping: AtomicBool,
}

impl Otlp {
    /// Begins to send. The collector is not asked yet: it may come later.
    ///
    /// # Errors
    /// [`TelemetryError::Endpoint`] when the settings can't work.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(settings: &OtlpSettings) -> Result<Arc<Self>, TelemetryError> {
        let (base, waiting) = (settings.endpoint.trim_end_matches('/'), Arc::new(AtomicUsize::new(0)));
        let endpoint = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        let wrong = |source| TelemetryError::Endpoint { endpoint: settings.endpoint.clone(), source };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(wrong("it begins with neither http:// nor https://".into()));
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client { client: client().map_err(wrong)?, runtime: Handle::current() })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&endpoint)
            .with_headers(settings.headers.iter().cloned().collect::<HashMap<_, _>>())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|e| wrong(Box::new(e)))?;
        let exporter = Telling {
            inner: exporter,
            endpoint,
            away: AtomicBool::new(false),
            waiting: Arc::clone(&waiting),
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(Duration::from_secs(1))
            .build();
        let mut processor = BatchSpanProcessor::new(exporter, batches);
        let about = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder_empty()
            .with_service_name(settings.service.clone())
            .with_attribute(about)
            .build();
        processor.set_resource(&resource);
        let scope =
            InstrumentationScope::builder("castwatch").with_version(env!("CARGO_PKG_VERSION")).build();
        let sample = Sample::of(settings.sample);
        Ok(Arc::new(Self { sample, scope, processor, waiting, dropping: AtomicBool::new(false) }))
    }

    /// Sends what waits, for a few seconds at most, and ends. Spans that come later are dropped.
    pub async fn shutdown(self: Arc<Self>) {
        let ended = tokio::task::spawn_blocking(move || self.processor.shutdown_with_timeout(LAST)).await;
        if !matches!(ended, Ok(Ok(()))) {
            warn!("the last spans could not be sent");
        }
    }

    /// Hands a span over, unless too many wait already.
    fn hand(&self, span: SpanData) {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        if before < QUEUE / 2 {
            self.dropping.store(false, Ordering::Release);
        }
        if before < QUEUE {
            return self.processor.on_end(span);
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if !self.dropping.swap(true, Ordering::AcqRel) {
            warn!(queue = QUEUE, "the collector is too slow: spans are dropped; sample fewer shots");
        }
    }

    /// The span of what `batch` did for one message.
    fn span(&self, batch: &Finished<'_>, ids: Ids, name: String, attributes: Vec<KeyValue>) -> SpanData {
        let state = TraceState::default();
        SpanData {
            span_context: SpanContext::new(ids.trace, ids.span, TraceFlags::SAMPLED, false, state),
            parent_span_id: ids.parent,
            parent_span_is_remote: true,
            span_kind: SpanKind::Consumer,
            name: name.into(),
            start_time: batch.began,
            end_time: batch.ended,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// The root of a shot's trace: the time that it waited in the log. Nobody handled it before.
    fn shot(&self, batch: &Finished<'_>, trace: TraceId, span: SpanId, message: Option<&Message>) {
        let ids = Ids { trace, span, parent: SpanId::INVALID };
        let mut root = self.span(batch, ids, "shot".to_owned(), taken_from(batch, message));
        root.span_kind = SpanKind::Producer;
        root.parent_span_is_remote = false;
        root.start_time = message.map_or(batch.began, |m| at(m.written_ms).min(batch.began));
        root.end_time = batch.began;
        self.hand(root);
    }

    /// What was made of a message.
    fn made(
        &self,
        batch: &Finished<'_>,
        parent: SpanId,
        own: &Context,
        from: Option<&Message>,
        made: &Outgoing,
    ) {
        let event = &made.event;
        let mut attributes = taken_from(batch, from);
        attributes.push(KeyValue::new("castwatch.event.id", event.id.clone()));
        attributes.push(KeyValue::new("castwatch.event.topic", made.topic.to_string()));
        attributes.push(KeyValue::new("castwatch.machine", made.key.clone()));
        let failed = event.extension(dlq::ERROR);
        if failed.is_none() {
            let said: Said = serde_json::from_slice(&event.data).unwrap_or_default();
            let said = [
                ("castwatch.die", said.die),
                ("castwatch.verdict", said.verdict),
                ("castwatch.cause", said.cause),
            ];
            attributes.extend(said.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))));
        }
        // A dead letter keeps the trace context of its message; its own span is another one.
        let span = if failed.is_some() { derived(&event.id) } else { own.span };
        let ids = Ids { trace: own.trace, span, parent };
        let mut span = self.span(batch, ids, format!("{} {}", batch.stage, made.topic), attributes);
        span.status = failed.map_or(Status::Unset, |why| Status::error(why.to_owned()));
        self.hand(span);
    }
}

impl Observer for Otlp {
    fn finished(&self, batch: &Finished<'_>) {
        let shots = batch.partition.topic == Topic::SHOTS;
        let mut taken: HashMap<TraceId, Taken<'_>> = HashMap::new();
        for message in batch.messages {
            let context = Context::of(&message.event).filter(|c| self.sample.takes(c.trace));
            if let Some(Context { trace, span }) = context {
                if shots && message.event.traceparent == Some(trace_root(&message.event.id)) {
                    self.shot(batch, trace, span, Some(message));
                }
                taken.entry(trace).or_insert(Taken { message, span, made: false });
            }
        }
        for event in batch.events {
            let Some(own) = Context::of(&event.event).filter(|c| self.sample.takes(c.trace)) else {
                continue;
            };
            if let Some(from) = taken.get_mut(&own.trace) {
                from.made = true;
                self.made(batch, from.span, &own, Some(from.message), event);
            } else if let Some(root) =
                parse(&trace_root(&event.event.subject)).filter(|r| r.trace == own.trace)
            {
                // The shot came without a trace context; what came of it is in the trace that it would have.
                self.shot(batch, root.trace, root.span, None);
                self.made(batch, root.span, &own, None, event);
            }
        }
        for (trace, from) in taken.into_iter().filter(|(_, from)| !from.made) {
            let message = from.message;
            let id = format!("{}:{}@{}", batch.stage, batch.partition, message.position);
            let ids = Ids { trace, span: derived(&id), parent: from.span };
            let name = format!("{} {}", batch.stage, batch.partition.topic);
            self.hand(self.span(batch, ids, name, taken_from(batch, Some(message))));
        }
    }
}

/// A message whose shot is followed.
struct Taken<'a> {
    message: &'a Message,
    span: SpanId,
    made: bool,
}

/// Who a span is.
struct Ids {
    trace: TraceId,
    span: SpanId,
    parent: SpanId,
}

/// What a trace context says.
struct Context {
    trace: TraceId,
    span: SpanId,
}

impl Context {
    fn of(event: &Event) -> Option<Self> {
        parse(event.traceparent.as_deref()?)
    }
}

/// Reads a `traceparent`.
fn parse(text: &str) -> Option<Context> {
    let trace = TraceId::from_hex(text.get(3..35)?).ok()?;
    let span = SpanId::from_hex(text.get(36..52)?).ok()?;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Context { trace, span })
}

/// The span of what has no event of its own.
fn derived(id: &str) -> SpanId {
    let digest = Sha256::digest(id.as_bytes());
    SpanId::from(u64::from_be_bytes(std::array::from_fn(|i| digest[16 + i])))
}

/// Where a message was taken from, in OpenTelemetry's words for messaging.
fn taken_from(batch: &Finished<'_>, message: Option<&Message>) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", "castwatch"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.consumer.group.name", batch.stage),
        KeyValue::new("messaging.destination.name", batch.partition.topic.to_string()),
        KeyValue::new("messaging.destination.partition.id", batch.partition.index.to_string()),
    ];
    if let Some(message) = message {
        let position = i64::try_from(message.position.0).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new("castwatch.position", position));
        attributes.push(KeyValue::new("messaging.message.id", message.event.id.clone()));
        attributes.push(KeyValue::new("castwatch.shot", message.event.subject.clone()));
    }
    attributes
}

/// What of a payload is worth looking for.
#[derive(Default, Deserialize)]
struct Said {
    die: Option<String>,
    verdict: Option<String>,
    cause: Option<String>,
}

fn at(written_ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(written_ms.max(0).unsigned_abs())
}

/// Which shots are followed, told by the trace id alone, as OpenTelemetry's `TraceIdRatioBased` does.
#[derive(Clone, Copy, Debug)]
struct Sample(u64);

impl Sample {
    fn of(part: f64) -> Self {
        Self((part.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64)
    }

    fn takes(self, trace: TraceId) -> bool {
        let bytes = trace.to_bytes();
        let low = u64::from_be_bytes(std::array::from_fn(|i| bytes[8 + i]));
        (low >> 1) < self.0
    }
}

/// Says when the collector goes away and when it is back, not each time that it is asked.
#[derive(Debug)]
struct Telling {
    inner: opentelemetry_otlp::SpanExporter,
    endpoint: String,
    away: AtomicBool,
    waiting: Arc<AtomicUsize>,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        match &sent {
            Ok(()) => {
                if self.away.swap(false, Ordering::AcqRel) {
                    info!(endpoint = self.endpoint, "spans are taken again");
                }
            }
            Err(error) => {
                if !self.away.swap(true, Ordering::AcqRel) {
                    let error = error.to_string();
                    warn!(endpoint = self.endpoint, error, "spans are lost while nobody takes them");
                }
            }
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The workspace's HTTP client for the exporter, whose thread has no runtime of its own.
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    fn send_bytes<'s, 'a>(&'s self, request: Request<Bytes>) -> Answer<'a>
    where
        's: 'a,
        Self: 'a,
    {
        let client = self.client.clone();
        let sending = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let status = answer.status();
            let mut response = Response::new(answer.bytes().await?);
            *response.status_mut() = status;
            Ok::<_, HttpError>(response)
        });
        Box::pin(async move { sending.await? })
    }
}

/// A client with its own TLS provider: nothing depends on what the process installed.
fn client() -> Result<reqwest::Client, Box<dyn std::error::Error + Send + Sync>> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .user_agent(concat!("castwatch/", env!("CARGO_PKG_VERSION")));
    Ok(builder.build()?)
}
