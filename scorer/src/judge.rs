//! Where a shot becomes a verdict: known? features from the die's history, the model, the score.
//!
//! **The same shots from the same state make the same cases**, whether they come from a log or
//! from a file, one by one or in batches.

use std::sync::Arc;

use castwatch_core::payload::{Defect, Score};
use castwatch_core::runner::chain;
use castwatch_core::{Shot, Verdict};
use castwatch_models::{Bundle, Features, Judgement};

use crate::state::{PartitionState, StateBytesError};

/// Judges the shots of any machines, in order, and learns what is usual for their dies.
#[derive(Clone)]
pub struct Judge {
    bundle: Arc<Bundle>,
    state: PartitionState,
}

/// A shot that was judged, with what it was judged by.
#[derive(Clone, Debug)]
pub struct Case {
    /// The shot.
    pub shot: Shot,
    /// What the model saw of it.
    pub features: Features,
    /// What the model said; absent when the shot is unscorable.
    pub judgement: Option<Judgement>,
}

impl Judge {
    /// A judge that goes on from `state`, as [`Self::state`] gave it; no bytes are the beginning.
    ///
    /// # Errors
    /// When the bytes are not a state.
    pub fn new(bundle: Arc<Bundle>, state: &[u8]) -> Result<Self, StateBytesError> {
        Ok(Self { bundle, state: PartitionState::from_bytes(state)? })
    }

    /// A judge that has seen nothing.
    #[must_use]
    pub fn fresh(bundle: Arc<Bundle>) -> Self {
        Self { bundle, state: PartitionState::default() }
    }

    /// What it has learnt, as bytes.
    #[must_use]
    pub fn state(&self) -> Vec<u8> {
        self.state.to_bytes()
    }

    /// Judges shots in order; `None` stands for a shot that was judged before.
    ///
    /// Histories are walked shot by shot, since each changes what is usual for the next; the
    /// model then runs over all of them at once.
    pub fn judge(&mut self, shots: impl IntoIterator<Item = Shot>) -> Vec<Option<Case>> {
        let mut cases: Vec<Option<Case>> = shots
            .into_iter()
            .map(|shot| {
                let features = self.features(&shot)?;
                Some(Case { shot, features, judgement: None })
            })
            .collect();
        self.run_model(&mut cases);
        cases
    }

    /// What the model sees of a shot; `None` when it was seen before.
    pub fn features(&mut self, shot: &Shot) -> Option<Features> {
        let (seen, die) = self.state.machine_and_die(shot);
        seen.insert(shot).then(|| self.bundle.extract(shot, die))
    }

    /// By now the histories have moved on, so a model that fails must not stop the batch: the
    /// shots that it fails on are unscorable, in its own words.
    fn run_model(&self, cases: &mut [Option<Case>]) {
        let mut scorable: Vec<&mut Case> =
            cases.iter_mut().flatten().filter(|case| case.features.unscorable.is_none()).collect();
        let rows: Vec<&Features> = scorable.iter().map(|case| &case.features).collect();
        match self.bundle.judge(&rows) {
            Ok(judgements) => {
                for (case, judgement) in scorable.iter_mut().zip(judgements) {
                    case.judgement = Some(judgement);
                }
            }
            Err(_) => {
                for case in scorable {
                    match self.bundle.judge(&[&case.features]) {
                        Ok(mut judgements) => case.judgement = judgements.pop(),
                        Err(error) => case.features.unscorable = Some(chain(&error)),
                    }
                }
            }
        }
    }
}

impl Case {
    /// The score of the shot.
    #[must_use]
    pub fn score(&self, bundle: &Bundle) -> Score {
        let judgement = self.judgement.as_ref();
        Score {
            shot: self.shot.id(),
            machine: self.shot.machine.clone(),
            die: self.shot.die.clone(),
            cycle: self.shot.cycle,
            ended_at: self.shot.ended_at,
            try_shot: self.shot.try_shot,
            verdict: judgement.map_or(Verdict::Unscorable, |j| j.verdict),
            probability: judgement.map(|j| j.probability),
            margin: judgement.map(|j| j.margin),
            anomaly: judgement.and_then(|j| j.anomaly),
            missing: self.features.missing,
            reason: self.features.unscorable.clone(),
            bundle: bundle.digest().to_owned(),
        }
    }

    /// The score with all that explaining it needs.
    #[must_use]
    pub fn defect(&self, score: Score) -> Defect {
        Defect {
            score,
            readings: self.shot.readings.clone(),
            features: self.features.values.iter().map(|v| v.is_finite().then_some(*v)).collect(),
            usual: self.features.usual.clone(),
        }
    }
}
