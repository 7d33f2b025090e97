//! One simulated die: its set-points, its heat, how its readings wander, and the fault it has.

use super::cause::Cause;
use super::chance::Chance;

/// The readings of a simulated shot, named as the columns of a real plant's table.
pub(super) mod reading {
    pub const NAMES: [&str; COUNT] = [
        "molten_temp",
        "facility_operation_cycleTime",
        "production_cycletime",
        "low_section_speed",
        "high_section_speed",
        "molten_volume",
        "cast_pressure",
        "biscuit_thickness",
        "upper_mold_temp1",
        "upper_mold_temp2",
        "lower_mold_temp1",
        "lower_mold_temp2",
        "sleeve_temperature",
        "physical_strength",
        "Coolant_temperature",
        "EMS_operation_time",
    ];
    pub const COUNT: usize = 16;
    pub type Values = [f64; COUNT];
    pub const MELT: usize = 0;
    pub const FACILITY: usize = 1;
    pub const PRODUCTION: usize = 2;
    pub const LOW_SPEED: usize = 3;
    pub const HIGH_SPEED: usize = 4;
    pub const VOLUME: usize = 5;
    pub const PRESSURE: usize = 6;
    pub const BISCUIT: usize = 7;
    pub const UPPER1: usize = 8;
    pub const UPPER2: usize = 9;
    pub const LOWER1: usize = 10;
    pub const LOWER2: usize = 11;
    pub const SLEEVE: usize = 12;
    pub const CLAMP: usize = 13;
    pub const COOLANT: usize = 14;
}
use reading::Values;

/// How far each reading strays within hours, and from shot to shot.
const WANDER: Values = [3.0, 0.6, 0.8, 0.15, 0.2, 0.0, 0.7, 1.5, 11.0, 7.0, 11.0, 9.0, 8.0, 3.5, 0.6, 0.0];
const NOISE: Values = [0.8, 1.2, 1.2, 0.3, 0.35, 0.0, 0.6, 1.6, 1.5, 1.0, 1.5, 1.2, 2.5, 2.2, 0.25, 0.0];
/// How much each reading follows the heat of the whole die.
const WITH_HEAT: Values = [0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1, -0.4, 7.0, 5.0, 7.0, 6.0, 5.0, -0.6, 0.3, 0.0];
/// The part of a wander that one shot forgets.
const FORGET: f64 = 0.012;
/// A pause longer than this is a restart: try shots follow.
pub(super) const RESTART: i64 = 1_800;

/// What a thermocouple that is not connected reports.
const NOT_CONNECTED: f64 = 1_449.0;
/// What a biscuit sensor reports that found no biscuit.
const NO_BISCUIT: f64 = 420.0;

#[derive(Clone, Debug)]
struct Fault {
    cause: Cause,
    severity: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Die {
    pub name: String,
    /// The shot's number since the shift began.
    pub count: u64,
    pub shift: i64,
    usual: Values,
    has_volume: bool,
    wander: Values,
    heat_wander: f64,
    /// 0 as cold as the hall, 1 as hot as in production.
    heat: f64,
    cast_at: Option<i64>,
    since_restart: u32,
    /// The machine signals try shots of this run.
    signals: bool,
    /// So many shots of this run are cast without intensification, to warm the die.
    gentle: u32,
    unconnected: Option<usize>,
    fault: Option<Fault>,
}

/// One casting cycle of a die.
pub(super) struct Cast {
    pub values: Values,
    pub cause: Option<Cause>,
    pub try_shot: bool,
    /// Seconds until the die's next shot, if nothing stops it.
    pub next: i64,
}

impl Die {
    /// A die with set-points of its own, never cast before.
    pub(super) fn new(name: String, chance: &mut Chance) -> Self {
        let cycle = chance.between(113.0, 124.0);
        let c = chance;
        let usual = [
            c.between(708.0, 728.0),
            cycle,
            cycle + c.between(1.0, 3.0),
            c.one_of(&[100.0, 105.0, 110.0, 110.0, 110.0, 110.0, 115.0, 140.0]),
            c.one_of(&[101.0, 107.0, 112.0, 112.0, 112.0, 112.0, 117.0, 144.0]),
            0.0,
            c.between(324.0, 333.0),
            c.between(44.0, 53.0),
            c.between(150.0, 240.0),
            c.between(128.0, 200.0),
            c.between(135.0, 250.0),
            c.between(150.0, 235.0),
            c.between(470.0, 535.0),
            c.between(690.0, 712.0),
            c.between(30.0, 33.5),
            c.one_of(&[23.0, 23.0, 23.0, 23.0, 6.0, 3.0, 25.0]),
        ];
        Self {
            name,
            count: 0,
            shift: i64::MIN,
            usual,
            has_volume: c.happens(0.55),
            wander: std::array::from_fn(|i| WANDER[i] * c.bell()),
            heat_wander: c.bell(),
            heat: 0.0,
            cast_at: None,
            since_restart: 0,
            signals: false,
            gentle: 0,
            unconnected: None,
            fault: None,
        }
    }

    /// Puts the die in the middle of a run, as hot as it gets.
    pub(super) fn running_since(&mut self, now: i64, count: u64, shift: i64) {
        self.heat = 1.0;
        self.cast_at = Some(now - self.usual[reading::PRODUCTION] as i64);
        self.since_restart = 60;
        self.count = count;
        self.shift = shift;
    }

    /// Casts one shot at `now`; `common` is what the machine adds to each reading.
    pub(super) fn cast(&mut self, now: i64, common: &Values, volume: f64, chance: &mut Chance) -> Cast {
        let pause = self.cast_at.map_or(i64::MAX, |at| now - at);
        self.cast_at = Some(now);
        self.cool(pause, chance);
        self.since_restart += 1;

        let mut v = self.quiet(common, volume, chance);
        // Warming up takes out what the heat of the die is short of.
        let hall = 24.0;
        let (die, sleeve) = (0.08 + 0.92 * self.heat, 0.25 + 0.75 * self.heat);
        for i in [reading::UPPER1, reading::UPPER2, reading::LOWER1, reading::LOWER2] {
            v[i] = hall + (v[i] - hall) * die;
        }
        v[reading::SLEEVE] = hall + (v[reading::SLEEVE] - hall) * sleeve;
        v[reading::COOLANT] -= 5.0 * (1.0 - self.heat);

        let cause = self.fault(&mut v, chance);
        let next = self.time(pause, &mut v, chance);
        self.heat += (1.0 - self.heat) * chance.between(0.22, 0.30);
        let try_shot = self.signals && self.since_restart <= 5 && cause == Some(Cause::WarmUp);
        self.without_sensor(&mut v, cause, chance);
        Cast { values: v, cause, try_shot, next }
    }

    fn cool(&mut self, pause: i64, chance: &mut Chance) {
        let idle = pause.saturating_sub(180).max(0) as f64;
        self.heat *= 1_500.0 / (1_500.0 + idle);
        if pause > RESTART {
            self.since_restart = 0;
            self.signals = chance.happens(0.5);
            self.gentle = if chance.happens(0.7) { 2 + chance.below(4) } else { 0 };
            self.unconnected = chance.happens(0.02).then(|| {
                chance.one_of(&[reading::UPPER1, reading::UPPER2, reading::LOWER1, reading::LOWER2])
            });
            self.fault = None;
        }
    }

    /// The readings of a hot die that nothing is wrong with.
    fn quiet(&mut self, common: &Values, volume: f64, chance: &mut Chance) -> Values {
        let step = (2.0 * FORGET).sqrt();
        self.heat_wander += -FORGET * self.heat_wander + step * chance.bell();
        let mut v = [0.0; reading::COUNT];
        for i in 0..reading::COUNT {
            self.wander[i] += -FORGET * self.wander[i] + step * WANDER[i] * chance.bell();
            v[i] = self.usual[i]
                + common[i]
                + self.wander[i]
                + WITH_HEAT[i] * self.heat_wander
                + NOISE[i] * chance.bell();
        }
        v[reading::VOLUME] = volume;
        v
    }

    /// Decides whether the shot is a defect and shows in the readings why.
    fn fault(&mut self, v: &mut Values, chance: &mut Chance) -> Option<Cause> {
        let cold = ramp(self.heat, &[(0.0, 0.97), (0.70, 0.95), (0.82, 0.35), (0.90, 0.08), (0.97, 0.0)]);
        let warm_up = self.since_restart <= 12;
        if warm_up && self.since_restart <= self.gentle {
            v[reading::PRESSURE] = chance.between(148.0, 176.0);
            v[reading::LOW_SPEED] -= chance.between(0.0, 60.0);
            return Some(Cause::WarmUp);
        }
        if chance.happens(cold) {
            return Some(if warm_up { Cause::WarmUp } else { Cause::ColdDie });
        }

        self.fault = match self.fault.take() {
            // Trouble comes in bursts.
            Some(f) if chance.happens(0.52) => {
                Some(Fault { severity: (f.severity * chance.between(0.7, 1.2)).min(1.3), ..f })
            }
            _ if chance.happens(0.0145) => {
                Some(Fault { cause: Cause::begins(chance), severity: chance.between(0.05, 1.0) })
            }
            _ => None,
        };
        let fault = self.fault.as_ref()?;
        fault.cause.apply(fault.severity, v, chance);
        let grave = ramp(fault.severity, &[(0.10, 0.02), (0.30, 0.75), (0.45, 0.97), (1.3, 1.0)]);
        chance.happens(grave).then_some(fault.cause)
    }

    /// The cycle times, which the pause since the last shot shows in, and the time to the next.
    fn time(&self, pause: i64, v: &mut Values, chance: &mut Chance) -> i64 {
        if chance.happens(0.02) {
            let held = chance.between(8.0, 80.0);
            v[reading::FACILITY] += held;
            v[reading::PRODUCTION] += held;
        } else if (180..600).contains(&pause) {
            v[reading::PRODUCTION] += chance.between(20.0, 80.0);
        }
        (v[reading::PRODUCTION] + chance.between(-2.0, 2.0)) as i64
    }

    /// Rounds as the machine does, and puts codes where a sensor had nothing to say.
    fn without_sensor(&self, v: &mut Values, cause: Option<Cause>, chance: &mut Chance) {
        for value in v.iter_mut() {
            *value = value.round().max(0.0);
        }
        if let Some(i) = self.unconnected {
            v[i] = NOT_CONNECTED;
        }
        if !self.has_volume {
            v[reading::VOLUME] = f64::NAN;
        }
        let lost = if cause.is_some() { 0.02 } else { 0.000_3 };
        if chance.happens(lost) {
            v[reading::BISCUIT] = NO_BISCUIT + f64::from(chance.below(3));
        }
        if chance.happens(0.000_8) {
            v[reading::MELT] = 0.0;
        }
        if chance.happens(if cause.is_some() { 0.008 } else { 0.000_5 }) {
            v[reading::LOW_SPEED] = 65_535.0;
        }
        if chance.happens(0.000_4) {
            v[reading::HIGH_SPEED] = 65_534.0;
        }
        if chance.happens(0.000_6) {
            v[reading::CLAMP] = 65_535.0;
        }
    }
}

/// Straight lines between `points`, flat outside.
fn ramp(x: f64, points: &[(f64, f64)]) -> f64 {
    let mut before = points[0];
    for &(at, value) in points {
        if x < at {
            let part = if at > before.0 { (x - before.0) / (at - before.0) } else { 1.0 };
            return before.1 + part.clamp(0.0, 1.0) * (value - before.1);
        }
        before = (at, value);
    }
    before.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps_are_flat_outside_and_straight_inside() {
        let points = [(1.0, 10.0), (3.0, 20.0)];
        assert_eq!([0.0, 1.0, 2.0, 3.0, 9.0].map(|x| ramp(x, &points)), [10.0, 10.0, 15.0, 20.0, 20.0]);
    }
}
