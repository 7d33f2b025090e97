//! What a measurement runs on: a folder, topics, a table and a prefix that nobody else uses.
//!
//! **Nothing of it touches a plant's line**: names are fresh, alerts go into a file, and the
//! processes open no port. What can't be taken away afterwards is named.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use castwatch_core::{Outgoing, Publisher, Topic};
use castwatch_platform::config::{self, ObjectsKind, RecordsKind, Settings, StreamKind};
use tempfile::TempDir;
use toml::{Table, Value};

use super::throughput::STAGES;
use crate::cli::{On, StageName};
use crate::line;
use crate::stores::{Log, ObjectStore, RecordStore, Stores};

/// So many shots are handed to the log at once.
const AT_ONCE: usize = 2_000;

/// What a measurement runs on.
pub struct Bed {
    /// The settings, as the stages have them.
    pub settings: Settings,
    /// The same stores that the stages use.
    pub stores: Stores,
    /// The settings file of the stages.
    pub config: PathBuf,
    /// The environment of the stages.
    pub environment: BTreeMap<String, String>,
    folder: TempDir,
}

impl Bed {
    /// Makes all that a line on `on` needs, from the settings in `file` and the environment.
    pub async fn make(file: Option<&Path>, on: On) -> Result<Self> {
        let default = Some(Path::new(config::FILE)).filter(|file| file.exists());
        let file = file.or(default);
        // Mistakes are told with the lines of the file that has them.
        let given = Settings::load(file)?;
        let folder =
            tempfile::Builder::new().prefix("castwatch-bench-").tempdir().context("making a folder")?;
        let config = folder.path().join(config::FILE);
        let text = stage_settings(file, &folder.path().join("alerts.jsonl"))?;
        std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let environment = environment(&given, on, folder.path());
        let settings = Settings::load_from(Some(&config), environment.clone())?;
        let stores = Stores::open(&settings).await?;
        let bed = Self { settings, stores, config, environment, folder };
        if let Log::Kafka(log) = &bed.stores.log {
            log.ensure_topics(&Topic::ALL).await.context("making topics of its own")?;
        }
        if let RecordStore::DynamoDb(records) = &bed.stores.records {
            records.create_table().await.context("making a table of its own")?;
        }
        Ok(bed)
    }

    /// Partitions of each topic.
    pub fn partitions(&self) -> usize {
        match self.settings.stream {
            StreamKind::Embedded => self.settings.embedded().partitions as usize,
            StreamKind::Kafka => self.settings.kafka.partitions as usize,
        }
    }

    /// What the line stands on, for people and for comparing figures.
    pub fn stands_on(&self) -> BTreeMap<&'static str, String> {
        let s = &self.settings;
        let mut facts = BTreeMap::from([
            ("partitions", self.partitions().to_string()),
            ("save every", format!("{:?}", s.runner().save_every)),
        ]);
        let mut fact = |name, value: String| facts.insert(name, value);
        match s.stream {
            StreamKind::Embedded => {
                fact("events", format!("SQLite in {}", std::env::temp_dir().display()));
                fact("durability", format!("{:?}", s.embedded().durability).to_lowercase());
                fact("batch", s.embedded().batch.to_string());
            }
            StreamKind::Kafka => {
                let k = &s.kafka;
                fact("events", format!("Kafka at {}", k.brokers));
                fact("replication", k.replication.to_string());
                fact("protocol", format!("{:?}", k.protocol).to_lowercase());
                fact("compression", format!("{:?}", k.compression).to_lowercase());
                fact("linger", format!("{:?}", k.linger));
                fact("batch", k.batch.to_string());
                if !k.extra.is_empty() {
                    let extra: Vec<String> = k.extra.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    fact("librdkafka", extra.join(" "));
                }
            }
        }
        let at = |endpoint: &Option<String>| endpoint.clone().unwrap_or_else(|| "AWS".to_owned());
        fact(
            "records",
            match s.records {
                RecordsKind::Embedded => "SQLite".to_owned(),
                RecordsKind::DynamoDb => format!("DynamoDB at {}", at(&s.dynamodb.aws.endpoint)),
            },
        );
        fact(
            "objects",
            match s.objects {
                ObjectsKind::Folder => "a folder".to_owned(),
                ObjectsKind::S3 => format!("S3 at {}", at(&s.s3.aws.endpoint)),
            },
        );
        facts
    }

    /// Puts shots into the log, many at a time; returns how many.
    pub async fn publish(
        &self,
        shots: impl Iterator<Item = Result<Outgoing, serde_json::Error>>,
    ) -> Result<u64> {
        let (mut events, mut sent) = (Vec::with_capacity(AT_ONCE), 0);
        let mut shots = shots.peekable();
        while let Some(event) = shots.next() {
            events.push(event?);
            if events.len() == AT_ONCE || shots.peek().is_none() {
                self.stores.log.publish(&events).await?;
                sent += events.len() as u64;
                events.clear();
            }
        }
        Ok(sent)
    }

    /// Takes away what was made; says what stays, and why.
    pub async fn clear(self) -> Vec<String> {
        let mut left = Vec::new();
        let mut note = |what: String, outcome: Result<()>| {
            if let Err(error) = outcome {
                left.push(format!("{what}: {}", line::words(&error)));
            }
        };
        let (kafka, s3) = (&self.settings.kafka, &self.settings.s3);
        if let Log::Kafka(log) = &self.stores.log {
            let stages = STAGES.map(StageName::as_str);
            let removed = log.remove(&Topic::ALL, &stages).await;
            note(
                format!("topics and groups of Kafka named {}*", kafka.topic_prefix),
                removed.map_err(Into::into),
            );
        }
        if let RecordStore::DynamoDb(records) = &self.stores.records {
            let removed = records.remove_table().await;
            note(format!("table {} of DynamoDB", self.settings.dynamodb.table), removed.map_err(Into::into));
        }
        if let ObjectStore::S3(objects) = &self.stores.objects {
            let removed = objects.remove_all().await;
            note(
                format!("objects below {} in the bucket {}", s3.prefix, s3.bucket),
                removed.map_err(Into::into),
            );
        }
        let folder = format!("folder {}", self.folder.path().display());
        note(folder, self.folder.close().map_err(Into::into));
        left
    }
}

/// The settings file of the stages: the one given, with paths that hold anywhere, alerts into a
/// file, and no port.
fn stage_settings(file: Option<&Path>, alerts: &Path) -> Result<String> {
    let mut settings = Table::new();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        settings = text.parse().with_context(|| format!("reading {}", file.display()))?;
        anchor(&mut settings, &std::path::absolute(file)?);
    }
    settings.remove("telemetry");
    let mut channel = Table::new();
    channel.insert("kind".into(), "file".into());
    channel.insert("name".into(), "bench".into());
    channel.insert("path".into(), alerts.display().to_string().into());
    settings.insert("channel".into(), Value::Array(vec![channel.into()]));
    Ok(toml::to_string(&settings)?)
}

/// Paths in a settings file are relative to it; from here on they are not.
fn anchor(settings: &mut Table, file: &Path) {
    for (key, value) in settings {
        match value {
            Value::Table(table) => anchor(table, file),
            Value::String(path) if key == "bundle" || key.ends_with("_file") => {
                *path = file.with_file_name(path.as_str()).display().to_string();
            }
            _ => {}
        }
    }
}

/// The environment of the stages: this one, with fresh names over it.
fn environment(given: &Settings, on: On, folder: &Path) -> BTreeMap<String, String> {
    // A variable that is not Unicode is none of ours.
    let ours = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let mut environment: BTreeMap<String, String> =
        ours.filter(|(name, _)| !name.starts_with("CASTWATCH_TELEMETRY_")).collect();
    let name = format!("bench-{:x}-{:x}", jiff::Timestamp::now().as_millisecond(), std::process::id());
    let mut set = |key: &str, value: String| environment.insert(format!("CASTWATCH_{key}"), value);
    set("DATA_FOLDER", folder.join("data").display().to_string());
    set("LOG", "info".into());
    set("LOG_JSON", "true".into());
    set("STREAM", on.as_str().into());
    match on {
        On::Embedded => {
            set("RECORDS", "embedded".into());
            set("OBJECTS", "folder".into());
        }
        On::Kafka => {
            set("KAFKA_TOPIC_PREFIX", format!("{name}."));
            set("KAFKA_GROUP_PREFIX", name.clone());
            set("S3_PREFIX", format!("{}{name}/", given.s3.prefix));
            set("DYNAMODB_TABLE", format!("{}-{name}", given.dynamodb.table));
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_tell_nobody_and_open_no_port() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("castwatch.toml");
        std::fs::write(
            &file,
            "bundle = \"model\"\n[kafka]\nbrokers = \"b:1\"\n[kafka.tls]\nca_file = \"/etc/ca.pem\"\n\
             [telemetry]\nlisten = \"127.0.0.1:1\"\n\
             [[channel]]\nkind = \"webhook\"\nname = \"mes\"\nurl = \"https://mes.example\"\nsecret_file = \"s\"\n",
        )
        .unwrap();
        let text = stage_settings(Some(&file), Path::new("/tmp/alerts.jsonl")).unwrap();
        assert!(!text.contains("mes") && !text.contains("telemetry"), "{text}");
        let own = folder.path().join("own.toml");
        std::fs::write(&own, &text).unwrap();
        let given = Settings::load_from(Some(&own), []).unwrap();
        assert_eq!(given.bundle, Some(folder.path().join("model")), "{text}");
        assert_eq!(given.kafka.security.tls.as_ref().unwrap().ca_file, Some("/etc/ca.pem".into()));
        assert_eq!(given.channels().len(), 1);
        let environment = environment(&given, On::Kafka, folder.path());
        let settings = Settings::load_from(Some(&own), environment).unwrap();
        assert_eq!(settings.stream, StreamKind::Kafka);
        assert!(settings.kafka.topic_prefix.starts_with("bench-"));
        assert_eq!(settings.telemetry.listen, None);
    }
}
