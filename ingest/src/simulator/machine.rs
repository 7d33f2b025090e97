//! One simulated machine: its furnace, sleeve and water, its clock, and the dies it casts in turn.

use super::cause::Cause;
use super::chance::Chance;
use super::die::{Die, RESTART, reading};
use castwatch_core::{Readings, Shot};

const DAY: i64 = 86_400;
/// Shifts begin at 08:00 and 20:00 in the plant's time.
const SHIFT: i64 = DAY / 2;
/// The sleeve cools by so much a week as it wears, until it is replaced.
const WEAR_A_WEEK: f64 = 24.0;
const WORN_OUT: f64 = 245.0;
/// Dies at hand; older ones are scrapped.
const DIES_KEPT: usize = 7;

#[derive(Clone, Debug)]
struct Place {
    die: Option<usize>,
    /// Shots until the die is changed, or idle turns.
    left: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub name: String,
    /// Ahead of true time by so many seconds.
    clock: i64,
    chance: Chance,
    dies: Vec<Die>,
    next_die: u32,
    places: [Place; 3],
    melt: f64,
    volume: f64,
    water: f64,
    sleeve_since: i64,
    utc_offset: i64,
}

/// A shot of a machine before it is put in words.
pub(super) struct Made {
    pub shot: Shot,
    pub cause: Option<Cause>,
}

impl Machine {
    pub(super) fn new(seed: u64, number: usize, start: i64, utc_offset: i64) -> Self {
        let mut chance = Chance::new(seed, number as u64);
        let mut machine = Self {
            name: format!("DCM-{:02}", number + 1),
            clock: chance.seconds(-5, 20),
            dies: Vec::new(),
            next_die: 1_000 * (number as u32 % 9 + 1) + 101 + chance.below(60),
            places: std::array::from_fn(|_| Place { die: None, left: 0 }),
            melt: 0.0,
            volume: chance.between(20.0, 100.0),
            water: 0.0,
            sleeve_since: start - chance.seconds(0, 35 * DAY),
            utc_offset,
            chance,
        };
        for _ in 0..4 {
            machine.add_die();
        }
        machine
    }

    /// The first turns of its places: in the middle of production, unless a place is idle.
    pub(super) fn begin(&mut self, start: i64) -> [i64; 3] {
        let shift = self.shift(start);
        std::array::from_fn(|place| {
            let due = start + self.chance.seconds(0, 121);
            if self.busy(place) {
                let die = place;
                let count = u64::from(1 + self.chance.below(200));
                self.dies[die].running_since(due, count, shift);
                self.places[place] = Place { die: Some(die), left: 60 + self.chance.below(400) };
            } else {
                self.places[place] = Place { die: None, left: 30 + self.chance.below(200) };
            }
            due
        })
    }

    fn busy(&mut self, place: usize) -> bool {
        let often = [1.0, 0.85, 0.25][place];
        self.chance.happens(often)
    }

    fn add_die(&mut self) {
        let name = self.next_die.to_string();
        self.next_die += 7 + self.chance.below(60);
        let die = Die::new(name, &mut self.chance);
        self.dies.push(die);
    }

    fn shift(&self, now: i64) -> i64 {
        (now + self.utc_offset - 8 * 3_600).div_euclid(SHIFT)
    }

    /// Does what is due at `place`: at most a shot. Says when its next turn is.
    pub(super) fn turn(&mut self, place: usize, now: i64) -> (Option<Made>, i64) {
        if self.places[place].left == 0 {
            return (None, now + self.change(place));
        }
        self.places[place].left -= 1;
        let Some(die) = self.places[place].die else { return (None, now + 120) };

        self.tick_clock();
        let common = self.common(now);
        let shift = self.shift(now);
        let volume = self.volume.round();
        let cast = self.dies[die].cast(now, &common, volume, &mut self.chance);
        let die = &mut self.dies[die];
        die.count = if die.shift == shift { die.count + 1 } else { 1 };
        die.shift = shift;

        let ended_at = jiff::Timestamp::from_second(now + self.clock).ok().and_then(|at| {
            let offset = jiff::tz::Offset::from_seconds(self.utc_offset as i32).ok()?;
            castwatch_core::EndedAt::new(at, offset).ok()
        });
        let made = ended_at.map(|ended_at| Made {
            shot: Shot {
                machine: self.name.clone(),
                die: die.name.clone(),
                cycle: die.count,
                ended_at,
                try_shot: cast.try_shot,
                readings: reading::NAMES
                    .iter()
                    .zip(cast.values)
                    .map(|(n, v)| (*n, Some(v)))
                    .collect::<Readings>(),
            },
            cause: cast.cause,
        });
        (made, now + cast.next.max(30) + self.stop())
    }

    /// Ends a campaign: another die, or an idle place for a while.
    fn change(&mut self, place: usize) -> i64 {
        if !self.busy(place) {
            self.places[place] = Place { die: None, left: 60 + self.chance.below(500) };
            return 120;
        }
        if self.chance.happens(0.18) {
            self.add_die();
        }
        let taken: Vec<usize> = self.places.iter().filter_map(|p| p.die).collect();
        let at_hand: Vec<usize> = (self.dies.len().saturating_sub(DIES_KEPT)..self.dies.len())
            .filter(|d| !taken.contains(d))
            .collect();
        let die = self.chance.one_of(&at_hand);
        self.places[place] = Place { die: Some(die), left: 250 + self.chance.below(900) };
        self.chance.seconds(2_400, 7_200)
    }

    /// Seconds that something holds the place up: mostly none.
    fn stop(&mut self) -> i64 {
        let at = self.chance.unit();
        match at {
            _ if at < 0.002_5 => self.chance.seconds(240, 900),
            _ if at < 0.004_3 => self.chance.seconds(RESTART, 9_000),
            _ if at < 0.004_8 => self.chance.seconds(9_000, 43_200),
            _ => 0,
        }
    }

    /// The machine's clock gains slowly and is set back now and then.
    fn tick_clock(&mut self) {
        let at = self.chance.unit();
        if at < 0.002 {
            self.clock += 1;
        } else if at < 0.002_4 {
            self.clock -= self.chance.seconds(5, 180);
        }
    }

    /// What furnace, water and sleeve add to the readings of whichever die is cast.
    fn common(&mut self, now: i64) -> reading::Values {
        self.volume -= self.chance.between(0.5, 1.5);
        if self.volume < 8.0 {
            self.volume = self.chance.between(92.0, 104.0);
            self.melt -= self.chance.between(1.0, 5.0);
        }
        self.melt += -0.02 * self.melt + 0.7 * self.chance.bell();
        self.water += -0.01 * self.water + 0.08 * self.chance.bell();

        let worn = (now - self.sleeve_since) as f64 / (7 * DAY) as f64 * WEAR_A_WEEK;
        if worn > WORN_OUT {
            self.sleeve_since = now;
        }
        let hour = (now + self.utc_offset).rem_euclid(DAY) as f64 / 3_600.0;
        // A triangle: coolest at three in the morning, warmest at three in the afternoon.
        let warmth = 1.0 - (hour - 15.0).abs().min(24.0 - (hour - 15.0).abs()) / 6.0;

        let mut v = [0.0; reading::COUNT];
        v[reading::MELT] = self.melt;
        v[reading::COOLANT] = self.water + 1.2 * warmth;
        v[reading::SLEEVE] = -worn.min(WORN_OUT) + 0.4 * self.melt;
        for i in [reading::UPPER1, reading::UPPER2, reading::LOWER1, reading::LOWER2] {
            v[i] = 0.3 * self.melt + 0.8 * self.water;
        }
        v
    }
}
