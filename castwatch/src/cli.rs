//! The command line: what can be asked, with an example of each.

mod bench;
mod query;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use castwatch_core::event::{Partition, Position, Topic};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use bench::{Bench, BenchLine, Measure, On};
pub use query::{Query, QueryArgs, When};

/// Judges every die-casting shot, tells the supervisor why a part is bad, keeps the record.
#[derive(Debug, Parser)]
#[command(name = "castwatch", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Start here:
  castwatch demo                      a whole plant in one process, with a page to look at
  castwatch COMMAND --help            what a command does, with an example

Settings: flags over environment (CASTWATCH_...) over castwatch.toml over defaults.
Exit status: 0 done, 1 the work failed, 2 wrong usage.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole simulated plant in one process and show it on a page
    #[command(after_help = "Example:\n  castwatch demo --for 30s --json | jq .latency_ms")]
    Demo(Demo),
    /// Run stages of the line until told to stop
    #[command(after_help = "\
Examples:
  castwatch run scorer explainer notifier console
  castwatch run scorer explainer notifier --drain      end when nothing is left to do")]
    Run(Run),
    /// Put a plant's history into the log: .csv, .csv.gz, .jsonl, .parquet, - for standard input
    #[command(after_help = "\
Examples:
  castwatch ingest shots.csv.gz --plant plant.toml
  tail -f shots.jsonl | castwatch ingest - --plant plant.toml
  castwatch ingest shots.csv --plant plant.toml --speed 60     one hour of the plant in a minute")]
    Ingest(Ingest),
    /// Score a file with the same engine as the line, without the line
    #[command(after_help = "\
Example:
  castwatch score shots.csv.gz --plant plant.toml --bundle models/bundles/default --out scores.csv

Rows are numbered from 1. A row that repeats an earlier shot has the verdict `duplicate`; a row
that can't be read is named on standard error and has the verdict `refused`.")]
    Score(Score),
    /// Say why one shot of a file was judged as it was, with its chart
    #[command(after_help = "\
Example:
  castwatch explain shots.csv.gz --plant plant.toml --row 4711 --chart why.png")]
    Explain(Explain),
    /// Write the features that models are trained on, as the line computes them
    #[command(after_help = "\
Example:
  castwatch features shots.csv.gz --plant plant.toml --bundle models/bundles/default --out features.parquet")]
    Features(Features),
    /// Write shots of a simulated plant with their labels and causes, as JSON lines
    #[command(after_help = "Example:\n  castwatch simulate --shots 100000 --seed 7 --out shots.jsonl")]
    Simulate(Simulate),
    /// List defects and alerts by machine, die, time, shift and cause
    #[command(
        subcommand,
        after_help = "\
Examples:
  castwatch query defects --machine DCM-03 --from 2026-01-15
  castwatch query defects --plant plant.toml --shift Night --date 2026-01-15
  castwatch query alerts --pending"
    )]
    Query(Query),
    /// Look at what was set aside, and put it back
    #[command(
        subcommand,
        after_help = "\
Examples:
  castwatch dlq list
  castwatch dlq show shots.dlq/2@17
  castwatch dlq replay --stage scorer         after the cause is mended"
    )]
    Dlq(Dlq),
    /// Check that every shot is accounted for
    #[command(after_help = "\
Example:
  castwatch books --json

Two checks, and status 1 when either fails: each stage's counts (in = done + duplicates + dead
letters, and nothing waiting), and the log against the records (every shot has one score, every
defect one record, one chart and one alert).")]
    Books(Books),
    /// Check plant files, bundles and settings, and report every mistake at once
    #[command(after_help = "\
Example:
  castwatch validate --plant plant.toml --bundle models/bundles/default --config castwatch.toml")]
    Validate(Validate),
    /// Check that this machine and its settings can run castwatch
    #[command(after_help = "\
Examples:
  castwatch doctor --json
  castwatch doctor --create --config castwatch.toml     also makes topics, table and bucket")]
    Doctor(Doctor),
    /// Measure castwatch on this machine
    #[command(subcommand, after_help = "Example:\n  castwatch bench line --on embedded,kafka")]
    Bench(Bench),
}

/// Settings every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// Settings file [default: castwatch.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "CASTWATCH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of the embedded log, records and charts [default: castwatch-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print one JSON document on standard output, for machines
    #[arg(long)]
    pub json: bool,
}

/// `castwatch demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// Stop after this long, such as 30s, 5m or 1h [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Address of the page
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Chance of the plant: the same seed is the same plant
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Shots a second over all machines
    #[arg(long, value_name = "N", default_value_t = 20.0, value_parser = above_zero)]
    pub rate: f64,
    /// Machines in the plant
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub machines: u16,
    /// Model bundle [default: the one that castwatch ships]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
}

/// The stages `castwatch run` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum StageName {
    /// Shots into scores and defects
    Scorer,
    /// Defects into explanations, charts and records
    Explainer,
    /// Explanations into alerts
    Notifier,
    /// The supervisors' page
    Console,
}

impl StageName {
    /// The name in snapshots and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scorer => "scorer",
            Self::Explainer => "explainer",
            Self::Notifier => "notifier",
            Self::Console => "console",
        }
    }
}

/// `castwatch run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Stages to run in this process
    #[arg(required = true, value_name = "STAGE")]
    pub stages: Vec<StageName>,
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// End when everything that is in the log has been taken through
    #[arg(long)]
    pub drain: bool,
    /// Model bundle [default: of the settings, else the one that castwatch ships]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Address of the page, with the stage `console` [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// A table and how to read it.
#[derive(Debug, Args)]
pub struct Table {
    /// The table, or - for standard input
    pub file: PathBuf,
    /// Plant file: how the table's columns map onto shots
    #[arg(long, value_name = "FILE")]
    pub plant: PathBuf,
}

/// `castwatch ingest`.
#[derive(Debug, Args)]
pub struct Ingest {
    /// What to read.
    #[command(flatten)]
    pub table: Table,
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// Send at N times the plant's clock [default: as fast as it goes]
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub speed: Option<f64>,
    /// Send the whole file even if it was sent before
    #[arg(long)]
    pub again: bool,
}

/// `castwatch score`.
#[derive(Debug, Args)]
pub struct Score {
    /// What to read.
    #[command(flatten)]
    pub table: Table,
    /// Model bundle [default: the one that castwatch ships]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Where the scores go, as CSV
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print a summary as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// The language of a text or chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Korean
    #[default]
    Ko,
    /// English
    En,
}

/// `castwatch explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// What to read.
    #[command(flatten)]
    pub table: Table,
    /// Model bundle [default: the one that castwatch ships]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// The row to explain, from 1; the rows before it are read for the die's history
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub row: u64,
    /// Write the chart here; .png or .svg
    #[arg(long, value_name = "FILE", value_parser = picture)]
    pub chart: Option<PathBuf>,
    /// Language of words and chart
    #[arg(long, value_enum, default_value_t)]
    pub lang: Language,
    /// Print the whole explanation as JSON
    #[arg(long)]
    pub json: bool,
}

/// `castwatch features`.
#[derive(Debug, Args)]
pub struct Features {
    /// What to read.
    #[command(flatten)]
    pub table: Table,
    /// Bundle, finished or a draft, that says which features [default: the one that castwatch ships]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Where the table goes; .parquet or .csv
    #[arg(long, value_name = "FILE", value_parser = table)]
    pub out: PathBuf,
    /// Also write each feature's attribution, in log-odds
    #[arg(long)]
    pub attributions: bool,
    /// Print a summary as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `castwatch simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// How many shots
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub shots: u64,
    /// Chance of the plant: the same seed is the same plant
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Machines in the plant
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub machines: u16,
    /// Where the lines go, or - for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
}

/// `castwatch dlq`.
#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List dead letters: where they lie, which stage set them aside, and why
    List(DlqList),
    /// Show one dead letter whole, with its bytes as they came
    Show {
        /// Where it lies, as `list` prints it: TOPIC.dlq/PARTITION@POSITION
        #[arg(value_parser = place)]
        place: Place,
        /// Settings that every command takes.
        #[command(flatten)]
        common: Common,
    },
    /// Put dead letters back into the topic they came from, each once
    Replay(DlqReplay),
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
pub struct DlqList {
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// Only those that this stage set aside
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// `castwatch dlq replay`.
#[derive(Debug, Args)]
pub struct DlqReplay {
    /// Only this one: TOPIC.dlq/PARTITION@POSITION
    #[arg(value_parser = place)]
    pub place: Option<Place>,
    /// Only those that this stage set aside
    #[arg(long, value_name = "STAGE")]
    pub stage: Option<String>,
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// `castwatch books`.
#[derive(Debug, Args)]
pub struct Books {
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// `castwatch validate`.
#[derive(Debug, Args)]
#[group(id = "files", required = true, multiple = true, args = ["plant", "bundle", "config"])]
pub struct Validate {
    /// A plant file; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub plant: Vec<PathBuf>,
    /// A model bundle; may be given more than once
    #[arg(long, value_name = "DIR")]
    pub bundle: Vec<PathBuf>,
    /// A settings file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the mistakes as JSON
    #[arg(long)]
    pub json: bool,
}

/// `castwatch doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// Make topics, table and bucket of the settings where they are missing
    #[arg(long)]
    pub create: bool,
    /// Model bundle [default: of the settings, else the one that castwatch ships]
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
}

/// Where a dead letter lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its partition.
    pub partition: Partition,
    /// Its position there.
    pub position: Position,
}

fn place(text: &str) -> Result<Place, String> {
    let parts = || {
        let (partition, position) = text.rsplit_once('@')?;
        let (topic, index) = partition.rsplit_once('/')?;
        let partition = Partition::new(Topic::named(topic), index.parse().ok()?);
        Some(Place { partition, position: Position(position.parse().ok()?) })
    };
    parts().ok_or_else(|| {
        format!("`{text}` is not a place such as shots.dlq/2@17, as `castwatch dlq list` prints it")
    })
}

fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a number above 0")),
    }
}

fn picture(text: &str) -> Result<PathBuf, String> {
    file_of(text, &["png", "svg"])
}

fn table(text: &str) -> Result<PathBuf, String> {
    file_of(text, &["parquet", "csv"])
}

fn file_of(text: &str, endings: &[&str]) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|e| e.to_str()).filter(|e| endings.contains(e)) {
        Some(_) => Ok(path),
        None => Err(format!("`{text}` must end in .{}", endings.join(" or ."))),
    }
}

/// Reads 30s, 5m, 1h or 250ms.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 250ms, 30s, 5m or 1h");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err() && duration("30").is_err() && duration("-1s").is_err());
    }
}
