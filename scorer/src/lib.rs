//! Shots into verdicts.
//!
//! **One shot, one score**: a shot whose identity was seen before is counted as a duplicate and
//! makes nothing; every other shot makes one [`Score`](castwatch_core::payload::Score), and a
//! [`Defect`](castwatch_core::payload::Defect) when it is one. The state of a partition (what was
//! learnt of each die, and the identities seen) belongs to a position: the same log from the same
//! state makes the same bytes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod judge;
mod seen;
mod state;

use std::sync::Arc;

use bytes::Bytes;
use castwatch_core::event::{Message, Partition, Topic};
use castwatch_core::stage::{Handler, Outbox, Outcome, Stage, StateError, Stop};
use castwatch_core::{Shot, Verdict};
use castwatch_models::Bundle;

pub use crate::judge::{Case, Judge};
pub use crate::seen::WINDOW;
pub use crate::state::StateBytesError;

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
        let judge = Judge::new(Arc::clone(&self.bundle), state).map_err(|e| StateError(e.into()))?;
        Ok(Scoring { bundle: Arc::clone(&self.bundle), judge })
    }
}

/// Scores the shots of one partition.
pub struct Scoring {
    bundle: Arc<Bundle>,
    judge: Judge,
}

impl Handler for Scoring {
    /// Takes messages up to the first that is no shot, and judges them.
    async fn handle(&mut self, messages: &[Message], out: &mut Outbox) -> Outcome {
        let mut shots = Vec::with_capacity(messages.len());
        let mut stop = None;
        for message in messages {
            match Shot::from_json(&message.event.data) {
                Ok(shot) => shots.push(shot),
                Err(error) => {
                    stop = Some(Stop::Refuse(Box::new(error)));
                    break;
                }
            }
        }
        let cases = self.judge.judge(shots);
        let done = cases.len();
        for (message, case) in messages.iter().zip(cases) {
            let Some(case) = case else {
                out.duplicate();
                continue;
            };
            if let Err(error) = self.publish(message, &case, out) {
                // Texts and numbers can always be written as JSON. Were it not so, the histories
                // would have moved on past shots without a score, and any outcome given here would
                // lose them: the stage breaks off instead, and what is saved is from before.
                panic!("the score of shot {} can't be written: {error}", case.shot.id());
            }
        }
        Outcome { done, stop }
    }

    fn state(&self) -> Bytes {
        self.judge.state().into()
    }
}

impl Scoring {
    fn publish(&self, message: &Message, case: &Case, out: &mut Outbox) -> Result<(), serde_json::Error> {
        let score = case.score(&self.bundle);
        out.push(NAME, &message.event, &score)?;
        if score.verdict == Verdict::Defect {
            out.push(NAME, &message.event, &case.defect(score))?;
        }
        Ok(())
    }
}
