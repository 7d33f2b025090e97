//! The beginning of an input, and what it says the input is.
//!
//! **No more is waited for than is needed to tell**: rows that are typed or piped in slowly are
//! taken as they come.

use std::io::{self, Cursor, Read};

use super::lines::Lines;
use super::{delimited, has_extension};
use crate::plant::{Format, Plant};

/// The most that is looked at to tell what an input is.
pub(crate) const MOST: usize = 64 * 1024;
/// How many lines may stand before the first that tells.
const LINES: usize = 8;
pub(crate) const GZIP: &[u8] = b"\x1F\x8B";
pub(crate) const PARQUET: &[u8] = b"PAR1";

type Input = Box<dyn Read + Send>;

/// The bytes that were taken off an input, and the rest.
pub(crate) struct Head {
    pub bytes: Vec<u8>,
    input: Input,
    /// The input has given its last byte.
    ended: bool,
}

impl Head {
    /// Takes at least `enough` bytes, fewer at the end; an error waits for its turn.
    pub(crate) fn new(input: Input, enough: usize) -> Self {
        let mut head = Self { bytes: Vec::new(), input, ended: false };
        while head.bytes.len() < enough.min(MOST) && !head.ended {
            head.more();
        }
        head
    }

    /// The whole input, from its first byte.
    pub(crate) fn whole(self) -> Input {
        Box::new(Cursor::new(self.bytes).chain(self.input))
    }

    fn more(&mut self) {
        let filled = self.bytes.len();
        self.bytes.resize(MOST, 0);
        let read = self.input.read(&mut self.bytes[filled..]);
        self.bytes.truncate(filled + read.as_ref().map_or(0, |n| *n));
        match read {
            Ok(0) => self.ended = true,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                self.input = Box::new(Failing(Some(error)));
                self.ended = true;
            }
            _ => {}
        }
    }

    /// What the text is: as the plant says, or the file's name, or else its first lines.
    pub(crate) fn format(&mut self, file: &str, plant: &Plant) -> Format {
        if plant.format != Format::Auto {
            return plant.format;
        }
        if has_extension(file, &["jsonl", "ndjson", "json"]) {
            return Format::Json;
        }
        if has_extension(file, &["csv", "tsv"]) {
            return Format::Delimited;
        }
        // A line of rubbish in front must not hide what follows, and one within a table must not
        // pass for the table. Waiting for more costs nothing here: a table whose first line names
        // none of the plant's columns gives no row.
        loop {
            if self.names_columns(plant) {
                return Format::Delimited;
            }
            if self.lines().any(opens_an_object) {
                return Format::Json;
            }
            if self.ended || self.bytes.len() >= MOST || self.lines().count() > LINES {
                return Format::Delimited;
            }
            self.more();
        }
    }

    /// The lines so far that are not blank; the last may not be whole.
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.bytes);
        text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
    }

    /// Whether the first line names one of the plant's columns.
    fn names_columns(&self, plant: &Plant) -> bool {
        let mut lines = Lines::new(&self.bytes[..], plant.encoding);
        lines.settle(&self.bytes);
        let Ok(Some(first)) = lines.next() else { return false };
        let Ok(text) = lines.decode(&first.bytes) else { return false };
        let mut cells = Vec::new();
        delimited::split(&text, plant.delimiter, &mut cells).is_ok()
            && cells.iter().any(|cell| plant.columns().contains(&cell.trim()))
    }

    /// What the input is, where it is something that people mistake for a table.
    pub(crate) fn foreign(&self) -> Option<&'static str> {
        let kinds: [(&[u8], &str); 5] = [
            (b"PK\x03\x04", "is an Excel workbook or a zip archive: save the sheet as CSV"),
            (b"\xD0\xCF\x11\xE0", "is an old Excel workbook: save the sheet as CSV"),
            (b"\xFF\xFE", "is in UTF-16: save it as UTF-8"),
            (b"\xFE\xFF", "is in UTF-16: save it as UTF-8"),
            (PARQUET, "is Parquet inside gzip: unpack it first"),
        ];
        kinds.iter().find(|(magic, _)| self.bytes.starts_with(magic)).map(|(_, what)| *what)
    }
}

/// An object's first letter after its brace; nothing else may begin so, not even by accident.
fn opens_an_object(line: &[u8]) -> bool {
    line.strip_prefix(b"{")
        .is_some_and(|rest| matches!(rest.trim_ascii_start().first(), None | Some(b'"' | b'}')))
}

/// Gives an error that was met while looking ahead.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}
