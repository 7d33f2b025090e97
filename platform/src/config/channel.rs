//! The channels of alerts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use castwatch_core::spec::Table;

use super::read::count;

/// One channel that alerts go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSettings {
    /// `name`: its name in claims, alerts and logs; each channel its own. Its kind.
    pub name: String,
    /// `kind`: `console`, `file` or `webhook`.
    pub kind: ChannelKind,
}

/// What a channel is.
#[derive(Clone, PartialEq, Eq)]
pub enum ChannelKind {
    /// Lines on the terminal.
    Console,
    /// Lines of JSON in a file.
    File {
        /// `path`.
        path: PathBuf,
    },
    /// Signed HTTP requests (Standard Webhooks).
    Webhook {
        /// `url`: `https://`, or `http://` inside the plant. It may hold a secret too.
        url: String,
        /// `secret`, `secret_env` (the name of a variable), `secret_file`: what to sign with. More
        /// than one of these while a secret is changed.
        secrets: Vec<Secret>,
        /// `timeout_ms`: how long one request may take (1 to 600000). 10000.
        timeout: Duration,
    },
}

impl fmt::Debug for ChannelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Console => f.write_str("Console"),
            Self::File { path } => f.debug_struct("File").field("path", path).finish(),
            Self::Webhook { secrets, timeout, .. } => {
                let mut shown = f.debug_struct("Webhook");
                shown.field("secrets", &secrets.len()).field("timeout", timeout).finish_non_exhaustive()
            }
        }
    }
}

/// A secret: it can be used and not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `secret` from being printed.
    #[must_use]
    pub const fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Console,
    File,
    Webhook,
}

/// All channels of a file; `None` where there are none. Paths are relative to `base`.
pub(super) fn channels(
    root: &mut Table<'_>,
    base: &Path,
    environment: &BTreeMap<String, String>,
) -> Option<Vec<ChannelSettings>> {
    if !root.has("channel") {
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    let channels = root.tables("channel", |t| {
        let channel = channel(t, base, environment)?;
        if names.contains(&channel.name) {
            let key = if t.has("name") { "name" } else { "kind" };
            t.report(
                key,
                format_args!("is a second channel `{}`: give it a `name` of its own", channel.name),
            );
        }
        names.push(channel.name.clone());
        Some(channel)
    });
    Some(channels.into_iter().flatten().collect())
}

fn channel(
    t: &mut Table<'_>,
    base: &Path,
    environment: &BTreeMap<String, String>,
) -> Option<ChannelSettings> {
    let kinds = [("console", Kind::Console), ("file", Kind::File), ("webhook", Kind::Webhook)];
    if !t.has("kind") {
        t.missing("kind", "console, file or webhook");
    }
    let name = t.text("name");
    if name.as_deref() == Some("") {
        t.report("name", "must not be empty");
    }
    let Some(kind) = t.choice("kind", &kinds) else {
        // What else it has depends on its kind.
        t.keys();
        return None;
    };
    let (usual, kind) = match kind {
        Kind::Console => ("console", ChannelKind::Console),
        Kind::File => {
            let path = t.need_text("path", "the file that alerts are appended to");
            ("file", ChannelKind::File { path: base.join(path) })
        }
        Kind::Webhook => ("webhook", webhook(t, base, environment)),
    };
    Some(ChannelSettings { name: name.unwrap_or_else(|| usual.to_owned()), kind })
}

/// The secrets at `key`, `key_env` (the name of a variable) and `key_file`.
pub(super) fn secrets(
    t: &mut Table<'_>,
    key: &str,
    base: &Path,
    environment: &BTreeMap<String, String>,
) -> Vec<Secret> {
    let mut secrets = Vec::new();
    let mut keep = |t: &Table<'_>, key: &str, secret: String| {
        if secret.is_empty() {
            t.report(key, "gives an empty secret");
        }
        secrets.push(Secret(secret));
    };
    if let Some(secret) = t.text(key) {
        keep(t, key, secret);
    }
    let (by_env, by_file) = (format!("{key}_env"), format!("{key}_file"));
    if let Some(variable) = t.text(&by_env) {
        match environment.get(&variable) {
            Some(secret) => keep(t, &by_env, secret.clone()),
            None => t.report(&by_env, format_args!("names the variable `{variable}`, which is not set")),
        }
    }
    if let Some(path) = t.text(&by_file) {
        match std::fs::read_to_string(base.join(&path)) {
            Ok(secret) => keep(t, &by_file, secret.trim().to_owned()),
            Err(error) => t.report(&by_file, format_args!("names `{path}`, which can't be read: {error}")),
        }
    }
    secrets
}

fn webhook(t: &mut Table<'_>, base: &Path, environment: &BTreeMap<String, String>) -> ChannelKind {
    let url = t.need_text("url", "where alerts are sent, https://...");
    let host = ["https://", "http://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    if t.has("url") && host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
        t.report("url", "must be https://... or http://...");
    }
    let secrets = secrets(t, "secret", base, environment);
    if !["secret", "secret_env", "secret_file"].iter().any(|key| t.has(key)) {
        t.missing("secret_file", "the file with the secret to sign with; or `secret_env`, or `secret`");
    }
    let timeout = count(t, "timeout_ms", 1..=600_000).unwrap_or(10_000);
    ChannelKind::Webhook { url, secrets, timeout: Duration::from_millis(timeout) }
}
