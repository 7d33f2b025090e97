//! One schedule: the line with two members a stage, and everything that befalls it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use castwatch_core::backoff::Patience;
use castwatch_core::event::{Event, Outgoing, Partition, Position, Topic};
use castwatch_core::ports::Delivery;
use castwatch_core::runner::chain;
use castwatch_core::stage::Stage;
use castwatch_core::{Runner, RunnerError, RunnerSettings, Shot};
use castwatch_explainer::{ChartSettings, Explainer, Format};
use castwatch_models::Bundle;
use castwatch_notifier::Notifier;
use castwatch_scorer::Scorer;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use crate::bugs::{Bug, Wrong};
use crate::ports::{Ports, SESSION, SimConsumer};
use crate::promises::check;
use crate::world::{Kept, Member, Seat, State, World};

/// How many members each stage has.
const MEMBERS: usize = 2;
/// The line must come to rest within this much simulated time.
const LIMIT: Duration = Duration::from_secs(3600);
/// So long it must stay at rest: progress that was saved too early shows within this time.
const REST: Duration = Duration::from_millis(300);
/// A runner told to stop must end within this much simulated time, pauses included.
const STOP: Duration = SESSION.saturating_mul(60);

/// What a schedule did, for the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Distinct shots put in.
    pub shots: usize,
    /// Defects among them.
    pub defects: usize,
    /// Members that died.
    pub crashes: usize,
    /// Partitions that changed hands by a rebalance or a time-out.
    pub moves: usize,
    /// Calls of ports.
    pub calls: u64,
}

/// What every schedule is made of.
#[derive(Clone)]
pub struct Cast {
    /// The model.
    pub bundle: Arc<Bundle>,
    /// Shots to choose from, several machines in turn, with defects among them.
    pub shots: Arc<Vec<Shot>>,
}

/// Runs the schedule of a seed.
///
/// # Errors
/// The promises it broke.
pub fn run(cast: &Cast, seed: u64, bug: Option<Bug>) -> Result<Deeds, Vec<String>> {
    run_in(cast, World::new(seed, bug))
}

/// Runs a schedule in this world.
///
/// # Errors
/// The promises it broke.
pub fn run_in(cast: &Cast, world: World) -> Result<Deeds, Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|e| vec![e.to_string()])?;
    runtime.block_on(Driver::new(cast, world).play())
}

type Running = JoinHandle<Result<(), RunnerError>>;

struct Driver<'c> {
    cast: &'c Cast,
    world: World,
    inputs: Vec<(&'static str, Vec<Topic>)>,
    running: BTreeMap<Member, Running>,
    gone: BTreeMap<Member, Instant>,
    restarts: Vec<(Instant, &'static str, usize)>,
    born: HashMap<(&'static str, usize), u32>,
    stop: watch::Sender<bool>,
    deeds: Deeds,
    moves_left: u32,
}

impl<'c> Driver<'c> {
    fn new(cast: &'c Cast, world: World) -> Self {
        Self {
            cast,
            world,
            inputs: vec![
                ("scorer", vec![Topic::SHOTS]),
                ("explainer", vec![Topic::DEFECTS]),
                ("notifier", vec![Topic::EXPLANATIONS]),
            ],
            running: BTreeMap::new(),
            gone: BTreeMap::new(),
            restarts: Vec::new(),
            born: HashMap::new(),
            stop: watch::channel(false).0,
            deeds: Deeds::default(),
            moves_left: 30,
        }
    }

    async fn play(mut self) -> Result<Deeds, Vec<String>> {
        let input = Input::draw(&mut self.world.lock(), &self.cast.shots);
        let calm = self.world.lock().plan.is_calm();
        for (stage, _) in self.inputs.clone() {
            for number in 0..MEMBERS {
                self.start(stage, number);
            }
        }
        let began = Instant::now();
        let mut rested: Option<Instant> = None;
        let mut fed = 0;
        loop {
            let (pause, feed) = {
                let rng = &mut self.world.lock().rng;
                (rng.random_range(1..200), rng.random_range(0..6))
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            for event in input.events.iter().skip(fed).take(feed) {
                self.world.lock().append(event);
                fed += 1;
            }
            self.bury().await;
            self.expire();
            self.rebalance();
            self.revive();
            match fed == input.events.len() && self.at_rest() {
                true if rested.get_or_insert_with(Instant::now).elapsed() >= REST => break,
                true => {}
                false => rested = None,
            }
            if began.elapsed() > LIMIT {
                self.broke(format!("stuck: {}", self.where_stuck()));
            }
            let broken: Vec<String> = self.world.lock().broken.iter().cloned().collect();
            if !broken.is_empty() {
                return Err(broken);
            }
        }
        let progress = self.progress();
        self.stop.send_replace(true);
        for (member, running) in std::mem::take(&mut self.running) {
            self.end(member, running).await;
        }
        // A late owner may still have published again; nobody may have taken saved progress back.
        for (stage, before) in progress {
            let after = self.progress().get(&stage).copied();
            if after < Some(before) {
                self.broke(format!("progress of {stage:?} went back from {before} to {after:?}"));
            }
        }
        let state = self.world.lock();
        self.deeds.calls = state.calls;
        let broken = check(self.cast, &state, &input, calm, &mut self.deeds);
        if broken.is_empty() { Ok(self.deeds) } else { Err(broken) }
    }

    fn broke(&self, promise: String) {
        self.world.lock().broken.insert(promise);
    }

    fn start(&mut self, stage: &'static str, number: usize) {
        let incarnation = self.born.entry((stage, number)).and_modify(|n| *n += 1).or_default();
        let member = Member { stage, number, incarnation: *incarnation };
        let bug = {
            let mut state = self.world.lock();
            state.seats.insert(member, Seat::default());
            state.bug
        };
        let ports = Ports::new(self.world.clone(), member);
        let settings = RunnerSettings {
            wait: Duration::from_millis(100),
            save_every: Duration::from_millis(300),
            max_refused_in_a_row: 1000,
            patience: Patience {
                first: Duration::from_millis(20),
                most: Duration::from_secs(1),
                budget: Duration::from_secs(4),
            },
            ..RunnerSettings::default()
        };
        let stop = self.stop.subscribe();
        let bundle = Arc::clone(&self.cast.bundle);
        let handle = match stage {
            "scorer" => spawn(Wrong { stage: Scorer::new(bundle), bug }, ports, settings, stop),
            "explainer" => {
                let explainer = Explainer::new(
                    bundle,
                    ports.clone(),
                    ports.clone(),
                    ChartSettings { formats: vec![Format::Svg], ..ChartSettings::default() },
                );
                spawn(Wrong { stage: explainer, bug }, ports, settings, stop)
            }
            _ => match Notifier::new(ports.clone(), vec![ports.clone()]) {
                Ok(notifier) => spawn(Wrong { stage: notifier, bug }, ports, settings, stop),
                Err(_) => return,
            },
        };
        self.running.insert(member, handle);
    }

    /// Waits for a runner that was told to stop. It may die on the way, but not fail.
    async fn end(&self, member: Member, mut running: Running) {
        let crashed = self.world.lock().seats.get(&member).map(|seat| Arc::clone(&seat.crashed));
        let dies = async {
            match crashed {
                Some(crashed) => crashed.notified().await,
                None => std::future::pending().await,
            }
        };
        let wrong = tokio::select! {
            biased;
            () = dies => None,
            ended = &mut running => failure(ended),
            () = tokio::time::sleep(STOP) => Some("did not stop".into()),
        };
        running.abort();
        if let Some(wrong) = wrong {
            self.broke(format!("{member:?} {wrong}"));
        }
    }

    /// Takes members off the stage that died at a call. None may end in any other way.
    async fn bury(&mut self) {
        let members: Vec<Member> = self.running.keys().copied().collect();
        for member in members {
            let crashed = self.world.lock().seats.get(&member).is_some_and(|seat| {
                let mut told = std::pin::pin!(seat.crashed.notified());
                told.as_mut().enable()
            });
            let ended = self.running.get(&member).is_some_and(JoinHandle::is_finished);
            if !crashed && !ended {
                continue;
            }
            if let Some(running) = self.running.remove(&member) {
                running.abort();
                if !crashed {
                    let wrong = failure(running.await).unwrap_or("ended without being told".into());
                    self.broke(format!("{member:?} {wrong}"));
                }
                self.world.lock().seats.remove(&member);
                self.deeds.crashes += 1;
                self.gone.insert(member, Instant::now());
                let wait = Duration::from_millis(self.world.lock().rng.random_range(0..15_000));
                self.restarts.push((Instant::now() + wait, member.stage, member.number));
            }
        }
    }

    /// Gives away the partitions of members that are gone or stand still, once the group notices.
    fn expire(&mut self) {
        let mut state = self.world.lock();
        let mut expired: Vec<Member> =
            self.gone.iter().filter(|(_, since)| since.elapsed() > SESSION).map(|(m, _)| *m).collect();
        self.gone.retain(|member, _| !expired.contains(member));
        let stalled = |seat: &Seat| seat.stalled.is_some_and(|since| since.elapsed() > SESSION);
        expired.extend(state.seats.iter().filter(|(_, seat)| stalled(seat)).map(|(m, _)| *m));
        for member in expired {
            let before = state.owners.len();
            state.expel(member);
            self.deeds.moves += before - state.owners.len();
        }
        for (stage, inputs) in &self.inputs {
            let able: Vec<Member> = state
                .seats
                .iter()
                .filter(|(m, seat)| m.stage == *stage && seat.stalled.is_none())
                .map(|(m, _)| *m)
                .collect();
            state.balance(stage, inputs, &able);
        }
    }

    /// Now and then asks a member to hand a partition over, or just takes it away.
    fn rebalance(&mut self) {
        let mut state = self.world.lock();
        let chance = state.plan.rebalances;
        if self.moves_left == 0 || chance == 0.0 || !state.rng.random_bool(chance) {
            return;
        }
        self.moves_left -= 1;
        let owned = state.owners.len().max(1);
        let at = state.rng.random_range(0..owned);
        let Some(((stage, partition), owner)) = state.owners.iter().nth(at).map(|(k, v)| (k.clone(), *v))
        else {
            return;
        };
        let to = (owner.number + 1) % MEMBERS;
        let Some(next) = state.running(stage, to) else { return };
        self.deeds.moves += 1;
        if state.rng.random_bool(0.7) {
            if state.moving.insert((stage, partition.clone()), to).is_none()
                && let Some(seat) = state.seats.get_mut(&owner)
            {
                seat.news.push_back(Delivery::Revoked(vec![partition]));
            }
        } else {
            if let Some(seat) = state.seats.get_mut(&owner) {
                seat.news.push_back(Delivery::Lost(vec![partition.clone()]));
            }
            state.assign(&partition, next);
        }
    }

    fn revive(&mut self) {
        let due: Vec<_> = self.restarts.extract_if(.., |(at, ..)| *at <= Instant::now()).collect();
        for (_, stage, number) in due {
            self.start(stage, number);
        }
    }

    /// Whether every stage has saved progress up to the end of what it reads.
    fn at_rest(&self) -> bool {
        let state = self.world.lock();
        self.inputs.iter().all(|(stage, topics)| {
            topics.iter().flat_map(|t| state.partitions_of(t)).all(|p| {
                let saved = state
                    .snapshots
                    .get(&((*stage).to_owned(), p.clone()))
                    .and_then(|kept| kept.snapshot.as_ref());
                // The explainer's state is the charts it owes.
                let owes = *stage == "explainer" && saved.is_some_and(|s| !s.state.is_empty());
                !owes && state.end(&p) == saved.map_or(Default::default(), |s| s.position)
            })
        })
    }

    /// How far each stage has saved that it came.
    fn progress(&self) -> BTreeMap<(String, Partition), Position> {
        let state = self.world.lock();
        let saved = |kept: &Kept| kept.snapshot.as_ref().map_or_else(Position::default, |s| s.position);
        state.snapshots.iter().map(|(of, kept)| (of.clone(), saved(kept))).collect()
    }

    fn where_stuck(&self) -> String {
        let state = self.world.lock();
        let mut at = Vec::new();
        for (stage, topics) in &self.inputs {
            for p in topics.iter().flat_map(|t| state.partitions_of(t)) {
                let saved = state
                    .snapshots
                    .get(&((*stage).to_owned(), p.clone()))
                    .and_then(|kept| kept.snapshot.as_ref());
                let owes = saved.map_or(0, |s| s.state.len());
                let saved = saved.map_or(0, |s| s.position.0);
                let owner = state.owners.get(&(*stage, p.clone()));
                let seat = owner.and_then(|o| state.seats.get(o));
                at.push(format!(
                    "{stage} {p} at {saved} of {}, {owes} bytes of state, owned by {owner:?} seated {} stalled {} reading at {:?}, news {:?}",
                    state.end(&p),
                    seat.is_some(),
                    seat.is_some_and(|s| s.stalled.is_some()),
                    seat.and_then(|s| s.cursors.get(&p)),
                    seat.map(|s| &s.news),
                ));
            }
        }
        at.join("; ")
    }
}

/// What is wrong with how a runner ended, if anything: nobody takes over for good in here.
fn failure(ended: Result<Result<(), RunnerError>, JoinError>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("failed: {}", chain(&error))),
        Err(error) => Some(match error.try_into_panic() {
            Ok(panic) => {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                format!("panicked: {}", words.or_else(|| panic.downcast_ref().copied()).unwrap_or("?"))
            }
            Err(error) => format!("ended: {error}"),
        }),
    }
}

fn spawn<S>(stage: S, ports: Ports, settings: RunnerSettings, stop: watch::Receiver<bool>) -> Running
where
    S: Stage + 'static,
{
    let consumer = SimConsumer::new(ports.clone());
    let runner = Runner::new(stage, consumer, ports.clone(), ports, settings, stop);
    tokio::spawn(runner.run())
}

/// What machines send in one schedule: shots, some of them twice, and some that are none.
pub(crate) struct Input {
    pub(crate) events: Vec<Outgoing>,
    pub(crate) good: BTreeSet<String>,
    pub(crate) duplicates: u64,
    pub(crate) broken: Vec<Outgoing>,
}

impl Input {
    fn draw(state: &mut State, shots: &[Shot]) -> Self {
        let rng = &mut state.rng;
        let count = rng.random_range(6..30_usize).min(shots.len());
        let from = rng.random_range(0..=shots.len() - count);
        let mut input = Self { events: Vec::new(), good: BTreeSet::new(), duplicates: 0, broken: Vec::new() };
        for shot in &shots[from..from + count] {
            let Ok(event) = Event::of_shot(shot, "/plant/test") else { continue };
            input.good.insert(event.id.clone());
            let sent = Outgoing { topic: Topic::SHOTS, key: shot.machine.clone(), event };
            input.events.push(sent.clone());
            while rng.random_bool(0.1) {
                // The same shot again, a few messages later.
                let at = rng.random_range(input.events.len().saturating_sub(3)..=input.events.len());
                let first = input.events.iter().position(|e| e == &sent).unwrap_or(at);
                input.events.insert(at.max(first + 1), sent.clone());
                input.duplicates += 1;
            }
            if rng.random_bool(0.05) {
                let mut broken = sent.clone();
                broken.event.data = format!("{{\"machine\": {}", input.broken.len()).into();
                broken.event.id = String::new();
                input.events.push(broken.clone());
                input.broken.push(broken);
            }
        }
        input
    }
}
