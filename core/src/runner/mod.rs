//! The runner gives a stage the delivery contract.
//!
//! **Nothing is lost and nothing is passed over.** For each batch: the handler's effects, then its
//! events are published and waited for, and only then may progress be saved; position, counts and
//! state are saved together, under a token that an old owner no longer holds. Whatever stops a
//! batch, the messages after the finished prefix are taken again, here or by the next owner, and
//! the deterministic ids of [`crate::event`] make that harmless.
//!
//! One runner takes the partitions of its stage in turn, so that on a revoke nothing is in flight:
//! it saves, closes the handler and lets go.

mod dead_letter;
mod observer;
mod partitions;
mod progress;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::backoff::{Backoff, Patience};
use crate::event::{Message, Outgoing, Partition, Position};
use crate::ports::{Consumer, Delivery, Generation, PortError, Publisher, Snapshots, Start, Tally, Token};
use crate::stage::{Handler, Outbox, Stage, StateError, Stop};

pub use dead_letter::{chain, dead_letter, dlq};
pub use observer::{Finished, Observer};
pub use progress::{BOUNDS, Histogram, Meter, Progress, Standing, Status};

/// How a runner behaves.
#[derive(Clone, Copy, Debug)]
pub struct RunnerSettings {
    /// How long to wait for messages before looking after other things.
    pub wait: Duration,
    /// How often progress is saved; what came since is done again after a crash.
    pub save_every: Duration,
    /// So many dead letters in a row are an outage, not bad data: the stage stops.
    pub max_refused_in_a_row: u32,
    /// How long a failing port is tried before the batch is given up and taken anew.
    pub patience: Patience,
    /// Where a partition begins that has no snapshot.
    pub start: Start,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self {
            wait: Duration::from_millis(100),
            save_every: Duration::from_secs(1),
            max_refused_in_a_row: 100,
            patience: Patience::default(),
            start: Start::Earliest,
        }
    }
}

/// Why a runner ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Too many dead letters in a row.
    #[error(
        "stage {stage} set {count} messages aside in a row, the last at {partition}@{position}: \
         this looks like an outage, not like bad data; see `castwatch dlq list`"
    )]
    TooManyRefused {
        /// The stage.
        stage: &'static str,
        /// How many.
        count: u32,
        /// Where the last one lies.
        partition: Partition,
        /// Its position.
        position: Position,
        /// Why the last one was refused.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process runs the same stage on the same log, and the log has only one.
    #[error("stage {stage}: another process has taken over; stop one of the two")]
    TakenOver {
        /// The stage.
        stage: &'static str,
    },
    /// The saved state of a partition can't be read.
    #[error("stage {stage}: the state saved for {partition} can't be used")]
    State {
        /// The stage.
        stage: &'static str,
        /// The partition.
        partition: Partition,
        /// Why.
        #[source]
        source: StateError,
    },
    /// A port refused something for good.
    #[error("stage {stage} can't go on")]
    Port {
        /// The stage.
        stage: &'static str,
        /// What was refused.
        #[source]
        source: PortError,
    },
}

/// A partition in our hands.
struct Owned<H> {
    handler: H,
    generation: Generation,
    token: Token,
    position: Position,
    tally: Tally,
    unsaved: bool,
    saved_at: Instant,
}

/// How a batch ended.
enum Flow {
    /// Every message is finished.
    Done,
    /// Given up: take the partition anew from its snapshot.
    Reopen,
    /// Somebody else owns the partition by now.
    Lost,
    /// Shutting down in the middle; `true` when the state fits what was published.
    Stopping(bool),
}

/// Runs one stage on a consumer, a publisher and a store of snapshots.
pub struct Runner<S: Stage, C, P, N> {
    stage: S,
    consumer: C,
    publisher: P,
    snapshots: N,
    settings: RunnerSettings,
    shutdown: watch::Receiver<bool>,
    status: Status,
    observer: Option<Arc<dyn Observer>>,
    owned: BTreeMap<Partition, Owned<S::Handler>>,
    refused_in_a_row: u32,
    last_save: Instant,
}

impl<S: Stage, C: Consumer, P: Publisher, N: Snapshots> Runner<S, C, P, N> {
    /// A runner that goes on until `shutdown` turns true.
    pub fn new(
        stage: S,
        consumer: C,
        publisher: P,
        snapshots: N,
        settings: RunnerSettings,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            stage,
            consumer,
            publisher,
            snapshots,
            settings,
            shutdown,
            status: Status::default(),
            observer: None,
            owned: BTreeMap::new(),
            refused_in_a_row: 0,
            last_save: Instant::now(),
        }
    }

    /// Lets `observer` see what is finished.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// A view of the progress that outlives the run.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Runs until shutdown, then saves and lets go.
    ///
    /// # Errors
    /// [`RunnerError`] when going on would be wrong. What passes by itself is waited for instead.
    pub async fn run(mut self) -> Result<(), RunnerError> {
        let mut outage = Backoff::new(self.settings.patience, self.seed());
        let mut away = false;
        while !*self.shutdown.borrow() {
            match self.consumer.next(self.settings.wait).await {
                Ok(delivery) => {
                    self.status.lock().begun = true;
                    if std::mem::take(&mut away) {
                        outage = Backoff::new(self.settings.patience, self.seed());
                        self.recovered();
                    }
                    self.take(delivery).await?;
                }
                Err(PortError::Fenced { .. }) => {
                    return Err(RunnerError::TakenOver { stage: self.stage.name() });
                }
                Err(error) => {
                    away = true;
                    self.troubled(&error);
                    if !self.pause(&mut outage).await {
                        outage = Backoff::new(self.settings.patience, self.seed());
                    }
                }
            }
            if self.last_save.elapsed() >= self.settings.save_every {
                self.save_all().await?;
                self.status.ends(self.consumer.ends());
            }
        }
        self.save_all().await?;
        let all: Vec<Partition> = self.owned.keys().cloned().collect();
        if let Err(error) = self.consumer.release(&all).await {
            debug!(stage = self.stage.name(), error = chain(&error), "partitions were not released");
        }
        Ok(())
    }

    async fn take(&mut self, delivery: Delivery) -> Result<(), RunnerError> {
        match delivery {
            Delivery::Assigned(generation, partitions) => {
                for partition in partitions {
                    self.open(&partition, generation).await?;
                }
            }
            Delivery::Batch(partition, messages) => self.batch(&partition, &messages).await?,
            Delivery::Revoked(partitions) => {
                for partition in &partitions {
                    self.save(partition).await?;
                    self.close(partition);
                }
                self.release(&partitions).await?;
            }
            Delivery::Lost(partitions) => {
                for partition in &partitions {
                    self.close(partition);
                }
            }
            Delivery::Missed { partition, from, to } => self.missed(&partition, from, to),
            Delivery::Idle => {}
        }
        Ok(())
    }

    async fn batch(&mut self, partition: &Partition, messages: &[Message]) -> Result<(), RunnerError> {
        // The handler leaves the map while it works, so that nothing can save it half-way.
        let Some(mut owned) = self.owned.remove(partition) else {
            debug!(stage = self.stage.name(), %partition, "a batch of a partition that is not ours");
            return Ok(());
        };
        match self.work(partition, &mut owned, messages).await? {
            Flow::Done | Flow::Stopping(true) => {
                self.status.stand(partition, owned.position, owned.tally);
                self.owned.insert(partition.clone(), owned);
            }
            Flow::Reopen => {
                let generation = owned.generation;
                drop(owned);
                self.open(partition, generation).await?;
            }
            Flow::Stopping(false) => self.close(partition),
            Flow::Lost => {
                let generation = owned.generation;
                drop(owned);
                self.fenced(partition, generation).await?;
            }
        }
        Ok(())
    }

    /// Finishes a batch message by message run: effects, publish, advance.
    async fn work(
        &mut self,
        partition: &Partition,
        owned: &mut Owned<S::Handler>,
        messages: &[Message],
    ) -> Result<Flow, RunnerError> {
        let began = Instant::now();
        let mut rest = messages;
        let mut backoff = Backoff::new(self.settings.patience, self.seed());
        while let Some(first) = rest.first() {
            let mut out = Outbox::default();
            let handling = Instant::now();
            let seen = self.observer.as_ref().map(|_| SystemTime::now());
            let outcome = owned.handler.handle(rest, &mut out).await;
            // Anything else would be taken again for ever.
            assert!(
                outcome.done <= rest.len() && (outcome.stop.is_some() || outcome.done > 0),
                "a handler must get on"
            );
            let handled = handling.elapsed();
            let known = out.duplicates();
            let mut events = out.into_events();
            let mut finished = outcome.done;
            if finished > 0 {
                self.refused_in_a_row = 0;
                backoff = Backoff::new(self.settings.patience, self.seed());
            }
            let mut refused = None;
            if let Some(Stop::Refuse(source)) = &outcome.stop {
                let message = rest.get(finished).unwrap_or(first);
                warn!(stage = self.stage.name(), %partition, position = %message.position,
                    trace = message.event.trace(), error = chain(&**source), "message set aside as a dead letter");
                events.push(dead_letter(self.stage.name(), partition, message, &**source));
                refused = Some(message.position);
                finished += 1;
            }
            if !self.publish(&events).await? {
                return Ok(if *self.shutdown.borrow() { Flow::Stopping(false) } else { Flow::Reopen });
            }
            if let Some(last) = finished.checked_sub(1).and_then(|at| rest.get(at)) {
                owned.position = last.position.next();
                owned.unsaved = true;
                let tally = Tally {
                    taken: finished as u64,
                    done: (outcome.done as u64).saturating_sub(known),
                    duplicates: known,
                    dead_letters: (finished - outcome.done) as u64,
                    missed: 0,
                };
                owned.tally.add(&tally);
                self.status.measure(|meter| {
                    meter.tally.add(&tally);
                    meter.handle.add(handled.as_secs_f64());
                    meter.published += events.len() as u64;
                    let now = now_ms();
                    for message in rest.iter().take(finished) {
                        meter.age.add((now - message.written_ms).max(0) as f64 / 1000.0);
                    }
                });
            }
            let (messages, left) = rest.split_at_checked(finished).unwrap_or((rest, &[]));
            if let (Some(observer), Some(began)) = (&self.observer, seen)
                && finished > 0
            {
                let (stage, ended) = (self.stage.name(), SystemTime::now());
                observer.finished(&Finished { stage, partition, messages, events: &events, began, ended });
            }
            rest = left;
            if owned.saved_at.elapsed() >= self.settings.save_every
                && !self.save_owned(partition, owned).await?
            {
                return Ok(Flow::Lost);
            }
            match outcome.stop {
                None if *self.shutdown.borrow() => return Ok(Flow::Stopping(true)),
                None => {}
                Some(Stop::Refuse(source)) => {
                    self.refused_in_a_row += 1;
                    if self.refused_in_a_row >= self.settings.max_refused_in_a_row {
                        self.save_owned(partition, owned).await?;
                        return Err(RunnerError::TooManyRefused {
                            stage: self.stage.name(),
                            count: self.refused_in_a_row,
                            partition: partition.clone(),
                            position: refused.unwrap_or_default(),
                            source,
                        });
                    }
                }
                Some(Stop::Retry(error)) => {
                    self.passing(error)?;
                    if *self.shutdown.borrow() {
                        return Ok(Flow::Stopping(true));
                    }
                    if !self.pause(&mut backoff).await {
                        error!(stage = self.stage.name(), %partition, "batch given up; it is taken anew from the snapshot");
                        return Ok(Flow::Reopen);
                    }
                }
            }
            if began.elapsed() >= self.settings.patience.budget && finished > 0 && !rest.is_empty() {
                // A slow batch must not keep us from hearing of a revoke: the rest is read again.
                return match self.consumer.start(partition, Start::At(owned.position)).await {
                    Ok(()) => Ok(Flow::Done),
                    Err(error) => self.passing(error).map(|()| Flow::Reopen),
                };
            }
        }
        self.recovered();
        Ok(Flow::Done)
    }

    /// Publishes until it is acknowledged; `false` when the budget is spent or the runner stops.
    async fn publish(&mut self, events: &[Outgoing]) -> Result<bool, RunnerError> {
        if events.is_empty() {
            return Ok(true);
        }
        let mut backoff = Backoff::new(self.settings.patience, self.seed());
        let began = Instant::now();
        while let Err(error) = self.publisher.publish(events).await {
            self.passing(error)?;
            if *self.shutdown.borrow() || !self.pause(&mut backoff).await {
                return Ok(false);
            }
        }
        self.status.measure(|meter| meter.publish.add(began.elapsed().as_secs_f64()));
        Ok(true)
    }

    /// Lets errors that may pass through to a retry; the others end the run.
    fn passing(&self, error: PortError) -> Result<(), RunnerError> {
        if let PortError::Refused { .. } = error {
            return Err(RunnerError::Port { stage: self.stage.name(), source: error });
        }
        self.troubled(&error);
        Ok(())
    }

    fn troubled(&self, error: &PortError) {
        let text = chain(error);
        let mut progress = self.status.lock();
        // An outage is one line when it begins and one when it is over, however often it is tried.
        if progress.trouble.as_ref() == Some(&text) {
            debug!(stage = self.stage.name(), error = text, "still waiting");
        } else {
            warn!(stage = self.stage.name(), error = text, "waiting to try again");
        }
        progress.trouble = Some(text);
        progress.meter.retries += 1;
    }

    fn recovered(&self) {
        if self.status.lock().trouble.take().is_some() {
            info!(stage = self.stage.name(), "getting on again");
        }
    }

    /// Waits for the next try, or for the shutdown; `false` when the budget is spent.
    async fn pause(&mut self, backoff: &mut Backoff) -> bool {
        let Some(wait) = backoff.next_wait() else { return false };
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        true
    }

    /// Jitter differs by stage and by how far it has come, and needs no source of chance.
    fn seed(&self) -> u64 {
        let progress = self.owned.values().map(|o| o.position.0).fold(0_u64, u64::wrapping_add);
        self.stage.name().bytes().fold(progress, |h, b| h.wrapping_mul(0x0100_0000_01b3) ^ u64::from(b))
    }
}

/// Milliseconds since 1970, for measuring alone.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
