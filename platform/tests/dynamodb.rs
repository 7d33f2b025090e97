//! Records on DynamoDB Local, and on a network that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/dynamodb.rs"]
mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use castwatch_core::ports::{Claim, RecordQuery, Stored, Told};
use castwatch_core::{PortError, Records, contract};
use castwatch_platform::dynamodb::{DynamoDb, DynamoSettings};
use castwatch_platform::embedded::Claims;
use common::{alert, client, drop_table, endpoint, record, settings, table};
use proxy::{Fault, Proxy, Request};

const THROTTLED: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}"#;

/// A port's error with all its causes.
fn said(error: &PortError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn action(request: &Request) -> &str {
    request.header("x-amz-target").and_then(|t| t.rsplit('.').next()).unwrap_or_default()
}

/// Whether a request is this one.
fn is(name: &'static str) -> impl Fn(&Request) -> bool + Send + 'static {
    move |request| action(request) == name
}

/// A table, and the same table behind a proxy.
async fn behind_a_proxy(endpoint: &str) -> (DynamoSettings, Proxy, DynamoDb) {
    let settings = settings(endpoint);
    table(&settings).await;
    let proxy = Proxy::start(endpoint).await;
    let aws = common::reached(&proxy.url);
    let db = DynamoDb::open(DynamoSettings { aws, ..settings.clone() }).await;
    (settings, proxy, db)
}

async fn all(db: &DynamoDb, query: RecordQuery) -> Vec<String> {
    let mut query = RecordQuery { limit: 100, ..query };
    let mut shots = Vec::new();
    loop {
        let page = db.list(&query).await.unwrap();
        shots.extend(page.defects.iter().map(|d| d.record.score.shot.to_string()));
        query.before = page.next;
        if query.before.is_none() {
            return shots;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract() {
    let Some(endpoint) = endpoint() else { return };
    for shards in [16, 1, 3] {
        let settings = DynamoSettings { shards, ..settings(&endpoint) };
        contract::records(&table(&settings).await).await;
        drop_table(&settings).await;
    }
}

#[tokio::test]
async fn a_lost_answer_is_not_somebody_elses_write() {
    let Some(endpoint) = endpoint() else { return };
    let (settings, proxy, db) = behind_a_proxy(&endpoint).await;
    let one = record("DCM-01", "8722", "2026-01-15T07:45:06Z", 1, "cast_pressure");
    proxy.rule(1, is("PutItem"), Fault::DropAnswer);
    assert_eq!(db.put(&one).await.unwrap(), Stored::New, "this call wrote it");
    assert_eq!(proxy.seen().iter().filter(|s| action(&s.request) == "PutItem").count(), 2);
    assert_eq!(db.put(&one).await.unwrap(), Stored::Already, "another call did not");

    proxy.rule(1, is("PutItem"), Fault::DropAnswer);
    assert_eq!(db.claim("alert:1").await.unwrap(), Claim::Fresh);
    assert_eq!(db.claim("alert:1").await.unwrap(), Claim::Begun);
    proxy.rule(1, is("PutItem"), Fault::CutAnswer(20));
    assert_eq!(db.claim("alert:1").await.unwrap(), Claim::Begun, "begun by another call");

    proxy.rule(1, is("UpdateItem"), Fault::DropAnswer);
    db.settle("alert:1").await.unwrap();
    assert_eq!(db.claim("alert:1").await.unwrap(), Claim::Settled);
    proxy.rule(1, is("UpdateItem"), Fault::DropAnswer);
    db.told(&alert(&one)).await.unwrap();
    let page = db.list(&RecordQuery { limit: 1, ..RecordQuery::default() }).await.unwrap();
    assert_eq!(page.defects[0].alert, Some(alert(&one)));
    drop_table(&settings).await;
}

#[tokio::test]
async fn throttling_and_outages_are_waited_for_and_then_said() {
    let Some(endpoint) = endpoint() else { return };
    let (settings, proxy, db) = behind_a_proxy(&endpoint).await;
    let one = record("DCM-01", "8722", "2026-01-15T07:45:06Z", 1, "cast_pressure");
    proxy.rule(2, is("PutItem"), Fault::Answer(400, THROTTLED.into()));
    assert_eq!(db.put(&one).await.unwrap(), Stored::New);
    proxy.rule(2, is("Query"), Fault::Answer(500, r#"{"__type":"InternalServerError"}"#.into()));
    proxy.rule(1, is("BatchGetItem"), Fault::Answer(400, THROTTLED.into()));
    proxy.rule(1, is("GetItem"), Fault::DropRequest);
    assert_eq!(all(&db, RecordQuery::default()).await.len(), 1);
    assert_eq!(db.get(one.score.shot.as_str()).await.unwrap(), Some(one.clone()));

    proxy.rule(1000, |_| true, Fault::Answer(400, THROTTLED.into()));
    let two = record("DCM-01", "8722", "2026-01-15T07:45:07Z", 2, "cast_pressure");
    let error = db.put(&two).await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    assert!(said(&error).contains("slow down"), "{}", said(&error));
    let error = db.list(&RecordQuery { limit: 1, ..RecordQuery::default() }).await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
    proxy.heal();
    assert_eq!(db.put(&two).await.unwrap(), Stored::New, "it goes on by itself");
    drop_table(&settings).await;
}

#[tokio::test]
async fn items_that_were_kept_back_are_asked_for_again() {
    let Some(endpoint) = endpoint() else { return };
    let (settings, proxy, db) = behind_a_proxy(&endpoint).await;
    let one = record("DCM-01", "8722", "2026-01-15T07:45:06Z", 1, "cast_pressure");
    db.put(&one).await.unwrap();
    let key = format!(r#"{{"pk":{{"S":"shot#{}"}},"sk":{{"S":"defect"}}}}"#, one.score.shot);
    let none = format!(
        r#"{{"Responses":{{}},"UnprocessedKeys":{{"{}":{{"Keys":[{key}],"ConsistentRead":true}}}}}}"#,
        settings.table
    );
    proxy.rule(3, is("BatchGetItem"), Fault::Answer(200, none.clone()));
    assert_eq!(all(&db, RecordQuery::default()).await, [one.score.shot.to_string()]);
    assert_eq!(proxy.seen().iter().filter(|s| action(&s.request) == "BatchGetItem").count(), 4);
    proxy.rule(1000, is("BatchGetItem"), Fault::Answer(200, none));
    let error = db.list(&RecordQuery { limit: 1, ..RecordQuery::default() }).await.unwrap_err();
    assert!(said(&error).contains("DynamoDB keeps 1 items back"), "{}", said(&error));
    drop_table(&settings).await;
}

#[tokio::test]
async fn an_item_that_is_too_large_is_refused_before_it_is_sent() {
    let Some(endpoint) = endpoint() else { return };
    let (settings, proxy, db) = behind_a_proxy(&endpoint).await;
    let mut one = record("DCM-01", "8722", "2026-01-15T07:45:06Z", 1, "cast_pressure");
    one.advice.en = "x".repeat(410_000);
    let error = db.put(&one).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
    let bytes: usize = said(&error).split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((410_000..412_000).contains(&bytes), "{}", said(&error));
    assert_eq!(proxy.seen().len(), 0, "nothing was sent");

    // The largest that is taken leaves room for the largest alert.
    one.advice.en = "한".repeat((344_064 - (bytes - 410_000)) / 3);
    assert_eq!(db.put(&one).await.unwrap(), Stored::New);
    let mut told = alert(&one);
    told.body.en = "x".repeat(70_000);
    let error = db.told(&told).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
    told.body = castwatch_core::payload::Words::default();
    let rest = 65_472 - serde_json::to_string(&told).unwrap().len();
    told.body.en = "x".repeat(rest);
    db.told(&told).await.unwrap();
    let page = db.list(&RecordQuery { limit: 1, ..RecordQuery::default() }).await.unwrap();
    assert_eq!(page.defects[0].alert, Some(told));
    proxy.forget();
    let error = db.claim(&"x".repeat(2050)).await.unwrap_err();
    assert_eq!(proxy.seen().len(), 0);
    assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
    let nameless = record("", "8722", "2026-01-15T07:45:06Z", 1, "cast_pressure");
    let error = db.put(&nameless).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "DynamoDB's own refusal: {error:?}");
    drop_table(&settings).await;
}

#[tokio::test]
async fn items_expire_when_a_retention_is_set() {
    let Some(endpoint) = endpoint() else { return };
    let keep = Duration::from_secs(30 * 86_400);
    let settings = DynamoSettings { retention: Some(keep), ..settings(&endpoint) };
    let db = table(&settings).await;
    let one = record("DCM-01", "8722", "2020-01-15T07:45:06Z", 1, "cast_pressure");
    db.put(&one).await.unwrap();
    db.told(&alert(&one)).await.unwrap();
    db.claim("alert:1").await.unwrap();
    db.settle("alert:2").await.unwrap();
    let client = client(&endpoint).await;
    let now = jiff::Timestamp::now().as_second();
    let expires = async |pk: &str, sk: &str| {
        let key = |text: &str| AttributeValue::S(text.to_owned());
        let get = client.get_item().table_name(&settings.table).key("pk", key(pk)).key("sk", key(sk));
        let item = get.send().await.unwrap().item.unwrap();
        item.get("expires").map(|at| at.as_n().unwrap().parse::<i64>().unwrap() - now)
    };
    let about =
        |seconds: Option<i64>| seconds.is_some_and(|s| (30 * 86_400 - 60..=30 * 86_400 + 60).contains(&s));
    assert!(about(expires(&format!("shot#{}", one.score.shot), "defect").await), "by when it was written");
    assert!(about(expires("claim#alert:1", "claim").await));
    assert!(about(expires("claim#alert:2", "claim").await));
    let day = expires("days", "2020-01-15").await.unwrap();
    assert!(day > 36 * 86_400, "a day stays longer than its records");
    assert!(db.check().await.unwrap().ends_with("time to live on"));

    let forever = DynamoDb::open(DynamoSettings { retention: None, ..settings.clone() }).await;
    forever.claim("alert:3").await.unwrap();
    assert_eq!(expires("claim#alert:3", "claim").await, None);
    drop_table(&settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_is_spread_and_its_lists_are_bounded() {
    let Some(endpoint) = endpoint() else { return };
    let (settings, proxy, db) = behind_a_proxy(&endpoint).await;
    let mut written = Vec::new();
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..480_u64 {
        // Three machines, one die, one day: what a key of either would gather.
        let at = format!("2026-01-15T07:{:02}:{:02}Z", n / 60, n % 60);
        let one = record(&format!("DCM-{}", n % 3), "8722", &at, n, "cast_pressure");
        written.push(one.score.shot.to_string());
        let db = db.clone();
        puts.spawn(async move { db.put(&one).await.unwrap() });
        if puts.len() > 16 {
            puts.join_next().await.unwrap().unwrap();
        }
    }
    while puts.join_next().await.is_some() {}
    let days = proxy.seen().iter().filter(|s| action(&s.request) == "UpdateItem").count();
    assert!(days <= 17, "a day is written once a process, not {days} times");

    let client = client(&endpoint).await;
    let mut shards: BTreeMap<String, usize> = BTreeMap::new();
    for item in client.scan().table_name(&settings.table).index_name("by-day").send().await.unwrap().items() {
        *shards.entry(item["day_shard"].as_s().unwrap().clone()).or_default() += 1;
    }
    assert_eq!(shards.len(), 16, "{shards:?}");
    assert!(shards.values().all(|n| (12..=60).contains(n)), "480 over 16: {shards:?}");

    proxy.forget();
    written.sort_by_key(|shot| shot.split('~').nth(2).map(str::to_owned));
    written.reverse();
    let listed = all(&db, RecordQuery::default()).await;
    assert_eq!(listed, written, "merged over the shards, newest first");
    let one = RecordQuery { cause: Some("nothing".into()), limit: 1000, ..RecordQuery::default() };
    proxy.forget();
    assert!(db.list(&one).await.unwrap().defects.is_empty());
    let seen = proxy.seen();
    let count = |name: &str| seen.iter().filter(|s| action(&s.request) == name).count();
    assert!(count("Query") <= 10 * 16 + 1, "{} queries for a page", count("Query"));
    assert_eq!(count("Scan"), 0, "no list scans");
    drop_table(&settings).await;
}

#[tokio::test]
async fn many_days_without_an_answer_are_many_short_pages() {
    let Some(endpoint) = endpoint() else { return };
    let (settings, proxy, db) = behind_a_proxy(&endpoint).await;
    for day in 1..=28 {
        for month in [1, 3] {
            let at = format!("2026-{month:02}-{day:02}T23:59:59.999999999Z");
            let cause = if (month, day) == (1, 2) { "rare" } else { "usual" };
            db.put(&record("DCM-01", "8722", &at, 1, cause)).await.unwrap();
        }
    }
    proxy.forget();
    let query = RecordQuery { cause: Some("rare".into()), limit: 5, ..RecordQuery::default() };
    let page = db.list(&query).await.unwrap();
    let first = proxy.seen().len();
    assert!(first <= 10 * 16 + 2, "{first} requests for a page");
    assert!(page.defects.is_empty() && page.next.is_some(), "it was not reached yet: {page:?}");
    assert_eq!(all(&db, query).await.len(), 1);
    assert_eq!(all(&db, RecordQuery::default()).await.len(), 56);
    let from = Some("2026-01-20T23:59:59.999999999Z".parse().unwrap());
    let to = Some("2026-03-03T00:00:00Z".parse().unwrap());
    assert_eq!(all(&db, RecordQuery { from, to, ..RecordQuery::default() }).await.len(), 9 + 2);
    let turned = RecordQuery { from: to, to: from, ..RecordQuery::default() };
    assert_eq!(all(&db, turned).await.len(), 0, "no time lies in it");
    drop_table(&settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_whole_while_others_write() {
    let Some(endpoint) = endpoint() else { return };
    let settings = settings(&endpoint);
    let db = table(&settings).await;
    let time = |n: u64| format!("2026-01-{:02}T07:{:02}:00Z", 10 + n % 4, n % 60);
    let mut before = Vec::new();
    for n in 0..200 {
        let one = record("DCM-01", "8722", &time(n), n, "cast_pressure");
        db.put(&one).await.unwrap();
        before.push(one);
    }
    let writer = {
        let db = db.clone();
        let told = before.clone();
        tokio::spawn(async move {
            for n in 1000.. {
                let one = record("DCM-02", "8722", &time(n), n, "cast_pressure");
                db.put(&one).await.unwrap();
                db.told(&alert(&told[n as usize % 100])).await.unwrap();
            }
        })
    };
    for (query, told) in [
        (RecordQuery::default(), 0),
        (RecordQuery { told: Some(Told::Pending), ..RecordQuery::default() }, 100),
    ] {
        let mut query = RecordQuery { limit: 9, ..query };
        let mut seen = Vec::new();
        loop {
            let page = db.list(&query).await.unwrap();
            seen.extend(page.defects.into_iter().map(|d| d.record.score.shot));
            query.before = page.next;
            if query.before.is_none() {
                break;
            }
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "no record comes twice");
        assert!(before[told..].iter().all(|one| seen.contains(&one.score.shot)), "none is left out");
    }
    writer.abort();
    let _ = writer.await;
    drop_table(&settings).await;
}

#[tokio::test]
async fn processes_may_disagree_about_shards() {
    let Some(endpoint) = endpoint() else { return };
    let few = DynamoSettings { shards: 2, ..settings(&endpoint) };
    let many = DynamoSettings { shards: 20, ..few.clone() };
    let (few_db, many_db) = (table(&few).await, DynamoDb::open(many).await);
    for n in 0..30 {
        let db = if n % 2 == 0 { &few_db } else { &many_db };
        let one = record("DCM-01", "8722", &format!("2026-01-15T07:45:{n:02}Z"), n, "cast_pressure");
        db.put(&one).await.unwrap();
    }
    let late = DynamoDb::open(few.clone()).await;
    late.put(&record("DCM-01", "8722", "2026-01-15T08:00:00Z", 1, "cast_pressure")).await.unwrap();
    for db in [&few_db, &many_db, &late] {
        assert_eq!(all(db, RecordQuery::default()).await.len(), 31);
    }
    drop_table(&few).await;
}

#[tokio::test]
async fn claims_are_counted() {
    let Some(endpoint) = endpoint() else { return };
    let settings = settings(&endpoint);
    let db = table(&settings).await;
    assert_eq!(db.claims().await.unwrap(), Claims::default());
    for n in 0..30 {
        let one = record("DCM-01", "8722", &format!("2026-01-15T07:45:{n:02}Z"), n, "cast_pressure");
        db.put(&one).await.unwrap();
        db.claim(&format!("alert:{n}")).await.unwrap();
        if n % 3 > 0 {
            db.settle(&format!("alert:{n}")).await.unwrap();
        }
    }
    assert_eq!(db.claims().await.unwrap(), Claims { begun: 10, settled: 20 });
    drop_table(&settings).await;
}

#[tokio::test]
async fn a_table_that_is_missing_or_another_is_named() {
    let Some(endpoint) = endpoint() else { return };
    let settings = settings(&endpoint);
    let db = DynamoDb::open(settings.clone()).await;
    let one = record("DCM-01", "8722", "2026-01-15T07:45:06Z", 1, "cast_pressure");
    let wanted = format!("there is no table `{}`: `castwatch doctor --create` makes it", settings.table);
    for error in [
        db.put(&one).await.unwrap_err(),
        db.told(&alert(&one)).await.unwrap_err(),
        db.get("x").await.unwrap_err(),
        db.claim("x").await.unwrap_err(),
        db.settle("x").await.unwrap_err(),
        db.list(&RecordQuery { limit: 1, ..RecordQuery::default() }).await.unwrap_err(),
        db.claims().await.unwrap_err(),
        db.check().await.unwrap_err(),
    ] {
        assert!(matches!(error, PortError::Unavailable { .. }), "an outage, not bad data: {error:?}");
        assert!(said(&error).contains(&wanted), "{}", said(&error));
    }

    let client = client(&endpoint).await;
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build().unwrap();
    let id = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
    let create = client.create_table().table_name(&settings.table).billing_mode(BillingMode::PayPerRequest);
    create.key_schema(key).attribute_definitions(id.build().unwrap()).send().await.unwrap();
    let retained = DynamoSettings { retention: Some(Duration::from_secs(86_400)), ..settings.clone() };
    let error = DynamoDb::open(retained).await.check().await.unwrap_err();
    for wanted in [
        "its key must be `pk` and `sk`",
        "the index `by-machine` is missing",
        "the index `pending` is missing",
        "is off",
    ] {
        assert!(said(&error).contains(wanted), "{}", said(&error));
    }
    for error in [db.put(&one).await.unwrap_err(), db.claim("x").await.unwrap_err()] {
        assert!(matches!(error, PortError::Unavailable { .. }), "nor is this the record's fault: {error:?}");
    }
    drop_table(&settings).await;

    table(&settings).await;
    db.create_table().await.expect("a table that is there is left as it is");
    let fine = format!("table {}, 4 indexes, about 0 items, time to live on", settings.table);
    assert_eq!(db.check().await.unwrap(), fine);
    drop_table(&settings).await;
}
