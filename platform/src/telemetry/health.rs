//! What others may ask a process: whether it lives, whether it gets on, what it measured.
//!
//! **Ready means that every stage gets on**: a process that runs and gets nowhere answers 503, with
//! each stage and why. Alive means no more than that it answers.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get};
use serde::Serialize;
use tokio::net::TcpListener;

use super::{Observed, metrics};

/// How long answers in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(1);

/// Gives the stages of the process as they are now.
pub type Stages = Arc<dyn Fn() -> Vec<Observed> + Send + Sync>;

/// Whether a process gets on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every stage gets on, and there is one.
    pub ready: bool,
    /// Each stage.
    pub stages: Vec<StageReadiness>,
}

/// Whether a stage gets on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageReadiness {
    /// The stage.
    pub stage: String,
    /// Whether it gets on.
    pub ready: bool,
    /// Why not, for people.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Whether these stages get on; a partition may stand still for `stall` with messages waiting.
    #[must_use]
    pub fn of(observed: &[Observed], stall: Duration) -> Self {
        let stages: Vec<StageReadiness> = observed
            .iter()
            .map(|it| {
                let reasons = it.status.get().ready(stall).err().unwrap_or_default();
                StageReadiness { stage: it.stage.clone(), ready: reasons.is_empty(), reasons }
            })
            .collect();
        Self { ready: !stages.is_empty() && stages.iter().all(|s| s.ready), stages }
    }
}

#[derive(Clone)]
struct Asked {
    stages: Stages,
    stall: Duration,
}

/// `/health/live`, `/health/ready` and `/metrics` of the stages.
pub fn router(stages: Stages, stall: Duration) -> Router {
    Router::new()
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Asked { stages, stall })
}

async fn ready(State(asked): State<Asked>) -> Response {
    let readiness = Readiness::of(&(asked.stages)(), asked.stall);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(readiness)).into_response()
}

async fn scrape(State(asked): State<Asked>) -> Response {
    let text = metrics::text(&(asked.stages)(), asked.stall);
    ([(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE))], text).into_response()
}

/// Serves `router` until `ending`, and lets answers in flight finish for a moment.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    ending: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (told, heard) = tokio::sync::oneshot::channel();
    let graceful = async move {
        ending.await;
        let _ = told.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(graceful);
    let overdue = async {
        // Dropped unsent only together with the server, which has ended then.
        if heard.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = async { serving.await } => served,
        () = overdue => Ok(()),
    }
}
