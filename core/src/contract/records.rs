use jiff::{Timestamp, tz::Offset};

use crate::payload::{Alert, Attribution, Explanation, Score, Usual, Words};
use crate::ports::{Claim, Kept, PortError, RecordQuery, Records, Stored, Told};
use crate::shot::{Readings, Shot};
use crate::time::EndedAt;
use crate::verdict::Verdict;

/// [`Records`] over a fresh store: one record a shot, lists without holes, claims that last.
pub async fn records<R: Records>(records: &R) {
    keeps_the_first_record(records).await;
    keeps_the_first_alert(records).await;
    lists_newest_first(records).await;
    lists_what_is_asked_for(records).await;
    refuses_what_is_no_question(records).await;
    pages_while_writes_go_on(records).await;
    pages_of_the_plant_while_writes_go_on(records).await;
    pages_of_the_pending_while_they_are_told(records).await;
    claims_once(records).await;
}

/// A second in 2026, from which times of records count.
const BEGIN: i64 = 1_768_435_200;
/// No list of this suite has more pages.
const MANY: i64 = 2000;

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGIN + seconds).expect("a time")
}

/// A record of a shot that ended `seconds` after a day in 2026.
fn record(machine: &str, die: &str, seconds: i64, cycle: u64) -> Explanation {
    let words = |text: &str| Words { ko: format!("한국어 {text}"), en: text.to_owned() };
    let ended_at = EndedAt::new(time(seconds), Offset::constant(9)).expect("a time in range");
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

/// What supervisors were told of a record.
fn alert(record: &Explanation, channel: &str) -> Alert {
    let score = &record.score;
    Alert {
        id: format!("alert:{}", score.shot),
        shot: score.shot.clone(),
        machine: score.machine.clone(),
        die: score.die.clone(),
        cycle: score.cycle,
        ended_at: score.ended_at,
        probability: score.probability,
        cause: record.cause.clone(),
        title: record.summary.clone(),
        body: record.advice.clone(),
        chart: record.chart.clone(),
        channels: vec![channel.to_owned()],
    }
}

async fn put<R: Records>(records: &R, record: &Explanation) -> Stored {
    records.put(record).await.expect("put")
}

async fn tell<R: Records>(records: &R, alert: &Alert) {
    records.told(alert).await.expect("told");
}

/// The pages of a list, each of which must keep what pages promise.
struct Pages {
    query: RecordQuery,
    all: Vec<Kept>,
    turn: i64,
}

impl Pages {
    fn of(query: &RecordQuery) -> Self {
        Self { query: query.clone(), all: Vec::new(), turn: 0 }
    }

    /// Takes the next page; `false` when it was the last.
    async fn turn<R: Records>(&mut self, records: &R) -> bool {
        self.turn += 1;
        assert!(self.turn < MANY, "pages must come to an end");
        let page = records.list(&self.query).await.expect("list");
        assert!(page.defects.len() <= self.query.limit, "a page has at most as many as asked for");
        self.all.extend(page.defects);
        self.query.before = page.next;
        self.query.before.is_some()
    }

    fn whole(self) -> Vec<Kept> {
        let times: Vec<_> = self.all.iter().map(|d| d.record.score.ended_at.instant()).collect();
        assert!(times.is_sorted_by(|a, b| a >= b), "newest first over all pages, not {times:?}");
        let mut once: Vec<&str> = self.all.iter().map(|d| d.record.score.shot.as_str()).collect();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), self.all.len(), "no record may be listed twice");
        self.all
    }
}

/// All pages of a list that nothing disturbs.
async fn list<R: Records>(records: &R, query: RecordQuery) -> Vec<Kept> {
    let mut pages = Pages::of(&query);
    while pages.turn(records).await {}
    pages.whole()
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
        list(records, query).await.into_iter().map(|d| d.record).collect::<Vec<_>>()
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

async fn keeps_the_first_alert<R: Records>(records: &R) {
    let one = record("told-1", "8722", 30, 1);
    let query = RecordQuery { machine: Some("told-1".into()), limit: 10, ..RecordQuery::default() };
    let (first, second) = (alert(&one, "file"), alert(&one, "webhook"));
    tell(records, &first).await;
    assert_eq!(put(records, &one).await, Stored::New, "an alert without a record leaves nothing behind");
    let kept = async || list(records, query.clone()).await;
    assert_eq!(kept().await, [Kept { record: one.clone(), alert: None }], "a record begins without an alert");
    tell(records, &first).await;
    tell(records, &second).await;
    tell(records, &first).await;
    let wanted = [Kept { record: one.clone(), alert: Some(first) }];
    assert_eq!(kept().await, wanted, "the first alert stays beside its record, to the last bit");
    assert_eq!(put(records, &one).await, Stored::Already);
    assert_eq!(kept().await, wanted, "a record that is put again keeps its alert");
    assert_eq!(records.get(one.score.shot.as_str()).await.expect("get"), Some(one));
}

async fn lists_what_is_asked_for<R: Records>(records: &R) {
    const DAY: i64 = 86_400;
    let mut all = Vec::new();
    for n in 0..48_i64 {
        let machine = ["asked-1", "asked-2"][(n % 2) as usize];
        let die = ["asked-a", "asked-b", "asked-c"][(n % 3) as usize];
        // Over several days, with gaps, and two in each second.
        let mut one = record(machine, die, 20 * DAY + (n / 2) * DAY / 4 + 11, 1);
        one.cause = ["cast_pressure", "슬리브 온도"][(n % 5 / 3) as usize].into();
        assert_eq!(put(records, &one).await, Stored::New);
        let told = n % 7 < 4;
        if told {
            tell(records, &alert(&one, "file")).await;
        }
        all.push((one, told));
    }
    let bound = time(20 * DAY);
    let turn = all[24].0.score.ended_at.instant();
    let some = |text: &str| Some(text.to_owned());
    let base = RecordQuery { from: Some(bound), limit: 7, ..RecordQuery::default() };
    let machines = [None, some("asked-1")];
    let dies = [None, some("asked-b")];
    let causes = [None, some("슬리브 온도"), some("nothing")];
    let states = [None, Some(Told::Pending), Some(Told::Told)];
    let ranges = [(None, None), (Some(turn), None), (None, Some(turn))];
    for machine in &machines {
        for die in &dies {
            for cause in &causes {
                for told in states {
                    for (from, to) in ranges {
                        let query = RecordQuery {
                            machine: machine.clone(),
                            die: die.clone(),
                            cause: cause.clone(),
                            told,
                            from: from.or(base.from),
                            to,
                            ..base.clone()
                        };
                        let fits = |(one, was_told): &&(Explanation, bool)| {
                            let at = one.score.ended_at.instant();
                            machine.as_ref().is_none_or(|m| *m == one.score.machine)
                                && die.as_ref().is_none_or(|d| *d == one.score.die)
                                && cause.as_ref().is_none_or(|c| *c == one.cause)
                                && told.is_none_or(|t| (t == Told::Told) == *was_told)
                                && from.is_none_or(|from| at >= from)
                                && to.is_none_or(|to| at < to)
                        };
                        let mut wanted: Vec<&str> =
                            all.iter().filter(fits).map(|(one, _)| one.score.shot.as_str()).collect();
                        let got = list(records, query.clone()).await;
                        let mut got: Vec<&str> = got.iter().map(|d| d.record.score.shot.as_str()).collect();
                        wanted.sort_unstable();
                        got.sort_unstable();
                        assert_eq!(got, wanted, "what fits is listed, and nothing else: {query:?}");
                    }
                }
            }
        }
    }
}

async fn refuses_what_is_no_question<R: Records>(records: &R) {
    let good = RecordQuery { limit: 10, ..RecordQuery::default() };
    let cursor = |text: &str| RecordQuery { before: Some(text.to_owned()), ..good.clone() };
    let wrong = [
        RecordQuery { limit: 0, ..good.clone() },
        RecordQuery { limit: 1001, ..good.clone() },
        cursor(""),
        cursor("yesterday"),
        cursor("주조기"),
        cursor("' OR 1=1 --"),
        cursor("99999999999999999999999999/x"),
    ];
    for query in wrong {
        let answer = records.list(&query).await;
        assert!(matches!(answer, Err(PortError::Refused { .. })), "{query:?} must be refused: {answer:?}");
    }
}

/// That all of these were listed, whatever else was.
fn has_all(before: &[String], seen: &[Kept]) {
    let seen: Vec<&str> = seen.iter().map(|d| d.record.score.shot.as_str()).collect();
    let holes: Vec<&String> = before.iter().filter(|shot| !seen.contains(&shot.as_str())).collect();
    assert!(holes.is_empty(), "records that were there must all be listed; missing: {holes:?}");
}

async fn pages_while_writes_go_on<R: Records>(records: &R) {
    let mut before: Vec<String> = Vec::new();
    for n in 0..50 {
        // Ties in time across page borders.
        let one = record("paged", &format!("D{}", n % 5), 1000 + n / 5, 7);
        assert_eq!(put(records, &one).await, Stored::New);
        before.push(one.score.shot.to_string());
    }
    let query = RecordQuery { machine: Some("paged".into()), limit: 7, ..RecordQuery::default() };
    let mut pages = Pages::of(&query);
    while pages.turn(records).await {
        // The line goes on: newer records, and one that came late.
        put(records, &record("paged", "new", 5000 + pages.turn, 8)).await;
        put(records, &record("paged", "late", 1003, 100 + pages.turn as u64)).await;
    }
    has_all(&before, &pages.whole());
}

async fn pages_of_the_plant_while_writes_go_on<R: Records>(records: &R) {
    const DAY: i64 = 86_400;
    let (from, to) = (time(40 * DAY), time(50 * DAY));
    let mut before: Vec<String> = Vec::new();
    for n in 0..60 {
        let one = record(&format!("plant-{}", n % 9), "A", 41 * DAY + n / 4 * DAY / 3, n as u64);
        assert_eq!(put(records, &one).await, Stored::New);
        before.push(one.score.shot.to_string());
    }
    let query = RecordQuery { from: Some(from), to: Some(to), limit: 7, ..RecordQuery::default() };
    let mut pages = Pages::of(&query);
    while pages.turn(records).await {
        put(records, &record("plant-new", "A", 49 * DAY + pages.turn, 1)).await;
        put(records, &record("plant-late", "A", 42 * DAY, pages.turn as u64)).await;
    }
    has_all(&before, &pages.whole());
}

async fn pages_of_the_pending_while_they_are_told<R: Records>(records: &R) {
    let mut all = Vec::new();
    for n in 0..40 {
        let one = record(&format!("pending-{}", n % 3), "pending", 7000 + n / 3, n as u64);
        assert_eq!(put(records, &one).await, Stored::New);
        all.push(one);
    }
    // What is told while the pages go on may be listed or not; the rest must be.
    let (told, rest) = all.split_at(20);
    let query = RecordQuery {
        die: Some("pending".into()),
        told: Some(Told::Pending),
        limit: 4,
        ..RecordQuery::default()
    };
    let mut pages = Pages::of(&query);
    let mut telling = told.chunks(3);
    while pages.turn(records).await {
        for one in telling.next().unwrap_or_default() {
            tell(records, &alert(one, "file")).await;
        }
    }
    let rest: Vec<String> = rest.iter().map(|one| one.score.shot.to_string()).collect();
    let seen = pages.whole();
    has_all(&rest, &seen);
    assert!(seen.iter().all(|d| d.alert.is_none()), "what is pending has no alert");
    for one in &all {
        tell(records, &alert(one, "file")).await;
    }
    assert_eq!(list(records, query).await, [], "what was told is pending no more");
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
