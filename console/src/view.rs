//! What the page is told, as JSON.

use castwatch_core::payload::{Alert, Explanation, Score, Words};
use castwatch_core::{EndedAt, ShotId, Verdict};
use serde::Serialize;

/// A shot on a tile and in the strip.
#[derive(Clone, Debug, Serialize)]
pub struct ShotView {
    /// The shot's identity.
    pub shot: ShotId,
    /// The machine.
    pub machine: String,
    /// The die.
    pub die: String,
    /// The shot's counter.
    pub cycle: u64,
    /// When it ended.
    pub ended_at: EndedAt,
    /// Whether it is a warm-up shot.
    pub try_shot: bool,
    /// The judgement.
    pub verdict: Verdict,
    /// Probability of a defect.
    pub probability: Option<f64>,
    /// Why it can't be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<Score> for ShotView {
    fn from(score: Score) -> Self {
        let Score { shot, machine, die, cycle, ended_at, try_shot, verdict, probability, reason, .. } = score;
        Self { shot, machine, die, cycle, ended_at, try_shot, verdict, probability, reason }
    }
}

/// A defect in the list: the shot, and why.
#[derive(Clone, Debug, Serialize)]
pub struct DefectView {
    /// The shot.
    #[serde(flatten)]
    pub shot: ShotView,
    /// The reading that speaks most for a defect.
    pub cause: Words,
    /// What is wrong.
    pub summary: Words,
    /// Where to look.
    pub equipment: Words,
    /// What to do.
    pub advice: Words,
    /// Key of the chart, if there is one.
    pub chart: Option<String>,
}

impl From<Explanation> for DefectView {
    fn from(explanation: Explanation) -> Self {
        let Explanation { score, attributions, cause, summary, equipment, advice, chart, .. } = explanation;
        let named = attributions.into_iter().find(|a| a.reading == cause).map(|a| a.name);
        let cause = named.unwrap_or_else(|| Words { ko: cause.clone(), en: cause });
        Self { shot: score.into(), cause, summary, equipment, advice, chart }
    }
}

/// An alert that went out.
#[derive(Clone, Debug, Serialize)]
pub struct AlertView {
    /// The alert's id.
    pub id: String,
    /// The shot it is about.
    pub shot: ShotId,
    /// Its first line.
    pub title: Words,
    /// Where it was told.
    pub channels: Vec<String>,
}

impl From<Alert> for AlertView {
    fn from(alert: Alert) -> Self {
        let Alert { id, shot, title, channels, .. } = alert;
        Self { id, shot, title, channels }
    }
}
