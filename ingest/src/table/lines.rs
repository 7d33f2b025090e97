//! Lines of a text file, whatever is in them.
//!
//! **A line never takes its neighbours along**: bytes that can't be decoded and lines without an
//! end cost one line, and no line costs more memory than [`MAX_LINE`] (its buffer may grow to twice
//! that).

use std::borrow::Cow;
use std::io::{self, BufRead};

use encoding_rs::EUC_KR;

use crate::plant::Encoding;

/// The longest line that is kept whole; a log takes it in one event.
pub(crate) const MAX_LINE: usize = 32 * 1024 * 1024;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// One line without its end.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Its first [`MAX_LINE`] bytes; the rest is gone.
    pub bytes: Vec<u8>,
    /// How long it was.
    pub length: u64,
}

impl Line {
    /// Whether it was longer than [`MAX_LINE`].
    pub(crate) fn is_cut(&self) -> bool {
        self.length > MAX_LINE as u64
    }
}

pub(crate) struct Lines<R> {
    input: R,
    encoding: Encoding,
    first: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R, encoding: Encoding) -> Self {
        Self { input, encoding, first: true }
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// What the input says; the line it fails in is not given.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Line::default();
        loop {
            let buffer = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            let at_end = buffer.is_empty();
            let end = buffer.iter().position(|b| *b == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            let room = MAX_LINE - line.bytes.len();
            line.length += part.len() as u64;
            line.bytes.extend_from_slice(&part[..part.len().min(room)]);
            let taken = end.map_or(buffer.len(), |at| at + 1);
            self.input.consume(taken);
            if at_end && line.bytes.is_empty() {
                return Ok(None);
            }
            if !at_end && end.is_none() {
                continue;
            }
            if !line.is_cut() && line.bytes.last() == Some(&b'\r') {
                line.bytes.pop();
            }
            if std::mem::take(&mut self.first) && line.bytes.starts_with(BOM) {
                line.bytes.drain(..BOM.len());
            }
            if line.is_cut() || line.bytes.iter().any(|b| !b.is_ascii_whitespace()) {
                return Ok(Some(line));
            }
            if at_end {
                return Ok(None);
            }
            line = Line::default();
        }
    }

    /// The characters of a line. The first line that is not plain ASCII settles what the file is
    /// in, where the plant leaves it open.
    pub(crate) fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Cow<'a, str>, &'static str> {
        if bytes.is_ascii() {
            return Ok(String::from_utf8_lossy(bytes));
        }
        if self.encoding == Encoding::Auto {
            self.encoding = guess(bytes).ok_or("holds bytes that are neither UTF-8 nor CP949")?;
        }
        match self.encoding {
            Encoding::Cp949 => EUC_KR
                .decode_without_bom_handling_and_without_replacement(bytes)
                .ok_or("holds bytes that are not CP949"),
            _ => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| "holds bytes that are not UTF-8"),
        }
    }

    /// Lets the beginning of the file say what it is in, where the plant leaves it open.
    pub(crate) fn settle(&mut self, beginning: &[u8]) {
        if self.encoding == Encoding::Auto
            && let Some(encoding) = guess(beginning)
        {
            self.encoding = encoding;
        }
    }
}

/// What the lines that are not plain ASCII are in: the one most of them can be read as. A word of
/// CP949 can pass for UTF-8 by accident, but not line after line.
pub(crate) fn guess(bytes: &[u8]) -> Option<Encoding> {
    let (mut utf8, mut cp949) = (0, 0);
    for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_ascii()) {
        if std::str::from_utf8(line).is_ok() {
            utf8 += 1;
        } else if EUC_KR.decode_without_bom_handling_and_without_replacement(line).is_some() {
            cp949 += 1;
        }
    }
    match (utf8, cp949) {
        (0, 0) => None,
        _ if utf8 >= cp949 => Some(Encoding::Utf8),
        _ => Some(Encoding::Cp949),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
        // A small buffer puts line ends and bytes of a character on its edges.
        let mut lines = Lines::new(io::BufReader::with_capacity(3, bytes), Encoding::Auto);
        std::iter::from_fn(|| lines.next().unwrap()).map(|l| l.bytes).collect()
    }

    #[test]
    fn splits_at_either_end_and_skips_blanks() {
        assert_eq!(lines(b"\xEF\xBB\xBFa,b\r\n\r\n  \n1,2\n3,4"), [&b"a,b"[..], b"1,2", b"3,4"]);
        assert!(lines(b"").is_empty() && lines(b"\n\r\n").is_empty() && lines(b"\xEF\xBB\xBF").is_empty());
    }

    #[test]
    fn a_line_without_end_costs_itself_only() {
        let mut bytes = vec![b'x'; MAX_LINE + 5];
        bytes.extend(b"\r\nnext\n");
        let mut lines = Lines::new(&bytes[..], Encoding::Auto);
        let long = lines.next().unwrap().unwrap();
        assert!(long.is_cut() && long.bytes.len() == MAX_LINE && long.length == MAX_LINE as u64 + 6);
        assert_eq!(lines.next().unwrap().unwrap().bytes, b"next");
    }

    #[test]
    fn tells_cp949_from_utf8() {
        let (korean, _, _) = EUC_KR.encode("가동,금형 8722,똠방");
        for encoding in [Encoding::Auto, Encoding::Cp949] {
            let mut lines = Lines::new(&b""[..], encoding);
            assert_eq!(lines.decode(&korean).unwrap(), "가동,금형 8722,똠방");
        }
        let mut lines = Lines::new(&b""[..], Encoding::Auto);
        assert_eq!(lines.decode("가동".as_bytes()).unwrap(), "가동");
        assert!(lines.decode(&korean).is_err(), "a file is in one of them");
        assert!(Lines::new(&b""[..], Encoding::Auto).decode(b"\xFF\xFF").is_err());
        // This word is CP949 and by accident UTF-8; its neighbours settle it.
        let (word, _, _) = EUC_KR.encode("크");
        assert!(std::str::from_utf8(&word).is_ok());
        let beginning = [&word[..], b"\n", &korean[..], b"\n", &korean[..], b"\n"].concat();
        let mut lines = Lines::new(&b""[..], Encoding::Auto);
        lines.settle(&beginning);
        assert_eq!(lines.decode(&word).unwrap(), "크");
    }
}
