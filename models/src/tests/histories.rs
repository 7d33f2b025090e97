use castwatch_core::{EndedAt, Readings, Shot};
use jiff::{Timestamp, tz::Offset};
use proptest::prelude::*;

use crate::history::{HistoryError, WARM};
use crate::{Bundle, DieHistory, Features};

const DRAFT: &str = r#"
name = "history"
version = "1"
[features]
of_readings = ["raw", "deviation", "ratio"]
steps = [0.02, 0.2]
shot_gap = true
shots_since_restart = true
[history]
restart_after = 1800
gap_most = 3600
shots_most = 300
max_missing = 1
"#;

fn bundle() -> Bundle {
    let words = "{ ko = \"가\", en = \"a\" }";
    let mut text = DRAFT.to_owned();
    for name in ["pressure", "melt"] {
        text += &format!(
            "[[reading]]\nname = \"{name}\"\nplausible = [0, 1000]\nno_sensor = [999, 0]\nwords = {words}\n\
             equipment = {words}\nadvice_low = {words}\nadvice_high = {words}\n"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bundle.toml"), text).unwrap();
    Bundle::draft(dir.path()).unwrap()
}

fn shot(at: i64, pressure: Option<f64>, melt: Option<f64>) -> Shot {
    Shot {
        machine: "DCM-01".into(),
        die: "1".into(),
        cycle: 1,
        ended_at: EndedAt::new(Timestamp::from_second(1_767_567_600 + at).unwrap(), Offset::constant(9))
            .unwrap(),
        try_shot: false,
        readings: [("pressure", pressure), ("melt", melt)].into_iter().collect::<Readings>(),
    }
}

fn named(bundle: &Bundle, features: &Features, name: &str) -> f32 {
    let at = bundle.features().iter().position(|f| f.name == name);
    features.values[at.unwrap_or_else(|| panic!("{name}"))]
}

#[test]
fn a_set_point_is_learnt_and_an_outlier_is_not() {
    let bundle = bundle();
    let mut die = DieHistory::default();
    let wobble = |i: i64| [-2.0, 1.0, 0.0, 2.0, -1.0][i as usize % 5];
    for i in 0..200 {
        bundle.extract(&shot(i * 60, Some(330.0 + wobble(i)), Some(720.0)), &mut die);
    }
    let usual =
        |die: &DieHistory, at: i64| bundle.extract(&shot(at, None, None), &mut die.clone()).usual[0].unwrap();
    let before = usual(&die, 12_000);
    assert!((before.centre - 330.0).abs() < 0.5 && (0.8..2.0).contains(&before.spread), "{before:?}");
    let low = bundle.extract(&shot(12_000, Some(140.0), Some(720.0)), &mut die);
    assert_eq!(low.usual[0], Some(before), "what is usual is said before the shot");
    assert!((named(&bundle, &low, "pressure.deviation.0.02") + 190.0).abs() < 1.0);
    assert!(named(&bundle, &low, "pressure.ratio.0.02") < -100.0);
    let after = usual(&die, 12_060);
    assert!((after.centre - before.centre).abs() < 0.1, "one outlier of 190 moved the centre: {after:?}");
    // A reading that stood still follows a new set-point too.
    for i in 0..600 {
        bundle.extract(&shot(13_000 + i * 60, Some(330.0), Some(690.0)), &mut die);
    }
    let melt = bundle.extract(&shot(60_000, None, None), &mut die.clone()).usual[1].unwrap();
    assert!((melt.centre - 690.0).abs() < 1.0, "{melt:?}");
}

#[test]
fn the_first_shots_of_a_die_have_no_usual_yet() {
    let bundle = bundle();
    let mut die = DieHistory::default();
    for i in 0..=i64::from(WARM) {
        let f = bundle.extract(&shot(i * 60, Some(100.0 + i as f64), Some(700.0)), &mut die);
        assert_eq!(f.usual[0].is_some(), i == i64::from(WARM));
        assert_eq!(named(&bundle, &f, "pressure.deviation.0.02").is_nan(), i == 0);
        assert_eq!(named(&bundle, &f, "pressure.ratio.0.2").is_nan(), i < i64::from(WARM));
        if i > 0 {
            // The mean of the values before.
            let mean = 100.0 + (i - 1) as f32 / 2.0;
            let off = named(&bundle, &f, "pressure.deviation.0.02");
            assert!((off - (100.0 + i as f32 - mean)).abs() < 1e-3, "{off}");
        }
    }
}

#[test]
fn codes_and_the_implausible_become_missing_and_are_counted() {
    let bundle = bundle();
    let mut die = DieHistory::default();
    let f = bundle.extract(&shot(0, Some(999.0), Some(2000.0)), &mut die);
    assert_eq!((f.missing, f.nulled, f.unknown), (2, 2, 0));
    assert!(f.unscorable.unwrap().contains("2 of 2 readings are missing, more than the 1"));
    assert!(named(&bundle, &bundle.extract(&shot(60, Some(5.0), None), &mut die), "melt").is_nan());
    let mut odd = shot(120, Some(5.0), Some(0.0));
    odd.readings = [("spare", Some(1.0)), ("melt", Some(0.0)), ("pressure", Some(5.0)), ("more", None)]
        .into_iter()
        .collect();
    let f = bundle.extract(&odd, &mut die);
    assert_eq!((f.missing, f.nulled, f.unknown, f.unscorable), (1, 1, 2, None));
    assert_eq!(f.values[0], 5.0, "readings are found by name");
    let untouched = bundle.extract(&shot(180, None, None), &mut die);
    assert_eq!((untouched.missing, untouched.nulled), (2, 0));
}

#[test]
fn gaps_and_restarts_follow_the_clock_even_backwards() {
    let bundle = bundle();
    let mut die = DieHistory::default();
    let mut step = |at: i64| {
        let f = bundle.extract(&shot(at, Some(1.0), Some(1.0)), &mut die);
        (named(&bundle, &f, "shot_gap"), named(&bundle, &f, "shots_since_restart"))
    };
    let (gap, since) = step(0);
    assert!(gap.is_nan() && since == 0.0);
    assert_eq!(step(60), (60.0, 1.0));
    assert_eq!(step(1860), (1800.0, 2.0), "a pause as long as the setting is none");
    assert_eq!(step(3661), (1801.0, 0.0), "a longer one is a restart");
    assert_eq!(step(3600), (0.0, 1.0), "a clock that steps back gives no gap");
    assert_eq!(step(3660), (60.0, 2.0), "and time goes on from there");
    assert_eq!(step(1_000_000), (3600.0, 0.0), "a long gap counts as the longest");
    for i in 1..400 {
        let (_, since) = step(1_000_000 + i);
        assert_eq!(since, (i as f32).min(300.0));
    }
}

#[test]
fn a_history_of_another_bundle_starts_afresh() {
    let mut die = DieHistory::default();
    let ours = bundle();
    for i in 0..20 {
        ours.extract(&shot(i * 60, Some(5.0), Some(5.0)), &mut die);
    }
    let dir = super::tiny::Tiny::plain().write();
    let other = Bundle::draft(dir.path()).unwrap();
    let f = other.extract(&shot(2000, Some(5.0), None), &mut die);
    assert_eq!(f.usual, [None; 3]);
    let mut fresh = DieHistory::default();
    other.extract(&shot(2000, Some(5.0), None), &mut fresh);
    assert_eq!(die, fresh);
}

#[test]
fn damaged_histories_are_refused() {
    let bundle = bundle();
    let mut die = DieHistory::default();
    for i in 0..7 {
        bundle.extract(&shot(i, Some(5.0), None), &mut die);
    }
    let bytes = die.to_bytes();
    assert!(bytes.len() < 70, "{}", bytes.len());
    assert_eq!(DieHistory::from_bytes(&[2]), Err(HistoryError::Version(2)));
    for n in 0..bytes.len() {
        assert!(DieHistory::from_bytes(&bytes[..n]).is_err(), "{n}");
    }
    assert!(DieHistory::from_bytes(&[bytes.clone(), vec![0]].concat()).is_err());
    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(
        DieHistory::from_bytes(&nan),
        Err(HistoryError::Damaged("a centre or spread is not a number that can be"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_snapshot_anywhere_changes_nothing(
        values in prop::collection::vec((0_i64..4000, prop::option::of(0.0_f64..1100.0)), 1..60),
        cut in 0_usize..60,
    ) {
        let bundle = bundle();
        let (mut whole, mut cut_die) = (DieHistory::default(), DieHistory::default());
        for (i, (at, value)) in values.iter().enumerate() {
            if i == cut {
                cut_die = DieHistory::from_bytes(&cut_die.to_bytes()).unwrap();
                prop_assert_eq!(&cut_die, &whole);
            }
            let shot = shot(*at, *value, value.map(|v| v / 2.0));
            let (a, b) = (bundle.extract(&shot, &mut whole), bundle.extract(&shot, &mut cut_die));
            let bits = |f: &Features| f.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&a), bits(&b));
            for u in a.usual.iter().flatten() {
                prop_assert!(u.centre.is_finite() && u.spread >= 0.0);
            }
        }
        prop_assert_eq!(whole.to_bytes(), cut_die.to_bytes());
    }

    #[test]
    fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(history) = DieHistory::from_bytes(&bytes) {
            prop_assert_eq!(history.to_bytes(), bytes);
        }
    }
}
