use jiff::{Timestamp, tz::Offset};

use crate::payload::{Attribution, Explanation, Score, Usual, Words};
use crate::ports::{Claim, RecordQuery, Records, Stored};
use crate::shot::{Readings, Shot};
use crate::time::EndedAt;
use crate::verdict::Verdict;

/// [`Records`] over a fresh store: one record a shot, lists without holes, claims that last.
pub async fn records<R: Records>(records: &R) {
    keeps_the_first_record(records).await;
    lists_newest_first(records).await;
    pages_while_writes_go_on(records).await;
    claims_once(records).await;
}

/// A record of a shot that ended `seconds` after a day in 2026.
fn record(machine: &str, die: &str, seconds: i64, cycle: u64) -> Explanation {
    let words = |text: &str| Words { ko: format!("한국어 {text}"), en: text.to_owned() };
    let instant = Timestamp::from_second(1_768_435_200 + seconds).expect("a time");
    let ended_at = EndedAt::new(instant, Offset::constant(9)).expect("a time in range");
    let shot = Shot {
        machine: machine.into(),
        die: die.into(),
        cycle,
        ended_at,
        try_shot: cycle == 1,
        readings: Readings::new(),
    };
    Explanation {
        score: Score {
            shot: shot.id(),
            machine: shot.machine,
            die: shot.die,
            cycle,
            ended_at,
            try_shot: shot.try_shot,
            verdict: Verdict::Defect,
            probability: Some(0.1 + 0.2),
            margin: Some(-1.0 / 3.0),
            anomaly: None,
            missing: 2,
            reason: None,
            bundle: "sha256:0".into(),
        },
        base: -3.5,
        attributions: vec![Attribution {
            reading: "cast_pressure".into(),
            name: words("cast pressure"),
            unit: "bar".into(),
            value: Some(331.0),
            usual: Some(Usual { centre: 325.5, spread: 1e-9 }),
            contribution: std::f64::consts::PI,
        }],
        cause: "cast_pressure".into(),
        summary: words("pressure is \"high\""),
        equipment: words("intensifier"),
        advice: words("look at it"),
        chart: Some("charts/주조기.png".into()),
    }
}

async fn put<R: Records>(records: &R, record: &Explanation) -> Stored {
    records.put(record).await.expect("put")
}

fn shots(records: &[Explanation]) -> Vec<&str> {
    records.iter().map(|r| r.score.shot.as_str()).collect()
}

async fn keeps_the_first_record<R: Records>(records: &R) {
    let first = record("주조기 1", "8722", 10, 1);
    let shot = first.score.shot.as_str();
    assert_eq!(records.get(shot).await.expect("get"), None, "a shot begins without a record");
    assert_eq!(put(records, &first).await, Stored::New);
    assert_eq!(
        records.get(shot).await.expect("get").as_ref(),
        Some(&first),
        "a record is kept to the last bit"
    );
    let other = Explanation { cause: "biscuit_thickness".into(), chart: None, ..first.clone() };
    assert_eq!(put(records, &other).await, Stored::Already, "one record a shot");
    assert_eq!(put(records, &first).await, Stored::Already);
    assert_eq!(records.get(shot).await.expect("get"), Some(first), "the first record stays as it was");

    let raced = record("DCM-race", "8722", 20, 2);
    let one = || put(records, &raced);
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    let new = [a, b, c, d].into_iter().filter(|s| *s == Stored::New).count();
    assert_eq!(new, 1, "of those who put one record at once exactly one is new");
}

async fn lists_newest_first<R: Records>(records: &R) {
    let mut all = Vec::new();
    // Several machines end shots in the same second, some of them with the same count.
    for (machine, die) in [("list-1", "A"), ("list-1", "B"), ("list-2", "A"), ("list-2", "C")] {
        for n in [1_u32, 0, 2, 0, 1] {
            let one = record(machine, die, 100 + i64::from(n), u64::from(n));
            if put(records, &one).await == Stored::New {
                all.push(one);
            }
        }
    }
    assert_eq!(all.len(), 12, "machine, die, time and cycle make a shot");
    let list = async |machine: Option<&str>, die: Option<&str>| {
        let query = RecordQuery {
            machine: machine.map(Into::into),
            die: die.map(Into::into),
            limit: 1000,
            ..RecordQuery::default()
        };
        let page = records.list(&query).await.expect("list");
        assert_eq!(page.next, None, "there is no page after the last");
        let times: Vec<_> = page.defects.iter().map(|d| d.record.score.ended_at.instant()).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "newest first, not {times:?}");
        page.defects.into_iter().map(|d| d.record).collect::<Vec<_>>()
    };
    let check = |got: &[Explanation], wanted: &dyn Fn(&Explanation) -> bool, what: &str| {
        let mut got = shots(got);
        let mut expected: Vec<&str> =
            all.iter().filter(|r| wanted(r)).map(|r| r.score.shot.as_str()).collect();
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected, "{what}");
    };
    let machine = list(Some("list-1"), None).await;
    check(&machine, &|r| r.score.machine == "list-1", "records of one machine");
    assert!(machine.iter().all(|r| all.contains(r)), "a list gives whole records");
    check(&list(None, Some("C")).await, &|r| r.score.die == "C", "records of one die");
    let both = list(Some("list-2"), Some("A")).await;
    check(&both, &|r| r.score.machine == "list-2" && r.score.die == "A", "records of one die in one machine");
    assert!(list(Some("nobody"), None).await.is_empty(), "a machine without records has none");
    let everything = list(None, None).await;
    assert!(all.iter().all(|r| everything.contains(r)), "without a filter all are listed");
}

async fn pages_while_writes_go_on<R: Records>(records: &R) {
    let mut before: Vec<String> = Vec::new();
    for n in 0..50 {
        // Ties in time across page borders.
        let one = record("paged", &format!("D{}", n % 5), 1000 + n / 5, 7);
        assert_eq!(put(records, &one).await, Stored::New);
        before.push(one.score.shot.to_string());
    }
    let mut query = RecordQuery { machine: Some("paged".into()), limit: 7, ..RecordQuery::default() };
    let mut seen: Vec<String> = Vec::new();
    for turn in 0.. {
        assert!(turn < 100, "pages must come to an end");
        let page = records.list(&query).await.expect("list");
        assert!(page.defects.len() <= 7, "a page has at most as many as asked for");
        seen.extend(page.defects.iter().map(|d| d.record.score.shot.to_string()));
        // The line goes on: newer records, and one that came late.
        put(records, &record("paged", "new", 5000 + turn, 8)).await;
        put(records, &record("paged", "late", 1003, 100 + turn as u64)).await;
        query.before = page.next;
        if query.before.is_none() {
            break;
        }
    }
    let mut once = seen.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "no record may be listed twice");
    let holes: Vec<&String> = before.iter().filter(|shot| !seen.contains(shot)).collect();
    assert!(holes.is_empty(), "records that were there must all be listed; missing: {holes:?}");
}

async fn claims_once<R: Records>(records: &R) {
    let claim = async |id: &str| records.claim(id).await.expect("claim");
    let settle = async |id: &str| records.settle(id).await.expect("settle");
    assert_eq!(claim("alert:주조기~1").await, Claim::Fresh, "nobody began it");
    assert_eq!(claim("alert:주조기~1").await, Claim::Begun, "begun is not done");
    assert_eq!(claim("alert:주조기~1").await, Claim::Begun, "however often it is begun");
    settle("alert:주조기~1").await;
    assert_eq!(claim("alert:주조기~1").await, Claim::Settled);
    settle("alert:주조기~1").await;
    assert_eq!(claim("alert:주조기~1").await, Claim::Settled, "settling twice is settling once");
    assert_eq!(claim("alert:주조기~2").await, Claim::Fresh, "another id is another claim");
    settle("alert:주조기~3").await;
    assert_eq!(
        claim("alert:주조기~3").await,
        Claim::Settled,
        "what took place is settled, begun here or not"
    );

    let one = || claim("alert:race");
    let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
    let all = [a, b, c, d];
    assert_eq!(
        all.iter().filter(|c| **c == Claim::Fresh).count(),
        1,
        "exactly one of many begins it: {all:?}"
    );
    assert_eq!(all.iter().filter(|c| **c == Claim::Begun).count(), 3, "the others see it begun: {all:?}");
}
