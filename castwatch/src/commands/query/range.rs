//! Which time a question is about, by the plant's clock and its shifts.

use anyhow::{Context, Result, bail};
use castwatch_ingest::Plant;
use castwatch_ingest::plant::{Clock, Shift};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::cli::{QueryArgs, When};

/// From a time on, and before another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

/// The zone of a plant's clock.
pub fn zone(plant: &Plant) -> TimeZone {
    match &plant.clock {
        Clock::Column { zone, .. } | Clock::Synthetic { zone, .. } => zone.clone(),
    }
}

/// The reading of this name, whichever of its names it is.
pub fn reading(plant: &Plant, name: &str) -> String {
    let is = |other: &str| other.eq_ignore_ascii_case(name);
    let found = plant.readings.iter().find(|r| r.name == name || is(&r.words.ko) || is(&r.words.en));
    found.map_or_else(|| name.to_owned(), |r| r.name.clone())
}

/// The time that the arguments name.
pub fn range(args: &QueryArgs, plant: Option<&Plant>, zone: &TimeZone) -> Result<Range> {
    let range = match (&args.shift, plant) {
        (Some(name), Some(plant)) => {
            let today = || Zoned::now().with_time_zone(zone.clone()).date();
            shift(plant, name, args.date.unwrap_or_else(today), zone)?
        }
        _ => match args.date {
            Some(date) => days(date, date, zone)?,
            None => Range {
                from: args.from.map(|when| begin(when, zone)).transpose()?,
                to: args.to.map(|when| end(when, zone)).transpose()?,
            },
        },
    };
    if let (Some(from), Some(to)) = (range.from, range.to)
        && from >= to
    {
        bail!("no time lies between {from} and {to}");
    }
    Ok(range)
}

fn shift(plant: &Plant, name: &str, date: Date, zone: &TimeZone) -> Result<Range> {
    let named = |shift: &&Shift| {
        [&shift.words.ko, &shift.words.en].into_iter().any(|own| own.eq_ignore_ascii_case(name))
    };
    let Some(shift) = plant.shifts.iter().find(named) else {
        let known: Vec<String> =
            plant.shifts.iter().map(|s| format!("{} ({})", s.words.ko, s.words.en)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        bail!("the plant `{}` has no shift `{name}`; it has {known}", plant.name);
    };
    // A shift over midnight ends on the next day.
    let last = if shift.end <= shift.start { tomorrow(date)? } else { date };
    Ok(Range {
        from: Some(instant(date.to_datetime(shift.start), zone)?),
        to: Some(instant(last.to_datetime(shift.end), zone)?),
    })
}

fn days(first: Date, last: Date, zone: &TimeZone) -> Result<Range> {
    let midnight = jiff::civil::Time::midnight();
    Ok(Range {
        from: Some(instant(first.to_datetime(midnight), zone)?),
        to: Some(instant(tomorrow(last)?.to_datetime(midnight), zone)?),
    })
}

fn begin(when: When, zone: &TimeZone) -> Result<Timestamp> {
    match when {
        When::Instant(at) => Ok(at),
        When::Local(at) => instant(at, zone),
        When::Day(date) => instant(date.to_datetime(jiff::civil::Time::midnight()), zone),
    }
}

fn end(when: When, zone: &TimeZone) -> Result<Timestamp> {
    match when {
        When::Day(date) => begin(When::Day(tomorrow(date)?), zone),
        other => begin(other, zone),
    }
}

fn tomorrow(date: Date) -> Result<Date> {
    date.tomorrow().with_context(|| format!("there is no day after {date}"))
}

fn instant(at: DateTime, zone: &TimeZone) -> Result<Timestamp> {
    Ok(at.to_zoned(zone.clone()).with_context(|| format!("{at} is no time here"))?.timestamp())
}
