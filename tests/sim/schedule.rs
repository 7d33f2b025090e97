//! One schedule: the line with two members a stage, everything that befalls it, and the promises.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use castwatch_core::backoff::Patience;
use castwatch_core::event::{Event, Outgoing, Topic};
use castwatch_core::payload::{Payload, Score};
use castwatch_core::ports::{Delivery, Tally};
use castwatch_core::runner::dlq;
use castwatch_core::stage::{Handler, Outbox, Stage};
use castwatch_core::{Runner, RunnerError, RunnerSettings, Shot, Verdict};
use castwatch_explainer::{ChartSettings, Explainer, Format};
use castwatch_models::Bundle;
use castwatch_notifier::Notifier;
use castwatch_scorer::Scorer;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bugs::{Bug, Wrong};
use crate::ports::{Ports, SESSION, SimConsumer};
use crate::world::{Member, Seat, State, World};

/// How many members each stage has.
const MEMBERS: usize = 2;
/// The line must come to rest within this much simulated time.
const LIMIT: Duration = Duration::from_secs(3600);

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|e| vec![e.to_string()])?;
    let world = World::new(seed, bug);
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
            self.bury();
            self.expire();
            self.rebalance();
            self.revive();
            if fed == input.events.len() && self.at_rest() {
                break;
            }
            if began.elapsed() > LIMIT {
                return Err(vec![format!("stuck: {}", self.where_stuck())]);
            }
        }
        self.stop.send_replace(true);
        for (_, running) in std::mem::take(&mut self.running) {
            let _ = tokio::time::timeout(SESSION * 4, running).await;
        }
        let state = self.world.lock();
        self.deeds.calls = state.calls;
        let broken = check(self.cast, &state, &input, calm, &mut self.deeds);
        if broken.is_empty() { Ok(self.deeds) } else { Err(broken) }
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

    /// Takes members off the stage that died at a call or ended by themselves.
    fn bury(&mut self) {
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

fn spawn<S>(stage: S, ports: Ports, settings: RunnerSettings, stop: watch::Receiver<bool>) -> Running
where
    S: Stage + 'static,
{
    let consumer = SimConsumer::new(ports.clone());
    let runner = Runner::new(stage, consumer, ports.clone(), ports, settings, stop);
    tokio::spawn(runner.run())
}

/// What machines send in one schedule: shots, some of them twice, and some that are none.
struct Input {
    events: Vec<Outgoing>,
    good: BTreeSet<String>,
    duplicates: u64,
    broken: Vec<Outgoing>,
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

/// The promises.
fn check(cast: &Cast, state: &State, input: &Input, calm: bool, deeds: &mut Deeds) -> Vec<String> {
    let mut broken: Vec<String> = state.broken.iter().cloned().collect();
    let mut promise = |what: &str, holds: bool, detail: &dyn Debug| {
        if !holds {
            broken.push(format!("{what}: {detail:?}"));
        }
    };

    // One score a shot, the same bytes as in a world without faults, wherever it was written again.
    let scores = by_id(state, &Topic::SCORES, &mut promise);
    let want = reference(cast, state);
    let scored: BTreeSet<String> = want.scores.keys().cloned().collect();
    let shots: BTreeSet<String> = input.good.iter().map(|id| format!("score:{id}")).collect();
    promise("the reference scores every shot", scored == shots, &(scored.len(), shots.len()));
    promise("one score a shot", scores.keys().eq(want.scores.keys()), &difference(&scores, &want.scores));
    promise(
        "scores do not depend on what went wrong",
        scores == want.scores,
        &unequal(&scores, &want.scores),
    );
    let defects = by_id(state, &Topic::DEFECTS, &mut promise);
    promise("one defect event a defect", defects == want.defects, &difference(&defects, &want.defects));

    // One explanation, one record, one chart, one alert a defect.
    let ids: BTreeSet<&str> = want.defects.keys().filter_map(|id| id.strip_prefix("defect:")).collect();
    let explanations = by_id(state, &Topic::EXPLANATIONS, &mut promise);
    let alerts = by_id(state, &Topic::ALERTS, &mut promise);
    let explained: BTreeSet<&str> =
        explanations.keys().filter_map(|id| id.strip_prefix("explanation:")).collect();
    let alerted: BTreeSet<&str> = alerts.keys().filter_map(|id| id.strip_prefix("alert:")).collect();
    let recorded: BTreeSet<&str> = state.records.keys().map(String::as_str).collect();
    let told: BTreeSet<&str> = state.inbox.iter().filter_map(|(id, _)| id.strip_prefix("alert:")).collect();
    promise("one explanation a defect", explained == ids, &(explained.len(), ids.len()));
    promise("one record a defect", recorded == ids, &(recorded.len(), ids.len()));
    promise("one alert event a defect", alerted == ids, &(alerted.len(), ids.len()));
    promise("every defect is told", told == ids, &(told.len(), ids.len()));
    let mut told_bytes: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (id, bytes) in &state.inbox {
        promise("an alert told again is the same alert", *told_bytes.entry(id).or_insert(bytes) == bytes, id);
    }
    promise("claims are settled", state.claims.values().all(|settled| *settled), &state.claims);
    let charts: BTreeSet<String> = state
        .records
        .values()
        .filter_map(|r| r.chart.clone())
        .filter(|key| state.objects.contains_key(key))
        .collect();
    promise("one chart a defect", charts.len() == ids.len(), &(charts.len(), ids.len()));
    promise("no other charts", state.objects.keys().all(|k| charts.contains(k)), &state.objects.len());

    // What can't be read is kept as it came.
    let kept = by_id(state, &Topic::SHOTS.dead_letters(), &mut promise);
    let bytes: BTreeSet<&[u8]> = kept.values().map(Vec::as_slice).collect();
    let sent: BTreeSet<&[u8]> = input.broken.iter().map(|e| &e.event.data[..]).collect();
    promise("broken messages are kept as they came", bytes == sent && kept.len() == sent.len(), &kept.len());
    let named = state.messages(&Topic::SHOTS.dead_letters()).all(|m| m.event.extension(dlq::ERROR).is_some());
    promise("dead letters say why", named, &());

    // The books balance, to the shot.
    let mut tally = Tally::default();
    for ((_, partition), kept) in &state.snapshots {
        if let Some(snapshot) = &kept.snapshot {
            promise("the books balance", snapshot.tally.balances(), &(partition, snapshot.tally));
            if partition.topic == Topic::SHOTS {
                tally.add(&snapshot.tally);
            }
        }
    }
    let expected = Tally {
        taken: input.events.len() as u64,
        done: input.good.len() as u64,
        duplicates: input.duplicates,
        dead_letters: input.broken.len() as u64,
    };
    promise("the scorer's books are exact", tally == expected, &(tally, expected));

    if calm {
        let messages = |topic: &Topic| state.messages(topic).count();
        promise(
            "without faults nothing is written twice",
            messages(&Topic::SCORES) == scores.len(),
            &scores.len(),
        );
        promise("without faults nothing is told twice", state.inbox.len() == ids.len(), &state.inbox.len());
    }
    deeds.shots = input.good.len();
    deeds.defects = ids.len();
    broken
}

/// The data of a topic by event id; the same id must carry the same bytes.
fn by_id(
    state: &State,
    topic: &Topic,
    promise: &mut impl FnMut(&str, bool, &dyn Debug),
) -> BTreeMap<String, Vec<u8>> {
    let mut events = BTreeMap::new();
    for message in state.messages(topic) {
        let data = message.event.data.to_vec();
        let there = events.entry(message.event.id.clone()).or_insert_with(|| data.clone());
        promise("an event written again is the same event", *there == data, &message.event.id);
    }
    events
}

struct Reference {
    scores: BTreeMap<String, Vec<u8>>,
    defects: BTreeMap<String, Vec<u8>>,
}

/// What one scorer that nothing befalls makes of the same log, message by message.
fn reference(cast: &Cast, state: &State) -> Reference {
    let scorer = Scorer::new(Arc::clone(&cast.bundle));
    let mut reference = Reference { scores: BTreeMap::new(), defects: BTreeMap::new() };
    for (partition, messages) in state.log.iter().filter(|(p, _)| p.topic == Topic::SHOTS) {
        let Ok(mut handler) = scorer.open(partition, &bytes::Bytes::new()) else { continue };
        for message in messages {
            let mut out = Outbox::default();
            poll_once(handler.handle(std::slice::from_ref(message), &mut out));
            for event in out.into_events() {
                let data = event.event.data.to_vec();
                match event.topic == Topic::SCORES {
                    true => reference.scores.insert(event.event.id, data),
                    false => reference.defects.insert(event.event.id, data),
                };
            }
        }
    }
    let defects = reference.scores.values().filter_map(|d| serde_json::from_slice::<Score>(d).ok());
    debug_assert_eq!(defects.filter(|s| s.verdict == Verdict::Defect).count(), reference.defects.len());
    debug_assert!(reference.scores.keys().all(|id| id.starts_with(Score::KIND)));
    reference
}

/// The scorer waits for nothing, so that one poll is its whole work.
fn poll_once<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_ready(), "the scorer waited for something");
}

fn difference<V>(a: &BTreeMap<String, V>, b: &BTreeMap<String, V>) -> (Vec<String>, Vec<String>) {
    let only = |a: &BTreeMap<String, V>, b: &BTreeMap<String, V>| {
        a.keys().filter(|k| !b.contains_key(*k)).take(3).cloned().collect()
    };
    (only(a, b), only(b, a))
}

fn unequal(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<(String, String)> {
    a.iter()
        .filter_map(|(k, x)| b.get(k).filter(|y| *y != x).map(|y| (x, y)))
        .take(1)
        .map(|(x, y)| (String::from_utf8_lossy(x).into_owned(), String::from_utf8_lossy(y).into_owned()))
        .collect()
}
