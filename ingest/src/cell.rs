//! One cell of a table, and what it can be read as.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::DateTime;

/// A cell as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Missing,
    Text(Cow<'a, str>),
    Whole(i64),
    Number(f64),
    Flag(bool),
    /// A time with its zone known.
    Instant(Timestamp),
    /// A time without a zone.
    Civil(DateTime),
    /// A list, an object, bytes: nothing that a shot is made of.
    Other(&'static str),
}

/// The largest whole number that an f64 has exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl<'a> Cell<'a> {
    /// A cell of text, without the blanks around it; nothing left is no value.
    pub(crate) fn text(text: Cow<'a, str>) -> Self {
        let text = match text {
            Cow::Borrowed(t) => Cow::Borrowed(t.trim()),
            Cow::Owned(t) if t.trim().len() == t.len() => Cow::Owned(t),
            Cow::Owned(t) => Cow::Owned(t.trim().to_owned()),
        };
        if text.is_empty() { Self::Missing } else { Self::Text(text) }
    }

    /// As it stands in messages, and in names.
    pub(crate) fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Missing => "".into(),
            Self::Text(t) => t.as_ref().into(),
            Self::Whole(i) => i.to_string().into(),
            // 8722.0 is the die 8722 after a table program made a number of it.
            Self::Number(x) => x.to_string().into(),
            Self::Flag(b) => b.to_string().into(),
            Self::Instant(at) => at.to_string().into(),
            Self::Civil(at) => at.to_string().into(),
            Self::Other(what) => (*what).into(),
        }
    }

    /// A reading: finite, or absent where the cell is blank or says NaN.
    pub(crate) fn number(&self) -> Result<Option<f64>, &'static str> {
        let number = match self {
            Self::Missing => return Ok(None),
            Self::Text(t) => t.parse().map_err(|_| "is not a number")?,
            Self::Whole(i) => *i as f64,
            Self::Number(x) => *x,
            Self::Flag(_) | Self::Instant(_) | Self::Civil(_) | Self::Other(_) => {
                return Err("is not a number");
            }
        };
        if number.is_infinite() {
            return Err("is not a finite number");
        }
        Ok(Some(number).filter(|x| !x.is_nan()))
    }

    /// A count: whole and not negative.
    pub(crate) fn count(&self) -> Result<u64, &'static str> {
        let refused = "is not a count: a whole number of 0 or more";
        match self {
            Self::Text(t) => match t.parse::<u64>() {
                Ok(count) => Ok(count),
                Err(_) => Self::Number(t.parse().map_err(|_| refused)?).count(),
            },
            Self::Whole(i) => u64::try_from(*i).map_err(|_| refused),
            Self::Number(x) if x.fract() == 0.0 && (0.0..EXACT).contains(x) => Ok(*x as u64),
            _ => Err(refused),
        }
    }

    /// Whether the cell says `value`; 1 and 1.0 are the same.
    pub(crate) fn says(&self, value: &str) -> bool {
        if matches!(self, Self::Missing) {
            return value.is_empty();
        }
        self.shown() == value
            || matches!((self.number(), value.parse::<f64>()), (Ok(Some(a)), Ok(b)) if a == b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> Cell<'_> {
        Cell::text(t.into())
    }

    #[test]
    fn numbers_are_finite_or_absent() {
        for blank in ["", "  ", "NaN", "nan", " NaN "] {
            assert_eq!(text(blank).number(), Ok(None), "{blank}");
        }
        assert_eq!(text(" 3.5e2 ").number(), Ok(Some(350.0)));
        assert_eq!(text("-0").number(), Ok(Some(0.0)));
        for wrong in ["1,234", "12 bar", "0x10", "--", "정지", "1_000"] {
            assert_eq!(text(wrong).number(), Err("is not a number"), "{wrong}");
        }
        for infinite in ["inf", "-Infinity", "1e999"] {
            assert_eq!(text(infinite).number(), Err("is not a finite number"), "{infinite}");
        }
        assert!(Cell::Flag(true).number().is_err() && Cell::Other("a list").number().is_err());
    }

    #[test]
    fn counts_are_whole() {
        assert_eq!(text("258").count(), Ok(258));
        assert_eq!(text("258.0").count(), Ok(258));
        assert_eq!(text("18446744073709551615").count(), Ok(u64::MAX));
        for wrong in ["", "-1", "1.5", "1e300", "NaN", "x"] {
            assert!(text(wrong).count().is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_are_compared_as_numbers_too() {
        assert!(text("D").says("D") && !text("d").says("D") && !text("").says("D"));
        assert!(text("1.0").says("1") && Cell::Whole(1).says("1") && !text("0").says("1"));
        assert!(Cell::Flag(true).says("true"));
    }
}
