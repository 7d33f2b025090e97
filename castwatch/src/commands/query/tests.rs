#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use castwatch_core::PortError;
use castwatch_core::payload::{Alert, Explanation};
use castwatch_core::ports::Told;
use castwatch_platform::Embedded;
use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::cli::{Cli, Command, Language};

const PLANT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/plants/casting_process.toml");

fn record(n: u64) -> Explanation {
    let words =
        json!({"ko": format!("주조 압력이 높음, \"{n}\""), "en": format!("pressure is high, \"{n}\"")});
    let machine = ["주조기-1", "DCM-02"][n as usize % 2];
    let name = json!({"ko": "주조 압력", "en": "Cast pressure"});
    serde_json::from_value(json!({
        "shot": format!("{machine}~8722~{n}"), "machine": machine, "die": "8722", "cycle": n,
        "ended_at": format!("2026-01-15T{:02}:{:02}:00+09:00", 6 + n / 60, n % 60), "try_shot": false,
        "verdict": "defect", "probability": 0.9, "margin": 2.0, "anomaly": null, "missing": 0, "bundle": "sha256:0",
        "base": 0.0, "cause": "cast_pressure", "summary": words, "equipment": words, "advice": words,
        "attributions": [{"reading": "cast_pressure", "name": name, "unit": "bar", "value": 1.0, "usual": null,
            "contribution": 2.0}],
        "chart": format!("charts/{n}.png"),
    }))
    .unwrap()
}

fn alert(of: &Explanation) -> Alert {
    serde_json::from_value(json!({
        "id": format!("alert:{}", of.score.shot), "shot": of.score.shot, "machine": of.score.machine, "die": "8722",
        "cycle": of.score.cycle, "ended_at": of.score.ended_at, "probability": 0.9, "cause": of.cause,
        "title": {"ko": "불량", "en": "Defect"}, "body": of.advice, "chart": of.chart, "channels": ["mes", "file"],
    }))
    .unwrap()
}

/// Objects that have addresses, or have none.
struct Charts(bool);

impl Objects for Charts {
    async fn put(&self, _: &str, _: &str, _: Bytes) -> Result<(), PortError> {
        Ok(())
    }

    async fn get(&self, _: &str) -> Result<Option<Bytes>, PortError> {
        Ok(None)
    }

    async fn link(&self, key: &str, valid: Duration) -> Result<Option<String>, PortError> {
        Ok(self.0.then(|| format!("https://charts.example/{key}?for={}", valid.as_secs())))
    }
}

fn asked(line: &str) -> (What, QueryArgs) {
    let words = ["castwatch", "query"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Query(Query::Defects(args)) => (What::Defects, args),
        Command::Query(Query::Alerts(args)) => (What::Alerts, args),
        other => panic!("{other:?}"),
    }
}

fn planned(line: &str) -> Plan {
    let (what, args) = asked(line);
    plan(what, &args).unwrap()
}

/// What a command prints over 250 defects, of which the first 100 were told.
async fn printed(line: &str, form: Form, charts: Charts) -> (String, Listed) {
    let folder = tempfile::tempdir().unwrap();
    let records = Embedded::open(folder.path()).unwrap();
    let all: Vec<Explanation> = (0..250).map(record).collect();
    let puts: Vec<_> = all
        .iter()
        .cloned()
        .map(|one| {
            let records = records.clone();
            tokio::spawn(async move {
                records.put(&one).await.unwrap();
                if one.score.cycle < 100 {
                    records.told(&alert(&one)).await.unwrap();
                }
            })
        })
        .collect();
    for put in puts {
        put.await.unwrap();
    }
    let mut screen = Vec::new();
    let listed = list(&records, &charts, &planned(line), form, &mut screen).await.unwrap();
    (String::from_utf8(screen).unwrap(), listed)
}

#[tokio::test]
async fn one_json_document_whatever_its_length() {
    let (text, listed) = printed("defects --all", Form::Json, Charts(false)).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    let cycles: Vec<u64> =
        list["defects"].as_array().unwrap().iter().map(|d| d["cycle"].as_u64().unwrap()).collect();
    assert_eq!(cycles, (0..250).rev().collect::<Vec<_>>());
    assert_eq!((&list["next"], listed.next), (&Value::Null, None));
    let whole: Explanation = serde_json::from_value(list["defects"][0].clone()).unwrap();
    assert_eq!(whole, record(249), "the record whole, to the last bit");
    assert_eq!(list["defects"][0]["told"], false);

    let (text, listed) = printed("defects --limit 120 --machine DCM-02", Form::Json, Charts(false)).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["defects"].as_array().unwrap().len(), 120);
    let next = list["next"].as_str().unwrap();
    assert_eq!(listed.next.as_deref(), Some(next));
    let (text, _) =
        printed(&format!("defects --machine DCM-02 --before {next}"), Form::Json, Charts(false)).await;
    let rest: Value = serde_json::from_str(&text).unwrap();
    let rest: Vec<u64> =
        rest["defects"].as_array().unwrap().iter().map(|d| d["cycle"].as_u64().unwrap()).collect();
    assert_eq!(rest, [9, 7, 5, 3, 1], "the cursor goes on where the list ended");

    let (text, _) = printed("alerts --machine nobody", Form::Json, Charts(false)).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"alerts": [], "next": null}));
    let (text, _) = printed("alerts --limit 1", Form::Json, Charts(true)).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["alerts"][0]["id"], "alert:DCM-02~8722~99", "alerts are what was told");
    assert_eq!(list["alerts"][0]["title"]["en"], "Defect");
    let (text, _) = printed("alerts --pending --limit 1", Form::Json, Charts(true)).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&list["alerts"][0]["cycle"], &list["alerts"][0]["title"]), (&json!(249), &Value::Null));
}

#[tokio::test]
async fn hangul_is_two_columns_wide() {
    let (text, listed) = printed(
        "defects --limit 2 --plant PLANT".replace("PLANT", PLANT).as_str(),
        Form::Table(Language::Ko),
        Charts(false),
    )
    .await;
    let wanted = "\
시각                 기계      금형  사이클   확률  원인       통보  내용
2026-01-15 10:09:00  DCM-02    8722     249  90.0%  주조 압력  대기  주조 압력이 높음, \"249\"
2026-01-15 10:08:00  주조기-1  8722     248  90.0%  주조 압력  대기  주조 압력이 높음, \"248\"
";
    assert_eq!(text, wanted);
    assert!(listed.next.is_some());
    let (text, listed) = printed("alerts --links --limit 1", Form::Table(Language::En), Charts(true)).await;
    assert!(text.contains("mes file  Defect\n    https://charts.example/charts/99.png?for=3600\n"), "{text}");
    assert_eq!(listed.linkless, 0);
    let (_, listed) = printed("alerts --links --limit 7", Form::Table(Language::En), Charts(false)).await;
    assert_eq!(listed.linkless, 7);
    let (text, _) = printed("defects --die nothing", Form::Table(Language::En), Charts(false)).await;
    assert_eq!(text, "nothing fits\n");
}

#[tokio::test]
async fn values_are_quoted() {
    let (text, _) = printed("defects --all --links", Form::Csv, Charts(true)).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 251);
    assert!(lines[0].starts_with("shot,machine,die,cycle,ended_at,probability,cause,told,"), "{}", lines[0]);
    assert!(
        lines[1].starts_with(
            "DCM-02~8722~249,DCM-02,8722,249,2026-01-15T10:09:00+09:00,0.9,cast_pressure,false,"
        )
    );
    assert!(lines[1].contains("\"주조 압력이 높음, \"\"249\"\"\""), "{}", lines[1]);
    assert!(lines[1].ends_with("charts/249.png,https://charts.example/charts/249.png?for=3600"));
    assert!(lines.iter().all(|l| l.replace("\"\"", "").matches('"').count() % 2 == 0));
}

#[test]
fn times_are_those_of_the_plant() {
    let range = |line: &str| {
        let Plan { query, .. } = planned(&format!("defects --plant {PLANT} {line}"));
        let text = |at: Option<jiff::Timestamp>| at.map_or_else(String::new, |at| at.to_string());
        (text(query.from), text(query.to))
    };
    let is = |line: &str, from: &str, to: &str| assert_eq!(range(line), (from.into(), to.into()), "{line}");
    is("--shift Day --date 2026-01-15", "2026-01-14T23:00:00Z", "2026-01-15T11:00:00Z");
    is("--shift 야간 --date 2026-01-15", "2026-01-15T11:00:00Z", "2026-01-15T23:00:00Z");
    is("--date 2026-01-15", "2026-01-14T15:00:00Z", "2026-01-15T15:00:00Z");
    is("--from 2026-01-15 --to 2026-01-16", "2026-01-14T15:00:00Z", "2026-01-16T15:00:00Z");
    is("--from 2026-01-15T16:45", "2026-01-15T07:45:00Z", "");
    is("--to 2026-01-15T16:45:06+01:00", "", "2026-01-15T15:45:06Z");
    is("", "", "");

    let Plan { query, most, .. } =
        planned(&format!("defects --told --plant {PLANT} --cause cast_pressure --all"));
    assert_eq!((query.told, most), (Some(Told::Told), u64::MAX));
    assert_eq!(query.cause.as_deref(), Some("cast_pressure"));
    let plant = Plant::load(PLANT).unwrap();
    for name in ["cast_pressure", "주조 압력", "casting pressure"] {
        assert_eq!(range::reading(&plant, name), "cast_pressure", "{name}");
    }
    let refused = |line: &str| {
        let (what, args) = asked(&format!("defects --plant {PLANT} {line}"));
        format!("{:#}", plan(what, &args).unwrap_err())
    };
    assert!(refused("--shift Evening").contains("has no shift `Evening`; it has 주간 (Day), 야간 (Night)"));
    assert!(refused("--from 2026-01-16 --to 2026-01-14").starts_with("no time lies between"));
    for wrong in [
        "defects --shift Day",
        "defects --date 2026-01-15 --from 2026-01-15",
        "defects --pending --told",
        "defects --limit 0",
        "defects --limit 5 --all",
        "defects --csv --json",
        "defects --from yesterday",
        "alerts now",
    ] {
        let words = ["castwatch", "query"].into_iter().chain(wrong.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
    }
}
