//! Ending well.
//!
//! **The first signal asks everybody to finish, the second ends the process**: whoever waits for
//! a stage to drain can always give up on it.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The exit status of a process that a second signal ended: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// Says to all its clones that it is time to end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    set: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// One that only [`Shutdown::trigger`] sets.
    #[must_use]
    pub fn new() -> Self {
        Self { set: watch::Sender::new(false) }
    }

    /// One that SIGINT or SIGTERM sets; a second signal ends the process at once. Needs a runtime.
    ///
    /// # Errors
    /// When signals can't be listened to.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let told = shutdown.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if told.is_set() {
                    std::process::exit(INTERRUPTED);
                }
                told.trigger();
            }
        });
        Ok(shutdown)
    }

    /// Asks everybody to end.
    pub fn trigger(&self) {
        self.set.send_replace(true);
    }

    /// Whether it is time to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.set.borrow()
    }

    /// Returns when it is time to end.
    pub async fn wait(&self) {
        // This value holds a sender itself, so that the wait can't fail.
        let _ = self.watch().wait_for(|set| *set).await;
    }

    /// A value that turns true when it is time to end.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.set.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_every_clone_early_and_late() {
        let shutdown = Shutdown::new();
        let (early, receiver) = (shutdown.clone(), shutdown.watch());
        let waiting = tokio::spawn(async move { early.wait().await });
        assert!(!shutdown.is_set());
        shutdown.trigger();
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.clone().wait().await;
        assert!(shutdown.is_set() && *receiver.borrow());
    }
}
