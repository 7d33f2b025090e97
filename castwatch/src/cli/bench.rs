//! `castwatch bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{above_zero, duration};

/// `castwatch bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure the line on this machine: throughput, latency, memory and restart
    #[command(after_help = "\
Examples:
  castwatch bench line                                      on an embedded log of its own
  castwatch bench line --on embedded,kafka --json           both, with the brokers of the settings
  castwatch bench line --only latency --rate 500 --for 60s

It sends simulated shots through topics, a table and a prefix of its own, by stages in processes
of their own, and says what it costs. Nobody is told: alerts go into a file. TMPDIR says on which
disk the embedded log lies. Status 0 says that it measured, not that it was fast.")]
    Line(BenchLine),
}

/// What a line may stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// One file
    Embedded,
    /// Kafka, with records and charts where the settings say
    Kafka,
}

impl On {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Kafka => "kafka",
        }
    }
}

/// What may be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Shots a second, CPU time and where it goes, stage by stage
    Throughput,
    /// From shot to verdict and to alert at a given rate
    Latency,
    /// Memory with many dies, and the restart of a scorer that knows them
    Memory,
}

/// `castwatch bench line`.
#[derive(Clone, Debug, Args)]
pub struct BenchLine {
    /// What the line stands on; several are measured one after the other and compared
    #[arg(long, value_name = "ON", value_delimiter = ',', default_value = "embedded")]
    pub on: Vec<On>,
    /// Measure only this [default: everything]
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub only: Vec<Measure>,
    /// Throughput: so many shots
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub shots: u64,
    /// Latency: so many shots a second
    #[arg(long, value_name = "N", default_value_t = 2_000.0, value_parser = above_zero)]
    pub rate: f64,
    /// Latency: for so long
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub duration: Duration,
    /// Throughput and latency: machines of the simulated plant
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub machines: u16,
    /// Memory: so many dies, a hundred at each machine
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub dies: u64,
    /// Memory: so many shots of each die
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub shots_a_die: u64,
    /// Settings file [default: castwatch.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "CASTWATCH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print one JSON document on standard output, for machines
    #[arg(long)]
    pub json: bool,
}

impl BenchLine {
    /// Whether this is to be measured.
    pub fn wants(&self, what: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&what)
    }
}
