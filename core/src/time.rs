//! The time of a shot: an instant, and the offset the machine wrote it with.
//!
//! An [`EndedAt`] is always inside [`EARLIEST`, `LATEST`): a machine whose clock was never set
//! (1970) or is broken (2100) is refused by name instead of poisoning the history of its dies.

use std::fmt;

use jiff::{Timestamp, tz::Offset};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The first second a shot may have ended at: 2000-01-01T00:00:00Z.
pub const EARLIEST: i64 = 946_684_800;
/// The first second that is too late: 2100-01-01T00:00:00Z.
pub const LATEST: i64 = 4_102_444_800;

/// When a shot ended, with the offset from UTC that the machine reported.
///
/// Ordering and equality are those of the instant first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndedAt {
    instant: Timestamp,
    offset: Offset,
}

/// Why a text is not the time of a shot.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// Not RFC 3339 with an offset.
    #[error("time `{text}` is not RFC 3339 with an offset, such as 2026-01-15T16:45:06+09:00")]
    Format {
        /// The text as it came.
        text: String,
        /// What jiff said.
        #[source]
        source: jiff::Error,
    },
    /// Outside the years in which a machine's clock can be right.
    #[error("time {text} is outside 2000 to 2099: the machine's clock is not set")]
    Range {
        /// The time as it came.
        text: String,
    },
}

impl EndedAt {
    /// A time from an instant and the offset it is to be shown with, which is kept to the minute:
    /// RFC 3339 has no more, and what is shown must read back as the same instant.
    ///
    /// # Errors
    /// [`TimeError::Range`] outside 2000 to 2099.
    pub fn new(instant: Timestamp, offset: Offset) -> Result<Self, TimeError> {
        if !(EARLIEST..LATEST).contains(&instant.as_second()) {
            return Err(TimeError::Range { text: instant.to_string() });
        }
        let minutes = offset.seconds() / 60;
        Ok(Self { instant, offset: Offset::from_seconds(minutes * 60).unwrap_or(offset) })
    }

    /// Reads RFC 3339 with an offset.
    ///
    /// # Errors
    /// [`TimeError`] when the text is something else or the year cannot be.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let parser = jiff::fmt::temporal::DateTimeParser::new();
        let format = |source| TimeError::Format { text: clip(text), source };
        let instant = parser.parse_timestamp(text).map_err(format)?;
        // The parser also takes offsets such as +0900 and +09: it must be asked what it read.
        let offset = parser.parse_pieces(text).map_err(format)?.to_numeric_offset();
        Self::new(instant, offset.unwrap_or(Offset::UTC))
    }

    /// The instant.
    #[must_use]
    pub fn instant(self) -> Timestamp {
        self.instant
    }

    /// The offset from UTC it was reported with.
    #[must_use]
    pub fn offset(self) -> Offset {
        self.offset
    }

    /// The instant in seconds since 1970, with its fraction.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.instant.as_second() as f64 + f64::from(self.instant.subsec_nanosecond()) * 1e-9
    }
}

/// A piece of a foreign text that is fit for one line of a message: short, and with its control
/// characters escaped, so that it can neither break the line nor command a terminal.
#[must_use]
pub fn clip(text: &str) -> String {
    let mut clipped = String::with_capacity(text.len().min(64));
    for (at, c) in text.chars().enumerate() {
        if at == 60 {
            clipped.push_str("...");
            break;
        }
        if c.is_control() {
            clipped.extend(c.escape_default());
        } else {
            clipped.push(c);
        }
    }
    clipped
}

impl fmt::Display for EndedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.instant.display_with_offset(self.offset))
    }
}

impl Serialize for EndedAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EndedAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_offset_of_the_machine() {
        let at = EndedAt::parse("2026-01-15T16:45:06+09:00").unwrap();
        assert_eq!(at.to_string(), "2026-01-15T16:45:06+09:00");
        assert_eq!(at.instant().to_string(), "2026-01-15T07:45:06Z");
        assert_eq!(
            EndedAt::parse("2026-01-15T07:45:06.250Z").unwrap().to_string(),
            "2026-01-15T07:45:06.25+00:00"
        );
    }

    #[test]
    fn every_way_to_write_an_offset_keeps_it() {
        for (text, shown) in [
            ("2026-01-15T16:45:06+0900", "2026-01-15T16:45:06+09:00"),
            ("2026-01-15T16:45:06+09", "2026-01-15T16:45:06+09:00"),
            ("2026-01-15T16:45:06+09:00[Asia/Seoul]", "2026-01-15T16:45:06+09:00"),
            ("2026-01-15 16:45:06.5+09:00", "2026-01-15T16:45:06.5+09:00"),
            ("2026-01-15T03:15:06-03:30", "2026-01-15T03:15:06-03:30"),
            ("2026-01-15T07:45:06z", "2026-01-15T07:45:06+00:00"),
            ("2026-01-15T07:45:06-00:00", "2026-01-15T07:45:06+00:00"),
            ("2026-01-15T16:45:06+09:00:30", "2026-01-15T16:44:36+09:00"),
        ] {
            let at = EndedAt::parse(text).unwrap();
            assert_eq!(at.to_string(), shown, "{text}");
            assert_eq!(EndedAt::parse(shown).unwrap(), at, "{text}");
        }
    }

    #[test]
    fn foreign_text_stays_in_its_line() {
        assert_eq!(clip("주조기 3"), "주조기 3");
        assert_eq!(clip("a\n\u{1b}[31m\0\u{9b}b"), r"a\n\u{1b}[31m\u{0}\u{9b}b");
        assert_eq!(clip(&"\r".repeat(60)), r"\r".repeat(60));
        assert_eq!(clip(&"x".repeat(61)), format!("{}...", "x".repeat(60)));
        let error = EndedAt::parse("2026\u{7}").unwrap_err().to_string();
        assert!(error.contains(r"`2026\u{7}`"), "{error}");
    }

    #[test]
    fn refuses_clocks_that_are_not_set() {
        for text in ["1970-01-01T00:00:12Z", "1999-12-31T23:59:59Z", "2100-01-01T00:00:00Z"] {
            assert!(matches!(EndedAt::parse(text), Err(TimeError::Range { .. })), "{text}");
        }
        for text in ["", "yesterday", "2026-01-15 16:45:06", "2026-01-15T16:45:06", "2026-13-01T00:00:00Z"] {
            assert!(matches!(EndedAt::parse(text), Err(TimeError::Format { .. })), "{text}");
        }
    }
}
