//! Reading topics as a member of a group.
//!
//! **A batch is of a partition that is ours and comes right after the one before**; after a revoke,
//! a loss or a new start nothing of what was fetched before is handed over. What the group wants is
//! only noted while it is polled: the group waits until the stage has finished, saved and let go.
//!
//! librdkafka blocks, so every call that may wait for it runs on a thread of its own. A call that is
//! dropped half-way loses nothing: what was read stays with the member.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use castwatch_core::ports::{Generation, Start};
use castwatch_core::{Consumer, Delivery, Partition, PortError, Position, Topic};

use super::KafkaSettings;
use super::member::Member;

/// A member of a stage's group.
pub struct KafkaConsumer {
    member: Arc<Mutex<Member>>,
}

impl KafkaConsumer {
    pub(super) fn new(settings: &KafkaSettings, stage: &str, topics: &[Topic]) -> Self {
        Self { member: Arc::new(Mutex::new(Member::new(settings, stage, topics))) }
    }

    fn lock(&self) -> MutexGuard<'_, Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` where it may block.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Member) -> Result<T, PortError> + Send + 'static,
    ) -> Result<T, PortError> {
        let member = Arc::clone(&self.member);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut member.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or_else(|panicked| Err(PortError::unavailable("work on Kafka", panicked)))
    }
}

impl Consumer for KafkaConsumer {
    async fn next(&mut self, wait: Duration) -> Result<Delivery, PortError> {
        if let Some(delivery) = self.lock().ready() {
            return Ok(delivery);
        }
        self.aside(move |member| member.gather(wait)).await?;
        Ok(self.lock().ready().unwrap_or(Delivery::Idle))
    }

    async fn start(&mut self, partition: &Partition, start: Start) -> Result<(), PortError> {
        let partition = partition.clone();
        self.aside(move |member| member.start(&partition, start)).await
    }

    async fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        let partitions = partitions.to_vec();
        self.aside(move |member| member.release(&partitions)).await
    }

    fn saved(&mut self, partition: &Partition, position: Position) {
        self.lock().saved(partition, position);
    }

    async fn confirm(
        &mut self,
        partition: &Partition,
        generation: Generation,
    ) -> Result<Option<Generation>, PortError> {
        let partition = partition.clone();
        self.aside(move |member| member.confirm(&partition, generation)).await
    }

    fn ends(&self) -> Vec<(Partition, Position)> {
        self.lock().ends()
    }
}
