use std::time::Duration;

use super::tests::{file, mistakes, variables};
use super::*;
use crate::kafka::{Compression, GroupProtocol, Sasl};
use crate::s3::Encryption;

const FULL: &str = r#"
stream = "kafka"
records = "dynamodb"
objects = "s3"
[kafka]
brokers = "b-1:9098,b-2:9098"
topic_prefix = "plant1."
group_prefix = "line"
protocol = "consumer"
instance_id = "scorer-1"
compression = "zstd"
linger_ms = 2
batch = 500
session_timeout_ms = 10000
delivery_timeout_ms = 20000
partitions = 24
replication = 2
librdkafka = ["fetch.wait.max.ms=50", "client.rack = eu-1a"]
[kafka.tls]
ca_file = "ca.pem"
[kafka.sasl]
mechanism = "scram-sha-512"
user = "castwatch"
password_file = "password"
[aws]
region = "ap-northeast-2"
[s3]
bucket = "charts"
prefix = "plant1/"
kms_key = "alias/castwatch"
cache_seconds = 60
[dynamodb]
table = "defects"
keep_days = 400
shards = 8
endpoint = "http://127.0.0.1:8000"
[telemetry]
listen = "127.0.0.1:9464"
stall_ms = 5000
otlp_endpoint = "http://127.0.0.1:4318"
otlp_sample = 0.5
"#;

#[test]
fn a_file_names_kafka_s3_and_dynamodb() {
    let (folder, path) = file(FULL);
    std::fs::write(folder.path().join("password"), "hush\n").unwrap();
    let s = Settings::load_from(Some(&path), variables(&[])).unwrap();
    let kinds = (StreamKind::Kafka, RecordsKind::DynamoDb, ObjectsKind::S3);
    assert_eq!((s.stream, s.records, s.objects), kinds);
    let k = &s.kafka;
    assert_eq!((k.brokers.as_str(), k.topic_prefix.as_str()), ("b-1:9098,b-2:9098", "plant1."));
    assert_eq!((k.group_prefix.as_str(), k.instance_id.as_deref()), ("line", Some("scorer-1")));
    assert_eq!((k.protocol, k.compression), (GroupProtocol::Consumer, Compression::Zstd));
    assert_eq!((k.linger, k.batch, k.partitions, k.replication), (Duration::from_millis(2), 500, 24, 2));
    assert_eq!((k.session_timeout.as_secs(), k.delivery_timeout.as_secs()), (10, 20));
    assert_eq!(k.extra[1], ("client.rack".to_owned(), "eu-1a".to_owned()));
    let tls = k.security.tls.as_ref().unwrap();
    assert_eq!(tls.ca_file.as_deref(), Some(folder.path().join("ca.pem").as_path()));
    let Some(Sasl::Scram512 { user, password }) = &k.security.sasl else { panic!("{:?}", k.security) };
    assert_eq!((user.as_str(), password.expose()), ("castwatch", "hush"));
    assert_eq!((s.s3.bucket.as_str(), s.s3.prefix.as_str(), s.s3.cache_seconds), ("charts", "plant1/", 60));
    assert_eq!(s.s3.encryption, Encryption::Kms(Some("alias/castwatch".into())));
    assert_eq!((s.s3.aws.region.as_deref(), s.s3.aws.endpoint.as_deref()), (Some("ap-northeast-2"), None));
    assert_eq!((s.dynamodb.table.as_str(), s.dynamodb.shards), ("defects", 8));
    assert_eq!(s.dynamodb.retention, Some(Duration::from_secs(400 * 86_400)));
    assert_eq!(s.dynamodb.aws.region.as_deref(), Some("ap-northeast-2"));
    assert_eq!(s.dynamodb.aws.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
    assert_eq!(s.telemetry.otlp, Some(Otlp { endpoint: "http://127.0.0.1:4318".into(), sample: 0.5 }));
    assert_eq!(s.telemetry.stall, Duration::from_secs(5));
    assert_eq!(s.runner().save_every, SAVE_IN_S3_EVERY, "each time takes money there");
    let shown = format!("{s:?}");
    assert!(shown.contains("plant1.") && !shown.contains("hush"), "{shown}");
}

#[test]
fn the_environment_alone_names_them_too() {
    let set = variables(&[
        ("CASTWATCH_STREAM", "kafka"),
        ("CASTWATCH_OBJECTS", "s3"),
        ("CASTWATCH_KAFKA_BROKERS", "b:9092"),
        ("CASTWATCH_KAFKA_TLS_ENABLED", "true"),
        ("CASTWATCH_KAFKA_SASL_MECHANISM", "plain"),
        ("CASTWATCH_KAFKA_SASL_USER", "u"),
        ("CASTWATCH_KAFKA_SASL_PASSWORD", "hush"),
        ("CASTWATCH_AWS_REGION", "eu-1"),
        ("CASTWATCH_AWS_SECRET_KEY", "hush"),
        ("CASTWATCH_S3_BUCKET", "b"),
        ("CASTWATCH_S3_ENDPOINT", "http://s3:7070"),
        ("CASTWATCH_S3_PATH_STYLE", "true"),
        ("CASTWATCH_DYNAMODB_ENDPOINT", "http://d:8000"),
        ("CASTWATCH_TELEMETRY_LISTEN", "0.0.0.0:9464"),
        ("CASTWATCH_TELEMETRY_OTLP_ENDPOINT", "http://o:4318"),
        ("CASTWATCH_TELEMETRY_OTLP_SAMPLE", "1"),
        ("CASTWATCH_RUNNER_SAVE_EVERY_MS", "200"),
    ]);
    let s = Settings::load_from(None, set).unwrap();
    assert!(matches!(&s.kafka.security.sasl, Some(Sasl::Plain { user, .. }) if user == "u"));
    assert!(s.kafka.security.tls.is_some() && s.s3.path_style);
    assert_eq!(s.s3.aws.endpoint.as_deref(), Some("http://s3:7070"));
    assert_eq!(s.dynamodb.aws.endpoint.as_deref(), Some("http://d:8000"));
    assert_eq!(s.telemetry.otlp.as_ref().map(|o| o.sample), Some(1.0));
    assert_eq!(s.runner().save_every, Duration::from_millis(200));
    assert!(!format!("{s:?}").contains("hush"));
}

#[test]
fn what_a_choice_needs_is_missed() {
    let set = variables(&[
        ("CASTWATCH_STREAM", "kafka"),
        ("CASTWATCH_RECORDS", "dynamodb"),
        ("CASTWATCH_OBJECTS", "s3"),
        ("CASTWATCH_DYNAMODB_TABLE", ""),
        ("CASTWATCH_DYNAMODB_ENDPOINT", "d:8000"),
        ("CASTWATCH_KAFKA_SASL_MECHANISM", "scram-sha-256"),
        ("CASTWATCH_KAFKA_SASL_USER", "u"),
        ("CASTWATCH_TELEMETRY_OTLP_SAMPLE", "1.5"),
    ]);
    let said = mistakes(Settings::load_from(None, set).unwrap_err());
    let expected = [
        "CASTWATCH_DYNAMODB_ENDPOINT: `dynamodb.endpoint` must be http://... or https://...",
        "CASTWATCH_TELEMETRY_OTLP_SAMPLE: `telemetry.otlp_sample` must be 0 to 1",
        "`kafka.sasl.password` is missing: scram-sha-256 needs it",
        "`kafka.brokers` is missing: stream = \"kafka\" needs it",
        "`s3.bucket` is missing",
        "`dynamodb.table` is missing",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "said {said}\nnot  {expected}");
    }
}
