//! `golden.json`: inputs with the outputs that the trainer's own runtime gave for them.
//!
//! **A bundle that this build computes differently does not load.** Golden shots are judged in
//! their order with the history of their dies, golden rows stand for themselves; numbers may
//! differ by 1e-5 of their size, or by 1e-5 when they are below 1.

use std::collections::HashMap;

use castwatch_core::Shot;
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::error::BundleError;
use crate::features::Features;
use crate::history::DieHistory;

/// How far a number may be off.
const CLOSE: f64 = 1e-5;

/// The file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Shots in order.
    #[serde(default)]
    pub shots: Vec<GoldenShot>,
    /// Features by themselves.
    #[serde(default)]
    pub rows: Vec<Expected>,
}

/// A shot and what it must give.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenShot {
    /// The shot.
    pub shot: Shot,
    /// What it must give.
    pub expected: Expected,
}

/// Features and what they must give; null is missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// In the bundle's order.
    pub features: Vec<Option<f32>>,
    /// Calibrated probability.
    pub probability: f64,
    /// Log-odds before calibration.
    pub margin: f64,
    /// Reconstruction error.
    #[serde(default)]
    pub anomaly: Option<f64>,
}

impl Golden {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let wrong = |message: String| BundleError::GoldenFile { message };
        let golden: Self = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        if golden.shots.is_empty() && golden.rows.is_empty() {
            return Err(wrong("there is neither a shot nor a row in it".into()));
        }
        Ok(golden)
    }

    pub(crate) fn check(&self, bundle: &Bundle) -> Result<(), BundleError> {
        let mut dies: HashMap<(&str, &str), DieHistory> = HashMap::new();
        for (at, GoldenShot { shot, expected }) in self.shots.iter().enumerate() {
            let row = format!("shot {at}");
            let die = dies.entry((&shot.machine, &shot.die)).or_default();
            let features = bundle.extract(shot, die);
            expected.matches_features(&row, bundle, &features.values)?;
            expected.matches_judgement(&row, bundle, &features)?;
        }
        for (at, expected) in self.rows.iter().enumerate() {
            let row = format!("row {at}");
            let values = expected.features.iter().map(|v| v.unwrap_or(f32::NAN)).collect();
            let features =
                Features { values, missing: 0, nulled: 0, unknown: 0, usual: Vec::new(), unscorable: None };
            expected.matches_judgement(&row, bundle, &features)?;
        }
        Ok(())
    }
}

impl Expected {
    fn matches_features(&self, row: &str, bundle: &Bundle, found: &[f32]) -> Result<(), BundleError> {
        if self.features.len() != found.len() {
            let message =
                format!("{row} has {} features, the bundle has {}", self.features.len(), found.len());
            return Err(BundleError::GoldenFile { message });
        }
        for ((expected, got), spec) in self.features.iter().zip(found).zip(bundle.features()) {
            let got = (!got.is_nan()).then_some(f64::from(*got));
            same(row, &spec.name, expected.map(f64::from), got)?;
        }
        Ok(())
    }

    fn matches_judgement(&self, row: &str, bundle: &Bundle, features: &Features) -> Result<(), BundleError> {
        let failed = |source| BundleError::GoldenJudge { row: row.into(), source };
        let judged = bundle.judge(&[features]).map_err(failed)?;
        for j in judged {
            same(row, "margin", Some(self.margin), Some(j.margin))?;
            same(row, "probability", Some(self.probability), Some(j.probability))?;
            same(row, "anomaly", self.anomaly, j.anomaly)?;
        }
        Ok(())
    }
}

fn same(row: &str, what: &str, expected: Option<f64>, got: Option<f64>) -> Result<(), BundleError> {
    let close = match (expected, got) {
        (Some(a), Some(b)) => (a - b).abs() <= CLOSE * a.abs().max(1.0),
        (None, None) => true,
        _ => false,
    };
    if close {
        return Ok(());
    }
    let text = |v: Option<f64>| v.map_or_else(|| "missing".into(), |v| v.to_string());
    Err(BundleError::Golden {
        row: row.into(),
        what: what.into(),
        expected: text(expected),
        found: text(got),
    })
}
