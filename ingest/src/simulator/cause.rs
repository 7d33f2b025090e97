//! Why a simulated shot is a defect, and what that does to its readings.

use serde::Serialize;

use super::chance::Chance;
use super::die::reading::{self, Values};

/// What made a defect. The simulator knows; a real plant does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first shots after a start or a die change: die and sleeve are cold.
    WarmUp,
    /// The die cooled in a short stop, or is sprayed too much.
    ColdDie,
    /// The die is too hot.
    HotDie,
    /// The melt is too cold.
    ColdMelt,
    /// The shot sleeve is too cold.
    SleeveCold,
    /// No intensification: the metal pressure is too low.
    LowPressure,
    /// The slow section of the plunger's stroke is too slow.
    SlowShotLow,
    /// The fast section is too slow.
    FastShotLow,
    /// The fast section is too fast.
    FastShotHigh,
    /// Too little melt was ladled.
    ThinBiscuit,
    /// The cooling water is too warm.
    CoolantHot,
    /// The clamping force is too low: flash.
    ClampWeak,
    /// The die was opened too early.
    ShortCycle,
    /// Something that no sensor sees, such as a blocked vent.
    Unseen,
}

/// How often each cause begins by itself, in thousandths; warm-up comes of starts instead.
const BEGINS: [(Cause, u32); 13] = [
    (Cause::LowPressure, 240),
    (Cause::SlowShotLow, 120),
    (Cause::FastShotHigh, 110),
    (Cause::FastShotLow, 40),
    (Cause::SleeveCold, 100),
    (Cause::ColdDie, 110),
    (Cause::ThinBiscuit, 80),
    (Cause::ColdMelt, 60),
    (Cause::ShortCycle, 40),
    (Cause::HotDie, 35),
    (Cause::ClampWeak, 25),
    (Cause::CoolantHot, 20),
    (Cause::Unseen, 20),
];

impl Cause {
    /// All causes.
    pub const ALL: [Self; 14] = [
        Self::WarmUp,
        Self::ColdDie,
        Self::HotDie,
        Self::ColdMelt,
        Self::SleeveCold,
        Self::LowPressure,
        Self::SlowShotLow,
        Self::FastShotLow,
        Self::FastShotHigh,
        Self::ThinBiscuit,
        Self::CoolantHot,
        Self::ClampWeak,
        Self::ShortCycle,
        Self::Unseen,
    ];

    /// The word for it in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WarmUp => "warm_up",
            Self::ColdDie => "cold_die",
            Self::HotDie => "hot_die",
            Self::ColdMelt => "cold_melt",
            Self::SleeveCold => "sleeve_cold",
            Self::LowPressure => "low_pressure",
            Self::SlowShotLow => "slow_shot_low",
            Self::FastShotLow => "fast_shot_low",
            Self::FastShotHigh => "fast_shot_high",
            Self::ThinBiscuit => "thin_biscuit",
            Self::CoolantHot => "coolant_hot",
            Self::ClampWeak => "clamp_weak",
            Self::ShortCycle => "short_cycle",
            Self::Unseen => "unseen",
        }
    }

    /// The readings that it moves most: an explanation that names one of them is right.
    #[must_use]
    pub const fn readings(self) -> &'static [&'static str] {
        match self {
            Self::WarmUp => &[
                "upper_mold_temp1",
                "upper_mold_temp2",
                "lower_mold_temp1",
                "lower_mold_temp2",
                "sleeve_temperature",
                "cast_pressure",
                "low_section_speed",
            ],
            Self::ColdDie | Self::HotDie => {
                &["upper_mold_temp1", "upper_mold_temp2", "lower_mold_temp1", "lower_mold_temp2"]
            }
            Self::ColdMelt => &["molten_temp"],
            Self::SleeveCold => &["sleeve_temperature"],
            Self::LowPressure => &["cast_pressure"],
            Self::SlowShotLow => &["low_section_speed"],
            Self::FastShotLow | Self::FastShotHigh => &["high_section_speed"],
            Self::ThinBiscuit => &["biscuit_thickness"],
            Self::CoolantHot => &["Coolant_temperature"],
            Self::ClampWeak => &["physical_strength"],
            Self::ShortCycle => &["production_cycletime", "facility_operation_cycleTime"],
            Self::Unseen => &[],
        }
    }

    pub(super) fn begins(chance: &mut Chance) -> Self {
        let mut at = chance.below(BEGINS.iter().map(|(_, weight)| weight).sum());
        for (cause, weight) in BEGINS {
            if at < weight {
                return cause;
            }
            at -= weight;
        }
        Self::Unseen
    }

    /// Moves the readings as this cause does at `severity`, about 0 (nothing) to 1 (gross).
    pub(super) fn apply(self, severity: f64, v: &mut Values, chance: &mut Chance) {
        let mut by = |low: f64, high: f64| severity * chance.between(low, high);
        match self {
            // The heat of die and sleeve has shown it already.
            Self::WarmUp | Self::Unseen => {}
            Self::ColdDie => {
                v[reading::UPPER1] -= by(35.0, 90.0);
                v[reading::UPPER2] -= by(15.0, 50.0);
                v[reading::LOWER1] -= by(35.0, 100.0);
                v[reading::LOWER2] -= by(25.0, 80.0);
                v[reading::SLEEVE] -= by(5.0, 25.0);
                v[reading::BISCUIT] += by(0.0, 2.0);
            }
            Self::HotDie => {
                v[reading::UPPER1] += by(25.0, 70.0);
                v[reading::UPPER2] += by(15.0, 45.0);
                v[reading::LOWER1] += by(25.0, 70.0);
                v[reading::LOWER2] += by(20.0, 60.0);
                v[reading::COOLANT] += by(0.5, 2.0);
            }
            Self::ColdMelt => {
                v[reading::MELT] -= by(16.0, 42.0);
                v[reading::BISCUIT] += by(1.0, 4.0);
                v[reading::SLEEVE] -= by(4.0, 20.0);
                v[reading::UPPER1] -= by(1.0, 6.0);
                v[reading::LOWER1] -= by(1.0, 6.0);
            }
            Self::SleeveCold => {
                v[reading::SLEEVE] -= by(60.0, 230.0);
                v[reading::LOWER1] -= by(3.0, 18.0);
                v[reading::LOWER2] -= by(3.0, 15.0);
                v[reading::BISCUIT] += by(0.0, 2.0);
            }
            Self::LowPressure => {
                v[reading::PRESSURE] -= by(35.0, 190.0);
                v[reading::BISCUIT] += by(-2.0, 4.0);
                v[reading::PRODUCTION] += by(0.0, 3.0);
            }
            Self::SlowShotLow => {
                v[reading::LOW_SPEED] -= by(14.0, 100.0);
                v[reading::PRODUCTION] += by(0.0, 3.0);
                v[reading::PRESSURE] -= by(0.0, 6.0);
            }
            Self::FastShotLow => {
                v[reading::HIGH_SPEED] -= by(8.0, 30.0);
                v[reading::PRESSURE] -= by(1.0, 8.0);
            }
            Self::FastShotHigh => {
                v[reading::HIGH_SPEED] += by(10.0, 220.0);
                v[reading::BISCUIT] -= by(3.0, 11.0);
            }
            Self::ThinBiscuit => {
                v[reading::BISCUIT] -= by(10.0, 26.0);
                v[reading::PRESSURE] -= by(1.0, 8.0);
                v[reading::HIGH_SPEED] += by(0.0, 3.0);
            }
            Self::CoolantHot => {
                v[reading::COOLANT] += by(5.0, 12.0);
                v[reading::UPPER1] += by(3.0, 15.0);
                v[reading::LOWER1] += by(3.0, 15.0);
                v[reading::LOWER2] += by(3.0, 12.0);
            }
            Self::ClampWeak => {
                v[reading::CLAMP] -= by(30.0, 110.0);
                v[reading::PRESSURE] -= by(0.0, 5.0);
            }
            Self::ShortCycle => {
                v[reading::FACILITY] -= by(14.0, 40.0);
                v[reading::PRODUCTION] -= by(20.0, 42.0);
                v[reading::UPPER2] += by(0.0, 6.0);
            }
        }
    }
}
