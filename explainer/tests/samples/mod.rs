//! Explanations that stretch a chart: plain ones, long ones, extreme ones, empty ones.

use castwatch_core::payload::{Attribution, Explanation, Score, Usual, Words};
use castwatch_core::shot::ShotId;
use castwatch_core::{EndedAt, Verdict};

fn words(ko: &str, en: &str) -> Words {
    Words { ko: ko.into(), en: en.into() }
}

fn bar(
    reading: &str,
    name: (&str, &str),
    unit: &str,
    value: Option<f64>,
    usual: Option<(f64, f64)>,
    contribution: f64,
) -> Attribution {
    Attribution {
        reading: reading.into(),
        name: words(name.0, name.1),
        unit: unit.into(),
        value,
        usual: usual.map(|(centre, spread)| Usual { centre, spread }),
        contribution,
    }
}

fn explanation(
    machine: &str,
    die: &str,
    base: f64,
    attributions: Vec<Attribution>,
    summary: Words,
) -> Explanation {
    let margin = base + attributions.iter().map(|a| a.contribution).sum::<f64>();
    Explanation {
        score: Score {
            shot: ShotId::from_text("DCM-03~8722~20260115T074506Z~258"),
            machine: machine.into(),
            die: die.into(),
            cycle: 258,
            ended_at: EndedAt::parse("2026-01-15T16:45:06+09:00").unwrap(),
            try_shot: false,
            verdict: Verdict::Defect,
            probability: Some(1.0 / (1.0 + (-margin).exp())),
            margin: Some(margin),
            anomaly: Some(1.7),
            missing: 0,
            reason: None,
            bundle: "0123456789abcdef".into(),
        },
        base,
        cause: attributions.first().map(|a| a.reading.clone()).unwrap_or_default(),
        attributions,
        summary,
        equipment: words("사출 유압 장치", "Injection hydraulics"),
        advice: words("축압기 압력을 확인하세요.", "Check the accumulator pressure."),
        chart: Some("charts/DCM-03/2026-01-15/DCM-03~8722~20260115T074506Z~258.png".into()),
    }
}

/// A defect as most of them are: one reading stands out.
#[rustfmt::skip]
pub fn plain() -> Explanation {
    explanation(
        "DCM-03",
        "8722",
        -3.12,
        vec![
            bar("cast_pressure", ("주조 압력", "Casting pressure"), "bar", Some(268.0), Some((331.2, 4.1)), 3.41),
            bar("biscuit_thickness", ("비스킷 두께", "Biscuit thickness"), "mm", Some(38.0), Some((49.6, 1.9)), 1.22),
            bar("high_section_speed", ("고속 구간 속도", "Fast-shot speed"), "cm/s", Some(103.0), Some((112.4, 2.2)), 0.83),
            bar("upper_mold_temp1", ("상금형 온도 1", "Upper die temperature 1"), "°C", Some(187.0), Some((171.0, 7.5)), 0.55),
            bar("shot_gap", ("직전 샷과의 간격", "Gap since the last shot"), "s", Some(312.0), None, 0.41),
            bar("molten_temp", ("용탕 온도", "Melt temperature"), "°C", Some(731.0), Some((730.0, 2.8)), -0.32),
            bar("sleeve_temperature", ("슬리브 온도", "Sleeve temperature"), "°C", None, Some((455.0, 12.0)), 0.24),
            bar("lower_mold_temp2", ("하금형 온도 2", "Lower die temperature 2"), "°C", Some(196.4), Some((196.0, 6.0)), -0.21),
            bar("physical_strength", ("형체력", "Clamping force"), "tonf", Some(703.0), Some((702.0, 0.7)), -0.12),
            bar("coolant_temperature", ("냉각수 온도", "Coolant temperature"), "°C", Some(33.4), Some((33.0, 0.6)), 0.09),
            bar("cycle_time", ("사이클 시간", "Cycle time"), "s", Some(121.0), Some((121.0, 1.4)), -0.06),
            bar("pattern", ("종합 패턴", "Overall pattern"), "", None, None, 0.05),
            bar("molten_volume", ("용탕량", "Melt level"), "kg", Some(88.0), Some((90.0, 9.0)), -0.04),
            bar("ems_operation_time", ("전자교반 시간", "Stirring time"), "s", Some(23.0), Some((23.0, 0.0)), 0.01),
        ],
        words(
            "주조 압력 268 bar: 이 금형의 평소 값(331 ± 4 bar)보다 훨씬 낮음 (불량 확률 95%)",
            "Casting pressure 268 bar is far below this die's usual 331 ± 4 bar (defect probability 95%)",
        ),
    )
}

/// Names of every kind of length, and signs that XML must not meet bare.
pub fn long() -> Explanation {
    let mut it = plain();
    it.score.machine =
        "제2공장 다이캐스팅 3라인 <주조기> & \"DCM-0003\" 예비 설비 (동측, 650톤, 2019년 도입, 개조 2호기)"
            .into();
    it.score.die = "MOLD-8722-REV.C-2026-01-ASSY/HOUSING-LH".into();
    it.score.cycle = u64::MAX;
    for a in &mut it.attributions {
        a.name.ko = format!("{} (고정측 냉각 채널 뒤, 조작측 열전대)", a.name.ko);
        a.name.en = format!("{} behind the cooling channel of the fixed half", a.name.en);
    }
    it.attributions[1].value = Some(65_535.0);
    it.attributions[1].usual = Some(Usual { centre: 12_345.678, spread: 0.012 });
    it.attributions[2].unit = "kgf/cm² (절대압)".into();
    it.summary = words(&it.summary.ko.repeat(3), &it.summary.en.repeat(3));
    it
}

/// Numbers far out on both sides.
pub fn extreme() -> Explanation {
    let mut it = plain();
    for (a, share) in
        it.attributions.iter_mut().zip([812.3, -790.0, 120.0, -64.5, 3.0, -2.0, 0.004, -0.004, 0.0])
    {
        a.contribution = share;
    }
    it.attributions[0].value = Some(-1.8e12);
    it.attributions[1].value = Some(2.4e-9);
    it.base = -1_234.5;
    it.score.margin = Some(-1_155.6);
    it.score.probability = Some(0.999_99);
    it
}

/// One bar.
pub fn single() -> Explanation {
    let mut it = plain();
    it.attributions.truncate(1);
    it
}

/// Every share speaks against a defect.
pub fn against() -> Explanation {
    let mut it = plain();
    it.attributions.truncate(5);
    for a in &mut it.attributions {
        a.contribution = -a.contribution.abs();
    }
    it
}

/// Nothing was measured and nothing is known of the die.
pub fn bare() -> Explanation {
    let mut it = plain();
    for a in &mut it.attributions {
        a.value = None;
        a.usual = None;
        a.contribution = 0.0;
    }
    it.score.margin = None;
    it.score.probability = None;
    it.summary = words("이력이 없는 금형", "A die without a history");
    it
}

/// No bars at all.
pub fn empty() -> Explanation {
    let mut it = plain();
    it.attributions.clear();
    it
}

/// All of them by name.
pub fn all() -> Vec<(&'static str, Explanation)> {
    vec![
        ("plain", plain()),
        ("long", long()),
        ("extreme", extreme()),
        ("single", single()),
        ("against", against()),
        ("bare", bare()),
        ("empty", empty()),
    ]
}
