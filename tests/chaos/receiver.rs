//! Whoever receives alerts: counts what it accepted, by the id that it would tell repeats by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use tokio::task::JoinHandle;

/// An alert that was accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The alert, by its own id.
    pub alert: String,
    /// The id that a receiver tells repeats by.
    pub webhook_id: String,
    /// When.
    pub at: Instant,
}

/// What a receiver has accepted.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Mutex<Vec<Accepted>>>);

impl Inbox {
    /// Accepts an alert.
    pub fn push(&self, accepted: Accepted) {
        self.0.lock().unwrap().push(accepted);
    }

    /// Everything accepted, in order.
    pub fn all(&self) -> Vec<Accepted> {
        self.0.lock().unwrap().clone()
    }

    /// Each alert with the ids under which it came and when it came.
    pub fn by_alert(&self) -> BTreeMap<String, (BTreeSet<String>, Vec<Instant>)> {
        let mut alerts: BTreeMap<String, (BTreeSet<String>, Vec<Instant>)> = BTreeMap::new();
        for Accepted { alert, webhook_id, at } in self.all() {
            let (ids, times) = alerts.entry(alert).or_default();
            ids.insert(webhook_id);
            times.push(at);
        }
        alerts
    }
}

/// A webhook's server.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it accepted.
    pub inbox: Inbox,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Listens on a free port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (address, inbox) = (listener.local_addr()?, Inbox::default());
        let router = Router::new().route("/alerts", post(accept)).with_state(inbox.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, inbox, task })
    }
}

async fn accept(State(inbox): State<Inbox>, headers: HeaderMap, Json(body): Json<Value>) -> StatusCode {
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok());
    let (Some(webhook_id), Some(alert)) = (id, body["data"]["id"].as_str()) else {
        return StatusCode::BAD_REQUEST;
    };
    let (alert, webhook_id) = (alert.to_owned(), webhook_id.to_owned());
    inbox.push(Accepted { alert, webhook_id, at: Instant::now() });
    StatusCode::NO_CONTENT
}
