use std::collections::{HashMap, HashSet};

use super::*;

fn shots(settings: SimSettings, n: usize) -> Vec<(Shot, Option<Cause>)> {
    Simulator::new(settings)
        .filter_map(|m| m.shot().map(|(shot, cause)| (shot.clone(), cause)))
        .take(n)
        .collect()
}

fn rate(of: impl Iterator<Item = bool>) -> f64 {
    let (mut n, mut hits) = (0.0, 0.0);
    for hit in of {
        n += 1.0;
        hits += f64::from(u8::from(hit));
    }
    hits / n
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let settings = SimSettings { broken: 0.01, ..SimSettings::default() };
    let digest = |settings| {
        use sha2::Digest;
        let mut digest = sha2::Sha256::new();
        for m in Simulator::new(settings).take(5_000) {
            digest.update(&m.wire);
            digest.update(m.sent_at.to_string());
        }
        castwatch_core::event::hex(&digest.finalize())
    };
    assert_eq!(digest(settings), digest(settings));
    assert_ne!(digest(settings), digest(SimSettings { seed: 2, ..settings }));
}

#[test]
fn a_machine_more_changes_nothing_at_the_others() {
    let of_first = |machines| -> Vec<Bytes> {
        Simulator::new(SimSettings { machines, ..SimSettings::default() })
            .filter(|m| m.machine == "DCM-01")
            .map(|m| m.wire)
            .take(2_000)
            .collect()
    };
    assert_eq!(of_first(1), of_first(3));
}

#[test]
fn every_shot_is_one_and_no_two_are_the_same() {
    let settings = SimSettings { broken: 0.02, ..SimSettings::default() };
    let mut ids = HashSet::new();
    let mut before = Timestamp::MIN;
    let (mut again, mut broken) = (HashMap::new(), HashSet::new());
    let mut sent: HashMap<_, Bytes> = HashMap::new();
    for m in Simulator::new(settings).take(40_000) {
        assert!(m.sent_at >= before, "messages are in the order they are sent");
        before = m.sent_at;
        match m.kind {
            Kind::Shot { shot, .. } => {
                assert_eq!(Shot::from_json(&m.wire).unwrap(), shot);
                assert!(ids.insert(shot.id()), "{} twice", shot.id());
                sent.insert(shot.id(), m.wire);
            }
            Kind::Again(shot) => {
                assert_eq!(sent[&shot.id()], m.wire, "a duplicate is the same bytes");
                *again.entry(shot.id()).or_insert(0) += 1;
            }
            Kind::Broken(what) => {
                assert!(Shot::from_json(&m.wire).is_err(), "{what}: {:?}", m.wire);
                broken.insert(what);
            }
        }
    }
    assert!((60..300).contains(&again.len()), "{}", again.len());
    assert_eq!(broken.len(), 6, "{broken:?}");
}

#[test]
fn defects_come_as_in_a_real_plant() {
    for seed in [1, 7] {
        let all = shots(SimSettings { seed, machines: 4, ..SimSettings::default() }, 120_000);
        let defects = rate(all.iter().map(|(_, c)| c.is_some()));
        assert!((0.039..0.050).contains(&defects), "{defects} of all shots are defects");

        let mut dies: HashMap<_, Vec<(&Shot, Option<Cause>)>> = HashMap::new();
        for (shot, cause) in &all {
            dies.entry((shot.machine.as_str(), shot.die.as_str())).or_default().push((shot, *cause));
        }
        let pairs = || dies.values().flat_map(|d| d.windows(2));
        let after = rate(pairs().filter(|p| p[0].1.is_some()).map(|p| p[1].1.is_some()));
        assert!((0.55..0.68).contains(&after), "{after} after a defect");
        let quiet = rate(pairs().filter(|p| p[0].1.is_none()).map(|p| p[1].1.is_some()));
        assert!((0.012..0.024).contains(&quiet), "{quiet} after a good shot");

        let (mut first, mut second_five) = (Vec::new(), Vec::new());
        for die in dies.values() {
            let mut since = 1_000;
            for p in die.windows(2) {
                let gap = p[1].0.ended_at.seconds() - p[0].0.ended_at.seconds();
                since = if gap > 1_900.0 { 1 } else { since + 1 };
                match since {
                    1..=5 => first.push(p[1].1.is_some()),
                    6..=10 => second_five.push(p[1].1.is_some()),
                    _ => {}
                }
            }
        }
        let (first, second_five) = (rate(first.into_iter()), rate(second_five.into_iter()));
        assert!(first > 0.82, "{first} of the first five shots of a run are defects");
        assert!((0.08..0.35).contains(&second_five), "{second_five} of the next five");

        let tries = all.iter().filter(|(s, _)| s.try_shot);
        assert!(tries.clone().all(|(_, c)| *c == Some(Cause::WarmUp)), "try shots are warm-up defects");
        let tries =
            tries.count() as f64 / all.iter().filter(|(_, c)| *c == Some(Cause::WarmUp)).count() as f64;
        assert!((0.3..0.7).contains(&tries), "{tries} of the warm-up defects are signalled");

        let seen: HashSet<Cause> = all.iter().filter_map(|(_, c)| *c).collect();
        assert_eq!(seen.len(), Cause::ALL.len(), "{seen:?}");
    }
}

#[test]
fn streams_misbehave_as_real_ones_do() {
    let all = shots(SimSettings { machines: 2, ..SimSettings::default() }, 80_000);
    let first: Vec<&Shot> = all.iter().map(|(s, _)| s).filter(|s| s.machine == "DCM-01").collect();

    let mut gaps: Vec<f64> =
        first.windows(2).map(|p| p[1].ended_at.seconds() - p[0].ended_at.seconds()).collect();
    assert!(gaps.iter().any(|g| *g < 0.0), "the clock is set back");
    gaps.sort_by(f64::total_cmp);
    let median = gaps[gaps.len() / 2];
    assert!((50.0..80.0).contains(&median), "{median} s from row to row of a line");

    let dies: HashSet<&str> = first.iter().map(|s| s.die.as_str()).collect();
    assert!(dies.len() > 5, "new dies come: {dies:?}");
    assert!(
        first.windows(2).any(|p| p[0].die == p[1].die && p[1].cycle == 1 && p[0].cycle > 1),
        "counts begin again"
    );

    let has = |name: &str, value: f64| first.iter().any(|s| s.readings.get(name) == Some(Some(value)));
    assert!(
        has("molten_temp", 0.0) && has("physical_strength", 65_535.0) && has("low_section_speed", 65_535.0)
    );
    assert!(READINGS.iter().filter(|r| r.contains("mold_temp")).any(|r| has(r, 1_449.0)), "not connected");
    let volumes: HashMap<&str, HashSet<bool>> = first.iter().fold(HashMap::new(), |mut m, s| {
        m.entry(s.die.as_str()).or_default().insert(s.readings.get("molten_volume") == Some(None));
        m
    });
    assert!(volumes.values().all(|v| v.len() == 1), "molten_volume is there for a die or never");
    assert!(volumes.values().any(|v| v.contains(&true)));

    let sleeve = |part: &[&Shot]| {
        let mut v: Vec<f64> = part.iter().filter_map(|s| s.readings.get("sleeve_temperature")?).collect();
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    };
    let (early, later) = (sleeve(&first[..4_000]), sleeve(&first[16_000..20_000]));
    assert!(early - later > 15.0, "the sleeve cools over weeks: {early} to {later}");
}

#[test]
fn a_table_is_the_shot_with_its_label() {
    let mut out = Vec::new();
    let totals = write_table(Simulator::new(SimSettings::default()), 3_000, &mut out).unwrap();
    let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
    assert_eq!((totals.shots, lines.len()), (3_000, 3_000));
    let mut defects = 0;
    for line in lines {
        Shot::from_json(line.as_bytes()).unwrap();
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["defect"], !row["cause"].is_null());
        defects += u64::from(row["defect"] == true);
    }
    assert_eq!(defects, totals.defects);
}
