//! `castwatch query`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};

use super::{Common, Language};

/// What to list.
#[derive(Debug, Subcommand)]
pub enum Query {
    /// List defects with what is wrong, newest first
    #[command(after_help = "\
Examples:
  castwatch query defects --machine DCM-03 --from 2026-01-15
  castwatch query defects --plant plant.toml --shift Night --date 2026-01-15 --cause cast_pressure
  castwatch query defects --from 2026-01-01 --to 2026-01-31 --all --csv > january.csv")]
    Defects(QueryArgs),
    /// List what supervisors were told, newest first by the shot; with --pending what they were not
    #[command(after_help = "\
Examples:
  castwatch query alerts --pending
  castwatch query alerts --die 8722 --date 2026-01-15 --json | jq '.alerts[].title.en'")]
    Alerts(QueryArgs),
}

/// Which of them, and how they are printed.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// Settings that every command takes.
    #[command(flatten)]
    pub common: Common,
    /// Only this machine
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
    /// Only this die
    #[arg(long, value_name = "DIE")]
    pub die: Option<String>,
    /// Only where this reading speaks most for a defect; with --plant also by its other names
    #[arg(long, value_name = "READING")]
    pub cause: Option<String>,
    /// Only shots that ended then or later: 2026-01-15, 2026-01-15T16:45 or with an offset
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub from: Option<When>,
    /// Only shots that ended before; a date includes its whole day
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub to: Option<When>,
    /// Only shots of this day
    #[arg(long, value_name = "DATE", conflicts_with_all = ["from", "to"])]
    pub date: Option<Date>,
    /// Only shots of this shift of the plant file, by its name, which begins on --date [default: today]
    #[arg(long, value_name = "NAME", requires = "plant", conflicts_with_all = ["from", "to"])]
    pub shift: Option<String>,
    /// Plant file: its shifts, and the zone of times without an offset [default: this machine's zone]
    #[arg(long, value_name = "FILE")]
    pub plant: Option<PathBuf>,
    /// Only defects that were not told by all channels yet
    #[arg(long, conflicts_with = "told")]
    pub pending: bool,
    /// Only defects that were told
    #[arg(long)]
    pub told: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "all",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// All of them, however many
    #[arg(long)]
    pub all: bool,
    /// Go on after the page that gave this cursor
    #[arg(long, value_name = "CURSOR")]
    pub before: Option<String>,
    /// Print comma-separated values with a header
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// With the address of each chart, where the store has addresses; it is good for an hour
    #[arg(long)]
    pub links: bool,
    /// Language of the table
    #[arg(long, value_enum, default_value_t)]
    pub lang: Language,
}

/// A time on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With an offset of its own.
    Instant(Timestamp),
    /// Of the plant's clock.
    Local(DateTime),
    /// A whole day of the plant's clock.
    Day(Date),
}

fn when(text: &str) -> Result<When, String> {
    if let Ok(at) = text.parse() {
        return Ok(When::Instant(at));
    }
    // A date and time would also be read as a date.
    let parsed = if text.len() == "2026-01-15".len() {
        text.parse().map(When::Day)
    } else {
        text.parse().map(When::Local)
    };
    parsed.map_err(|_| {
        format!("`{text}` is not a time such as 2026-01-15, 2026-01-15T16:45 or 2026-01-15T16:45:06+09:00")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_local_or_instants() {
        assert_eq!(when("2026-01-15"), Ok(When::Day(Date::constant(2026, 1, 15))));
        assert_eq!(when("2026-01-15T16:45"), Ok(When::Local(DateTime::constant(2026, 1, 15, 16, 45, 0, 0))));
        assert_eq!(when("2026-01-15 16:45:06").unwrap(), when("2026-01-15T16:45:06").unwrap());
        assert_eq!(when("2026-01-15T16:45:06+09:00").unwrap(), when("2026-01-15T07:45:06Z").unwrap());
        for wrong in ["", "today", "2026-13-01", "2026-01-1", "15.01.2026", "16:45"] {
            assert!(when(wrong).is_err(), "{wrong}");
        }
    }
}
