//! Partitions in a runner's hands: opened from their snapshots, saved, let go.
//!
//! **A partition is either handled or given up, never held and forgotten**: what may pass is tried
//! until it works or the runner is to stop, and an owner that seems to be out asks its group before
//! it lets go.

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Owned, Runner, RunnerError};
use crate::backoff::Backoff;
use crate::event::{Partition, Position};
use crate::ports::{Consumer, Generation, PortError, Publisher, Snapshot, Snapshots, Start};
use crate::stage::{Handler, Stage};

impl<S: Stage, C: Consumer, P: Publisher, N: Snapshots> Runner<S, C, P, N> {
    /// Counts messages that nobody will ever read; what comes next is the message at `to`.
    pub(super) fn missed(&mut self, partition: &Partition, from: Position, to: Position) {
        let Some(owned) = self.owned.get_mut(partition) else { return };
        let count = to.0.saturating_sub(from.0.max(owned.position.0));
        error!(stage = self.stage.name(), %partition, %from, %to, count,
            "messages were removed before they were read: keep them longer in the log, or add members");
        owned.position = owned.position.max(to);
        owned.unsaved = true;
        owned.tally.missed += count;
        let (position, tally) = (owned.position, owned.tally);
        self.status.measure(|meter| meter.tally.missed += count);
        self.status.stand(partition, position, tally);
    }

    /// Takes a partition over: from its snapshot, or from the start. Tries until it works, until
    /// the runner is to stop, or until it turns out that the partition has a later owner.
    pub(super) async fn open(
        &mut self,
        partition: &Partition,
        mut generation: Generation,
    ) -> Result<(), RunnerError> {
        let stage = self.stage.name();
        self.close(partition);
        let mut backoff = Backoff::new(self.settings.patience, self.seed());
        loop {
            let error = match self.snapshots.take(stage, partition, generation).await {
                Ok((token, snapshot)) => {
                    let start = snapshot.as_ref().map_or(self.settings.start, |s| Start::At(s.position));
                    match self.consumer.start(partition, start).await {
                        Ok(()) => {
                            let Snapshot { position, tally, state } = snapshot.unwrap_or_default();
                            let handler = self.stage.open(partition, &state).map_err(|source| {
                                RunnerError::State { stage, partition: partition.clone(), source }
                            })?;
                            info!(stage, %partition, %position, state_bytes = state.len(), "partition opened");
                            self.status.stand(partition, position, tally);
                            self.status.measure(|meter| meter.opened += 1);
                            let owned = Owned {
                                handler,
                                generation,
                                token,
                                position,
                                tally,
                                unsaved: false,
                                saved_at: Instant::now(),
                            };
                            self.owned.insert(partition.clone(), owned);
                            self.recovered();
                            return Ok(());
                        }
                        Err(error) => error,
                    }
                }
                Err(PortError::Fenced { .. }) => match self.consumer.confirm(partition, generation).await {
                    Ok(Some(later)) if later > generation => {
                        info!(stage, %partition, "the group has forgotten its past; taking the partition all the same");
                        generation = later;
                        continue;
                    }
                    Ok(_) => {
                        warn!(stage, %partition, "another process owns this partition by now; not taking it");
                        self.status.measure(|meter| meter.fenced += 1);
                        return Ok(());
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.passing(error)?;
            if *self.shutdown.borrow() {
                return Ok(());
            }
            if !self.pause(&mut backoff).await {
                backoff = Backoff::new(self.settings.patience, self.seed());
            }
        }
    }

    /// Lets revoked partitions go. Tries until it works or the runner is to stop: the group gives
    /// them to nobody else before.
    pub(super) async fn release(&mut self, partitions: &[Partition]) -> Result<(), RunnerError> {
        let mut backoff = Backoff::new(self.settings.patience, self.seed());
        while let Err(error) = self.consumer.release(partitions).await {
            if matches!(error, PortError::Fenced { .. }) || *self.shutdown.borrow() {
                break;
            }
            self.passing(error)?;
            if !self.pause(&mut backoff).await {
                backoff = Backoff::new(self.settings.patience, self.seed());
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self, partition: &Partition) {
        self.owned.remove(partition);
        self.status.lock().partitions.remove(partition);
    }

    /// Lets a partition go that has a later owner; unless the group says that it is still ours: then
    /// nobody else would go on with it.
    pub(super) async fn fenced(
        &mut self,
        partition: &Partition,
        generation: Generation,
    ) -> Result<(), RunnerError> {
        self.close(partition);
        self.status.measure(|meter| meter.fenced += 1);
        match self.consumer.confirm(partition, generation).await {
            Ok(Some(later)) => self.open(partition, later).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn save_all(&mut self) -> Result<(), RunnerError> {
        self.last_save = Instant::now();
        let partitions: Vec<Partition> = self.owned.keys().cloned().collect();
        for partition in partitions {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.unsaved |= owned.handler.tend().await;
            }
            self.save(&partition).await?;
        }
        Ok(())
    }

    pub(super) async fn save(&mut self, partition: &Partition) -> Result<(), RunnerError> {
        let Some(mut owned) = self.owned.remove(partition) else { return Ok(()) };
        if self.save_owned(partition, &mut owned).await? {
            self.owned.insert(partition.clone(), owned);
        } else {
            self.fenced(partition, owned.generation).await?;
        }
        Ok(())
    }

    /// Saves one partition; `false` when it is somebody else's by now. A store that is away leaves
    /// the snapshot unsaved until the next time: older progress is never wrong, only longer to redo.
    pub(super) async fn save_owned(
        &mut self,
        partition: &Partition,
        owned: &mut Owned<S::Handler>,
    ) -> Result<bool, RunnerError> {
        owned.saved_at = Instant::now();
        if !owned.unsaved {
            return Ok(true);
        }
        let stage = self.stage.name();
        let snapshot =
            Snapshot { position: owned.position, tally: owned.tally, state: owned.handler.state() };
        let mut backoff = Backoff::new(self.settings.patience, self.seed());
        loop {
            match self.snapshots.save(stage, partition, &owned.token, &snapshot).await {
                Ok(()) => {
                    owned.unsaved = false;
                    self.consumer.saved(partition, snapshot.position);
                    let mut progress = self.status.lock();
                    progress.meter.save.add(owned.saved_at.elapsed().as_secs_f64());
                    progress.meter.saved_bytes += snapshot.state.len() as u64;
                    if let Some(standing) = progress.partitions.get_mut(partition) {
                        standing.saved = snapshot.position;
                    }
                    drop(progress);
                    if backoff.tries() > 0 {
                        self.recovered();
                    }
                    return Ok(true);
                }
                Err(PortError::Fenced { .. }) => {
                    warn!(stage, %partition, "another process owns this partition now; letting go without saving");
                    return Ok(false);
                }
                Err(error) => {
                    self.passing(error)?;
                    if !self.pause(&mut backoff).await {
                        error!(stage, %partition, "progress could not be saved; what follows it would be done again");
                        return Ok(true);
                    }
                }
            }
        }
    }
}
