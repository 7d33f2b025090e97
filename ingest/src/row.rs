//! From the cells of a row to a shot.

use bytes::Bytes;
use castwatch_core::time::clip;
use castwatch_core::{EndedAt, Readings, Shot};
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cell::Cell;
use crate::plant::{Clock, Cycle, Mark, Named, Plant};

/// A row that is a shot.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its number among the rows of data, from 1.
    pub number: u64,
    /// The shot.
    pub shot: Shot,
    /// Whether the table calls it a defect, where it knows.
    pub label: Option<bool>,
    /// The readings whose value was a code for "no sensor" and is now absent: their places in the
    /// shot.
    pub nulled: Vec<usize>,
}

/// A row that is not a shot, or the end of what can be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// This row is refused; the next one is not touched by it.
    #[error("row {row}: {why}")]
    Refused {
        /// The row's number, from 1.
        row: u64,
        /// The column, the text and what is wrong with it.
        why: String,
        /// The row as it came.
        bytes: Bytes,
    },
    /// The file can't be read any further; every row before this one was given.
    #[error("{file} can't be read on at row {row}: {what}")]
    Broken {
        /// The file.
        file: String,
        /// The row that can't be read, from 1.
        row: u64,
        /// What is wrong.
        what: &'static str,
        /// What the reader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RowError {
    /// The number of the row it is about, from 1.
    #[must_use]
    pub const fn number(&self) -> u64 {
        match self {
            Self::Refused { row, .. } | Self::Broken { row, .. } => *row,
        }
    }
}

/// A shot and what was said of it besides.
pub(crate) struct Mapped {
    pub shot: Shot,
    pub label: Option<bool>,
    pub nulled: Vec<usize>,
}

/// Makes shots of rows. It must see every row, since a row's count and time may follow from its
/// place.
#[derive(Debug)]
pub(crate) struct Mapper {
    plant: Plant,
    columns: Vec<String>,
    machine: Source,
    die: Source,
    /// The column of the count, or of what begins it anew.
    cycle: Option<usize>,
    /// The column of the time, or of the run.
    time: Option<usize>,
    try_shot: Option<usize>,
    label: Option<usize>,
    readings: Vec<usize>,
    counted: Counted,
    ticked: Ticked,
}

#[derive(Debug)]
enum Source {
    Slot(usize),
    Constant(String),
}

/// The count of rows in a group.
#[derive(Debug, Default)]
struct Counted {
    group: Option<String>,
    rows: u64,
}

/// The time of the last row, where times follow from rows.
#[derive(Debug, Default)]
struct Ticked {
    run: Option<String>,
    at: Option<Timestamp>,
}

impl Mapper {
    pub(crate) fn new(plant: &Plant) -> Self {
        let columns: Vec<String> = plant.columns().into_iter().map(str::to_owned).collect();
        let slot = |column: &str| columns.iter().position(|c| c == column);
        let source = |named: &Named| match named {
            Named::Column(column) => {
                slot(column).map_or_else(|| Source::Constant(String::new()), Source::Slot)
            }
            Named::Constant(name) => Source::Constant(name.clone()),
        };
        let mark = |mark: &Option<Mark>| mark.as_ref().and_then(|m| slot(&m.column));
        Self {
            machine: source(&plant.machine),
            die: source(&plant.die),
            cycle: match &plant.cycle {
                Cycle::Column(column) | Cycle::Row { per: Some(column) } => slot(column),
                Cycle::Row { per: None } => None,
            },
            time: match &plant.clock {
                Clock::Column { column, .. } | Clock::Synthetic { run: Some(column), .. } => slot(column),
                Clock::Synthetic { run: None, .. } => None,
            },
            try_shot: mark(&plant.try_shot),
            label: mark(&plant.label),
            readings: plant.readings.iter().filter_map(|r| slot(&r.column)).collect(),
            counted: Counted::default(),
            ticked: Ticked::default(),
            plant: plant.clone(),
            columns,
        }
    }

    /// The columns it needs, in the order of the cells it takes.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Those of them that are more than a mark, which may be left out where it does not apply.
    pub(crate) fn needed_columns(&self) -> impl Iterator<Item = &String> {
        let marks = [self.try_shot, self.label];
        self.columns.iter().enumerate().filter(move |(at, _)| !marks.contains(&Some(*at))).map(|(_, c)| c)
    }

    /// Takes note of a row whose cells can't be had.
    pub(crate) fn pass(&mut self) {
        self.count_row(None);
        self.tick(None);
    }

    /// The shot of a row.
    pub(crate) fn map(&mut self, cells: &[Cell<'_>]) -> Result<Mapped, String> {
        let cycle = match (&self.plant.cycle, self.cycle) {
            (Cycle::Column(_), Some(slot)) => self.say(cells, slot, cells[slot].count()),
            (_, slot) => Ok(self.count_row(slot.map(|s| &cells[s]))),
        };
        let ended_at = match (&self.plant.clock, self.time) {
            (Clock::Column { format, zone, .. }, Some(slot)) => {
                self.say(cells, slot, time_of(&cells[slot], format.as_deref(), zone))
            }
            (Clock::Column { .. }, None) => Err("the plant has no column of times".into()),
            (Clock::Synthetic { zone, .. }, slot) => {
                let zone = zone.clone();
                self.tick(slot.map(|s| &cells[s]))
                    .ok_or_else(|| "its time is beyond the calendar".to_owned())
                    .and_then(|at| shown_in(at, &zone))
            }
        };
        let mut nulled = Vec::new();
        let mut readings = Vec::with_capacity(self.readings.len());
        for (at, (reading, &slot)) in self.plant.readings.iter().zip(&self.readings).enumerate() {
            let mut value = self.say(cells, slot, cells[slot].number())?;
            if value.is_some_and(|v| reading.no_sensor.contains(&v)) {
                value = None;
                nulled.push(at);
            }
            readings.push((reading.name.as_str(), value));
        }
        let shot = Shot {
            machine: self.name(cells, &self.machine)?,
            die: self.name(cells, &self.die)?,
            cycle: cycle?,
            ended_at: ended_at?,
            try_shot: match (self.try_shot, &self.plant.try_shot) {
                (Some(slot), Some(mark)) => cells[slot].says(&mark.value),
                _ => false,
            },
            readings: readings.into_iter().collect::<Readings>(),
        };
        let shot = shot.checked().map_err(|e| e.to_string())?;
        let label =
            self.label.zip(self.plant.label.as_ref()).and_then(|(slot, mark)| label(&cells[slot], mark));
        Ok(Mapped { shot, label, nulled })
    }

    /// A shot that came whole; its label stands in the label's column, or in `defect`.
    pub(crate) fn adopt(
        &mut self,
        shot: Shot,
        beside: &serde_json::Map<String, serde_json::Value>,
    ) -> Mapped {
        self.pass();
        let mut nulled = Vec::new();
        let readings = shot.readings.iter().enumerate().map(|(at, (name, value))| {
            let of = self.plant.readings.iter().find(|r| r.name == name);
            let code = value.is_some_and(|v| of.is_some_and(|r| r.no_sensor.contains(&v)));
            if code {
                nulled.push(at);
            }
            (name.to_owned(), value.filter(|_| !code))
        });
        let readings = readings.collect::<Readings>();
        let marked = self.plant.label.as_ref().and_then(|mark| {
            let cell = crate::table::json_cell(beside.get(&mark.column)?);
            label(&cell, mark)
        });
        let label = marked.or_else(|| beside.get("defect")?.as_bool());
        Mapped { shot: Shot { readings, ..shot }, label, nulled }
    }

    /// Puts column and text in front of what is wrong.
    fn say<T>(
        &self,
        cells: &[Cell<'_>],
        slot: usize,
        read: Result<T, impl std::fmt::Display>,
    ) -> Result<T, String> {
        read.map_err(|why| {
            let column = &self.columns[slot];
            match &cells[slot] {
                Cell::Missing => format!("column `{column}` is blank: {why}"),
                cell => format!("column `{column}`: `{}` {why}", clip(&cell.shown())),
            }
        })
    }

    fn name(&self, cells: &[Cell<'_>], source: &Source) -> Result<String, String> {
        let slot = match source {
            Source::Constant(name) => return Ok(name.clone()),
            Source::Slot(slot) => *slot,
        };
        match &cells[slot] {
            Cell::Missing => {
                Err(format!("column `{}` is blank: a name must stand there", self.columns[slot]))
            }
            cell => Ok(cell.shown().into_owned()),
        }
    }

    fn count_row(&mut self, group: Option<&Cell<'_>>) -> u64 {
        if let Some(group) = group {
            let group = group.shown();
            if self.counted.group.as_deref() != Some(group.as_ref()) {
                self.counted = Counted { group: Some(group.into_owned()), rows: 0 };
            }
        }
        self.counted.rows += 1;
        self.counted.rows
    }

    /// The time of the next row where times follow from rows; `None` where they don't, and beyond
    /// the calendar.
    fn tick(&mut self, run: Option<&Cell<'_>>) -> Option<Timestamp> {
        let Clock::Synthetic { start, step, between_runs, .. } = &self.plant.clock else { return None };
        let run = run.map(|r| r.shown().into_owned());
        let new_run = run.is_some() && self.ticked.run.is_some() && run != self.ticked.run;
        let by: SignedDuration = if new_run { *between_runs } else { *step };
        let at = match self.ticked.at {
            None => *start,
            Some(before) => before.checked_add(by).ok()?,
        };
        self.ticked = Ticked { run: run.or_else(|| self.ticked.run.take()), at: Some(at) };
        Some(at)
    }
}

/// What the label's column says; a blank says nothing.
fn label(cell: &Cell<'_>, mark: &Mark) -> Option<bool> {
    (!matches!(cell, Cell::Missing)).then(|| cell.says(&mark.value))
}

fn shown_in(at: Timestamp, zone: &TimeZone) -> Result<EndedAt, String> {
    EndedAt::new(at, zone.to_offset(at)).map_err(|e| e.to_string())
}

fn in_zone(at: DateTime, zone: &TimeZone) -> Result<EndedAt, String> {
    let at = at.to_zoned(zone.clone()).map_err(|e| format!("is not a time in its zone: {e}"))?;
    shown_in(at.timestamp(), zone)
}

fn time_of(cell: &Cell<'_>, format: Option<&str>, zone: &TimeZone) -> Result<EndedAt, String> {
    match cell {
        Cell::Text(text) => read_time(text, format, zone),
        Cell::Instant(at) => shown_in(*at, zone),
        Cell::Civil(at) => in_zone(*at, zone),
        _ => Err("is not a time".into()),
    }
}

fn read_time(text: &str, format: Option<&str>, zone: &TimeZone) -> Result<EndedAt, String> {
    let Some(format) = format else {
        if let Ok(at) = EndedAt::parse(text) {
            return Ok(at);
        }
        let at: DateTime =
            text.parse().map_err(|_| "is not a time such as 2026-01-15 16:45:06".to_owned())?;
        return in_zone(at, zone);
    };
    let wrong = |e: jiff::Error| format!("is not a time as `{format}` has it: {e}");
    let parsed = BrokenDownTime::parse(format, text).map_err(wrong)?;
    match parsed.offset() {
        Some(offset) => {
            let at = parsed.to_timestamp().map_err(wrong)?;
            EndedAt::new(at, offset).map_err(|e| e.to_string())
        }
        None => in_zone(parsed.to_datetime().map_err(wrong)?, zone),
    }
}
