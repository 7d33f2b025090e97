//! The plant file: how a plant's table maps onto shots.
//!
//! **A [`Plant`] that was read is sound**: every mistake of the file is reported at once, with its
//! line and what would be right, and nothing is guessed.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use castwatch_core::payload::Words;
use castwatch_core::shot::MAX_NAME;
use castwatch_core::spec::{Doc, Problem, Problems, Table};
use encoding_rs::EUC_KR;
use jiff::civil::{DateTime, Time};
use jiff::fmt::strtime::BrokenDownTime;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::table::guess;

/// How a plant's table maps onto shots.
#[derive(Clone, Debug)]
pub struct Plant {
    /// The plant's name.
    pub name: String,
    /// What its tables are.
    pub format: Format,
    /// The characters of its text files.
    pub encoding: Encoding,
    /// What stands between the cells of a row.
    pub delimiter: char,
    /// The machine of a row.
    pub machine: Named,
    /// The die of a row.
    pub die: Named,
    /// The count of a row's shot.
    pub cycle: Cycle,
    /// When a row's shot ended.
    pub clock: Clock,
    /// What marks a try shot.
    pub try_shot: Option<Mark>,
    /// What marks a defect, where the table knows.
    pub label: Option<Mark>,
    /// The readings, in the order of a shot.
    pub readings: Vec<PlantReading>,
    /// The calendar of shifts.
    pub shifts: Vec<Shift>,
}

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As the file's name and content say.
    Auto,
    /// Delimited text with the columns' names in its first line.
    Delimited,
    /// JSON lines: shots, or objects by the columns' names.
    Json,
    /// Parquet.
    Parquet,
}

/// The characters of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, or CP949 where the bytes are not UTF-8.
    Auto,
    /// UTF-8 alone.
    Utf8,
    /// CP949 (EUC-KR with its extension), as Korean Windows writes it.
    Cp949,
}

/// A name of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// In this column.
    Column(String),
    /// The same in every row.
    Constant(String),
}

/// The count of a shot at its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cycle {
    /// In this column.
    Column(String),
    /// The number of the row; it begins again when the column `per` changes.
    Row {
        /// The column that groups rows.
        per: Option<String>,
    },
}

/// Where the time of a shot comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// From a column.
    Column {
        /// The column.
        column: String,
        /// As strptime has it; RFC 3339 or `2026-01-15 16:45:06` without one.
        format: Option<String>,
        /// The zone of times that have no offset of their own.
        zone: TimeZone,
    },
    /// From the row's place: for tables that have no times.
    Synthetic {
        /// The time of the first row.
        start: Timestamp,
        /// How it is shown.
        zone: TimeZone,
        /// From one row to the next.
        step: SignedDuration,
        /// When this column changes, a new run begins.
        run: Option<String>,
        /// From the last row of a run to the first of the next.
        between_runs: SignedDuration,
    },
}

/// A column and the value that marks a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The column.
    pub column: String,
    /// The value that says yes; any other says no.
    pub value: String,
}

/// One reading of the plant.
#[derive(Clone, Debug, PartialEq)]
pub struct PlantReading {
    /// Its column in the table.
    pub column: String,
    /// Its name in a shot.
    pub name: String,
    /// Its unit, empty where nobody knows.
    pub unit: String,
    /// Between which values it can be.
    pub plausible: (f64, f64),
    /// Values that mean "no reading".
    pub no_sensor: Vec<f64>,
    /// Its name for people.
    pub words: Words,
}

/// One shift of the day.
#[derive(Clone, Debug, PartialEq)]
pub struct Shift {
    /// Its name.
    pub words: Words,
    /// When it begins.
    pub start: Time,
    /// When it ends; before `start` for a shift over midnight.
    pub end: Time,
}

/// Why there is no plant.
#[derive(Debug, thiserror::Error)]
pub enum PlantError {
    /// The file can't be read.
    #[error("the plant file {} can't be read", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has mistakes.
    #[error(transparent)]
    Mistakes(#[from] Problems),
}

impl Plant {
    /// Reads a plant file, in UTF-8 or in CP949 as Korean Windows writes it.
    ///
    /// # Errors
    /// [`PlantError`] with every mistake in it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PlantError> {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).map_err(|source| PlantError::Read { file: path.to_owned(), source })?;
        let file = path.display().to_string();
        let text = decode(&file, &bytes)?;
        Ok(Self::read(&file, &text)?)
    }

    /// Reads the text of a plant file; `file` is its name in messages.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(file: &str, text: &str) -> Result<Self, Problems> {
        Doc::read(file, text, |root| {
            let name = root.need_text("name", "the plant's name");
            let (format, encoding, delimiter) =
                root.table("table", layout).unwrap_or((Format::Auto, Encoding::Auto, ','));
            let machine = named(root, "machine");
            let die = named(root, "die");
            let cycle = cycle(root);
            let clock = clock(root);
            let try_shot = mark(root, "try_shot", "value", "the value that marks a try shot");
            let label = mark(root, "label", "defect", "the value that marks a defect");
            let readings = readings(root, [&try_shot, &label]);
            let shifts = root.tables("shift", |t| Shift {
                words: words(t),
                start: time_of_day(t, "start"),
                end: time_of_day(t, "end"),
            });
            Self {
                name,
                format,
                encoding,
                delimiter,
                machine,
                die,
                cycle,
                clock,
                try_shot,
                label,
                readings,
                shifts,
            }
        })
    }

    /// The columns that the plant's table must have, each once.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = Vec::new();
        columns.extend([&self.machine, &self.die].into_iter().filter_map(Named::column));
        match &self.cycle {
            Cycle::Column(column) | Cycle::Row { per: Some(column) } => columns.push(column),
            Cycle::Row { per: None } => {}
        }
        match &self.clock {
            Clock::Column { column, .. } | Clock::Synthetic { run: Some(column), .. } => columns.push(column),
            Clock::Synthetic { run: None, .. } => {}
        }
        columns.extend([&self.try_shot, &self.label].into_iter().flatten().map(|m| m.column.as_str()));
        columns.extend(self.readings.iter().map(|r| r.column.as_str()));
        let mut once = Vec::with_capacity(columns.len());
        for column in columns {
            if !once.contains(&column) {
                once.push(column);
            }
        }
        once
    }
}

impl Named {
    pub(crate) fn column(&self) -> Option<&str> {
        match self {
            Self::Column(column) => Some(column),
            Self::Constant(_) => None,
        }
    }
}

/// The text of a plant file. One damaged character of UTF-8 must not make CP949 of the rest, so
/// most lines decide.
fn decode<'b>(file: &str, bytes: &'b [u8]) -> Result<Cow<'b, str>, Problems> {
    let problem = |at: usize, message: &str| {
        let line = bytes[..at].iter().filter(|b| **b == b'\n').count() + 1;
        Problems(vec![Problem { file: file.to_owned(), line, message: message.to_owned() }])
    };
    let bad = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text.strip_prefix('\u{feff}').unwrap_or(text).into()),
        Err(error) => error.valid_up_to(),
    };
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(problem(0, "the file is in UTF-16: save it as UTF-8"));
    }
    (guess(bytes) == Some(Encoding::Cp949))
        .then(|| EUC_KR.decode_without_bom_handling_and_without_replacement(bytes))
        .flatten()
        .ok_or_else(|| problem(bad, "holds bytes that are not UTF-8: save the file as UTF-8"))
}

fn layout(t: &mut Table<'_>) -> (Format, Encoding, char) {
    let formats = [
        ("auto", Format::Auto),
        ("csv", Format::Delimited),
        ("jsonl", Format::Json),
        ("parquet", Format::Parquet),
    ];
    let format = t.choice("format", &formats).unwrap_or(Format::Auto);
    let encodings = [("auto", Encoding::Auto), ("utf-8", Encoding::Utf8), ("cp949", Encoding::Cp949)];
    let encoding = t.choice("encoding", &encodings).unwrap_or(Encoding::Auto);
    let delimiters = [(",", ','), (";", ';'), ("\t", '\t'), ("|", '|')];
    (format, encoding, t.choice("delimiter", &delimiters).unwrap_or(','))
}

fn named(root: &mut Table<'_>, key: &str) -> Named {
    let what = "a table with `column`, or with `constant` where there is only one";
    if !root.has(key) {
        root.missing(key, what);
    }
    let read = root.table(key, |t| match (column(t, "column"), t.text("constant")) {
        (Some(column), None) => Named::Column(column),
        (None, Some(constant)) => {
            if !is_name(&constant) {
                t.report(
                    "constant",
                    format_args!("must be 1 to {MAX_NAME} bytes without control characters"),
                );
            }
            Named::Constant(constant)
        }
        (Some(_), Some(_)) => {
            t.report("constant", "and `column` exclude each other: keep one");
            Named::Constant(String::new())
        }
        (None, None) => {
            t.missing("column", "the table's column, or `constant` where there is only one");
            Named::Constant(String::new())
        }
    });
    read.unwrap_or_else(|| Named::Constant(String::new()))
}

fn cycle(root: &mut Table<'_>) -> Cycle {
    if !root.has("cycle") {
        root.missing("cycle", "a table with `column`, or with `rows = true` to count rows");
    }
    let read = root.table("cycle", |t| {
        let (column, rows, per) = (column(t, "column"), t.flag("rows") == Some(true), column(t, "per"));
        if column.is_some() == rows {
            t.report("column", "or `rows = true` says where the count comes from: give one of them");
        }
        if per.is_some() && !rows {
            t.report("per", "is for `rows = true`: the count begins again when this column changes");
        }
        column.map_or(Cycle::Row { per }, Cycle::Column)
    });
    read.unwrap_or(Cycle::Row { per: None })
}

fn clock(root: &mut Table<'_>) -> Clock {
    let unknown = || Clock::Synthetic {
        start: Timestamp::UNIX_EPOCH,
        zone: TimeZone::UTC,
        step: SignedDuration::ZERO,
        run: None,
        between_runs: SignedDuration::ZERO,
    };
    let from_column = root.table("time", |t| {
        if !t.has("column") {
            t.missing("column", "the table's column");
        }
        let column = column(t, "column").unwrap_or_default();
        let format = t.text("format");
        if let Some(problem) = format.as_deref().and_then(format_problem) {
            t.report(
                "format",
                format_args!(
                    "is not a date and time as strptime has it, such as `%Y-%m-%d %H:%M:%S`: {problem}"
                ),
            );
        }
        Clock::Column { column, format, zone: zone(t) }
    });
    let synthetic = root.table("clock", |t| {
        let zone = zone(t);
        let start = t.need_text("start", "the time of the first row, such as 2026-01-15T08:00:00");
        let start = match start.parse::<DateTime>().and_then(|at| at.to_zoned(zone.clone())) {
            Ok(at) => at.timestamp(),
            Err(error) => {
                if t.has("start") {
                    t.report(
                        "start",
                        format_args!("must be a date and time such as 2026-01-15T08:00:00: {error}"),
                    );
                }
                Timestamp::UNIX_EPOCH
            }
        };
        let step = seconds(t, "step_s", "seconds from one row to the next");
        let run = column(t, "run");
        let between_runs = if run.is_some() {
            seconds(t, "between_runs_s", "seconds from the last row of a run to the first of the next")
        } else {
            SignedDuration::ZERO
        };
        Clock::Synthetic { start, zone, step, run, between_runs }
    });
    match (from_column, synthetic) {
        (Some(clock), None) | (None, Some(clock)) => clock,
        (Some(_), Some(_)) => {
            root.report("clock", "and `time` exclude each other: `clock` is for tables that have no times");
            unknown()
        }
        (None, None) => {
            if !root.has("time") && !root.has("clock") {
                root.missing(
                    "time",
                    "a table with `column` and `zone`, or `clock` for a table that has no times",
                );
            }
            unknown()
        }
    }
}

fn seconds(t: &mut Table<'_>, key: &str, what: &str) -> SignedDuration {
    let number = t.need_number(key, what);
    match SignedDuration::try_from_secs_f64(number) {
        Ok(duration) if number > 0.0 && number <= 366.0 * 86_400.0 => duration,
        _ => {
            if t.has(key) {
                t.report(key, "must be above 0 and at most a year of seconds");
            }
            SignedDuration::ZERO
        }
    }
}

fn zone(t: &mut Table<'_>) -> TimeZone {
    let text = t.need_text("zone", "the zone of the table's times, such as Asia/Seoul or +09:00");
    DateTimeParser::new().parse_time_zone(&text).unwrap_or_else(|_| {
        if !text.is_empty() {
            t.report("zone", format_args!("`{text}` is not a zone: write Asia/Seoul or +09:00"));
        }
        TimeZone::UTC
    })
}

/// What is wrong with a format: it must carry a date and a time there and back.
fn format_problem(format: &str) -> Option<String> {
    let sample = DateTime::constant(2026, 11, 25, 16, 45, 6, 0).to_zoned(TimeZone::UTC).ok()?;
    let there_and_back = jiff::fmt::strtime::format(format, &sample)
        .and_then(|text| BrokenDownTime::parse(format, &text))
        .and_then(|parsed| parsed.to_datetime());
    match there_and_back {
        Err(error) => Some(error.to_string()),
        Ok(at) if at.date() != sample.date() || at.hour() != 16 => Some("it loses a part of the time".into()),
        Ok(_) => None,
    }
}

fn mark(root: &mut Table<'_>, key: &str, value: &str, what: &str) -> Option<Mark> {
    root.table(key, |t| {
        if !t.has("column") {
            t.missing("column", "the table's column");
        }
        Mark { column: column(t, "column").unwrap_or_default(), value: t.need_text(value, what) }
    })
}

fn readings(root: &mut Table<'_>, answers: [&Option<Mark>; 2]) -> Vec<PlantReading> {
    if !root.has("reading") {
        root.missing("reading", "a [[reading]] for each sensor value, with its `column`");
    }
    let mut names: Vec<String> = Vec::new();
    root.tables("reading", |t| {
        if !t.has("column") {
            t.missing("column", "the table's column");
        }
        let column = column(t, "column").unwrap_or_default();
        if answers.iter().any(|m| m.as_ref().is_some_and(|m| m.column == column)) {
            t.report("column", format_args!("`{column}` is the label or the try-shot signal: it knows the answer and can't be a reading"));
        }
        let name = t.text("name").unwrap_or_else(|| column.clone());
        if !is_name(&name) && t.has("name") {
            t.report("name", format_args!("must be 1 to {MAX_NAME} bytes without control characters"));
        }
        if names.contains(&name) && !name.is_empty() {
            t.report(if t.has("name") { "name" } else { "column" }, format_args!("`{name}` is a reading already"));
        }
        names.push(name.clone());
        if !t.has("range") {
            t.missing("range", "the plausible range, such as [0, 400]");
        }
        let plausible = match t.numbers("range").as_deref() {
            Some([low, high]) if low < high => (*low, *high),
            Some(_) => {
                t.report("range", "must be two numbers, the lower first, such as [0, 400]");
                (0.0, 0.0)
            }
            None => (0.0, 0.0),
        };
        let no_sensor = t.numbers("no_sensor").unwrap_or_default();
        let unit = t.text("unit").unwrap_or_default();
        PlantReading { column, name, unit, plausible, no_sensor, words: words(t) }
    })
}

fn words(t: &mut Table<'_>) -> Words {
    Words { ko: t.need_text("ko", "its Korean name"), en: t.need_text("en", "its English name") }
}

fn time_of_day(t: &mut Table<'_>, key: &str) -> Time {
    let text = t.need_text(key, "a time of day such as 08:00");
    text.parse().unwrap_or_else(|_| {
        if !text.is_empty() {
            t.report(key, format_args!("must be a time of day such as 08:00, not `{text}`"));
        }
        Time::midnight()
    })
}

/// The name of a column, if it is there; it can't be empty.
fn column(t: &mut Table<'_>, key: &str) -> Option<String> {
    let column = t.text(key)?;
    if column.trim().is_empty() {
        t.report(key, "must name a column, not be empty");
    }
    Some(column.trim().to_owned())
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
