use castwatch_core::payload::Score;
use castwatch_core::{EndedAt, Readings, ShotId, Verdict};

use super::*;

fn say(ko: &str, en: &str) -> Words {
    Words { ko: ko.into(), en: en.into() }
}

fn spec(name: &str, words: Words, unit: &str) -> ReadingSpec {
    ReadingSpec {
        name: name.into(),
        unit: unit.into(),
        plausible: (0.0, 500.0),
        no_sensor: vec![450.0],
        words,
        equipment: say("증압부", "intensifier"),
        advice_low: say("압력을 올리십시오.", "Raise the pressure."),
        advice_high: say("압력을 내리십시오.", "Lower the pressure."),
        actionable: true,
    }
}

fn feature(name: &str, of: Option<usize>) -> FeatureSpec {
    FeatureSpec { name: name.into(), of, words: say("직전 샷과의 간격", "time since the last shot") }
}

struct Case {
    readings: Vec<ReadingSpec>,
    features: Vec<FeatureSpec>,
    shares: Attributions,
    defect: Defect,
}

impl Case {
    /// Two readings with two features each, two context features and two latent values.
    fn new() -> Self {
        let readings = vec![
            spec("cast_pressure", say("주조 압력", "casting pressure"), "bar"),
            spec("biscuit_thickness", say("비스킷 두께", "biscuit thickness"), "mm"),
        ];
        let features = vec![
            feature("cast_pressure", Some(0)),
            feature("biscuit_thickness", Some(1)),
            feature("cast_pressure.deviation.0.02", Some(0)),
            feature("biscuit_thickness.deviation.0.02", Some(1)),
            feature("shot_gap", None),
            feature("shots_since_restart", None),
        ];
        let values = vec![1.5, -0.25, 2.0, -0.5, 0.75, 0.125, 0.25, 0.125];
        let margin = -3.0 + values.iter().sum::<f64>();
        let defect = Defect {
            score: Score {
                shot: ShotId::from_text("m~d~t~1"),
                machine: "m".into(),
                die: "d".into(),
                cycle: 1,
                ended_at: EndedAt::parse("2026-01-15T16:45:06+09:00").unwrap(),
                try_shot: false,
                verdict: Verdict::Defect,
                probability: Some(0.94),
                margin: Some(margin),
                anomaly: None,
                missing: 0,
                reason: None,
                bundle: "b".into(),
            },
            readings: Readings::from_iter([
                ("cast_pressure", Some(268.0)),
                ("biscuit_thickness", Some(49.0)),
            ]),
            features: vec![Some(268.0), Some(49.0), Some(-63.0), Some(-0.5), Some(312.0), Some(80.0)],
            usual: vec![
                Some(Usual { centre: 331.0, spread: 4.0 }),
                Some(Usual { centre: 49.5, spread: 1.5 }),
            ],
        };
        Self { readings, features, shares: Attributions { base: -3.0, values, margin }, defect }
    }

    fn tell(&self) -> Result<Explanation, ExplainError> {
        compose(&self.readings, &self.features, &self.shares, &self.defect)
    }

    fn pressure(mut self, value: Option<f64>, usual: Option<(f64, f64)>) -> Explanation {
        self.defect.readings = Readings::from_iter([("cast_pressure", value)]);
        self.defect.usual[0] = usual.map(|(centre, spread)| Usual { centre, spread });
        self.tell().unwrap()
    }
}

#[test]
fn features_of_a_reading_are_one_row_and_rows_add_up() {
    let told = Case::new().tell().unwrap();
    let rows: Vec<(&str, f64)> =
        told.attributions.iter().map(|a| (a.reading.as_str(), a.contribution)).collect();
    let expected = [
        ("cast_pressure", 3.5),
        ("biscuit_thickness", -0.75),
        ("shot_gap", 0.75),
        (PATTERN, 0.375),
        ("shots_since_restart", 0.125),
    ];
    assert_eq!(rows, expected);
    let sum = told.base + told.attributions.iter().map(|a| a.contribution).sum::<f64>();
    assert!((sum - told.score.margin.unwrap()).abs() <= ADDITIVE);
    assert_eq!(told.attributions[0].value, Some(268.0));
    assert_eq!((told.attributions[2].value, told.attributions[2].unit.as_str()), (Some(312.0), "s"));
    assert_eq!(told.chart, None);
}

#[test]
fn what_does_not_add_up_is_not_explained() {
    for off in [2e-6, -0.5, f64::NAN, f64::INFINITY] {
        let mut case = Case::new();
        case.shares.values[2] += off;
        assert!(matches!(case.tell(), Err(ExplainError::Additivity { .. })), "{off}");
    }
    let mut case = Case::new();
    case.shares.values[2] += 5e-7;
    assert!(case.tell().is_ok());
    case.defect.score.margin = None;
    assert!(matches!(case.tell(), Err(ExplainError::Unscored { .. })));
    let mut case = Case::new();
    case.defect.usual.pop();
    assert!(matches!(case.tell(), Err(ExplainError::Readings { expected: 2, found: 1, .. })));
}

#[test]
fn the_cause_is_a_reading_if_one_speaks_for_a_defect() {
    let mut case = Case::new();
    assert_eq!(case.tell().unwrap().cause, "cast_pressure");
    // The gap weighs more, but a supervisor can do something about the biscuit.
    (case.shares.values[0], case.shares.values[2]) = (0.0, -1.0);
    (case.shares.values[1], case.shares.values[3], case.shares.values[4]) = (0.125, 0.125, 5.0);
    case.defect.score.margin = Some(case.shares.base + case.shares.values.iter().sum::<f64>());
    assert_eq!(case.tell().unwrap().cause, "biscuit_thickness");
    (case.shares.values[1], case.shares.values[3]) = (-0.125, -0.125);
    case.defect.score.margin = Some(case.shares.base + case.shares.values.iter().sum::<f64>());
    let told = case.tell().unwrap();
    assert_eq!(told.cause, "shot_gap");
    assert_eq!(
        told.summary.en,
        "Time since the last shot 312 s speaks most for a defect (defect probability 94%)"
    );
    assert_eq!(told.summary.ko, "직전 샷과의 간격 312 s: 불량 판정에 가장 큰 영향을 줌 (불량 확률 94%)");
    assert!(told.advice.ko.ends_with("검사하십시오."));
}

#[test]
fn says_what_is_wrong_against_usual() {
    let told = Case::new().pressure(Some(268.0), Some((331.0, 4.0)));
    assert_eq!(
        told.summary.ko,
        "주조 압력 268 bar: 이 금형의 평소 값(331 ± 4 bar)보다 훨씬 낮음 (불량 확률 94%)"
    );
    assert_eq!(
        told.summary.en,
        "Casting pressure 268 bar is far below this die's usual 331 ± 4 bar (defect probability 94%)"
    );
    assert_eq!(told.equipment, say("증압부", "intensifier"));
    assert_eq!(told.advice.ko, "압력을 올리십시오. 목표 범위 323~339 bar.");
    assert_eq!(told.advice.en, "Raise the pressure. Target range 323 to 339 bar.");

    let told = Case::new().pressure(Some(345.0), Some((331.0, 4.0)));
    assert!(told.summary.ko.contains("평소 값(331 ± 4 bar)보다 높음"), "{}", told.summary.ko);
    assert!(told.advice.en.starts_with("Lower the pressure."));
    let told = Case::new().pressure(Some(337.0), Some((331.0, 4.0)));
    assert!(told.summary.en.contains("slightly above"), "{}", told.summary.en);
    assert!(told.summary.ko.contains("보다 약간 높음"), "{}", told.summary.ko);
    let told = Case::new().pressure(Some(333.0), Some((331.0, 4.0)));
    assert!(told.summary.en.contains("is within this die's usual 331 ± 4 bar, yet"), "{}", told.summary.en);
    assert!(told.summary.ko.contains("평소 범위(331 ± 4 bar) 안이지만"), "{}", told.summary.ko);
    // A spread of nothing: any other value is far away, the target is the one value.
    let told = Case::new().pressure(Some(330.0), Some((331.0, 0.0)));
    assert!(told.summary.en.contains("far below this die's usual 331 ± 0 bar"), "{}", told.summary.en);
    assert!(told.advice.en.ends_with("Target range 331 bar."), "{}", told.advice.en);
    // The range stays plausible.
    let told = Case::new().pressure(Some(300.0), Some((490.0, 8.0)));
    assert!(told.advice.en.ends_with("Target range 474 to 500 bar."), "{}", told.advice.en);
}

#[test]
fn a_usual_value_is_never_advised_as_too_low_or_too_high() {
    for value in [327.0, 330.0, 331.0, 332.0, 335.0] {
        let told = Case::new().pressure(Some(value), Some((331.0, 4.0)));
        assert!(told.summary.ko.contains("안이지만"), "{value}: {}", told.summary.ko);
        assert_eq!(
            told.advice.ko,
            "이 값만으로는 이상이라고 할 수 없습니다. 차트에서 그다음으로 큰 막대를 확인하고, \
             이후 샷의 변화를 지켜보십시오. 목표 범위 323~339 bar."
        );
        assert_eq!(
            told.advice.en,
            "This value alone is no fault. See the chart's next longest bars, and watch the next shots. \
             Target range 323 to 339 bar."
        );
    }
    for (value, ko) in [(326.9, "압력을 올리십시오."), (335.1, "압력을 내리십시오.")] {
        let told = Case::new().pressure(Some(value), Some((331.0, 4.0)));
        assert!(told.advice.ko.starts_with(ko), "{value}: {}", told.advice.ko);
    }
}

#[test]
fn a_name_that_ends_in_a_number_is_kept_from_the_value() {
    let mut case = Case::new();
    case.readings[0].words = say("하금형 온도 1", "lower die temperature 1");
    let told = case.tell().unwrap();
    assert!(told.summary.ko.starts_with("하금형 온도 1 = 268 bar: 이 금형의"), "{}", told.summary.ko);
    assert!(
        told.summary.en.starts_with("Lower die temperature 1 at 268 bar is far below"),
        "{}",
        told.summary.en
    );
}

#[test]
fn says_when_nothing_was_measured_or_nothing_is_known() {
    let told = Case::new().pressure(Some(450.0), Some((331.0, 4.0)));
    assert_eq!(told.attributions[0].value, None);
    assert!(
        told.summary.ko.starts_with("주조 압력: 측정값이 아닌 값 450(센서 이상 코드) ("),
        "{}",
        told.summary.ko
    );
    assert!(
        told.summary.en.starts_with("Casting pressure sent 450, which is no measurement ("),
        "{}",
        told.summary.en
    );
    assert_eq!(told.advice.en, "Check the sensor, its wiring and its connection.");
    let told = Case::new().pressure(Some(65_535.0), None);
    assert!(told.summary.en.starts_with("Casting pressure sent 65535, "), "{}", told.summary.en);
    let out = "주조 압력: 측정값이 아닌 값 65535(측정 범위 밖) (";
    assert!(told.summary.ko.starts_with(out), "{}", told.summary.ko);
    let told = Case::new().pressure(None, Some((331.0, 4.0)));
    assert!(told.summary.ko.starts_with("주조 압력: 측정값 없음 ("), "{}", told.summary.ko);
    assert!(told.summary.en.starts_with("Casting pressure has no value ("), "{}", told.summary.en);

    let told = Case::new().pressure(Some(268.0), None);
    assert!(told.summary.ko.contains("이 금형의 이력이 아직 부족함"), "{}", told.summary.ko);
    assert!(told.summary.en.contains("this die has too little history yet"), "{}", told.summary.en);
    assert_eq!(
        told.advice.en,
        "If it is too low: Raise the pressure. If it is too high: Lower the pressure."
    );
    assert_eq!(told.advice.ko, "낮은 경우: 압력을 올리십시오. 높은 경우: 압력을 내리십시오.");
}

#[test]
fn says_when_the_die_was_warming_up() {
    let mut case = Case::new();
    case.defect.features[5] = Some(2.0);
    case.defect.score.try_shot = true;
    let told = case.tell().unwrap();
    assert!(
        told.summary.ko.ends_with("(불량 확률 94%, 시사출, 재가동 후 3번째 샷: 예열 중)"),
        "{}",
        told.summary.ko
    );
    let note = "(defect probability 94%, try shot, warm-up: shot 3 since the restart)";
    assert!(told.summary.en.ends_with(note), "{}", told.summary.en);
    case.defect.features[5] = Some(0.0);
    let told = case.tell().unwrap();
    assert!(told.summary.ko.ends_with("재가동 후 첫 샷: 예열 중)"), "{}", told.summary.ko);
}

#[test]
fn a_reading_nobody_can_turn_has_a_usual_range_and_no_target() {
    let mut case = Case::new();
    case.readings[0].actionable = false;
    let told = case.tell().unwrap();
    assert!(told.advice.ko.ends_with("평소 범위 323~339 bar."), "{}", told.advice.ko);
    assert!(told.advice.en.ends_with("Usual range 323 to 339 bar."), "{}", told.advice.en);
}
