//! What goes wrong at a call, drawn from the schedule's seed.

use rand::Rng;
use rand::rngs::StdRng;

/// What happens to one call of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It works.
    None,
    /// It fails and did nothing.
    Refused,
    /// It works, but the acknowledgement is lost.
    LostAck,
    /// A part of it took effect, then it fails.
    Half,
    /// The process dies before it.
    CrashBefore,
    /// A part of it took effect, then the process dies.
    CrashHalf,
    /// The process dies after it took effect.
    CrashAfter,
    /// The process stands still for longer than the group waits, then goes on with it.
    Pause,
}

/// How much goes wrong in one schedule. Each ends, so that the line can come to rest.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Chance of an error at a call.
    errors: f64,
    /// Chance of a crash at a call.
    crashes: f64,
    /// Chance of a pause at a call.
    pauses: f64,
    /// Faults still to come.
    left: u32,
    /// Chance of a rebalance at each look of the driver.
    pub rebalances: f64,
}

impl Plan {
    /// A plan of any temper: one schedule in ten is calm, and must then be perfect.
    pub fn draw(rng: &mut StdRng) -> Self {
        if rng.random_bool(0.1) {
            return Self { errors: 0.0, crashes: 0.0, pauses: 0.0, left: 0, rebalances: 0.0 };
        }
        let mut temper = |most: f64| if rng.random_bool(0.3) { 0.0 } else { rng.random_range(0.0..most) };
        Self {
            errors: temper(0.25),
            crashes: temper(0.06),
            pauses: temper(0.02),
            rebalances: temper(0.3),
            left: rng.random_range(1..60),
        }
    }

    /// Whether nothing goes wrong at all.
    pub fn is_calm(&self) -> bool {
        self.errors + self.crashes + self.pauses + self.rebalances == 0.0
    }

    /// What happens to the next call.
    pub fn next(&mut self, rng: &mut StdRng) -> Fault {
        if self.left == 0 {
            return Fault::None;
        }
        let drawn = rng.random_range(0.0..1.0);
        let fault = if drawn < self.errors {
            [Fault::Refused, Fault::LostAck, Fault::Half][rng.random_range(0..3)]
        } else if drawn < self.errors + self.crashes {
            [Fault::CrashBefore, Fault::CrashHalf, Fault::CrashAfter][rng.random_range(0..3)]
        } else if drawn < self.errors + self.crashes + self.pauses {
            Fault::Pause
        } else {
            return Fault::None;
        };
        self.left -= 1;
        fault
    }
}
