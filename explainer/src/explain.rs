//! Why a shot is a defect: its attributions by reading, the cause, and what to do about it.
//!
//! **An explanation adds up**: `base` and the contributions of all rows give the score's margin to
//! [`ADDITIVE`], or there is no explanation. A reading's raw value and its deviations are one row;
//! what is no reading (the gap, the shots since the restart) is a row of its own; latent values
//! and the anomaly together are the row [`PATTERN`].

use castwatch_core::payload::{Attribution, Defect, Explanation, Usual, Words};
use castwatch_models::{Attributions, Bundle, FeatureSpec, JudgeError, ReadingSpec};

use crate::words::{self, Lang, both};

/// How far an explanation may be from adding up, in log-odds.
pub const ADDITIVE: f64 = 1e-6;
/// The row of what the models see in all readings together.
pub const PATTERN: &str = "pattern";
/// Shots after a restart during which a die is still warming up.
const WARM_UP: f64 = 5.0;

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Judged by a bundle that is not here.
    #[error("shot {shot} was judged by the bundle {judged}, but the bundle here is {here}")]
    OtherBundle {
        /// The shot.
        shot: String,
        /// The digest in the score.
        judged: String,
        /// The digest of the bundle at hand.
        here: String,
    },
    /// A shot that was never scored.
    #[error("shot {shot} has no margin to explain")]
    Unscored {
        /// The shot.
        shot: String,
    },
    /// A defect that does not have the bundle's readings.
    #[error("shot {shot} says what {found} readings usually are, but the bundle has {expected}")]
    Readings {
        /// The shot.
        shot: String,
        /// The bundle's readings.
        expected: usize,
        /// The defect's.
        found: usize,
    },
    /// The models could not split the margin.
    #[error("the attributions of shot {shot} can't be computed")]
    Attribute {
        /// The shot.
        shot: String,
        /// Why.
        #[source]
        source: JudgeError,
    },
    /// The shares do not give what was scored.
    #[error("the attributions of shot {shot} add up to {sum}, but it was scored {margin}")]
    Additivity {
        /// The shot.
        shot: String,
        /// Base and all contributions.
        sum: f64,
        /// The score's margin.
        margin: f64,
    },
}

/// Explains a defect. `chart` is left empty: whether charts are kept is the stage's business.
///
/// # Errors
/// [`ExplainError`]; nothing that does not add up is ever returned.
pub fn explain(bundle: &Bundle, defect: &Defect) -> Result<Explanation, ExplainError> {
    let shot = || defect.score.shot.to_string();
    if defect.score.bundle != bundle.digest() {
        let (judged, here) = (defect.score.bundle.clone(), bundle.digest().to_owned());
        return Err(ExplainError::OtherBundle { shot: shot(), judged, here });
    }
    let features: Vec<f32> = defect.features.iter().map(|f| f.unwrap_or(f32::NAN)).collect();
    let shares =
        bundle.attribute(&features).map_err(|source| ExplainError::Attribute { shot: shot(), source })?;
    compose(bundle.readings(), bundle.features(), &shares, defect)
}

/// Groups the shares by reading, checks that they add up and finds the words.
fn compose(
    readings: &[ReadingSpec],
    features: &[FeatureSpec],
    shares: &Attributions,
    defect: &Defect,
) -> Result<Explanation, ExplainError> {
    let shot = || defect.score.shot.to_string();
    let margin = defect.score.margin.ok_or_else(|| ExplainError::Unscored { shot: shot() })?;
    if defect.usual.len() != readings.len() {
        let (expected, found) = (readings.len(), defect.usual.len());
        return Err(ExplainError::Readings { shot: shot(), expected, found });
    }
    let mut rows = rows(readings, features, shares, defect);
    let sum = shares.base + rows.iter().map(|r| r.row.contribution).sum::<f64>();
    let adds_up = (sum - margin).abs() <= ADDITIVE;
    if !adds_up {
        return Err(ExplainError::Additivity { shot: shot(), sum, margin });
    }
    rows.sort_by(|a, b| b.row.contribution.abs().total_cmp(&a.row.contribution.abs()));
    let largest = |of_readings: bool| {
        rows.iter()
            .filter(|r| matches!(r.of, Of::Reading(_)) == of_readings && r.row.contribution > 0.0)
            .max_by(|a, b| a.row.contribution.total_cmp(&b.row.contribution))
    };
    let told = largest(true).or_else(|| largest(false)).or_else(|| rows.first());
    let notes = both(|lang| notes(features, defect, lang));
    let (cause, summary, equipment, advice) = told.map_or_else(Default::default, |cause| {
        let summary =
            both(|lang| format!("{} ({})", words::capital(&said(cause, defect, lang)), lang.of(&notes)));
        let (equipment, advice) = remedy(cause);
        (cause.row.reading.clone(), summary, equipment, advice)
    });
    Ok(Explanation {
        score: defect.score.clone(),
        base: shares.base,
        attributions: rows.into_iter().map(|r| r.row).collect(),
        cause,
        summary,
        equipment,
        advice,
        chart: None,
    })
}

/// What a row is about.
#[derive(Clone, Copy)]
enum Of<'a> {
    Reading(&'a ReadingSpec),
    Context,
    Pattern,
}

struct Row<'a> {
    of: Of<'a>,
    row: Attribution,
}

fn rows<'a>(
    readings: &'a [ReadingSpec],
    features: &[FeatureSpec],
    shares: &Attributions,
    defect: &Defect,
) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = readings
        .iter()
        .zip(&defect.usual)
        .map(|(spec, usual)| Row {
            of: Of::Reading(spec),
            row: Attribution {
                reading: spec.name.clone(),
                name: spec.words.clone(),
                unit: spec.unit.clone(),
                value: came(spec, defect).filter(|v| spec.accepts(*v)),
                usual: *usual,
                contribution: 0.0,
            },
        })
        .collect();
    let (of_features, of_pattern) = shares.values.split_at(features.len().min(shares.values.len()));
    for (at, (feature, share)) in features.iter().zip(of_features).enumerate() {
        match feature.of.and_then(|reading| rows.get_mut(reading)) {
            Some(row) => row.row.contribution += share,
            None => rows.push(Row {
                of: Of::Context,
                row: Attribution {
                    reading: feature.name.clone(),
                    name: feature.words.clone(),
                    unit: if feature.name == "shot_gap" { "s".into() } else { String::new() },
                    value: defect.features.get(at).copied().flatten().map(f64::from),
                    usual: None,
                    contribution: *share,
                },
            }),
        }
    }
    if !of_pattern.is_empty() {
        let name = both(|lang| lang.pick("종합 패턴", "overall pattern").into());
        let contribution = of_pattern.iter().sum();
        let (unit, value, usual) = (String::new(), None, None);
        let row = Attribution { reading: PATTERN.into(), name, unit, value, usual, contribution };
        rows.push(Row { of: Of::Pattern, row });
    }
    rows
}

/// The reading as the machine sent it.
fn came(spec: &ReadingSpec, defect: &Defect) -> Option<f64> {
    defect.readings.get(&spec.name).flatten()
}

/// The sentence on the cause, without the notes.
fn said(cause: &Row<'_>, defect: &Defect, lang: Lang) -> String {
    let row = &cause.row;
    let name = lang.of(&row.name);
    let Of::Reading(spec) = cause.of else {
        let value =
            row.value.map(|v| format!(" {}", words::quantity(v, None, &row.unit))).unwrap_or_default();
        return match lang {
            Lang::Ko => format!("{name}{value}: 불량 판정에 가장 큰 영향을 줌"),
            Lang::En => format!("{name}{value} speaks most for a defect"),
        };
    };
    let Some(value) = row.value else {
        return match (came(spec, defect), lang) {
            (Some(code), Lang::Ko) if spec.no_sensor.contains(&code) => {
                format!("{name}: 측정값이 아닌 값 {code}(센서 이상 코드)")
            }
            (Some(code), Lang::Ko) => format!("{name}: 측정값이 아닌 값 {code}(측정 범위 밖)"),
            (Some(code), Lang::En) => format!("{name} sent {code}, which is no measurement"),
            (None, Lang::Ko) => format!("{name}: 측정값 없음"),
            (None, Lang::En) => format!("{name} has no value"),
        };
    };
    let shown = words::quantity(value, row.usual.as_ref(), &row.unit);
    // `temperature 1 147.9 °C` would read as one number.
    let between = if name.ends_with(|c: char| c.is_ascii_digit()) { lang.pick(" = ", " at ") } else { " " };
    let name = format!("{name}{between}{shown}");
    let Some(usual) = &row.usual else {
        return match lang {
            Lang::Ko => format!("{name}: 불량 판정에 가장 큰 영향을 줌, 이 금형의 이력이 아직 부족함"),
            Lang::En => format!("{name} speaks most for a defect; this die has too little history yet"),
        };
    };
    let around = words::with_unit(words::around(usual), &row.unit);
    let off = value - usual.centre;
    if within(value, usual) {
        return match lang {
            Lang::Ko => {
                format!("{name}: 이 금형의 평소 범위({around}) 안이지만 불량 판정에 가장 큰 영향을 줌")
            }
            Lang::En => format!("{name} is within this die's usual {around}, yet speaks most for a defect"),
        };
    }
    let (far_ko, far_en) = match off.abs() / usual.spread {
        times if times <= 2.0 => ("약간 ", "slightly "),
        times if times >= 6.0 => ("훨씬 ", "far "),
        _ => ("", ""),
    };
    let (side_ko, side_en) = if off < 0.0 { ("낮음", "below") } else { ("높음", "above") };
    match lang {
        Lang::Ko => format!("{name}: 이 금형의 평소 값({around})보다 {far_ko}{side_ko}"),
        Lang::En => format!("{name} is {far_en}{side_en} this die's usual {around}"),
    }
}

/// Whether a value is no further from the usual one than values usually are.
fn within(value: f64, usual: &Usual) -> bool {
    (value - usual.centre).abs() <= usual.spread
}

/// What goes with the cause: the probability, and whether the die was warming up.
fn notes(features: &[FeatureSpec], defect: &Defect, lang: Lang) -> String {
    let mut notes = Vec::new();
    if let Some(probability) = defect.score.probability {
        notes.push(format!(
            "{} {}",
            lang.pick("불량 확률", "defect probability"),
            words::percent(probability)
        ));
    }
    let since = features
        .iter()
        .zip(&defect.features)
        .find(|(f, _)| f.of.is_none() && f.name == "shots_since_restart")
        .and_then(|(_, v)| v.map(f64::from))
        .filter(|shots| *shots < WARM_UP);
    if defect.score.try_shot {
        notes.push(lang.pick("시사출", "try shot").into());
    }
    if let Some(shots) = since {
        let nth = shots + 1.0;
        notes.push(match lang {
            Lang::Ko if nth == 1.0 => "재가동 후 첫 샷: 예열 중".into(),
            Lang::Ko => format!("재가동 후 {nth}번째 샷: 예열 중"),
            Lang::En => format!("warm-up: shot {nth} since the restart"),
        });
    }
    notes.join(", ")
}

/// The part of the machine to look at, and what to do.
fn remedy(cause: &Row<'_>) -> (Words, Words) {
    let row = &cause.row;
    let spec = match cause.of {
        Of::Reading(spec) => spec,
        Of::Context => {
            return (
                both(|lang| lang.pick("주조 사이클", "casting cycle").into()),
                both(|lang| {
                    let ko = "금형 온도가 안정될 때까지 나온 제품을 따로 보관하고 검사하십시오.";
                    lang.pick(ko, "Set parts aside and inspect them until the die's temperature is steady.")
                        .into()
                }),
            );
        }
        Of::Pattern => {
            return (
                both(|lang| lang.pick("설비 전체", "whole machine").into()),
                both(|lang| {
                    let ko = "한 측정값이 아니라 여러 측정값의 조합이 평소와 다릅니다. 차트의 큰 막대부터 확인하십시오.";
                    let en = "No single reading but their combination is unusual. Start with the chart's longest bars.";
                    lang.pick(ko, en).into()
                }),
            );
        }
    };
    let advice = both(|lang| {
        let Some(value) = row.value else {
            return lang
                .pick("센서와 배선, 통신을 확인하십시오.", "Check the sensor, its wiring and its connection.")
                .into();
        };
        let (low, high) = (lang.of(&spec.advice_low), lang.of(&spec.advice_high));
        let Some(usual) = &row.usual else {
            let low = format!("{}: {low}", lang.pick("낮은 경우", "If it is too low"));
            let high = format!("{}: {high}", lang.pick("높은 경우", "If it is too high"));
            return words::sentences(&[&low, &high]);
        };
        // What is usual is neither too low nor too high: advice for either would claim a fault.
        let to_do = if within(value, usual) {
            let ko = "이 값만으로는 이상이라고 할 수 없습니다. 차트에서 그다음으로 큰 막대를 확인하고, 이후 샷의 변화를 지켜보십시오.";
            let en =
                "This value alone is no fault. See the chart's next longest bars, and watch the next shots.";
            lang.pick(ko, en)
        } else if value < usual.centre {
            low
        } else {
            high
        };
        words::sentences(&[to_do, &range(spec, usual, lang)])
    });
    (spec.equipment.clone(), advice)
}

/// Where the reading should be: its usual value and two spreads around it, as far as plausible.
fn range(spec: &ReadingSpec, usual: &Usual, lang: Lang) -> String {
    let end = |at: f64| words::number(at.clamp(spec.plausible.0, spec.plausible.1), Some(usual));
    let (from, to) = (end(usual.centre - 2.0 * usual.spread), end(usual.centre + 2.0 * usual.spread));
    let range = match lang {
        _ if from == to => from,
        Lang::Ko => format!("{from}~{to}"),
        Lang::En => format!("{from} to {to}"),
    };
    let range = words::with_unit(range, &spec.unit);
    match lang {
        Lang::Ko => format!("{} 범위 {range}", if spec.actionable { "목표" } else { "평소" }),
        Lang::En => format!("{} range {range}", if spec.actionable { "Target" } else { "Usual" }),
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
