//! Walking the file and the environment.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use castwatch_core::spec::{Doc, Problems, Table};

use super::{Format, Language, Settings, channel};
use crate::embedded::Durability;
use crate::telemetry;

/// How a variable's value is written in a file.
#[derive(Clone, Copy)]
enum Form {
    Text,
    /// A whole number or a truth value.
    Plain,
    /// A number.
    Number,
    List,
}

/// What may be set by the environment: the variable, the key in the file and its form there.
const VARIABLES: [(&str, &str, Form); 49] = [
    ("CASTWATCH_DATA_FOLDER", "data_folder", Form::Text),
    ("CASTWATCH_BUNDLE", "bundle", Form::Text),
    ("CASTWATCH_LISTEN", "listen", Form::Text),
    ("CASTWATCH_LISTEN_OPEN", "listen_open", Form::Plain),
    ("CASTWATCH_LOG", "log.filter", Form::Text),
    ("CASTWATCH_LOG_JSON", "log.json", Form::Plain),
    ("CASTWATCH_STREAM", "stream", Form::Text),
    ("CASTWATCH_RECORDS", "records", Form::Text),
    ("CASTWATCH_OBJECTS", "objects", Form::Text),
    ("CASTWATCH_KAFKA_BROKERS", "kafka.brokers", Form::Text),
    ("CASTWATCH_KAFKA_TOPIC_PREFIX", "kafka.topic_prefix", Form::Text),
    ("CASTWATCH_KAFKA_GROUP_PREFIX", "kafka.group_prefix", Form::Text),
    ("CASTWATCH_KAFKA_PROTOCOL", "kafka.protocol", Form::Text),
    ("CASTWATCH_KAFKA_INSTANCE_ID", "kafka.instance_id", Form::Text),
    ("CASTWATCH_KAFKA_COMPRESSION", "kafka.compression", Form::Text),
    ("CASTWATCH_KAFKA_LINGER_MS", "kafka.linger_ms", Form::Plain),
    ("CASTWATCH_KAFKA_BATCH", "kafka.batch", Form::Plain),
    ("CASTWATCH_KAFKA_SESSION_TIMEOUT_MS", "kafka.session_timeout_ms", Form::Plain),
    ("CASTWATCH_KAFKA_DELIVERY_TIMEOUT_MS", "kafka.delivery_timeout_ms", Form::Plain),
    ("CASTWATCH_KAFKA_PARTITIONS", "kafka.partitions", Form::Plain),
    ("CASTWATCH_KAFKA_REPLICATION", "kafka.replication", Form::Plain),
    ("CASTWATCH_KAFKA_TLS_ENABLED", "kafka.tls.enabled", Form::Plain),
    ("CASTWATCH_KAFKA_TLS_CA_FILE", "kafka.tls.ca_file", Form::Text),
    ("CASTWATCH_KAFKA_SASL_MECHANISM", "kafka.sasl.mechanism", Form::Text),
    ("CASTWATCH_KAFKA_SASL_USER", "kafka.sasl.user", Form::Text),
    ("CASTWATCH_KAFKA_SASL_PASSWORD", "kafka.sasl.password", Form::Text),
    ("CASTWATCH_KAFKA_SASL_REGION", "kafka.sasl.region", Form::Text),
    ("CASTWATCH_AWS_REGION", "aws.region", Form::Text),
    ("CASTWATCH_AWS_ACCESS_KEY", "aws.access_key", Form::Text),
    ("CASTWATCH_AWS_SECRET_KEY", "aws.secret_key", Form::Text),
    ("CASTWATCH_S3_BUCKET", "s3.bucket", Form::Text),
    ("CASTWATCH_S3_PREFIX", "s3.prefix", Form::Text),
    ("CASTWATCH_S3_ENDPOINT", "s3.endpoint", Form::Text),
    ("CASTWATCH_S3_PATH_STYLE", "s3.path_style", Form::Plain),
    ("CASTWATCH_DYNAMODB_TABLE", "dynamodb.table", Form::Text),
    ("CASTWATCH_DYNAMODB_ENDPOINT", "dynamodb.endpoint", Form::Text),
    ("CASTWATCH_TELEMETRY_LISTEN", "telemetry.listen", Form::Text),
    ("CASTWATCH_TELEMETRY_OTLP_ENDPOINT", "telemetry.otlp_endpoint", Form::Text),
    ("CASTWATCH_TELEMETRY_OTLP_SAMPLE", "telemetry.otlp_sample", Form::Number),
    ("CASTWATCH_EMBEDDED_PARTITIONS", "embedded.partitions", Form::Plain),
    ("CASTWATCH_EMBEDDED_DURABILITY", "embedded.durability", Form::Text),
    ("CASTWATCH_EMBEDDED_BATCH", "embedded.batch", Form::Plain),
    ("CASTWATCH_RUNNER_SAVE_EVERY_MS", "runner.save_every_ms", Form::Plain),
    ("CASTWATCH_RUNNER_MAX_REFUSED_IN_A_ROW", "runner.max_refused_in_a_row", Form::Plain),
    ("CASTWATCH_RETRY_FIRST_MS", "retry.first_ms", Form::Plain),
    ("CASTWATCH_RETRY_MOST_MS", "retry.most_ms", Form::Plain),
    ("CASTWATCH_RETRY_BUDGET_MS", "retry.budget_ms", Form::Plain),
    ("CASTWATCH_CHARTS_LANGUAGE", "charts.language", Form::Text),
    ("CASTWATCH_CHARTS_FORMATS", "charts.formats", Form::List),
];

/// Beginnings of variables that nobody but these settings uses: others of them are typos.
const OURS: [&str; 10] = [
    "CASTWATCH_LOG_",
    "CASTWATCH_EMBEDDED_",
    "CASTWATCH_RUNNER_",
    "CASTWATCH_RETRY_",
    "CASTWATCH_CHARTS_",
    "CASTWATCH_KAFKA_",
    "CASTWATCH_AWS_",
    "CASTWATCH_S3_",
    "CASTWATCH_DYNAMODB_",
    "CASTWATCH_TELEMETRY_",
];

pub(super) const MILLISECONDS: RangeInclusive<u64> = 1..=3_600_000;

impl Settings {
    /// Reads a settings file; its relative paths begin where it lies.
    pub(super) fn read_file(
        &mut self,
        file: &Path,
        text: &str,
        environment: &BTreeMap<String, String>,
        mistakes: &mut Vec<String>,
    ) {
        let base = file.parent().unwrap_or(Path::new(""));
        let read = Doc::read(&file.display().to_string(), text, |root| {
            self.read(root, base, environment);
            if let Some(channels) = channel::channels(root, base, environment) {
                self.channels = channels;
            }
        });
        if let Err(Problems(problems)) = read {
            mistakes.extend(problems.iter().map(ToString::to_string));
        }
    }

    /// Reads the variables there are.
    pub(super) fn read_environment(
        &mut self,
        environment: &BTreeMap<String, String>,
        mistakes: &mut Vec<String>,
    ) {
        for (name, value) in environment {
            if let Some((_, key, form)) = VARIABLES.iter().find(|(variable, ..)| variable == name) {
                let text = format!("{key} = {}", written(value, *form));
                if let Err(Problems(problems)) = Doc::read(name, &text, |root| {
                    self.read(root, Path::new(""), environment);
                }) {
                    mistakes.extend(problems.iter().map(|p| format!("{name}: {}", p.message)));
                }
            } else if OURS.iter().any(|ours| name.starts_with(ours)) {
                let known: Vec<&str> = VARIABLES.iter().map(|(variable, ..)| *variable).collect();
                mistakes.push(format!("{name} is not known; known are {}", known.join(", ")));
            }
        }
    }

    /// Takes over what `root` has, but for channels.
    fn read(&mut self, root: &mut Table<'_>, base: &Path, environment: &BTreeMap<String, String>) {
        if let Some(folder) = path(root, "data_folder") {
            self.data = base.join(folder);
        }
        if let Some(folder) = path(root, "bundle") {
            self.bundle = Some(base.join(folder));
        }
        if let Some(text) = root.text("listen") {
            match text.parse() {
                Ok(address) => self.listen = address,
                Err(_) => root.report("listen", "must be an address and a port, such as 127.0.0.1:8080"),
            }
        }
        set(&mut self.listen_open, root.flag("listen_open"));
        root.table("log", |t| {
            if let Some(text) = t.text("filter") {
                match telemetry::filter(&text) {
                    Ok(_) => self.log.filter = text,
                    Err(error) => t.report("filter", error),
                }
            }
            set(&mut self.log.json, t.flag("json"));
        });
        self.read_backends(root, base, environment);
        root.table("embedded", |t| {
            set(&mut self.embedded.partitions, count(t, "partitions", 1..=1024).map(|n| n as u32));
            set(&mut self.embedded.batch, count(t, "batch", 1..=10_000).map(|n| n as usize));
            let durability = [("full", Durability::Full), ("normal", Durability::Normal)];
            set(&mut self.embedded.durability, t.choice("durability", &durability));
        });
        root.table("runner", |t| {
            if let Some(ms) = count(t, "save_every_ms", 10..=3_600_000) {
                self.save_every = Some(Duration::from_millis(ms));
            }
            let most = count(t, "max_refused_in_a_row", 1..=1_000_000);
            set(&mut self.max_refused_in_a_row, most.map(|n| n as u32));
        });
        root.table("retry", |t| {
            set(&mut self.retry.first, count(t, "first_ms", MILLISECONDS).map(Duration::from_millis));
            set(&mut self.retry.most, count(t, "most_ms", MILLISECONDS).map(Duration::from_millis));
            set(&mut self.retry.budget, count(t, "budget_ms", MILLISECONDS).map(Duration::from_millis));
        });
        root.table("charts", |t| {
            let languages = [("ko", Language::Ko), ("en", Language::En)];
            set(&mut self.charts.language, t.choice("language", &languages));
            set(&mut self.charts.formats, formats(t));
        });
    }
}

fn formats(t: &mut Table<'_>) -> Option<Vec<Format>> {
    let mut formats = Vec::new();
    for name in t.texts("formats")? {
        match name.as_str() {
            "svg" => formats.push(Format::Svg),
            "png" => formats.push(Format::Png),
            _ => t.report("formats", format_args!("must be of svg and png, not `{name}`")),
        }
    }
    Some(formats)
}

pub(super) fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}

/// A whole number inside `range`, if it is there.
pub(super) fn count(t: &mut Table<'_>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
    let number = t.count(key)?;
    if range.contains(&number) {
        return Some(number);
    }
    t.report(key, format_args!("must be {} to {}, not {number}", range.start(), range.end()));
    None
}

/// A path, if it is there.
fn path(t: &mut Table<'_>, key: &str) -> Option<String> {
    let text = t.text(key)?;
    if text.is_empty() {
        t.report(key, "must be a folder");
    }
    Some(text)
}

/// A variable's value as a file would have it; what is no plain value becomes a text, which the
/// walk then says is wrong.
fn written(value: &str, form: Form) -> String {
    let value = value.trim();
    match form {
        Form::Plain if value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok() => value.to_owned(),
        Form::Number if value.parse::<f64>().is_ok_and(f64::is_finite) => {
            format!("{:?}", value.parse::<f64>().unwrap_or_default())
        }
        Form::Plain | Form::Number | Form::Text => toml_text(value),
        Form::List => {
            let items: Vec<String> = value.split(',').map(|item| toml_text(item.trim())).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

/// A text as TOML writes it: quoted, with what can't stand in quotes escaped.
fn toml_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
