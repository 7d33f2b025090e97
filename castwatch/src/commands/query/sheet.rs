//! Printing a list: a table, one JSON document, or comma-separated values.

use std::io::Write;

use anyhow::Result;
use castwatch_core::payload::{Explanation, Words};
use castwatch_core::ports::Kept;
use castwatch_core::{EndedAt, ShotId};
use jiff::tz::TimeZone;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use super::What;
use crate::cli::Language;
use crate::commands::offline::cell;

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Table(Language),
    /// One document, written as it comes.
    Json,
    /// With a header.
    Csv,
}

/// A defect, and where its chart can be had.
pub struct Row {
    /// The defect.
    pub kept: Kept,
    /// The chart's address.
    pub link: Option<String>,
}

/// A list on its way to the screen.
pub struct Sheet<W> {
    what: What,
    form: Form,
    links: bool,
    zone: TimeZone,
    screen: W,
    rows: u64,
    /// Columns of the table are as wide as the widest so far.
    widths: Vec<usize>,
}

/// A defect as a machine reads it.
#[derive(Serialize)]
struct DefectView<'a> {
    #[serde(flatten)]
    record: &'a Explanation,
    /// Whether supervisors were told.
    told: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

/// What was told of a defect, or is to be.
#[derive(Serialize)]
struct AlertView<'a> {
    id: String,
    shot: &'a ShotId,
    machine: &'a str,
    die: &'a str,
    cycle: u64,
    ended_at: EndedAt,
    probability: Option<f64>,
    cause: &'a str,
    told: bool,
    /// Absent while it is pending.
    title: Option<&'a Words>,
    body: Option<&'a Words>,
    channels: &'a [String],
    chart: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

impl Row {
    fn defect(&self) -> DefectView<'_> {
        let Kept { record, alert } = &self.kept;
        DefectView { record, told: alert.is_some(), link: self.link.as_deref() }
    }

    fn alert(&self) -> AlertView<'_> {
        let Kept { record, alert } = &self.kept;
        let score = &record.score;
        AlertView {
            id: alert.as_ref().map_or_else(|| format!("alert:{}", score.shot), |a| a.id.clone()),
            shot: &score.shot,
            machine: &score.machine,
            die: &score.die,
            cycle: score.cycle,
            ended_at: score.ended_at,
            probability: score.probability,
            cause: &record.cause,
            told: alert.is_some(),
            title: alert.as_ref().map(|a| &a.title),
            body: alert.as_ref().map(|a| &a.body),
            channels: alert.as_ref().map(|a| a.channels.as_slice()).unwrap_or_default(),
            chart: record.chart.as_deref(),
            link: self.link.as_deref(),
        }
    }

    fn cells(&self, what: What, lang: Language, zone: &TimeZone) -> Vec<String> {
        let Kept { record, alert } = &self.kept;
        let score = &record.score;
        let words = |words: &Words| if lang == Language::Ko { words.ko.clone() } else { words.en.clone() };
        let cause = record.attributions.iter().find(|a| a.reading == record.cause);
        let state = match (alert.is_some(), lang) {
            (true, Language::Ko) => "알림",
            (false, Language::Ko) => "대기",
            (true, Language::En) => "told",
            (false, Language::En) => "pending",
        };
        let mut cells = vec![
            score.ended_at.instant().to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            score.machine.clone(),
            score.die.clone(),
            score.cycle.to_string(),
            score.probability.map_or_else(|| "-".to_owned(), |p| format!("{:.1}%", p * 100.0)),
            cause.map_or_else(|| record.cause.clone(), |a| words(&a.name)),
        ];
        match what {
            What::Defects => cells.extend([state.to_owned(), words(&record.summary)]),
            What::Alerts => cells.extend([
                alert.as_ref().map_or_else(|| state.to_owned(), |a| a.channels.join(" ")),
                alert.as_ref().map_or_else(|| words(&record.summary), |a| words(&a.title)),
            ]),
        }
        // What comes from outside may not command the terminal.
        cells
            .iter()
            .map(|text| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
            .collect()
    }

    fn values(&self, what: What, links: bool) -> Vec<String> {
        let Kept { record, alert } = &self.kept;
        let score = &record.score;
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
        let mut values = vec![
            score.shot.to_string(),
            score.machine.clone(),
            score.die.clone(),
            score.cycle.to_string(),
            score.ended_at.to_string(),
            number(score.probability),
            record.cause.clone(),
            alert.is_some().to_string(),
        ];
        match what {
            What::Defects => values.extend([
                score.try_shot.to_string(),
                number(score.anomaly),
                record.summary.ko.clone(),
                record.summary.en.clone(),
                record.advice.ko.clone(),
                record.advice.en.clone(),
                score.bundle.clone(),
            ]),
            What::Alerts => {
                let title = |of: fn(&Words) -> &String| alert.as_ref().map(|a| of(&a.title).clone());
                values.extend([
                    alert.as_ref().map_or_else(String::new, |a| a.channels.join(" ")),
                    title(|words| &words.ko).unwrap_or_default(),
                    title(|words| &words.en).unwrap_or_default(),
                ]);
            }
        }
        values.push(record.chart.clone().unwrap_or_default());
        if links {
            values.push(self.link.clone().unwrap_or_default());
        }
        values
    }
}

impl<W: Write> Sheet<W> {
    /// An empty list.
    pub fn new(what: What, form: Form, links: bool, zone: TimeZone, screen: W) -> Result<Self> {
        let mut sheet = Self { what, form, links, zone, screen, rows: 0, widths: Vec::new() };
        match form {
            Form::Table(_) => {}
            Form::Json => write!(sheet.screen, "{{\n  \"{}\": [", sheet.name())?,
            Form::Csv => writeln!(sheet.screen, "{}", sheet.header().join(","))?,
        }
        Ok(sheet)
    }

    /// Prints a page.
    pub fn rows(&mut self, rows: &[Row]) -> Result<()> {
        match self.form {
            Form::Table(lang) => self.table(rows, lang)?,
            Form::Json => {
                for row in rows {
                    write!(self.screen, "{}\n    ", if self.rows == 0 { "" } else { "," })?;
                    match self.what {
                        What::Defects => serde_json::to_writer(&mut self.screen, &row.defect())?,
                        What::Alerts => serde_json::to_writer(&mut self.screen, &row.alert())?,
                    }
                    self.rows += 1;
                }
            }
            Form::Csv => {
                for row in rows {
                    let values: Vec<String> =
                        row.values(self.what, self.links).iter().map(|text| cell(text)).collect();
                    writeln!(self.screen, "{}", values.join(","))?;
                }
            }
        }
        Ok(self.screen.flush()?)
    }

    /// Ends the list; `next` is where it goes on.
    pub fn end(mut self, next: Option<&str>) -> Result<()> {
        if self.form == Form::Json {
            let close = if self.rows == 0 { "" } else { "\n  " };
            writeln!(self.screen, "{close}],\n  \"next\": {}\n}}", serde_json::to_string(&next)?)?;
        }
        if let (Form::Table(lang), 0) = (self.form, self.rows) {
            let none =
                if lang == Language::Ko { "해당하는 기록이 없습니다" } else { "nothing fits" };
            writeln!(self.screen, "{none}")?;
        }
        Ok(self.screen.flush()?)
    }

    fn name(&self) -> &'static str {
        match self.what {
            What::Defects => "defects",
            What::Alerts => "alerts",
        }
    }

    fn header(&self) -> Vec<&'static str> {
        let mut names = vec!["shot", "machine", "die", "cycle", "ended_at", "probability", "cause", "told"];
        names.extend_from_slice(match self.what {
            What::Defects => {
                &["try_shot", "anomaly", "summary_ko", "summary_en", "advice_ko", "advice_en", "bundle"]
            }
            What::Alerts => &["channels", "title_ko", "title_en"],
        });
        names.push("chart");
        if self.links {
            names.push("link");
        }
        names
    }

    fn table(&mut self, rows: &[Row], lang: Language) -> Result<()> {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(self.what, lang, &self.zone)).collect();
        let titles = match (self.what, lang) {
            (What::Defects, Language::Ko) => {
                ["시각", "기계", "금형", "사이클", "확률", "원인", "통보", "내용"]
            }
            (What::Alerts, Language::Ko) => {
                ["시각", "기계", "금형", "사이클", "확률", "원인", "채널", "내용"]
            }
            (What::Defects, Language::En) => {
                ["time", "machine", "die", "cycle", "prob.", "cause", "told", "what"]
            }
            (What::Alerts, Language::En) => {
                ["time", "machine", "die", "cycle", "prob.", "cause", "channels", "what"]
            }
        };
        self.widths.resize(titles.len(), 0);
        let first = self.rows == 0 && !rows.is_empty();
        let titles = titles.map(str::to_owned);
        for line in first.then_some(&titles[..]).into_iter().chain(cells.iter().map(Vec::as_slice)) {
            for (width, text) in self.widths.iter_mut().zip(line) {
                *width = text.width().max(*width);
            }
        }
        if first {
            self.line(&titles)?;
        }
        for (row, line) in rows.iter().zip(&cells) {
            self.line(line)?;
            if let Some(link) = &row.link {
                writeln!(self.screen, "    {link}")?;
            }
        }
        self.rows += rows.len() as u64;
        Ok(())
    }

    /// One line; numbers end where their column ends, and Hangul is two columns wide.
    fn line(&mut self, cells: &[String]) -> Result<()> {
        for (at, (text, width)) in cells.iter().zip(&self.widths).enumerate() {
            let space = " ".repeat(width.saturating_sub(text.width()));
            match at {
                3 | 4 => write!(self.screen, "{space}{text}  ")?,
                at if at + 1 == cells.len() => writeln!(self.screen, "{text}")?,
                _ => write!(self.screen, "{text}{space}  ")?,
            }
        }
        Ok(())
    }
}
