//! The commands, and what they share.

pub mod bench;
pub mod books;
pub mod demo;
pub mod dlq;
pub mod doctor;
pub mod ingest;
pub mod offline;
pub mod query;
pub mod run;
pub mod table;
pub mod validate;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use castwatch_platform::config::Settings;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::{Command, Common, Dlq};
use crate::stores::{LogInspector, Stores};

/// Runs a command; `false` when it came to an end and the answer is no.
pub fn run(command: Command) -> Result<bool> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(args).map(|()| true),
        Command::Ingest(args) => ingest::run(args).map(|()| true),
        Command::Score(args) => quiet().and_then(|()| offline::score(&args)).map(|()| true),
        Command::Explain(args) => quiet().and_then(|()| offline::explain(&args)).map(|()| true),
        Command::Features(args) => quiet().and_then(|()| offline::features(&args)).map(|()| true),
        Command::Simulate(args) => ingest::simulate(&args).map(|()| true),
        Command::Query(args) => quiet().and_then(|()| query::run(&args)).map(|()| true),
        Command::Dlq(args) => dead_letters(args).map(|()| true),
        Command::Books(args) => balance(&args.common),
        Command::Validate(args) => validate::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(args).map(|()| true),
    }
}

fn balance(common: &Common) -> Result<bool> {
    let settings = settings(common)?;
    let report =
        runtime()?.block_on(async { books::audit(&Stores::open_existing(&settings).await?).await })?;
    if common.json {
        out(&report)?;
    } else {
        write!(std::io::stdout(), "{}", books::table(&report))?;
    }
    Ok(report.balanced)
}

fn dead_letters(args: Dlq) -> Result<()> {
    match args {
        Dlq::List(args) => {
            let settings = settings(&args.common)?;
            let letters: Vec<dlq::Letter> =
                dlq::letters(&log(&settings)?, args.stage.as_deref(), args.limit)?
                    .iter()
                    .map(|(partition, message)| dlq::describe(partition, message))
                    .collect();
            if args.common.json {
                return out(&letters);
            }
            let mut screen = std::io::stdout().lock();
            for l in &letters {
                writeln!(
                    screen,
                    "{:<20} {:<10} {:>8} B  {}  from {}",
                    l.place, l.stage, l.bytes, l.error, l.from
                )?;
            }
            writeln!(screen, "{} dead letters", letters.len())?;
        }
        Dlq::Show { place, common } => {
            let settings = settings(&common)?;
            let (partition, message) = dlq::at(&log(&settings)?, &place)?;
            let letter = dlq::describe(&partition, &message);
            let data = String::from_utf8_lossy(&message.event.data).into_owned();
            if common.json {
                return out(&serde_json::json!({ "letter": letter, "data": data }));
            }
            let mut screen = std::io::stdout().lock();
            writeln!(
                screen,
                "{}\nset aside by {} because: {}\nfrom {}, key {:?}\n",
                letter.place, letter.stage, letter.error, letter.from, letter.key
            )?;
            writeln!(screen, "{data}")?;
        }
        Dlq::Replay(args) => {
            let settings = settings(&args.common)?;
            let runtime = runtime()?;
            let stores = runtime.block_on(Stores::open_existing(&settings))?;
            let inspector = stores.log.inspector()?;
            let letters = match &args.place {
                Some(place) => vec![dlq::at(&inspector, place)?],
                None => dlq::letters(&inspector, args.stage.as_deref(), usize::MAX)?,
            };
            let done = runtime.block_on(dlq::replay(&stores, &letters))?;
            if args.common.json {
                return out(&done);
            }
            let mut screen = std::io::stdout().lock();
            writeln!(
                screen,
                "{} put back, {} had been put back before",
                done.replayed, done.replayed_before
            )?;
            if done.rows_of_files > 0 {
                writeln!(
                    screen,
                    "{} are rows of files: put the mended rows into a file of their own and ingest that",
                    done.rows_of_files
                )?;
            }
        }
    }
    Ok(())
}

/// A reading look at the log of the settings.
fn log(settings: &Settings) -> Result<LogInspector> {
    runtime()?.block_on(Stores::open_existing(settings))?.log.inspector()
}

/// The settings of a command: its flags over environment over file over defaults.
pub fn settings(common: &Common) -> Result<Settings> {
    let mut settings = Settings::load(common.config.as_deref())?;
    if let Some(data) = &common.data {
        settings.data.clone_from(data);
    }
    Ok(settings)
}

/// The bundle to use: the one given, else the one that castwatch ships, wherever it was installed.
pub fn bundle_dir(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir.to_owned());
    }
    let shipped = Path::new("models/bundles/default");
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(shipped)));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(|root| root.join(shipped));
    let places: Vec<PathBuf> = [Some(shipped.to_owned()), beside, source].into_iter().flatten().collect();
    match places.iter().find(|dir| dir.join("bundle.toml").is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => bail!("the default model bundle is not at {}; name one with --bundle", shipped.display()),
    }
}

/// Log lines for commands whose answer is on standard output: warnings only.
fn quiet() -> Result<()> {
    castwatch_platform::telemetry::init("warn", false).context("starting the log")
}

/// The runtime of a command.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// Prints one JSON document on standard output.
pub fn out<T: Serialize>(value: &T) -> Result<()> {
    let mut screen = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut screen, value)?;
    writeln!(screen)?;
    Ok(())
}

/// A line on standard error. Unlike `eprintln!` it does not end the program when nobody reads it.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A counter on standard error, silent where nobody looks.
pub fn progress(what: impl Display) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}: {human_pos} rows, {per_sec}, {elapsed}")
    {
        bar.set_style(style);
    }
    bar.set_message(what.to_string());
    bar
}
