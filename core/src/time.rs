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
    /// A time from an instant and the offset it is to be shown with.
    ///
    /// # Errors
    /// [`TimeError::Range`] outside 2000 to 2099.
    pub fn new(instant: Timestamp, offset: Offset) -> Result<Self, TimeError> {
        if (EARLIEST..LATEST).contains(&instant.as_second()) {
            Ok(Self { instant, offset })
        } else {
            Err(TimeError::Range { text: instant.to_string() })
        }
    }

    /// Reads RFC 3339 with an offset.
    ///
    /// # Errors
    /// [`TimeError`] when the text is something else or the year cannot be.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let pieces = jiff::fmt::temporal::DateTimeParser::new();
        let instant: Timestamp =
            pieces.parse_timestamp(text).map_err(|source| TimeError::Format { text: clip(text), source })?;
        Self::new(instant, offset_of(text))
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

/// The offset written at the end of an RFC 3339 text; `Z` or anything unreadable is UTC.
fn offset_of(text: &str) -> Offset {
    let tail = text.len().checked_sub(6).and_then(|at| text.get(at..));
    let Some(tail) = tail else { return Offset::UTC };
    let (sign, rest) = match tail.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Offset::UTC,
    };
    let Some((hours, minutes)) = rest.split_once(':') else { return Offset::UTC };
    match (hours.parse::<i32>(), minutes.parse::<i32>()) {
        (Ok(h), Ok(m)) => Offset::from_seconds(sign * (h * 3600 + m * 60)).unwrap_or(Offset::UTC),
        _ => Offset::UTC,
    }
}

/// A piece of a foreign text short enough for an error message.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
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
    fn refuses_clocks_that_are_not_set() {
        for text in ["1970-01-01T00:00:12Z", "1999-12-31T23:59:59Z", "2100-01-01T00:00:00Z"] {
            assert!(matches!(EndedAt::parse(text), Err(TimeError::Range { .. })), "{text}");
        }
        for text in ["", "yesterday", "2026-01-15 16:45:06", "2026-01-15T16:45:06", "2026-13-01T00:00:00Z"] {
            assert!(matches!(EndedAt::parse(text), Err(TimeError::Format { .. })), "{text}");
        }
    }
}
