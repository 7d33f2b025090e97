//! `castwatch validate`: every mistake of every file, at once.

use std::io::Write;

use anyhow::Result;
use castwatch_core::runner::chain;
use castwatch_ingest::Plant;
use castwatch_models::Bundle;
use castwatch_platform::config::Settings;
use serde::Serialize;

use crate::cli::Validate;
use crate::commands::out;

#[derive(Serialize)]
struct Checked {
    file: String,
    kind: &'static str,
    sound: bool,
    mistakes: Vec<String>,
}

/// Checks what was named; `false` when anything is wrong.
pub fn run(args: &Validate) -> Result<bool> {
    let mut checked = Vec::new();
    let mut note = |file: String, kind, outcome: Result<(), String>| {
        let mistakes: Vec<String> =
            outcome.err().map(|m| m.lines().map(str::to_owned).collect()).unwrap_or_default();
        checked.push(Checked { file, kind, sound: mistakes.is_empty(), mistakes });
    };
    for file in &args.plant {
        note(file.display().to_string(), "plant", Plant::load(file).map(drop).map_err(|e| chain(&e)));
    }
    for dir in &args.bundle {
        note(dir.display().to_string(), "bundle", Bundle::load(dir).map(drop).map_err(|e| chain(&e)));
    }
    if let Some(file) = &args.config {
        note(
            file.display().to_string(),
            "settings",
            Settings::load(Some(file)).map(drop).map_err(|e| chain(&e)),
        );
    }
    let sound = checked.iter().all(|c| c.sound);
    if args.json {
        out(&checked)?;
        return Ok(sound);
    }
    let mut screen = std::io::stdout().lock();
    for c in &checked {
        match c.sound {
            true => writeln!(screen, "{} {}: sound", c.kind, c.file)?,
            false => writeln!(screen, "{} {}:\n  {}", c.kind, c.file, c.mistakes.join("\n  "))?,
        }
    }
    Ok(sound)
}
