//! What the line stands on: Kafka, S3 and DynamoDB, or the embedded default; and what others see
//! of the process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use castwatch_core::spec::Table;

use super::read::{MILLISECONDS, count, set};
use super::{Secret, Settings, channel};
use crate::aws::AwsSettings;
use crate::kafka::{Compression, GroupProtocol, Sasl};
use crate::s3::Encryption;

/// Where events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// One file in the data folder.
    Embedded,
    /// Topics of Apache Kafka.
    Kafka,
}

/// Where records of defects and claims on alerts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordsKind {
    /// The same file.
    Embedded,
    /// One table of Amazon DynamoDB.
    DynamoDb,
}

/// Where charts go, and progress with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectsKind {
    /// The data folder.
    Folder,
    /// A bucket of Amazon S3.
    S3,
}

/// What others may see of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    /// `telemetry.listen`: address of `/metrics`, `/health/live` and `/health/ready`. None.
    pub listen: Option<SocketAddr>,
    /// `telemetry.stall_ms`: so long a partition may stand still with messages waiting before the
    /// process is not ready (1000 to 3600000). 30000.
    pub stall: Duration,
    /// `telemetry.otlp_endpoint` and `telemetry.otlp_sample`: where spans are sent. None.
    pub otlp: Option<Otlp>,
}

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// The collector, such as `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// The share of shots that is traced, 0 to 1. 0.01.
    pub sample: f64,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { listen: None, stall: Duration::from_secs(30), otlp: None }
    }
}

/// The share of shots that is traced where nothing else is set.
const SAMPLE: f64 = 0.01;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mechanism {
    Plain,
    Scram256,
    Scram512,
    MskIam,
}

impl Settings {
    /// Takes over what `root` has of backends; relative paths begin at `base`.
    pub(super) fn read_backends(
        &mut self,
        root: &mut Table<'_>,
        base: &Path,
        environment: &BTreeMap<String, String>,
    ) {
        let streams = [("embedded", StreamKind::Embedded), ("kafka", StreamKind::Kafka)];
        set(&mut self.stream, root.choice("stream", &streams));
        let records = [("embedded", RecordsKind::Embedded), ("dynamodb", RecordsKind::DynamoDb)];
        set(&mut self.records, root.choice("records", &records));
        set(
            &mut self.objects,
            root.choice("objects", &[("folder", ObjectsKind::Folder), ("s3", ObjectsKind::S3)]),
        );
        root.table("kafka", |t| self.read_kafka(t, base, environment));
        root.table("aws", |t| {
            read_aws(t, &mut self.s3.aws);
            let AwsSettings { region, access_key, secret_key, .. } = self.s3.aws.clone();
            let endpoint = self.dynamodb.aws.endpoint.take();
            self.dynamodb.aws = AwsSettings { region, access_key, secret_key, endpoint };
        });
        root.table("s3", |t| {
            set(&mut self.s3.bucket, t.text("bucket"));
            set(&mut self.s3.prefix, t.text("prefix"));
            set(&mut self.s3.path_style, t.flag("path_style"));
            set(&mut self.s3.cache_seconds, count(t, "cache_seconds", 0..=31_536_000).map(|n| n as u32));
            if let Some(endpoint) = endpoint(t) {
                self.s3.aws.endpoint = Some(endpoint);
            }
            let kinds = [("none", Encryption::None), ("s3", Encryption::S3), ("kms", Encryption::Kms(None))];
            if let Some(word) = t.text("encryption") {
                match kinds.iter().find(|(name, _)| *name == word) {
                    Some((_, kind)) => self.s3.encryption = kind.clone(),
                    None => t.report("encryption", "must be none, s3 or kms"),
                }
            }
            if let Some(key) = t.text("kms_key") {
                self.s3.encryption = Encryption::Kms(Some(key));
            }
        });
        root.table("dynamodb", |t| {
            set(&mut self.dynamodb.table, t.text("table"));
            set(&mut self.dynamodb.shards, count(t, "shards", 1..=256).map(|n| n as u32));
            if let Some(days) = count(t, "keep_days", 1..=36_500) {
                self.dynamodb.retention = Some(Duration::from_secs(days * 86_400));
            }
            if let Some(endpoint) = endpoint(t) {
                self.dynamodb.aws.endpoint = Some(endpoint);
            }
        });
        root.table("telemetry", |t| self.read_telemetry(t));
    }

    fn read_kafka(&mut self, t: &mut Table<'_>, base: &Path, environment: &BTreeMap<String, String>) {
        let kafka = &mut self.kafka;
        set(&mut kafka.brokers, t.text("brokers"));
        set(&mut kafka.topic_prefix, t.text("topic_prefix"));
        set(&mut kafka.group_prefix, t.text("group_prefix"));
        let protocols = [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
        set(&mut kafka.protocol, t.choice("protocol", &protocols));
        if let Some(id) = t.text("instance_id") {
            kafka.instance_id = Some(id);
        }
        let codecs = [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];
        set(&mut kafka.compression, t.choice("compression", &codecs));
        set(&mut kafka.linger, count(t, "linger_ms", 0..=1000).map(Duration::from_millis));
        set(&mut kafka.batch, count(t, "batch", 1..=100_000).map(|n| n as usize));
        let session = count(t, "session_timeout_ms", 1000..=1_800_000);
        set(&mut kafka.session_timeout, session.map(Duration::from_millis));
        let delivery = count(t, "delivery_timeout_ms", MILLISECONDS);
        set(&mut kafka.delivery_timeout, delivery.map(Duration::from_millis));
        set(&mut kafka.partitions, count(t, "partitions", 1..=10_000).map(|n| n as u32));
        set(&mut kafka.replication, count(t, "replication", 1..=10).map(|n| n as u16));
        for pair in t.texts("librdkafka").unwrap_or_default() {
            match pair.split_once('=') {
                Some((key, value)) => kafka.extra.push((key.trim().to_owned(), value.trim().to_owned())),
                None => t.report(
                    "librdkafka",
                    format_args!("must be pairs such as \"fetch.wait.max.ms=50\", not `{pair}`"),
                ),
            }
        }
        t.table("tls", |t| {
            let mut tls = kafka.security.tls.take().unwrap_or_default();
            for (key, file) in [
                ("ca_file", &mut tls.ca_file),
                ("cert_file", &mut tls.cert_file),
                ("key_file", &mut tls.key_file),
            ] {
                if let Some(path) = t.text(key) {
                    *file = Some(base.join(path));
                }
            }
            kafka.security.tls = Some(tls).filter(|_| t.flag("enabled").unwrap_or(true));
        });
        t.table("sasl", |t| self.sasl.read(t, base, environment));
    }

    fn read_telemetry(&mut self, t: &mut Table<'_>) {
        if let Some(text) = t.text("listen") {
            match text.parse() {
                Ok(address) => self.telemetry.listen = Some(address),
                Err(_) => t.report("listen", "must be an address and a port, such as 127.0.0.1:9464"),
            }
        }
        set(&mut self.telemetry.stall, count(t, "stall_ms", 1000..=3_600_000).map(Duration::from_millis));
        if let Some(endpoint) = t.text("otlp_endpoint") {
            let sample = self.telemetry.otlp.take().map_or(SAMPLE, |otlp| otlp.sample);
            self.telemetry.otlp = Some(Otlp { endpoint, sample });
        }
        if let Some(share) = t.number("otlp_sample") {
            if !(0.0..=1.0).contains(&share) {
                t.report("otlp_sample", "must be 0 to 1");
            } else if let Some(otlp) = &mut self.telemetry.otlp {
                otlp.sample = share;
            }
        }
    }
}

impl Mechanism {
    const ALL: [Self; 4] = [Self::Plain, Self::Scram256, Self::Scram512, Self::MskIam];

    const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Scram256 => "scram-sha-256",
            Self::Scram512 => "scram-sha-512",
            Self::MskIam => "msk-iam",
        }
    }
}

/// What is said of SASL, until all of it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SaslDraft {
    mechanism: Option<Mechanism>,
    user: Option<String>,
    password: Option<Secret>,
    region: Option<String>,
}

impl SaslDraft {
    fn read(&mut self, t: &mut Table<'_>, base: &Path, environment: &BTreeMap<String, String>) {
        let mechanisms = Mechanism::ALL.map(|mechanism| (mechanism.word(), mechanism));
        self.mechanism = t.choice("mechanism", &mechanisms).or(self.mechanism);
        self.user = t.text("user").or(self.user.take());
        self.region = t.text("region").or(self.region.take());
        self.password = channel::secrets(t, "password", base, environment).pop().or(self.password.take());
    }

    fn finish(&self, mistakes: &mut Vec<String>) -> Option<Sasl> {
        let mechanism = self.mechanism?;
        let mut need = |what: &str, value: &Option<String>| {
            if value.is_none() {
                mistakes.push(format!("`kafka.sasl.{what}` is missing: {} needs it", mechanism.word()));
            }
            value.clone().unwrap_or_default()
        };
        if mechanism == Mechanism::MskIam {
            return Some(Sasl::MskIam { region: need("region", &self.region) });
        }
        let user = need("user", &self.user);
        let password = Secret::new(need("password", &self.password.as_ref().map(|p| p.expose().to_owned())));
        Some(match mechanism {
            Mechanism::Scram256 => Sasl::Scram256 { user, password },
            Mechanism::Scram512 => Sasl::Scram512 { user, password },
            _ => Sasl::Plain { user, password },
        })
    }
}

impl Settings {
    /// Puts together what several keys say, and looks for what is missing.
    pub(super) fn finish_backends(&mut self, mistakes: &mut Vec<String>) {
        self.kafka.security.sasl = self.sasl.finish(mistakes);
        let mut need = |wanted: bool, key: &str, value: &str, example: &str| {
            if wanted && value.is_empty() {
                mistakes.push(format!("`{key}` is missing: {example}"));
            }
        };
        let kafka = self.stream == StreamKind::Kafka;
        need(
            kafka,
            "kafka.brokers",
            &self.kafka.brokers,
            "stream = \"kafka\" needs it, such as \"broker-1:9092,broker-2:9092\"",
        );
        need(
            self.objects == ObjectsKind::S3,
            "s3.bucket",
            &self.s3.bucket,
            "objects = \"s3\" needs the name of a bucket",
        );
        need(
            self.records == RecordsKind::DynamoDb,
            "dynamodb.table",
            &self.dynamodb.table,
            "records = \"dynamodb\" needs the name of a table",
        );
    }
}

fn read_aws(t: &mut Table<'_>, aws: &mut AwsSettings) {
    for (key, value) in [("region", &mut aws.region), ("access_key", &mut aws.access_key)] {
        if let Some(text) = t.text(key) {
            *value = Some(text);
        }
    }
    if let Some(text) = t.text("secret_key") {
        aws.secret_key = Some(Secret::new(text));
    }
}

/// The address of a server other than AWS's own.
fn endpoint(t: &mut Table<'_>) -> Option<String> {
    let text = t.text("endpoint")?;
    if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        t.report("endpoint", "must be http://... or https://...");
    }
    Some(text)
}
