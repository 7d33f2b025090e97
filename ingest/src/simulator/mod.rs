//! A plant that does not exist: shots as a real plant's look, each defect with its cause.
//!
//! **The same settings give the same messages, byte for byte, on every machine.** Each casting
//! machine has its own dice, so another machine beside it changes nothing in its shots.
//!
//! What real streams do is done here too: set-points per die, one to three dies in turn at a
//! machine, slow drift, cold dies after a stop with their try shots, trouble in bursts, codes for
//! "no sensor", counters that begin again with the shift, clocks that are set back, and messages
//! sent twice.

mod cause;
mod chance;
mod die;
mod machine;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};

use bytes::Bytes;
use castwatch_core::{Event, Outgoing, Shot, Topic};
use jiff::Timestamp;
use jiff::tz::Offset;
use serde::Serialize;

pub use cause::Cause;
use chance::Chance;
use machine::Machine;

/// The `source` of simulated events.
pub const SOURCE: &str = "/castwatch/simulator";

/// The names of the readings of a simulated shot, in order.
pub const READINGS: [&str; die::reading::COUNT] = die::reading::NAMES;

/// Which plant to simulate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimSettings {
    /// Everything follows from it.
    pub seed: u64,
    /// How many casting machines there are.
    pub machines: usize,
    /// When the first shots are cast.
    pub start: Timestamp,
    /// The plant's offset from UTC.
    pub offset: Offset,
    /// The part of all messages that is sent twice.
    pub duplicates: f64,
    /// The part of all shots after which the machine also sends a message that is not a shot.
    pub broken: f64,
}

impl Default for SimSettings {
    /// Three machines in Korea, from Monday morning on, that send no broken messages.
    fn default() -> Self {
        Self {
            seed: 1,
            machines: 3,
            start: Timestamp::constant(1_767_567_600, 0),
            offset: Offset::constant(9),
            duplicates: 0.004,
            broken: 0.0,
        }
    }
}

/// One message that a simulated machine publishes.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulated {
    /// When it is sent, by a clock that is right; never before the message ahead of it.
    pub sent_at: Timestamp,
    /// The machine that sends it.
    pub machine: String,
    /// The bytes that it sends.
    pub wire: Bytes,
    /// What they are.
    pub kind: Kind,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A new shot.
    Shot {
        /// The shot, well formed; its JSON is the message.
        shot: Shot,
        /// Why it is a defect, if it is one.
        cause: Option<Cause>,
    },
    /// The bytes of an earlier shot again.
    Again(Shot),
    /// Not a shot; says what is broken.
    Broken(&'static str),
}

impl Simulated {
    /// The shot and its cause, if this is a new shot.
    #[must_use]
    pub fn shot(&self) -> Option<(&Shot, Option<Cause>)> {
        match &self.kind {
            Kind::Shot { shot, cause } => Some((shot, *cause)),
            Kind::Again(_) | Kind::Broken(_) => None,
        }
    }

    /// The event as the machine puts it on the `shots` topic; of a broken message it is one with
    /// no attributes but an id and the bytes as they are.
    ///
    /// # Errors
    /// serde_json's; simulated shots can be written.
    pub fn outgoing(&self) -> Result<Outgoing, serde_json::Error> {
        let event = match &self.kind {
            Kind::Shot { shot, .. } | Kind::Again(shot) => Event::of_shot(shot, SOURCE)?,
            Kind::Broken(_) => Event {
                id: format!("{}~{}", self.machine, self.sent_at),
                ty: Event::SHOT.into(),
                source: SOURCE.into(),
                data: self.wire.clone(),
                ..Event::default()
            },
        };
        Ok(Outgoing { topic: Topic::SHOTS, key: self.machine.clone(), event })
    }
}

#[derive(Debug, Clone)]
enum Due {
    Turn { machine: usize, place: usize },
    Message(Box<Simulated>),
}

/// Orders what is due by time, then by when it was planned.
#[derive(Debug, Clone)]
struct Planned {
    at: i64,
    number: u64,
    due: Due,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The messages of a simulated plant, in the order they are sent; they end only with the year 2099.
#[derive(Clone, Debug)]
pub struct Simulator {
    settings: SimSettings,
    machines: Vec<Machine>,
    plan: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    /// For what happens to messages on their way, apart from how shots are cast.
    chance: Vec<Chance>,
}

impl Simulator {
    /// A plant in the middle of production.
    #[must_use]
    pub fn new(settings: SimSettings) -> Self {
        let start = settings.start.as_second();
        let offset = i64::from(settings.offset.seconds());
        let mut simulator = Self {
            settings,
            machines: Vec::new(),
            plan: BinaryHeap::new(),
            planned: 0,
            chance: (0..settings.machines).map(|i| Chance::new(settings.seed, u64::MAX - i as u64)).collect(),
        };
        for number in 0..settings.machines {
            let mut machine = Machine::new(settings.seed, number, start, offset);
            for (place, due) in machine.begin(start).into_iter().enumerate() {
                simulator.plan(due, Due::Turn { machine: number, place });
            }
            simulator.machines.push(machine);
        }
        simulator
    }

    fn plan(&mut self, at: i64, due: Due) {
        self.plan.push(Reverse(Planned { at, number: self.planned, due }));
        self.planned += 1;
    }

    /// The message of a new shot; plans what else it leads to.
    fn message(&mut self, machine: usize, at: i64, made: machine::Made) -> Option<Simulated> {
        let machine::Made { shot, cause } = made;
        let sent_at = Timestamp::from_second(at).ok()?;
        let wire = Bytes::from(serde_json::to_vec(&shot).ok()?);
        let chance = &mut self.chance[machine];
        let again = chance.happens(self.settings.duplicates).then(|| at + chance.seconds(1, 20));
        let broken =
            chance.happens(self.settings.broken).then(|| (at + chance.seconds(1, 30), chance.below(6)));
        let message = |at: i64, wire: Bytes, kind| {
            let sent_at = Timestamp::from_second(at).ok()?;
            Some(Box::new(Simulated { sent_at, machine: shot.machine.clone(), wire, kind }))
        };
        if let Some(m) = again.and_then(|at| message(at, wire.clone(), Kind::Again(shot.clone()))) {
            self.plan(m.sent_at.as_second(), Due::Message(m));
        }
        if let Some(m) = broken.and_then(|(at, how)| {
            let (what, bytes) = break_it(how, &wire);
            message(at, bytes, Kind::Broken(what))
        }) {
            self.plan(m.sent_at.as_second(), Due::Message(m));
        }
        Some(Simulated { sent_at, machine: shot.machine.clone(), wire, kind: Kind::Shot { shot, cause } })
    }
}

impl Iterator for Simulator {
    type Item = Simulated;

    fn next(&mut self) -> Option<Simulated> {
        loop {
            let Reverse(Planned { at, due, .. }) = self.plan.pop()?;
            let (machine, place) = match due {
                Due::Message(message) => return Some(*message),
                Due::Turn { machine, place } => (machine, place),
            };
            if at >= castwatch_core::time::LATEST {
                continue;
            }
            let (made, next) = self.machines[machine].turn(place, at);
            self.plan(next, Due::Turn { machine, place });
            if let Some(message) = made.and_then(|made| self.message(machine, at, made)) {
                return Some(message);
            }
        }
    }
}

/// A message as broken machines and gateways send it.
fn break_it(how: u32, wire: &Bytes) -> (&'static str, Bytes) {
    let text = String::from_utf8_lossy(wire);
    let swap = |from: &str, to: &str| Bytes::from(text.replacen(from, to, 1).into_bytes());
    match how {
        0 => ("cut off", wire.slice(..wire.len() / 2)),
        1 => ("not JSON", Bytes::from_static(b"<shot machine=\"?\"/>")),
        2 => ("no machine", swap("\"machine\":", "\"maschine\":")),
        3 => ("NaN", swap("\"cast_pressure\":", "\"cast_pressure\":NaN,\"cast_pressure_raw\":")),
        4 => ("number as text", swap("\"molten_temp\":", "\"molten_temp\":\"n/a\",\"molten_temp_raw\":")),
        _ => ("clock not set", swap("\"ended_at\":\"20", "\"ended_at\":\"19")),
    }
}

/// What a table of simulated shots holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TableTotals {
    /// Shots written.
    pub shots: u64,
    /// Those that are defects.
    pub defects: u64,
    /// Those that the machine called try shots.
    pub try_shots: u64,
}

#[derive(Serialize)]
struct Labelled<'a> {
    #[serde(flatten)]
    shot: &'a Shot,
    defect: bool,
    cause: Option<Cause>,
}

/// Writes the first `shots` new shots of `messages` as JSON lines: the shot with `defect` (true or
/// false) and `cause` (a [`Cause`]'s word, or null).
///
/// # Errors
/// What `out` says.
pub fn write_table(
    messages: impl Iterator<Item = Simulated>,
    shots: u64,
    out: &mut impl Write,
) -> io::Result<TableTotals> {
    let mut totals = TableTotals::default();
    for message in messages {
        if totals.shots == shots {
            break;
        }
        let Some((shot, cause)) = message.shot() else { continue };
        serde_json::to_writer(&mut *out, &Labelled { shot, defect: cause.is_some(), cause })?;
        out.write_all(b"\n")?;
        totals.shots += 1;
        totals.defects += u64::from(cause.is_some());
        totals.try_shots += u64::from(shot.try_shot);
    }
    out.flush()?;
    Ok(totals)
}

#[cfg(test)]
mod tests;
