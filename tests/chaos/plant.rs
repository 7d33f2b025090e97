//! The plant: publishes simulated shots at a rate, and remembers exactly what was acknowledged.
//!
//! Machines send things twice, a little out of order, and sometimes rubbish. What is not
//! acknowledged is sent again, as a gateway does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use castwatch_core::Outgoing;
use castwatch_core::ports::Publisher;
use castwatch_ingest::simulator::Kind;
use castwatch_ingest::{SimSettings, Simulator};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinHandle;

/// Messages that are shuffled among each other where the input is out of order.
const SHUFFLED: usize = 12;
/// How often the plant sends.
const BEAT: Duration = Duration::from_millis(50);

/// What a plant does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Messages a second.
    pub rate: u32,
    /// The share of messages that is sent twice.
    pub twice: f64,
    /// The share of shots with a message after it that is none.
    pub broken: f64,
    /// The chance that a dozen messages come in any order.
    pub shuffled: f64,
}

impl Default for Load {
    fn default() -> Self {
        Self { rate: 250, twice: 0.01, broken: 0.005, shuffled: 0.05 }
    }
}

/// What was sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// The shots whose publishing was acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// The shots that may be in the log.
    pub tried: BTreeSet<String>,
    /// Messages acknowledged.
    pub messages: u64,
}

/// A plant in production.
pub struct Plant {
    sent: Arc<Mutex<Sent>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Plant {
    /// Starts production; everything is published to `log`.
    pub fn start(log: impl Publisher + 'static, load: Load, seed: u64) -> Self {
        let plant =
            Self { sent: Arc::default(), stop: Arc::default(), task: tokio::spawn(std::future::ready(())) };
        let (sent, stop) = (Arc::clone(&plant.sent), Arc::clone(&plant.stop));
        let task = tokio::spawn(async move {
            let settings = SimSettings {
                seed,
                machines: 8,
                duplicates: load.twice,
                broken: load.broken,
                ..SimSettings::default()
            };
            let mut chance = StdRng::seed_from_u64(seed);
            let mut messages = Simulator::new(settings);
            let mut beat = tokio::time::interval(BEAT);
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut due = 0.0;
            while !stop.load(Ordering::SeqCst) {
                beat.tick().await;
                due += f64::from(load.rate) * BEAT.as_secs_f64();
                let mut batch: Vec<Outgoing> = Vec::new();
                while due >= 1.0 {
                    due -= 1.0;
                    let Some(message) = messages.next() else { return };
                    if let Kind::Shot { shot, .. } = &message.kind {
                        sent.lock().unwrap().tried.insert(shot.id().to_string());
                    }
                    batch.push(message.outgoing().unwrap());
                }
                for dozen in batch.chunks_mut(SHUFFLED) {
                    if chance.random_bool(load.shuffled) {
                        dozen.shuffle(&mut chance);
                    }
                }
                while log.publish(&batch).await.is_err() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let mut sent = sent.lock().unwrap();
                sent.messages += batch.len() as u64;
                for message in batch.iter().filter(|m| !m.event.subject.is_empty()) {
                    sent.acknowledged.insert(message.event.subject.clone());
                }
            }
        });
        Self { task, ..plant }
    }

    /// Ends production and waits for what is on its way.
    pub async fn stop(self) -> Sent {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        Arc::try_unwrap(self.sent).map_or_else(|s| s.lock().unwrap().clone(), |s| s.into_inner().unwrap())
    }
}
