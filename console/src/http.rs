//! The routes.
//!
//! **Nothing outside the page's own files and the charts can be asked for**: a chart's key is
//! checked before it is looked up, and every answer tells the browser to load nothing from
//! elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get};
use castwatch_core::ports::{PortError, RecordQuery};
use castwatch_core::{Objects, Records};
use serde::{Deserialize, Serialize};
use tokio_stream::{StreamExt as _, wrappers::BroadcastStream};

use crate::assets;
use crate::feed::{Feed, Live, Resumed};
use crate::view::DefectView;

/// The most defects on one page of the list.
const MOST_DEFECTS: usize = 100;
/// How often a quiet stream says that it lives; the page gives it three times as long.
const PING: Duration = Duration::from_secs(10);
/// The page runs only its own files.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A chart runs nothing, also when it is opened on its own.
const CHART_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; font-src data:; sandbox";

struct Shared<R, O> {
    feed: Feed,
    records: R,
    objects: O,
    ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

type Console<R, O> = State<Arc<Shared<R, O>>>;

/// The console's routes. `ready` says whether the line gets on, or why not.
pub fn router<R: Records + 'static, O: Objects + 'static>(
    feed: Feed,
    records: R,
    objects: O,
    ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route("/", get(async || asset("index.html")))
        .route("/assets/{name}", get(async |Path(name): Path<String>| asset(&name)))
        .route("/api/state", get(state::<R, O>))
        .route("/api/events", get(events::<R, O>))
        .route("/api/defects", get(defects::<R, O>))
        .route("/charts/{*key}", get(chart::<R, O>))
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(readiness::<R, O>))
        .fallback(async || Problem(StatusCode::NOT_FOUND, "there is no such page".into()))
        .layer(middleware::from_fn(guard))
        .with_state(Arc::new(Shared { feed, records, objects, ready: Box::new(ready) }))
}

/// An answer that says what was wrong.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

impl From<PortError> for Problem {
    /// The page is told that it failed; why is for the log.
    fn from(error: PortError) -> Self {
        let status = match error {
            PortError::Refused { .. } => StatusCode::BAD_REQUEST,
            PortError::Unavailable { .. } | PortError::Fenced { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        tracing::warn!(error = &error as &dyn std::error::Error, "the console could not read");
        Self(status, error.to_string())
    }
}

/// Sets what every answer carries.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    response
}

fn asset(name: &str) -> Result<Response, Problem> {
    assets::get(name).ok_or_else(|| Problem(StatusCode::NOT_FOUND, "there is no such file".into()))
}

async fn state<R: Records, O: Objects>(State(console): Console<R, O>) -> Result<Response, Problem> {
    let json =
        console.feed.snapshot().map_err(|e| Problem(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

#[derive(Deserialize)]
struct After {
    after: Option<String>,
}

/// The live stream. The browser's `Last-Event-ID` is newer than the cursor in the address.
async fn events<R: Records, O: Objects>(
    State(console): Console<R, O>,
    Query(query): Query<After>,
    headers: HeaderMap,
) -> Response {
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let (backlog, receiver) = match console.feed.resume(last.or(query.after.as_deref())) {
        Resumed::From(backlog, receiver) => (backlog, receiver),
        Resumed::Reset => {
            let reset = Ok::<_, Infallible>(Event::default().event("reset").data("{}"));
            return Sse::new(tokio_stream::once(reset)).into_response();
        }
        Resumed::Full => {
            let full = Problem(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open".into());
            return ([(header::RETRY_AFTER, "5")], full).into_response();
        }
    };
    let feed = console.feed.clone();
    // A page that lags is cut off here; it comes back with its last id and misses nothing.
    let live = BroadcastStream::new(receiver).map_while(Result::ok);
    let hello = tokio_stream::once(Event::default().event("ping").data("{}").retry(Duration::from_secs(1)));
    let stream = tokio_stream::iter(backlog).chain(live).map(move |live: Live| {
        Event::default().id(feed.cursor(live.number)).event(live.kind).data(&*live.json)
    });
    let ping = KeepAlive::new().interval(PING).event(Event::default().event("ping").data("{}"));
    Sse::new(hello.chain(stream).map(Ok::<_, Infallible>)).keep_alive(ping).into_response()
}

#[derive(Deserialize)]
struct Asked {
    before: Option<String>,
    machine: Option<String>,
    die: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Defects {
    defects: Vec<DefectView>,
    next: Option<String>,
}

async fn defects<R: Records, O: Objects>(
    State(console): Console<R, O>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Defects>, Problem> {
    let Query(asked) = asked.map_err(|e| Problem(StatusCode::BAD_REQUEST, e.body_text()))?;
    let limit = asked.limit.unwrap_or(20);
    if !(1..=MOST_DEFECTS).contains(&limit) {
        return Err(Problem(StatusCode::BAD_REQUEST, format!("limit is 1 to {MOST_DEFECTS}")));
    }
    let query = RecordQuery {
        machine: asked.machine,
        die: asked.die,
        before: asked.before,
        limit,
        ..RecordQuery::default()
    };
    let page = console.records.list(&query).await?;
    Ok(Json(Defects {
        defects: page.defects.into_iter().map(|d| DefectView::from(d.record)).collect(),
        next: page.next,
    }))
}

async fn chart<R: Records, O: Objects>(
    State(console): Console<R, O>,
    Path(key): Path<String>,
) -> Result<Response, Problem> {
    let missing = || Problem(StatusCode::NOT_FOUND, "there is no such chart".into());
    let kind = chart_type(&key).ok_or_else(missing)?;
    let bytes = console.objects.get(&key).await?.ok_or_else(missing)?;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, CHART_POLICY),
        (header::CACHE_CONTROL, "private, max-age=3600"),
    ];
    Ok((headers, bytes).into_response())
}

/// The content type of a chart's key; none for what can't be one.
fn chart_type(key: &str) -> Option<&'static str> {
    let plain = key.len() <= 1024
        && !key.chars().any(|c| c.is_control() || c == '\\')
        && key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    match key.rsplit_once('.') {
        Some((_, "svg")) if plain => Some("image/svg+xml"),
        Some((_, "png")) if plain => Some("image/png"),
        _ => None,
    }
}

async fn readiness<R: Records, O: Objects>(State(console): Console<R, O>) -> Response {
    match (console.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}
