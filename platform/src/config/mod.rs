//! Settings: the environment over a file over defaults, and flags over all of them in the binary.
//!
//! **Every mistake is reported at once**, with file and line or the variable's name, and what
//! would be right. Secrets are never printed.
//!
//! The file is TOML, `castwatch.toml` in the working directory unless another one is named; paths
//! in it are relative to it. Each key is documented at its field below. A variable is called
//! `CASTWATCH_` and the key with its table, such as `CASTWATCH_EMBEDDED_PARTITIONS`; a list is
//! written with commas. Channels are set in the file alone.
//!
//! ```toml
//! data_folder = "/var/lib/castwatch"
//!
//! [embedded]
//! durability = "full"
//!
//! [[channel]]
//! kind = "webhook"
//! name = "line-1"
//! url = "https://hooks.example.com/castwatch"
//! secret_file = "/run/secrets/castwatch"
//! ```

mod backends;
#[cfg(test)]
mod backends_tests;
mod channel;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use castwatch_core::RunnerSettings;
use castwatch_core::backoff::Patience;

use crate::dynamodb::DynamoSettings;
use crate::embedded::EmbeddedSettings;
use crate::kafka::KafkaSettings;
use crate::s3::S3Settings;

pub use backends::{ObjectsKind, Otlp, RecordsKind, StreamKind, Telemetry};
pub use channel::{ChannelKind, ChannelSettings, Secret};

/// The file that is read when none is named and it is there.
pub const FILE: &str = "castwatch.toml";

/// How often progress is saved in S3 where nothing else is set.
const SAVE_IN_S3_EVERY: Duration = Duration::from_secs(5);

/// How castwatch runs here.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `data_folder`: folder of the embedded log, the records and the charts. `castwatch-data`.
    pub data: PathBuf,
    /// `bundle`: folder of the model bundle. The one that castwatch ships.
    pub bundle: Option<PathBuf>,
    /// `listen`: address of the page. `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `listen_open`: whether the page may be reached from other computers. `false`.
    pub listen_open: bool,
    /// `[log]`: what castwatch says of itself.
    pub log: Log,
    /// `stream`: where events go, `embedded` or `kafka`. `embedded`.
    pub stream: StreamKind,
    /// `records`: where records of defects go, `embedded` or `dynamodb`. `embedded`.
    pub records: RecordsKind,
    /// `objects`: where charts go, `folder` or `s3`. `folder`. Progress is saved where the charts
    /// are: in S3, or else in the embedded file.
    pub objects: ObjectsKind,
    /// `[kafka]`: see [`KafkaSettings`]; keys as in docs/operators.md.
    pub kafka: KafkaSettings,
    /// `[s3]`, with `[aws]`.
    pub s3: S3Settings,
    /// `[dynamodb]`, with `[aws]`.
    pub dynamodb: DynamoSettings,
    /// `[telemetry]`: what others may see of this process.
    pub telemetry: Telemetry,
    /// `[kafka.sasl]`, key by key.
    sasl: backends::SaslDraft,
    /// `[embedded]`: `partitions` (1 to 1024) of a topic that is created, 4; `durability`, `full`
    /// or `normal` (faster; a power loss may take the last commits back), `full`; `batch`, the
    /// most messages handed over at once (1 to 10000), 512.
    pub embedded: EmbeddedSettings,
    /// `runner.save_every_ms`: how often a stage saves its progress (10 to 3600000). 1000, and 5000
    /// where progress is saved in S3, which takes money for each time.
    pub save_every: Option<Duration>,
    /// `runner.max_refused_in_a_row`: so many dead letters in a row stop a stage (1 to 1000000).
    /// 100.
    pub max_refused_in_a_row: u32,
    /// `[retry]`: `first_ms`, the longest first wait, 50; `most_ms`, the longest wait, 5000;
    /// `budget_ms`, the longest sum of waits before a batch is given up, 60000 (each 1 to
    /// 3600000).
    pub retry: Patience,
    /// `[charts]`: what charts look like.
    pub charts: Charts,
    /// `[[channel]]`: who is told. Without any, the terminal is.
    pub channels: Vec<ChannelSettings>,
}

/// What castwatch says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `log.filter`, or `CASTWATCH_LOG`: which lines, such as `warn,castwatch_core=debug`. `info`.
    pub filter: String,
    /// `log.json`: whether a line is a JSON object. `false`.
    pub json: bool,
}

/// What charts look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charts {
    /// `charts.language`: `ko` or `en`. `ko`.
    pub language: Language,
    /// `charts.formats`: `png`, `svg` or both; the first is the one that records name. Both.
    pub formats: Vec<Format>,
}

/// A language of charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Korean.
    Ko,
    /// English.
    En,
}

/// A file format of charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines and text, sharp at any size.
    Svg,
    /// Pixels.
    Png,
}

impl Default for Settings {
    fn default() -> Self {
        let runner = RunnerSettings::default();
        Self {
            data: "castwatch-data".into(),
            bundle: None,
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            listen_open: false,
            log: Log { filter: "info".into(), json: false },
            stream: StreamKind::Embedded,
            records: RecordsKind::Embedded,
            objects: ObjectsKind::Folder,
            kafka: KafkaSettings::default(),
            s3: S3Settings::default(),
            dynamodb: DynamoSettings::default(),
            telemetry: Telemetry::default(),
            sasl: backends::SaslDraft::default(),
            embedded: EmbeddedSettings::default(),
            save_every: None,
            max_refused_in_a_row: runner.max_refused_in_a_row,
            retry: runner.patience,
            charts: Charts { language: Language::Ko, formats: vec![Format::Png, Format::Svg] },
            channels: vec![ChannelSettings { name: "console".into(), kind: ChannelKind::Console }],
        }
    }
}

/// Why settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the settings file {} can't be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Mistakes in the file and in the environment, one a line.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

impl Settings {
    /// The settings of this process: its environment over `file`, or over `castwatch.toml` where
    /// no file is named and there is one, over defaults.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Some(Path::new(FILE)).filter(|file| file.exists());
        // A variable that is not Unicode is none of ours.
        let environment =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::load_from(file.or(default), environment)
    }

    /// The settings of this environment over `file` over defaults.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn load_from(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let (mut settings, mut mistakes) = (Self::default(), Vec::new());
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
            settings.read_file(file, &text, &environment, &mut mistakes);
        }
        settings.read_environment(&environment, &mut mistakes);
        settings.finish_backends(&mut mistakes);
        if mistakes.is_empty() { Ok(settings) } else { Err(ConfigError::Wrong(mistakes)) }
    }

    /// How the embedded log is kept.
    #[must_use]
    pub fn embedded(&self) -> EmbeddedSettings {
        self.embedded
    }

    /// How stages are run.
    #[must_use]
    pub fn runner(&self) -> RunnerSettings {
        RunnerSettings {
            save_every: self.save_every.unwrap_or(match self.objects {
                ObjectsKind::Folder => RunnerSettings::default().save_every,
                ObjectsKind::S3 => SAVE_IN_S3_EVERY,
            }),
            max_refused_in_a_row: self.max_refused_in_a_row,
            patience: self.retry,
            ..RunnerSettings::default()
        }
    }

    /// Who is told.
    #[must_use]
    pub fn channels(&self) -> Vec<ChannelSettings> {
        self.channels.clone()
    }
}
