//! What outlives a crash: the log, the stores, the group, and what supervisors were told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use castwatch_core::event::{Message, Outgoing, Partition, Position, Topic, partition_of};
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::{Delivery, Generation, Snapshot};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;

use crate::bugs::Bug;
use crate::faults::Plan;

/// One member of a stage's group: its incarnation counts its restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The stage.
    pub stage: &'static str,
    /// Which of its members.
    pub number: usize,
    /// How often it was started.
    pub incarnation: u32,
}

/// What the group knows of a member that runs.
#[derive(Debug, Default)]
pub struct Seat {
    /// What it is to be told next.
    pub news: VecDeque<Delivery>,
    /// Where it reads each partition it was given.
    pub cursors: BTreeMap<Partition, Position>,
    /// Since when it stands still, if it does.
    pub stalled: Option<tokio::time::Instant>,
    /// Told when it dies at a call.
    pub crashed: Arc<Notify>,
}

/// A snapshot with what fences it.
#[derive(Debug, Default)]
pub struct Kept {
    /// How often it was taken.
    pub epoch: u64,
    /// The generation that took it last.
    pub generation: Generation,
    /// What was saved.
    pub snapshot: Option<Snapshot>,
}

/// The whole world.
#[derive(Debug)]
pub struct State {
    /// All chance comes from here.
    pub rng: StdRng,
    /// What goes wrong.
    pub plan: Plan,
    /// What is wrong with castwatch itself, if anything.
    pub bug: Option<Bug>,
    /// How many partitions a topic has.
    pub partitions: u32,
    /// The log.
    pub log: BTreeMap<Partition, Vec<Message>>,
    /// Snapshots by stage and partition.
    pub snapshots: BTreeMap<(String, Partition), Kept>,
    /// Records by shot.
    pub records: BTreeMap<String, Explanation>,
    /// Alerts kept, by shot.
    pub alerts: BTreeMap<String, Alert>,
    /// Claims: settled or not.
    pub claims: BTreeMap<String, bool>,
    /// Whether a claim was settled already when a member last asked for it, whatever it was told.
    pub too_late: BTreeMap<(Member, String), bool>,
    /// Charts by key.
    pub objects: BTreeMap<String, Bytes>,
    /// Alerts in the order they arrived: id and bytes.
    pub inbox: Vec<(String, Vec<u8>)>,
    /// The members that run.
    pub seats: BTreeMap<Member, Seat>,
    /// Who owns a partition, or is about to: a revoked partition goes on when it is released.
    pub owners: BTreeMap<(&'static str, Partition), Member>,
    /// Where revoked partitions go.
    pub moving: BTreeMap<(&'static str, Partition), usize>,
    /// Counts assignments.
    pub generation: u64,
    /// How often a port was called: publishing uses it to make wrong ids.
    pub calls: u64,
    /// Promises seen broken while the schedule ran.
    pub broken: BTreeSet<String>,
}

/// A shared handle on the world.
#[derive(Clone, Debug)]
pub struct World(Arc<Mutex<State>>);

impl World {
    /// An empty world.
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::draw(&mut rng);
        Self::with(rng, plan, bug)
    }

    /// An empty world in which nothing goes wrong.
    pub fn calm(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut plan = Plan::draw(&mut rng);
        while !plan.is_calm() {
            plan = Plan::draw(&mut rng);
        }
        Self::with(rng, plan, bug)
    }

    fn with(rng: StdRng, plan: Plan, bug: Option<Bug>) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng,
            plan,
            bug,
            partitions: 2,
            log: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            records: BTreeMap::new(),
            alerts: BTreeMap::new(),
            claims: BTreeMap::new(),
            too_late: BTreeMap::new(),
            objects: BTreeMap::new(),
            inbox: Vec::new(),
            seats: BTreeMap::new(),
            owners: BTreeMap::new(),
            moving: BTreeMap::new(),
            generation: 0,
            calls: 0,
            broken: BTreeSet::new(),
        })))
    }

    /// The state; nothing awaits while it is held.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The partitions of a topic.
    pub fn partitions_of(&self, topic: &Topic) -> Vec<Partition> {
        (0..self.partitions).map(|index| Partition::new(topic.clone(), index)).collect()
    }

    /// Appends an event.
    pub fn append(&mut self, outgoing: &Outgoing) {
        let partition = Partition::new(outgoing.topic.clone(), partition_of(&outgoing.key, self.partitions));
        let messages = self.log.entry(partition).or_default();
        messages.push(Message {
            position: Position(messages.len() as u64),
            key: outgoing.key.clone(),
            // Simulated logs have no clock; any time after 1970 says that they took it.
            written_ms: 1_767_567_600_000 + messages.len() as i64,
            event: outgoing.event.clone(),
        });
    }

    /// All messages of a topic, partition by partition.
    pub fn messages(&self, topic: &Topic) -> impl Iterator<Item = &Message> {
        let topic = topic.clone();
        self.log.iter().filter(move |(p, _)| p.topic == topic).flat_map(|(_, messages)| messages)
    }

    /// The end of a partition.
    pub fn end(&self, partition: &Partition) -> Position {
        Position(self.log.get(partition).map_or(0, Vec::len) as u64)
    }

    /// The newest incarnation of a member that runs.
    pub fn running(&self, stage: &'static str, number: usize) -> Option<Member> {
        self.seats.keys().filter(|m| m.stage == stage && m.number == number).max().copied()
    }

    /// Gives a partition to a member, now.
    pub fn assign(&mut self, partition: &Partition, member: Member) {
        self.generation += 1;
        let generation = self.generation;
        self.moving.remove(&(member.stage, partition.clone()));
        self.owners.insert((member.stage, partition.clone()), member);
        if let Some(seat) = self.seats.get_mut(&member) {
            seat.news.push_back(Delivery::Assigned(Generation(generation), vec![partition.clone()]));
        }
    }

    /// Takes every partition from a member and gives it to the others of its stage that run.
    pub fn expel(&mut self, member: Member) {
        let held: Vec<Partition> = self
            .owners
            .iter()
            .filter(|((stage, _), owner)| *stage == member.stage && **owner == member)
            .map(|((_, partition), _)| partition.clone())
            .collect();
        for partition in held {
            self.owners.remove(&(member.stage, partition.clone()));
            self.moving.remove(&(member.stage, partition.clone()));
            if let Some(seat) = self.seats.get_mut(&member) {
                seat.news.push_back(Delivery::Lost(vec![partition.clone()]));
            }
        }
    }

    /// Gives what nobody owns to members that run, whoever has least.
    pub fn balance(&mut self, stage: &'static str, inputs: &[Topic], members: &[Member]) {
        for topic in inputs {
            for partition in self.partitions_of(topic) {
                if self.owners.contains_key(&(stage, partition.clone())) {
                    continue;
                }
                let load = |m: &Member| self.owners.values().filter(|o| *o == m).count();
                if let Some(member) = members.iter().min_by_key(|m| load(m)).copied() {
                    self.assign(&partition, member);
                }
            }
        }
    }
}
