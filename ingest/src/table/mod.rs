//! A plant's table, from a file or standard input, row by row.
//!
//! **Every row comes out once and in order, as a shot or as a refusal with its bytes**, and no row
//! takes its neighbours along. Where a file can't be read on, all rows before that place have been
//! given, and one error says which row is the first that is lost.

mod columns;
mod delimited;
mod head;
mod json;
mod lines;
mod parquet;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use ::parquet::file::reader::ChunkReader;

use crate::cell::Cell;
use crate::plant::{Format, Plant};
use crate::row::{Mapped, Mapper, Row, RowError};
use columns::{missing_columns, places};
use head::{GZIP, Head, PARQUET};
pub(crate) use json::cell as json_cell;
pub(crate) use lines::guess;
use lines::{Line, Lines, MAX_LINE};

/// The longest reason for a refusal, in characters.
const MAX_REASON: usize = 500;
const CUT_GZIP: &str = "its gzip data is cut off or damaged";

/// Why a table can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// There is no such file, or it may not be read.
    #[error("{} can't be opened", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its beginning can't be read.
    #[error("{file} can't be read")]
    Read {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// There is nothing in it.
    #[error("{file} is empty")]
    Empty {
        /// The file.
        file: String,
    },
    /// It is no table that can be read.
    #[error("{file} {what}")]
    Format {
        /// The file.
        file: String,
        /// What it is, and what would be right.
        what: String,
    },
    /// It lacks columns that the plant file names.
    #[error("{}", missing_columns(file, plant, missing, has))]
    Columns {
        /// The file.
        file: String,
        /// The plant's name.
        plant: String,
        /// The columns that it lacks.
        missing: Vec<String>,
        /// The columns that it has.
        has: Vec<String>,
    },
}

/// A table being read. It gives each row once, and ends after the first [`RowError::Broken`].
pub struct Table {
    file: String,
    source: Source,
    mapper: Mapper,
    row: u64,
    gzip: bool,
    ended: bool,
}

type Input = BufReader<Box<dyn Read + Send>>;
type Cause = Box<dyn std::error::Error + Send + Sync>;
/// A row's bytes, and the shot they are or what is wrong with them.
type Step = (Bytes, Result<Mapped, String>);

enum Source {
    /// Delimited text: the number of columns, and where those of the mapper stand.
    Delimited {
        lines: Lines<Input>,
        delimiter: char,
        width: usize,
        slots: Vec<usize>,
    },
    Json {
        lines: Lines<Input>,
        first: Option<Line>,
    },
    Parquet(Box<parquet::Rows>),
}

impl Table {
    /// Opens a file, or standard input for `-`: delimited text, JSON lines or Parquet, as the plant
    /// says or told by name and content; text may be compressed by gzip.
    ///
    /// # Errors
    /// [`TableError`] when there is no row that could be read.
    pub fn open(path: impl AsRef<Path>, plant: &Plant) -> Result<Self, TableError> {
        let path = path.as_ref();
        if path == Path::new("-") {
            return Self::from_reader("standard input", io::stdin(), plant);
        }
        let failed = |source| TableError::Open { file: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let name = path.display().to_string();
        let mut magic = Vec::new();
        let read = file.by_ref().take(PARQUET.len() as u64).read_to_end(&mut magic);
        read.and_then(|_| file.rewind()).map_err(failed)?;
        if magic == PARQUET {
            return Self::parquet(name, file, plant);
        }
        Self::text(name, Head::new(Box::new(file), head::MOST), head::MOST, plant)
    }

    /// Reads a table from `input`, which messages call `name`.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn from_reader(
        name: &str,
        input: impl Read + Send + 'static,
        plant: &Plant,
    ) -> Result<Self, TableError> {
        let head = Head::new(Box::new(input), PARQUET.len());
        if head.bytes.starts_with(PARQUET) {
            let mut all = Vec::new();
            head.whole()
                .read_to_end(&mut all)
                .map_err(|e| TableError::Read { file: name.into(), source: e.into() })?;
            return Self::parquet(name.into(), Bytes::from(all), plant);
        }
        Self::text(name.into(), head, PARQUET.len(), plant)
    }

    /// The name of the file in messages.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    fn text(file: String, mut head: Head, enough: usize, plant: &Plant) -> Result<Self, TableError> {
        let gzip = head.bytes.starts_with(GZIP);
        if gzip {
            head = Head::new(Box::new(MultiGzDecoder::new(head.whole())), enough);
        }
        if let Some(what) = head.foreign() {
            return Err(TableError::Format { file, what: what.into() });
        }
        let format = head.format(&file, plant);
        if format == Format::Parquet {
            return Err(TableError::Format { file, what: "is not Parquet, as the plant file says".into() });
        }
        let beginning = head.bytes.clone();
        let mut lines = Lines::new(BufReader::with_capacity(head::MOST, head.whole()), plant.encoding);
        lines.settle(&beginning);
        let first = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Err(TableError::Empty { file }),
            Err(source) if gzip => {
                return Err(TableError::Read { file, source: format!("{CUT_GZIP}: {source}").into() });
            }
            Err(source) => return Err(TableError::Read { file, source: source.into() }),
        };
        let mapper = Mapper::new(plant);
        let source = if format == Format::Json {
            Source::Json { lines, first: Some(first) }
        } else {
            let not_a_table = |what: &str| TableError::Format {
                file: file.clone(),
                what: format!("is not a table: its first line, which should name the columns, {what}"),
            };
            let header = decode(&first, &mut lines).map_err(|why| not_a_table(&why))?;
            if header.contains('\0') {
                return Err(not_a_table("holds NUL bytes; if the file is in UTF-16, save it as UTF-8"));
            }
            let mut cells = Vec::new();
            delimited::split(&header, plant.delimiter, &mut cells)
                .map_err(|_| not_a_table("opens a quote and does not close it"))?;
            let has: Vec<String> = cells.iter().map(|c| c.trim().to_owned()).collect();
            let width = has.len();
            let slots = places(&file, plant, &mapper, has)?;
            Source::Delimited { lines, delimiter: plant.delimiter, width, slots }
        };
        Ok(Self { file, source, mapper, row: 0, gzip, ended: false })
    }

    fn parquet<R: ChunkReader + 'static>(file: String, input: R, plant: &Plant) -> Result<Self, TableError> {
        if !matches!(plant.format, Format::Auto | Format::Parquet) {
            let what = "is Parquet, and the plant file says that it is not".into();
            return Err(TableError::Format { file, what });
        }
        let damaged = |e| TableError::Read { file: file.clone(), source: Box::new(e) };
        let mapper = Mapper::new(plant);
        let reader = parquet::open(input).map_err(damaged)?;
        places(&file, plant, &mapper, parquet::columns(&reader))?;
        let rows = parquet::Rows::new(reader, mapper.columns()).map_err(damaged)?;
        Ok(Self { source: Source::Parquet(Box::new(rows)), file, mapper, row: 0, gzip: false, ended: false })
    }

    /// The next row's bytes and what they are; `None` at the end.
    fn step(&mut self) -> Result<Option<Step>, Cause> {
        let mapper = &mut self.mapper;
        let (line, read) = match &mut self.source {
            Source::Delimited { lines, delimiter, width, slots } => {
                let Some(line) = lines.next()? else { return Ok(None) };
                let read = delimited_row(&line, lines, *delimiter, *width, slots, mapper);
                (line, read)
            }
            Source::Json { lines, first } => {
                let line = match first.take() {
                    Some(line) => Some(line),
                    None => lines.next()?,
                };
                let Some(line) = line else { return Ok(None) };
                let read = match decode(&line, lines) {
                    Ok(text) => json::read(&text, mapper),
                    Err(why) => {
                        mapper.pass();
                        Err(why)
                    }
                };
                (line, read)
            }
            Source::Parquet(rows) => {
                let Some(row) = rows.next() else { return Ok(None) };
                let row = row?;
                let cells = rows.cells(&row);
                let read = mapper.map(&cells);
                let bytes =
                    if read.is_err() { parquet::as_json(&cells, mapper.columns()) } else { Vec::new() };
                return Ok(Some((bytes.into(), read)));
            }
        };
        Ok(Some((line.bytes.into(), read)))
    }
}

impl Iterator for Table {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.row + 1;
        match self.step() {
            Ok(None) => {
                self.ended = true;
                None
            }
            Ok(Some((bytes, read))) => {
                self.row = row;
                Some(match read {
                    Ok(Mapped { shot, label, nulled }) => Ok(Row { number: row, shot, label, nulled }),
                    Err(why) => Err(RowError::Refused { row, why: short(why), bytes }),
                })
            }
            Err(source) => {
                self.ended = true;
                let what = if self.gzip { CUT_GZIP } else { "reading failed" };
                Some(Err(RowError::Broken { file: self.file.clone(), row, what, source }))
            }
        }
    }
}

fn decode<'l>(line: &'l Line, lines: &mut Lines<Input>) -> Result<Cow<'l, str>, String> {
    if line.is_cut() {
        return Err(format!(
            "is a line of {} bytes, longer than {MAX_LINE}: its dead letter has been cut to the first {}",
            line.length,
            line.bytes.len()
        ));
    }
    lines.decode(&line.bytes).map_err(str::to_owned)
}

fn delimited_row(
    line: &Line,
    lines: &mut Lines<Input>,
    delimiter: char,
    width: usize,
    slots: &[usize],
    mapper: &mut Mapper,
) -> Result<Mapped, String> {
    let text = match decode(line, lines) {
        Ok(text) => text,
        Err(why) => {
            mapper.pass();
            return Err(why);
        }
    };
    let mut parts = Vec::with_capacity(width);
    let split = delimited::split(&text, delimiter, &mut parts).map_err(str::to_owned);
    let checked = split.and_then(|()| match parts.len() {
        n if n == width => Ok(()),
        n => Err(format!("has {n} cells where the first line names {width} columns")),
    });
    if let Err(why) = checked {
        mapper.pass();
        return Err(why);
    }
    let cells: Vec<Cell<'_>> = slots.iter().map(|&at| Cell::text(std::mem::take(&mut parts[at]))).collect();
    mapper.map(&cells)
}

/// Whether the file's name ends so, packed or not.
fn has_extension(file: &str, extensions: &[&str]) -> bool {
    let name = file.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
}

/// A reason short enough for a message, whatever it quotes.
fn short(mut why: String) -> String {
    if let Some((at, _)) = why.char_indices().nth(MAX_REASON) {
        why.truncate(at);
        why.push_str("...");
    }
    why
}

#[cfg(test)]
mod tests;
