//! Tables and records for tests on DynamoDB Local.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use castwatch_core::payload::{Alert, Explanation};
use castwatch_platform::aws::{AwsSettings, sdk_config};
use castwatch_platform::config::Secret;
use castwatch_platform::dynamodb::{DynamoDb, DynamoSettings};

/// The address of DynamoDB Local; where there is none, that is said and the test has nothing to do.
pub fn endpoint() -> Option<String> {
    let endpoint = std::env::var("CASTWATCH_TEST_DYNAMODB").ok().filter(|e| !e.is_empty());
    if endpoint.is_none() {
        println!("skipped: no CASTWATCH_TEST_DYNAMODB; tests/run brings one up");
    }
    endpoint
}

/// Settings for a table that no other test has.
pub fn settings(endpoint: &str) -> DynamoSettings {
    static TABLES: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let table = format!("test-{now}-{}", TABLES.fetch_add(1, Ordering::Relaxed));
    DynamoSettings { aws: reached(endpoint), table, ..DynamoSettings::default() }
}

pub fn reached(endpoint: &str) -> AwsSettings {
    AwsSettings {
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint.to_owned()),
        access_key: Some("castwatch".into()),
        secret_key: Some(Secret::new("castwatch".into())),
    }
}

/// A client of its own, to look at what lies in the table.
pub async fn client(endpoint: &str) -> Client {
    Client::new(&sdk_config(&reached(endpoint)).await)
}

/// A table with what it needs, and nothing in it.
pub async fn table(settings: &DynamoSettings) -> DynamoDb {
    let db = DynamoDb::open(settings.clone()).await;
    db.create_table().await.unwrap();
    db
}

/// Takes a test's table away: the service may serve for long.
pub async fn drop_table(settings: &DynamoSettings) {
    let endpoint = settings.aws.endpoint.as_deref().unwrap();
    client(endpoint).await.delete_table().table_name(&settings.table).send().await.unwrap();
}

/// The record of a shot.
pub fn record(machine: &str, die: &str, ended_at: &str, cycle: u64, cause: &str) -> Explanation {
    let words = |text: &str| serde_json::json!({"ko": format!("한국어 {text}"), "en": text});
    let json = serde_json::json!({
        "shot": format!("{machine}~{die}~{ended_at}~{cycle}"), "machine": machine, "die": die, "cycle": cycle,
        "ended_at": ended_at, "try_shot": false, "verdict": "defect", "probability": 0.9123456789, "margin": 2.0,
        "anomaly": null, "missing": 0, "bundle": "sha256:0", "base": 0.0, "attributions": [], "cause": cause,
        "summary": words("what is wrong"), "equipment": words("where"), "advice": words("what to do"),
        "chart": format!("charts/{machine}/{cycle}.png"),
    });
    serde_json::from_value(json).unwrap()
}

/// What was told of it.
pub fn alert(record: &Explanation) -> Alert {
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
        channels: vec!["file".to_owned()],
    }
}
