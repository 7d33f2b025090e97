//! Listening, and ending well.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use crate::feed::Feed;

/// How long answers in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(3);

/// The console would be open to the network, and it has no sign-in yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from the network and the console has no sign-in yet: listen on 127.0.0.1, or set `listen_open = true`"
)]
pub struct NotLoopback(pub SocketAddr);

/// Whether the console may listen on `address`; `open` says that the network is wanted.
///
/// # Errors
/// [`NotLoopback`] when it may not.
pub const fn check_address(address: SocketAddr, open: bool) -> Result<(), NotLoopback> {
    if open || address.ip().is_loopback() { Ok(()) } else { Err(NotLoopback(address)) }
}

/// Serves `router` until `shutdown`; then ends the streams of `feed` and lets answers in flight
/// finish, for a short while.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    feed: Feed,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (ending, ended) = tokio::sync::oneshot::channel();
    let graceful = async move {
        shutdown.await;
        feed.close();
        let _ = ending.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(graceful);
    let overdue = async {
        // The sender is dropped only together with the server, which has ended then.
        if ended.await.is_ok() {
            tokio::time::sleep(DRAIN).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = async { serving.await } => result,
        () = overdue => {
            tracing::debug!("connections were still open at the end");
            Ok(())
        }
    }
}
