//! What the events between stages say. Field names are the public JSON.
//!
//! **Everything in a payload follows from the shot, the die's history and the bundle**: no clock,
//! no random number, so that a replay makes the same bytes.

use serde::{Deserialize, Serialize};
use serde_json::Error as JsonError;

use crate::event::{Event, Message, Outgoing, Topic, trace_child};
use crate::shot::{Readings, ShotId};
use crate::time::EndedAt;
use crate::verdict::Verdict;

/// The verdict on one shot: the `scores` topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The shot's identity.
    pub shot: ShotId,
    /// The machine.
    pub machine: String,
    /// The die.
    pub die: String,
    /// The shot's counter at the machine.
    pub cycle: u64,
    /// When the shot ended.
    pub ended_at: EndedAt,
    /// Whether the machine called it a try shot (시사출).
    pub try_shot: bool,
    /// The judgement.
    pub verdict: Verdict,
    /// Calibrated probability of a defect, 0 to 1; absent when unscorable.
    pub probability: Option<f64>,
    /// The trees' log-odds before calibration, which attributions add up to.
    pub margin: Option<f64>,
    /// Reconstruction error of the autoencoder, mean square in scaled units; absent without one.
    pub anomaly: Option<f64>,
    /// Readings of the bundle that this shot did not have.
    pub missing: u32,
    /// Why the shot can't be scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Digest of the bundle that judged.
    pub bundle: String,
}

/// A shot judged defect with all that explaining it needs: the `defects` topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Defect {
    /// The verdict.
    #[serde(flatten)]
    pub score: Score,
    /// The shot's readings as they came.
    pub readings: Readings,
    /// The bundle's features in order, as the model saw them; null where missing.
    pub features: Vec<Option<f32>>,
    /// The usual value of each reading at this die before this shot, in the bundle's order of readings.
    pub usual: Vec<Option<Usual>>,
}

/// What a reading usually is at one die.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// The centre its history follows, in the reading's unit.
    pub centre: f64,
    /// The spread around it (mean absolute deviation), in the reading's unit.
    pub spread: f64,
}

/// A text for supervisors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    /// Korean.
    pub ko: String,
    /// English.
    pub en: String,
}

/// What one reading added to the log-odds of a defect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attribution {
    /// The reading, or `shot_gap`, `shots_since_restart` and the like for what is not one.
    pub reading: String,
    /// Its name for people.
    pub name: Words,
    /// Its unit, empty when it has none.
    pub unit: String,
    /// Its value in this shot, absent when there was none.
    pub value: Option<f64>,
    /// What it usually is at this die.
    pub usual: Option<Usual>,
    /// Its share of the log-odds; positive speaks for a defect.
    pub contribution: f64,
}

/// Why a shot is a defect: the `explanations` topic, and the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The verdict.
    #[serde(flatten)]
    pub score: Score,
    /// Log-odds of the average shot; `base` and all contributions add up to `margin`.
    pub base: f64,
    /// Every reading's share, largest first by size.
    pub attributions: Vec<Attribution>,
    /// The reading that speaks most for a defect.
    pub cause: String,
    /// One sentence: what is wrong, in numbers.
    pub summary: Words,
    /// The part of the machine to look at.
    pub equipment: Words,
    /// What to do.
    pub advice: Words,
    /// Key where the chart belongs among the objects; absent when no charts are kept.
    pub chart: Option<String>,
}

/// What a supervisor was told of one defect: the `alerts` topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// `alert:` and the shot's id; the idempotency key at every channel.
    pub id: String,
    /// The shot's identity.
    pub shot: ShotId,
    /// The machine.
    pub machine: String,
    /// The die.
    pub die: String,
    /// The shot's counter.
    pub cycle: u64,
    /// When the shot ended.
    pub ended_at: EndedAt,
    /// Calibrated probability of a defect.
    pub probability: Option<f64>,
    /// The reading that speaks most for a defect.
    #[serde(default)]
    pub cause: String,
    /// One line.
    pub title: Words,
    /// Why and what to do.
    pub body: Words,
    /// Key of the chart.
    pub chart: Option<String>,
    /// The channels it was handed to.
    pub channels: Vec<String>,
}

/// A payload that has a topic, a type and a deterministic id.
pub trait Payload: Serialize + for<'de> Deserialize<'de> {
    /// Where it is published.
    const TOPIC: Topic;
    /// The CloudEvents type.
    const TYPE: &'static str;
    /// The first part of the id.
    const KIND: &'static str;
    /// The shot it is about, the machine (its key), and the shot's time.
    fn about(&self) -> (&ShotId, &str, EndedAt);

    /// The id of the event: the same for the same shot.
    fn event_id(&self) -> String {
        format!("{}:{}", Self::KIND, self.about().0)
    }

    /// Reads the payload of a message.
    ///
    /// # Errors
    /// serde_json's, with line and column.
    fn read(message: &Message) -> Result<Self, JsonError> {
        serde_json::from_slice(&message.event.data)
    }

    /// The event that `stage` makes of `cause`.
    ///
    /// # Errors
    /// serde_json's; these payloads can be written.
    fn outgoing(&self, stage: &str, cause: &Event) -> Result<Outgoing, JsonError> {
        let (shot, machine, ended_at) = self.about();
        let id = self.event_id();
        // Room for a score, the most frequent of them.
        let mut data = Vec::with_capacity(512);
        serde_json::to_writer(&mut data, self)?;
        Ok(Outgoing {
            topic: Self::TOPIC,
            key: machine.to_owned(),
            event: Event {
                traceparent: Some(trace_child(cause.traceparent.as_deref(), shot.as_str(), &id)),
                id,
                ty: Self::TYPE.into(),
                source: format!("/castwatch/{stage}"),
                subject: shot.to_string(),
                time: Some(ended_at.instant()),
                extensions: Vec::new(),
                data: data.into(),
            },
        })
    }
}

macro_rules! payload {
    ($name:ident, $topic:expr, $ty:literal, $kind:literal, $($field:ident).*) => {
        impl Payload for $name {
            const TOPIC: Topic = $topic;
            const TYPE: &'static str = $ty;
            const KIND: &'static str = $kind;
            fn about(&self) -> (&ShotId, &str, EndedAt) {
                let it = &self$(.$field)*;
                (&it.shot, &it.machine, it.ended_at)
            }
        }
    };
}
payload!(Score, Topic::SCORES, "castwatch.score.v1", "score",);
payload!(Defect, Topic::DEFECTS, "castwatch.defect.v1", "defect", score);
payload!(Explanation, Topic::EXPLANATIONS, "castwatch.explanation.v1", "explanation", score);
payload!(Alert, Topic::ALERTS, "castwatch.alert.v1", "alert",);
