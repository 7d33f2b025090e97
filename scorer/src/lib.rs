//! Shots into verdicts.
//!
//! **One shot, one score**: a shot whose identity was seen before is counted as a duplicate and
//! makes nothing; every other shot makes one [`Score`], and a [`Defect`] when it is one. The state
//! of a partition (what was learnt of each die, and the identities seen) belongs to a position:
//! the same log from the same state makes the same bytes.
//!
//! A shot becomes a verdict in [`Scoring::judge`]: read, known?, features, model, events.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod seen;
mod state;

use std::sync::Arc;

use bytes::Bytes;
use castwatch_core::event::{Message, Partition, Topic};
use castwatch_core::payload::{Defect, Score};
use castwatch_core::runner::chain;
use castwatch_core::stage::{Handler, Outbox, Outcome, Stage, StateError, Stop};
use castwatch_core::{Shot, Verdict};
use castwatch_models::{Bundle, Features, Judgement};

use crate::state::PartitionState;

/// The name of this stage.
pub const NAME: &str = "scorer";

/// Judges shots with one model bundle.
#[derive(Clone)]
pub struct Scorer {
    bundle: Arc<Bundle>,
}

impl Scorer {
    /// A scorer that judges with `bundle`.
    #[must_use]
    pub fn new(bundle: Arc<Bundle>) -> Self {
        Self { bundle }
    }
}

impl Stage for Scorer {
    type Handler = Scoring;

    fn name(&self) -> &'static str {
        NAME
    }

    fn inputs(&self) -> Vec<Topic> {
        vec![Topic::SHOTS]
    }

    fn open(&self, _: &Partition, state: &Bytes) -> Result<Scoring, StateError> {
        let state = PartitionState::from_bytes(state).map_err(|e| StateError(e.into()))?;
        Ok(Scoring { bundle: Arc::clone(&self.bundle), state })
    }
}

/// Scores the shots of one partition.
pub struct Scoring {
    bundle: Arc<Bundle>,
    state: PartitionState,
}

/// A shot on its way through the model, with the message it came in.
struct Pending<'m> {
    message: &'m Message,
    shot: Shot,
    features: Features,
    judgement: Option<Judgement>,
}

impl Handler for Scoring {
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        self.judge(messages, out)
    }

    fn state(&self) -> Bytes {
        self.state.to_bytes().into()
    }
}

impl Scoring {
    /// Judges messages in order. Histories are walked shot by shot, since each changes what is
    /// usual for the next; the models then run over the whole batch at once.
    fn judge(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let mut pending = Vec::with_capacity(messages.len());
        let mut stop = None;
        let mut done = 0;
        for message in messages {
            match Shot::from_json(&message.event.data) {
                Ok(shot) => {
                    let (seen, die) = self.state.machine_and_die(&shot);
                    if seen.insert(&shot) {
                        let features = self.bundle.extract(&shot, die);
                        pending.push(Pending { message, shot, features, judgement: None });
                    } else {
                        out.duplicate();
                    }
                }
                Err(error) => {
                    stop = Some(Stop::Refuse(Box::new(error)));
                    break;
                }
            }
            done += 1;
        }
        self.run_model(&mut pending);
        match self.publish(&pending, out) {
            Ok(()) => Outcome { done, stop },
            Err(error) => Outcome::stopped(0, Stop::Refuse(error.into())),
        }
    }

    /// Judges what can be scored. By now the histories have moved on, so a model that fails must
    /// not stop the batch: the shots it fails on are judged unscorable, with its words.
    fn run_model(&self, pending: &mut [Pending<'_>]) {
        let mut scorable: Vec<&mut Pending<'_>> =
            pending.iter_mut().filter(|p| p.features.unscorable.is_none()).collect();
        let rows: Vec<&Features> = scorable.iter().map(|p| &p.features).collect();
        match self.bundle.judge(&rows) {
            Ok(judgements) => {
                for (pending, judgement) in scorable.iter_mut().zip(judgements) {
                    pending.judgement = Some(judgement);
                }
            }
            Err(_) => {
                for pending in scorable {
                    match self.bundle.judge(&[&pending.features]) {
                        Ok(mut judgements) => pending.judgement = judgements.pop(),
                        Err(error) => pending.features.unscorable = Some(chain(&error)),
                    }
                }
            }
        }
    }

    fn publish(&self, pending: &[Pending<'_>], out: &mut Outbox) -> Result<(), serde_json::Error> {
        for Pending { message, shot, features, judgement } in pending {
            let score = score(&self.bundle, shot, features, judgement.as_ref());
            if score.verdict == Verdict::Defect {
                let defect = Defect {
                    score: score.clone(),
                    readings: shot.readings.clone(),
                    features: features.values.iter().map(|v| v.is_finite().then_some(*v)).collect(),
                    usual: features.usual.clone(),
                };
                out.push(NAME, &message.event, &score)?;
                out.push(NAME, &message.event, &defect)?;
            } else {
                out.push(NAME, &message.event, &score)?;
            }
        }
        Ok(())
    }
}

/// The score of a shot: its judgement, or why there is none.
#[must_use]
pub fn score(bundle: &Bundle, shot: &Shot, features: &Features, judgement: Option<&Judgement>) -> Score {
    Score {
        shot: shot.id(),
        machine: shot.machine.clone(),
        die: shot.die.clone(),
        cycle: shot.cycle,
        ended_at: shot.ended_at,
        try_shot: shot.try_shot,
        verdict: judgement.map_or(Verdict::Unscorable, |j| j.verdict),
        probability: judgement.map(|j| j.probability),
        margin: judgement.map(|j| j.margin),
        anomaly: judgement.and_then(|j| j.anomaly),
        missing: features.missing,
        reason: features.unscorable.clone(),
        bundle: bundle.digest().to_owned(),
    }
}
