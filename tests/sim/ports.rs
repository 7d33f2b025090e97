//! The ports of one member of a stage, over the shared [`World`].

use std::time::Duration;

use bytes::Bytes;
use castwatch_core::event::{Outgoing, Partition, Position, Topic};
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{
    Claim, Consumer, Delivery, Generation, Kept, Objects, PortError, Publisher, RecordPage, RecordQuery,
    Records, Snapshot, Snapshots, Start, Stored, Token, Told,
};
use castwatch_notifier::{SendError, Sender};
use rand::Rng;

use crate::bugs::Bug;
use crate::faults::Fault;
use crate::world::{Member, State, World};

/// How long the group waits for a member before it gives its partitions away.
pub const SESSION: Duration = Duration::from_secs(10);

/// The ports of one member.
#[derive(Clone, Debug)]
pub struct Ports {
    world: World,
    member: Member,
}

/// How much of an effect takes place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Half,
    Whole,
}

/// A member stands still while this lives, also when whoever called gives up waiting.
struct Stalled<'p>(&'p Ports);

impl<'p> Stalled<'p> {
    fn begin(ports: &'p Ports) -> Self {
        ports.stall(Some(tokio::time::Instant::now()));
        Self(ports)
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        self.0.stall(None);
    }
}

impl Ports {
    fn stall(&self, since: Option<tokio::time::Instant>) {
        if let Some(seat) = self.world.lock().seats.get_mut(&self.member) {
            seat.stalled = since;
        }
    }

    /// The ports that `member` sees.
    pub fn new(world: World, member: Member) -> Self {
        Self { world, member }
    }

    /// One call: it takes a moment, then works, fails, or takes the process with it.
    async fn call<T>(
        &self,
        what: &str,
        mut effect: impl FnMut(&mut State, Extent) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let (moment, fault) = {
            let mut state = self.world.lock();
            let State { rng, plan, calls, .. } = &mut *state;
            *calls += 1;
            (rng.random_range(0..4), plan.next(rng))
        };
        tokio::time::sleep(Duration::from_millis(moment)).await;
        if fault == Fault::Pause {
            let _stalled = Stalled::begin(self);
            tokio::time::sleep(SESSION * 2).await;
        }
        let failed = || PortError::unavailable(what, format!("{fault:?}"));
        let outcome = {
            let mut state = self.world.lock();
            match fault {
                Fault::None | Fault::Pause => return effect(&mut state, Extent::Whole),
                Fault::Refused => return Err(failed()),
                Fault::LostAck => {
                    let _ = effect(&mut state, Extent::Whole);
                    return Err(failed());
                }
                Fault::Half => {
                    let _ = effect(&mut state, Extent::Half);
                    return Err(failed());
                }
                Fault::CrashBefore => None,
                Fault::CrashHalf => Some(effect(&mut state, Extent::Half)),
                Fault::CrashAfter => Some(effect(&mut state, Extent::Whole)),
            }
        };
        drop(outcome);
        if let Some(seat) = self.world.lock().seats.get(&self.member) {
            seat.crashed.notify_one();
        }
        std::future::pending().await
    }
}

impl Publisher for Ports {
    async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
        let done = self
            .call("publish", |state, extent| {
                // Half a publish is any subset, in order for each key: brokers fail by partition.
                let keep = state.rng.random_range(0..state.partitions);
                for event in events {
                    let index = castwatch_core::event::partition_of(&event.key, state.partitions);
                    if extent == Extent::Half && index != keep {
                        continue;
                    }
                    if state.bug == Some(Bug::DeadLettersDropped) && event.topic.as_str().ends_with(".dlq") {
                        continue;
                    }
                    let mut event = event.clone();
                    let again = || state.messages(&event.topic).any(|m| m.event.id == event.event.id);
                    if state.bug == Some(Bug::NewIdOnRetry) && again() {
                        event.event.id = format!("{}#{}", event.event.id, state.calls);
                    }
                    state.append(&event);
                }
                Ok(())
            })
            .await;
        if self.world.lock().bug == Some(Bug::FireAndForget) { Ok(()) } else { done }
    }
}

impl Snapshots for Ports {
    async fn take(
        &self,
        stage: &str,
        partition: &Partition,
        generation: Generation,
    ) -> Result<(Token, Option<Snapshot>), PortError> {
        self.call("take a snapshot", |state, _| {
            let bug = state.bug;
            let entry = state.snapshots.entry((stage.to_owned(), partition.clone())).or_default();
            if entry.generation > generation && bug != Some(Bug::LateAssignmentTakes) {
                return Err(PortError::Fenced { what: "take a snapshot".into() });
            }
            entry.generation = generation;
            entry.epoch += 1;
            Ok((Token(entry.epoch.to_string()), entry.snapshot.clone()))
        })
        .await
    }

    async fn save(
        &self,
        stage: &str,
        partition: &Partition,
        token: &Token,
        snapshot: &Snapshot,
    ) -> Result<(), PortError> {
        self.call("save a snapshot", |state, extent| {
            let bug = state.bug;
            let entry = state.snapshots.entry((stage.to_owned(), partition.clone())).or_default();
            let newest = entry.epoch.to_string() == token.0;
            if !newest && bug != Some(Bug::WriteAfterRevoke) {
                return Err(PortError::Fenced { what: "save a snapshot".into() });
            }
            let mut new = snapshot.clone();
            match (bug, extent) {
                (Some(Bug::PositionWithoutState), Extent::Whole) => new.state = Bytes::new(),
                (Some(Bug::SnapshotWithoutPosition), Extent::Half) => {
                    new = Snapshot { state: new.state, ..entry.snapshot.clone().unwrap_or_default() };
                }
                // A snapshot is replaced as a whole or not at all.
                (_, Extent::Half) => return Ok(()),
                (_, Extent::Whole) => {}
            }
            entry.snapshot = Some(new);
            Ok(())
        })
        .await
    }
}

impl Records for Ports {
    async fn put(&self, record: &Explanation) -> Result<Stored, PortError> {
        self.call("put a record", |state, extent| {
            let shot = record.score.shot.as_str();
            if extent == Extent::Half {
                return Ok(Stored::New);
            }
            if let Some(there) = state.records.get(shot) {
                if there != record {
                    state.broken.insert(format!("two different records of {shot}"));
                }
                return Ok(Stored::Already);
            }
            state.records.insert(shot.to_owned(), record.clone());
            Ok(Stored::New)
        })
        .await
    }

    async fn get(&self, shot: &str) -> Result<Option<Explanation>, PortError> {
        self.call("get a record", |state, _| Ok(state.records.get(shot).cloned())).await
    }

    async fn told(&self, alert: &Alert) -> Result<(), PortError> {
        self.call("keep an alert", |state, extent| {
            if extent == Extent::Whole && state.records.contains_key(alert.shot.as_str()) {
                state.alerts.entry(alert.shot.to_string()).or_insert_with(|| alert.clone());
            }
            Ok(())
        })
        .await
    }

    async fn list(&self, query: &RecordQuery) -> Result<RecordPage, PortError> {
        self.call("list records", |state, _| list(state, query)).await
    }

    async fn claim(&self, id: &str) -> Result<Claim, PortError> {
        self.call("claim", |state, extent| {
            if extent == Extent::Half {
                return Ok(Claim::Fresh);
            }
            let there = state.claims.get(id).copied();
            state.too_late.insert((self.member, id.to_owned()), there == Some(true));
            Ok(match there {
                None => {
                    state.claims.insert(id.to_owned(), false);
                    Claim::Fresh
                }
                Some(false) if state.bug == Some(Bug::ClaimByPresence) => Claim::Settled,
                Some(false) => Claim::Begun,
                Some(true) if state.bug == Some(Bug::ClaimsIgnored) => Claim::Fresh,
                Some(true) => Claim::Settled,
            })
        })
        .await
    }

    async fn settle(&self, id: &str) -> Result<(), PortError> {
        self.call("settle", |state, extent| {
            if extent == Extent::Whole {
                state.claims.insert(id.to_owned(), true);
            }
            Ok(())
        })
        .await
    }
}

/// A cursor is the milliseconds of the last record of a page in 20 digits, and its shot.
fn list(state: &State, query: &RecordQuery) -> Result<RecordPage, PortError> {
    let is_cursor = |text: &String| {
        text.split_once('~').is_some_and(|(ms, _)| ms.len() == 20 && ms.bytes().all(|b| b.is_ascii_digit()))
    };
    if !(1..=1000).contains(&query.limit) || !query.before.iter().all(is_cursor) {
        return Err(PortError::refused("list records", "no such page"));
    }
    let cursor =
        |r: &Explanation| format!("{:020}~{}", r.score.ended_at.instant().as_millisecond(), r.score.shot);
    let mut records: Vec<&Explanation> = state
        .records
        .values()
        .filter(|r| query.machine.as_ref().is_none_or(|m| *m == r.score.machine))
        .filter(|r| query.die.as_ref().is_none_or(|d| *d == r.score.die))
        .filter(|r| query.cause.as_ref().is_none_or(|c| *c == r.cause))
        .filter(|r| query.from.is_none_or(|t| t <= r.score.ended_at.instant()))
        .filter(|r| query.to.is_none_or(|t| t > r.score.ended_at.instant()))
        .filter(|r| {
            query.told.is_none_or(|t| (t == Told::Told) == state.alerts.contains_key(r.score.shot.as_str()))
        })
        .filter(|r| query.before.as_ref().is_none_or(|b| cursor(r) < *b))
        .collect();
    records.sort_by_key(|r| std::cmp::Reverse(cursor(r)));
    let next =
        (records.len() > query.limit).then(|| records.get(query.limit - 1).map(|r| cursor(r))).flatten();
    let kept = |record: &Explanation| Kept {
        record: record.clone(),
        alert: state.alerts.get(record.score.shot.as_str()).cloned(),
    };
    Ok(RecordPage { defects: records.into_iter().take(query.limit).map(kept).collect(), next })
}

/// Keys are relative paths that stay below their root.
fn checked(key: &str) -> Result<(), PortError> {
    let wrong = |part: &str| {
        part.is_empty() || part == "." || part == ".." || part.contains(|c: char| c == '\\' || c.is_control())
    };
    if key.len() > 1024 || key.split('/').any(wrong) {
        return Err(PortError::refused(format!("object {key}"), "not a key"));
    }
    Ok(())
}

impl Objects for Ports {
    async fn put(&self, key: &str, _content_type: &str, bytes: Bytes) -> Result<(), PortError> {
        checked(key)?;
        self.call("put an object", |state, extent| {
            if extent == Extent::Half {
                return Ok(());
            }
            let there = state.objects.insert(key.to_owned(), bytes.clone());
            if there.is_some_and(|there| there != bytes) && key.starts_with("charts/") {
                state.broken.insert(format!("two different charts at {key}"));
            }
            Ok(())
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        checked(key)?;
        self.call("get an object", |state, _| Ok(state.objects.get(key).cloned())).await
    }
}

impl Sender for Ports {
    fn name(&self) -> &str {
        "pager"
    }

    fn idempotent(&self) -> bool {
        true
    }

    async fn send(&self, alert: &Alert) -> Result<(), SendError> {
        let bytes = serde_json::to_vec(alert).map_err(SendError::refused)?;
        self.call("send an alert", |state, extent| {
            if extent == Extent::Whole {
                // Whoever claimed before another settled may still send: the ids are the same.
                let claim = (self.member, format!("{}#{}", alert.id, self.name()));
                if state.too_late.get(&claim) != Some(&false) {
                    state.broken.insert(format!("{} was sent by one who did not have its claim", claim.1));
                }
                state.inbox.push((alert.id.clone(), bytes.clone()));
            }
            Ok(())
        })
        .await
        .map_err(SendError::transient)
    }
}

/// Reads the log as one member of its stage's group.
#[derive(Debug)]
pub struct SimConsumer {
    ports: Ports,
    last: Option<Partition>,
    starts: Vec<Partition>,
}

impl SimConsumer {
    /// The consumer of a member that has a seat.
    pub fn new(ports: Ports) -> Self {
        Self { ports, last: None, starts: Vec::new() }
    }

    /// A group of its own with every partition of these topics, for the contract suite.
    pub fn alone(world: &World, stage: &str, topics: &[Topic]) -> Self {
        let stage: &'static str = stage.to_owned().leak();
        let mut state = world.lock();
        let incarnation = state.seats.len() as u32;
        let member = Member { stage, number: 0, incarnation };
        state.seats.insert(member, crate::world::Seat::default());
        for topic in topics {
            for partition in state.partitions_of(topic) {
                state.assign(&partition, member);
            }
        }
        Self::new(Ports::new(world.clone(), member))
    }

    fn ready(&mut self) -> Option<Delivery> {
        let mut state = self.ports.world.lock();
        let State { seats, log, rng, snapshots, owners, bug, .. } = &mut *state;
        let seat = seats.get_mut(&self.ports.member)?;
        if let Some(news) = seat.news.pop_front() {
            if let Delivery::Lost(partitions) = &news {
                seat.cursors.retain(|p, _| !partitions.contains(p));
            }
            return Some(news);
        }
        // In turn, so that no partition starves.
        let after = self.last.clone();
        let mut waiting: Vec<&Partition> = seat.cursors.keys().collect();
        waiting.sort_by_key(|p| (after.as_ref().is_some_and(|last| *p <= last), *p));
        let partition = waiting
            .into_iter()
            .find(|p| log.get(*p).is_some_and(|m| m.len() as u64 > seat.cursors[*p].0))?
            .clone();
        let cursor = seat.cursors.get_mut(&partition)?;
        let messages = &log[&partition][cursor.0 as usize..];
        let batch = messages[..rng.random_range(1..=messages.len().min(8))].to_vec();
        cursor.0 += batch.len() as u64;
        self.last = Some(partition.clone());
        let Member { stage, .. } = self.ports.member;
        if *bug == Some(Bug::ProgressBeforeEffects)
            && owners.get(&(stage, partition.clone())) == Some(&self.ports.member)
        {
            let kept = snapshots.entry((stage.to_owned(), partition.clone())).or_default();
            kept.snapshot.get_or_insert_default().position = *cursor;
        }
        Some(Delivery::Batch(partition, batch))
    }
}

impl Consumer for SimConsumer {
    async fn next(&mut self, wait: Duration) -> Result<Delivery, PortError> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let due = self.ports.call("read", |_, _| Ok(())).await;
            due?;
            if let Some(delivery) = self.ready() {
                return Ok(delivery);
            }
            if tokio::time::Instant::now() >= until {
                return Ok(Delivery::Idle);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn start(&mut self, partition: &Partition, start: Start) -> Result<(), PortError> {
        let member = self.ports.member;
        let again = self.starts.contains(partition);
        self.ports
            .call("start reading", |state, _| {
                if again && state.bug == Some(Bug::SilentAfterRebalance) {
                    return Ok(());
                }
                let end = state.end(partition);
                let at = match start {
                    Start::Earliest => Position(0),
                    Start::At(position) => position,
                    Start::Tail(n) => Position(end.0.saturating_sub(n)),
                };
                if let Some(seat) = state.seats.get_mut(&member) {
                    seat.cursors.insert(partition.clone(), at);
                }
                Ok(())
            })
            .await?;
        self.starts.push(partition.clone());
        Ok(())
    }

    async fn release(&mut self, partitions: &[Partition]) -> Result<(), PortError> {
        let member = self.ports.member;
        self.ports
            .call("release", |state, _| {
                for partition in partitions {
                    if let Some(seat) = state.seats.get_mut(&member) {
                        seat.cursors.remove(partition);
                    }
                    let key = (member.stage, partition.clone());
                    if state.owners.get(&key) != Some(&member) {
                        continue;
                    }
                    if let Some(to) = state.moving.remove(&key).and_then(|n| state.running(member.stage, n)) {
                        state.assign(partition, to);
                    } else {
                        state.owners.remove(&key);
                    }
                }
                Ok(())
            })
            .await
    }
}
