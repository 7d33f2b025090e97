//! A plant's table, from a file or standard input, row by row.
//!
//! **Every row comes out once and in order, as a shot or as a refusal with its bytes**, and no row
//! takes its neighbours along. Where a file can't be read on, all rows before that place have been
//! given, and one error says which row is the first that is lost.

mod delimited;
mod json;
mod lines;
mod parquet;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use castwatch_core::time::clip;
use flate2::read::MultiGzDecoder;

use ::parquet::file::reader::ChunkReader;

use crate::cell::Cell;
use crate::plant::Plant;
use crate::row::{Mapped, Mapper, Row, RowError};
pub(crate) use json::cell as json_cell;
use lines::{Line, Lines, MAX_LINE};

/// How much of a file is looked at to tell what it is.
const HEAD: usize = 64 * 1024;
const GZIP: &[u8] = b"\x1F\x8B";
const PARQUET: &[u8] = b"PAR1";

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
    /// Opens a file, or standard input for `-`: delimited text, JSON lines or Parquet, told by the
    /// content; text may be compressed by gzip.
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
        Self::text(name, Box::new(file), HEAD, plant)
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
        // Not more than this, so that rows typed or piped in slowly are taken as they come.
        let (head, mut input) = look(Box::new(input), PARQUET.len());
        if head.starts_with(PARQUET) {
            let mut all = head;
            input
                .read_to_end(&mut all)
                .map_err(|e| TableError::Read { file: name.into(), source: e.into() })?;
            return Self::parquet(name.into(), Bytes::from(all), plant);
        }
        Self::text(name.into(), Box::new(Cursor::new(head).chain(input)), PARQUET.len(), plant)
    }

    /// The name of the file in messages.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    fn text(
        file: String,
        input: Box<dyn Read + Send>,
        enough: usize,
        plant: &Plant,
    ) -> Result<Self, TableError> {
        let (mut head, mut input) = look(input, enough);
        let gzip = head.starts_with(GZIP);
        if gzip {
            let packed = Cursor::new(head).chain(input);
            (head, input) = look(Box::new(MultiGzDecoder::new(packed)), HEAD);
        }
        if let Some(what) = foreign(&head) {
            return Err(TableError::Format { file, what: what.into() });
        }
        let json = is_json(&file, &head);
        let input: Box<dyn Read + Send> = Box::new(Cursor::new(head.clone()).chain(input));
        let mut lines = Lines::new(BufReader::with_capacity(HEAD, input), plant.encoding);
        lines.settle(&head);
        let first = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return Err(TableError::Empty { file }),
            Err(source) => return Err(TableError::Read { file, source: source.into() }),
        };
        let mapper = Mapper::new(plant);
        let source = if json {
            let columns = lines.decode(&first.bytes).ok().and_then(|text| json::columns(&text));
            if let Some(has) = columns {
                places(&file, plant, &mapper, has)?;
            }
            Source::Json { lines, first: Some(first) }
        } else {
            let not_a_table = |what: &str| TableError::Format {
                file: file.clone(),
                what: format!("is not a table: its first line, which should name the columns, {what}"),
            };
            if first.cut {
                return Err(not_a_table("is longer than 1 MiB"));
            }
            let header = lines.decode(&first.bytes).map_err(not_a_table)?;
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
                    Err(why) => Err(RowError::Refused { row, why, bytes }),
                })
            }
            Err(source) => {
                self.ended = true;
                let what = if self.gzip { "its gzip data is cut off or damaged" } else { "reading failed" };
                Some(Err(RowError::Broken { file: self.file.clone(), row, what, source }))
            }
        }
    }
}

fn decode<'l>(line: &'l Line, lines: &mut Lines<Input>) -> Result<Cow<'l, str>, String> {
    if line.cut {
        return Err(format!("is longer than {MAX_LINE} bytes"));
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

/// Where each column that the plant needs stands in the table.
fn places(file: &str, plant: &Plant, mapper: &Mapper, has: Vec<String>) -> Result<Vec<usize>, TableError> {
    let mut places = Vec::new();
    let mut missing = Vec::new();
    for column in mapper.columns() {
        let mut at = has.iter().enumerate().filter(|(_, h)| *h == column).map(|(at, _)| at);
        match (at.next(), at.next()) {
            (Some(place), None) => places.push(place),
            (Some(_), Some(_)) => {
                let what = format!("has the column `{column}` twice; which is meant can't be told");
                return Err(TableError::Format { file: file.into(), what });
            }
            (None, _) => missing.push(column.clone()),
        }
    }
    if missing.is_empty() {
        return Ok(places);
    }
    Err(TableError::Columns { file: file.into(), plant: plant.name.clone(), missing, has })
}

fn missing_columns(file: &str, plant: &str, missing: &[String], has: &[String]) -> String {
    let lacks: Vec<String> = missing
        .iter()
        .map(|column| {
            let near = has
                .iter()
                .map(|h| (distance(column, h), h))
                .min()
                .filter(|(d, h)| d * 3 <= h.chars().count());
            match near {
                Some((_, near)) => format!("`{column}` (did you mean `{near}`?)"),
                None => format!("`{column}`"),
            }
        })
        .collect();
    const SHOWN: usize = 60;
    let more = if has.len() > SHOWN { format!(", and {} more", has.len() - SHOWN) } else { String::new() };
    let has: Vec<String> = has.iter().take(SHOWN).map(|h| clip(h)).collect();
    format!(
        "{file} lacks columns that the plant `{plant}` needs: {}; it has: {}{more}",
        lacks.join(", "),
        has.join(", ")
    )
}

/// How many single-letter changes lie between two words, in either case of letters.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let b: Vec<char> = b.chars().take(128).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// Takes at least `enough` bytes off `input`, fewer at its end; an error waits for its turn.
fn look(mut input: Box<dyn Read + Send>, enough: usize) -> (Vec<u8>, Box<dyn Read + Send>) {
    let mut head = vec![0; HEAD];
    let mut filled = 0;
    while filled < enough.min(HEAD) {
        match input.read(&mut head[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                input = Box::new(Failing(Some(error)));
                break;
            }
        }
    }
    head.truncate(filled);
    (head, input)
}

/// Gives an error that was met while looking ahead.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// What a file is that people mistake for a table.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 5] = [
        (b"PK\x03\x04", "is an Excel workbook or a zip archive: save the sheet as CSV"),
        (b"\xD0\xCF\x11\xE0", "is an old Excel workbook: save the sheet as CSV"),
        (b"\xFF\xFE", "is in UTF-16: save it as UTF-8"),
        (b"\xFE\xFF", "is in UTF-16: save it as UTF-8"),
        (PARQUET, "is Parquet inside gzip: unpack it first"),
    ];
    kinds.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, what)| *what)
}

/// Whether the text is JSON lines: by the file's name, or by its first character.
fn is_json(file: &str, head: &[u8]) -> bool {
    let name = file.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.').map(|(_, kind)| kind) {
        Some("jsonl" | "ndjson" | "json") => true,
        Some("csv" | "tsv") => false,
        _ => {
            let text = head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(head);
            text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        }
    }
}

#[cfg(test)]
mod tests;
