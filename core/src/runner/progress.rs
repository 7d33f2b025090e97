//! What a runner is doing, for readiness, metrics and the books.
//!
//! **Readiness follows progress**: a stage that runs and gets nowhere is not ready, and says which
//! partition stands still and why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{Partition, Position};
use crate::ports::Tally;

/// How far one partition is.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The next message to take.
    pub position: Position,
    /// The position that is saved.
    pub saved: Position,
    /// What was done before `position`.
    pub tally: Tally,
    /// The end of the partition, as far as it is known.
    pub end: Option<Position>,
    /// When `position` last changed, or there was last nothing to take.
    pub moved: Instant,
}

impl Standing {
    /// Messages that wait.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.map_or(0, |end| end.0.saturating_sub(self.position.0))
    }
}

/// The upper bounds of a [`Histogram`]'s buckets, in seconds; the last bucket has none.
pub const BOUNDS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];

/// How long things took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many fell into each bucket of [`BOUNDS`], and above all of them.
    pub buckets: [u64; BOUNDS.len() + 1],
    /// Their sum in seconds.
    pub sum: f64,
    /// How many they are.
    pub count: u64,
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, seconds: f64) {
        self.add_many(seconds, 1);
    }

    /// Adds `count` that took as long.
    pub fn add_many(&mut self, seconds: f64, count: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket] += count;
        self.sum += seconds * count as f64;
        self.count += count;
    }
}

/// What a runner measured since it began.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// What was done, over all partitions ever owned.
    pub tally: Tally,
    /// Effects of a batch.
    pub handle: Histogram,
    /// Publishing the events of a batch, to the acknowledgement.
    pub publish: Histogram,
    /// Saving one partition's progress.
    pub save: Histogram,
    /// From when the log took a message to when it was finished, for each message.
    pub age: Histogram,
    /// Bytes of state saved.
    pub saved_bytes: u64,
    /// Events published.
    pub published: u64,
    /// Times that something failed and was tried again.
    pub retries: u64,
    /// Times that a partition was opened.
    pub opened: u64,
    /// Times that another owner had taken over.
    pub fenced: u64,
}

/// What a runner is doing.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Each partition it owns, as of the last finished batch.
    pub partitions: BTreeMap<Partition, Standing>,
    /// Partitions that are assigned and could not be opened.
    pub unopened: Vec<Partition>,
    /// Why it is not getting on, while it is not.
    pub trouble: Option<String>,
    /// Whether the log has answered yet.
    pub begun: bool,
    /// What it measured.
    pub meter: Meter,
}

impl Progress {
    /// Whether the stage gets on; else each reason why not. A partition may stand still for `stall`
    /// with messages waiting.
    ///
    /// # Errors
    /// The reasons, for people.
    pub fn ready(&self, stall: Duration) -> Result<(), Vec<String>> {
        let mut reasons: Vec<String> = self.trouble.iter().cloned().collect();
        if !self.begun {
            reasons.push("the log has not answered yet".to_owned());
        }
        reasons.extend(self.unopened.iter().map(|p| format!("{p} is assigned and not open")));
        for (partition, standing) in &self.partitions {
            let still = standing.moved.elapsed();
            if standing.lag() > 0 && still >= stall {
                reasons.push(format!(
                    "{partition} stands at {} for {} s with {} messages waiting",
                    standing.position,
                    still.as_secs(),
                    standing.lag()
                ));
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
}

/// A live view of a runner's [`Progress`].
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<Progress>>);

impl Status {
    /// A copy of the progress now.
    #[must_use]
    pub fn get(&self) -> Progress {
        self.lock().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far a partition is.
    pub(super) fn stand(&self, partition: &Partition, position: Position, tally: Tally) {
        let mut progress = self.lock();
        let now = Instant::now();
        let standing = progress.partitions.entry(partition.clone()).or_insert(Standing {
            position,
            saved: position,
            tally,
            end: None,
            moved: now,
        });
        if standing.position != position || standing.lag() == 0 {
            standing.moved = now;
        }
        (standing.position, standing.tally) = (position, tally);
    }

    /// Notes where partitions end, and which of them are not open.
    pub(super) fn ends(&self, ends: Vec<(Partition, Position)>) {
        let mut progress = self.lock();
        let now = Instant::now();
        let mut unopened = Vec::new();
        for (partition, end) in ends {
            match progress.partitions.get_mut(&partition) {
                Some(standing) => {
                    if standing.lag() == 0 {
                        standing.moved = now;
                    }
                    standing.end = Some(end);
                }
                None => unopened.push(partition),
            }
        }
        progress.unopened = unopened;
    }

    /// Adds to what was measured.
    pub(super) fn measure(&self, add: impl FnOnce(&mut Meter)) {
        add(&mut self.lock().meter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Topic;

    const STALL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_stands_still_with_messages_waiting_is_not_ready() {
        let (status, p) = (Status::default(), Partition::new(Topic::SHOTS, 3));
        assert_eq!(status.get().ready(STALL), Err(vec!["the log has not answered yet".to_owned()]));
        status.lock().begun = true;
        status.stand(&p, Position(17), Tally::default());
        status.ends(vec![(p.clone(), Position(17))]);
        tokio::time::advance(STALL * 3).await;
        assert_eq!(status.get().ready(STALL), Ok(()), "an idle partition is ready");
        status.ends(vec![(p.clone(), Position(240))]);
        assert_eq!(status.get().ready(STALL), Ok(()), "what came just now may take a while");
        tokio::time::advance(STALL).await;
        let said = status.get().ready(STALL).unwrap_err();
        assert_eq!(said, ["shots/3 stands at 17 for 30 s with 223 messages waiting"]);
        status.stand(&p, Position(18), Tally::default());
        assert_eq!(status.get().ready(STALL), Ok(()), "one step is progress");
        status.ends(vec![(Partition::new(Topic::SHOTS, 4), Position(1))]);
        assert_eq!(status.get().ready(STALL).unwrap_err(), ["shots/4 is assigned and not open"]);
    }

    #[test]
    fn a_histogram_counts_each_once() {
        let mut h = Histogram::default();
        for seconds in [0.0, 0.000_1, 0.003, 59.0, 1000.0] {
            h.add(seconds);
        }
        assert_eq!((h.buckets[0], h.buckets[5], h.buckets[17], h.buckets[18]), (2, 1, 1, 1));
        assert_eq!((h.count, h.buckets.iter().sum::<u64>()), (5, 5));
    }
}
