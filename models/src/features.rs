//! The features of a shot: raw readings, their distance from what the die usually does, and where
//! the shot stands in the die's production.
//!
//! **Features depend on the shot and its die's earlier shots alone**, never on a label, a try-shot
//! flag or a later shot. A reading that is absent, a no-sensor code or implausible is missing
//! (NaN) in all of its features.

use castwatch_core::Shot;
use castwatch_core::payload::{Usual, Words};
use sha2::{Digest, Sha256};

use crate::history::{DieHistory, WARM};
use crate::manifest::ReadingSpec;

/// One value that the models see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureSpec {
    /// Such as `cast_pressure` or `cast_pressure.deviation.0.02`.
    pub name: String,
    /// The reading it is of, as an index into the bundle's readings; `None` for `shot_gap` and
    /// `shots_since_restart`.
    pub of: Option<usize>,
    /// Its name for people.
    pub words: Words,
}

/// The features of one shot, and what the die's history says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// In the bundle's order; NaN is missing.
    pub values: Vec<f32>,
    /// Readings of the bundle without a usable value.
    pub missing: u32,
    /// Values that were there but were a no-sensor code or implausible.
    pub nulled: u32,
    /// Readings of the shot that the bundle does not know.
    pub unknown: u32,
    /// Per reading, what it usually is at this die, before this shot.
    pub usual: Vec<Option<Usual>>,
    /// Why the shot can't be scored, if so.
    pub unscorable: Option<String>,
}

/// A feature made of each reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    Deviation,
    Ratio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Raw(usize),
    Deviation { reading: usize, step: usize },
    Ratio { reading: usize, step: usize },
    ShotGap,
    ShotsSinceRestart,
}

/// Which features a bundle has and how they are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) steps: Vec<f64>,
    pub(crate) restart_after: f64,
    pub(crate) gap_most: f64,
    pub(crate) shots_most: u32,
    pub(crate) max_missing: u32,
    origins: Vec<Origin>,
    fingerprint: u32,
}

impl Layout {
    /// The features in order: all raw readings, then for each step all deviations and all ratios,
    /// then the context.
    pub(crate) fn new(
        readings: &[ReadingSpec],
        forms: &[Form],
        gap: bool,
        restart: bool,
        steps: Vec<f64>,
    ) -> (Self, Vec<FeatureSpec>) {
        let mut origins = Vec::new();
        let mut specs = Vec::new();
        let mut each = |suffix: String, ko: &str, en: &str, origin: &dyn Fn(usize) -> Origin| {
            for (at, reading) in readings.iter().enumerate() {
                origins.push(origin(at));
                specs.push(FeatureSpec {
                    name: format!("{}{suffix}", reading.name),
                    of: Some(at),
                    words: Words {
                        ko: format!("{}{ko}", reading.words.ko),
                        en: format!("{}{en}", reading.words.en),
                    },
                });
            }
        };
        if forms.contains(&Form::Raw) {
            each(String::new(), "", "", &Origin::Raw);
        }
        for (step, a) in steps.iter().enumerate() {
            let shots = (1.0 / a).round();
            if forms.contains(&Form::Deviation) {
                let (ko, en) =
                    (format!(" (최근 약 {shots}회 대비 차이)"), format!(" against its last {shots} or so"));
                each(format!(".deviation.{a}"), &ko, &en, &|reading| Origin::Deviation { reading, step });
            }
            if forms.contains(&Form::Ratio) {
                let (ko, en) = (
                    format!(" (최근 약 {shots}회 대비 산포 배수)"),
                    format!(" against its last {shots} or so, in spreads"),
                );
                each(format!(".ratio.{a}"), &ko, &en, &|reading| Origin::Ratio { reading, step });
            }
        }
        let mut context = |on: bool, name: &str, ko: &str, en: &str, origin| {
            if on {
                origins.push(origin);
                let words = Words { ko: ko.into(), en: en.into() };
                specs.push(FeatureSpec { name: name.into(), of: None, words });
            }
        };
        context(gap, "shot_gap", "직전 샷과의 간격", "time since the last shot", Origin::ShotGap);
        context(
            restart,
            "shots_since_restart",
            "재가동 후 샷 수",
            "shots since the restart",
            Origin::ShotsSinceRestart,
        );
        let fingerprint = fingerprint(readings, &steps);
        (Self { steps, origins, fingerprint, ..Self::default() }, specs)
    }

    /// Makes the features of a shot and lets the die learn from it.
    pub(crate) fn extract(&self, readings: &[ReadingSpec], shot: &Shot, die: &mut DieHistory) -> Features {
        let steps = self.steps.len();
        die.fit(self.fingerprint, readings.len(), steps);
        let (mut known, mut nulled, mut missing) = (0, 0, 0);
        let values: Vec<Option<f64>> = readings
            .iter()
            .enumerate()
            .map(|(at, spec)| {
                let came = shot.readings.get_at(at, &spec.name);
                known += usize::from(came.is_some());
                let value = came.flatten();
                let usable = value.filter(|v| spec.accepts(*v));
                nulled += u32::from(usable.is_none() && value.is_some());
                missing += u32::from(usable.is_none());
                usable
            })
            .collect();
        let (gap, since) = die.tick(shot.ended_at.instant().as_millisecond(), self.restart_after);
        let relative = |reading: usize, step: usize, form: Form| -> Option<f64> {
            let (seen, centre, spread) = die.track(reading, step, steps, readings[reading].floor());
            let off = values[reading]? - centre;
            match form {
                Form::Ratio => (seen >= WARM).then(|| off / spread),
                _ => (seen > 0).then_some(off),
            }
        };
        let features = self
            .origins
            .iter()
            .map(|origin| match *origin {
                Origin::Raw(reading) => values[reading],
                Origin::Deviation { reading, step } => relative(reading, step, Form::Deviation),
                Origin::Ratio { reading, step } => relative(reading, step, Form::Ratio),
                Origin::ShotGap => gap.map(|g| g.min(self.gap_most)),
                Origin::ShotsSinceRestart => Some(f64::from(since.min(self.shots_most))),
            })
            .map(|value| value.map_or(f32::NAN, |v| v as f32))
            .collect();
        let usual = (0..readings.len()).map(|reading| die.usual(reading, steps)).collect();
        for (reading, value) in values.iter().enumerate() {
            if let Some(x) = value {
                die.learn(reading, *x, &self.steps, readings[reading].floor());
            }
        }
        let unscorable = (missing > self.max_missing).then(|| {
            let names: Vec<&str> = readings
                .iter()
                .zip(&values)
                .filter(|(_, v)| v.is_none())
                .map(|(r, _)| r.name.as_str())
                .collect();
            format!(
                "{missing} of {} readings are missing, more than the {} the bundle allows: {}",
                readings.len(),
                self.max_missing,
                names.join(", ")
            )
        });
        Features {
            values: features,
            missing,
            nulled,
            unknown: (shot.readings.len() - known) as u32,
            usual,
            unscorable,
        }
    }
}

/// Tells histories of different readings, ranges or steps apart.
fn fingerprint(readings: &[ReadingSpec], steps: &[f64]) -> u32 {
    let mut hash = Sha256::new();
    for reading in readings {
        hash.update(reading.name.as_bytes());
        hash.update([0]);
        hash.update(reading.plausible.0.to_le_bytes());
        hash.update(reading.plausible.1.to_le_bytes());
    }
    for step in steps {
        hash.update(step.to_le_bytes());
    }
    let d = hash.finalize();
    u32::from_le_bytes([d[0], d[1], d[2], d[3]])
}
