//! A shot: one casting cycle of one machine, with its readings.
//!
//! **A [`Shot`] that exists is well formed**: it has a machine, a die, a time that can be, and
//! readings that are finite or absent. [`Shot::from_json`] is the only way in from outside and
//! says what was wrong with what it refuses.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use crate::time::{EndedAt, TimeError, clip};

/// The largest event that is read; a shot of 100 readings is under 4 KiB.
pub const MAX_BYTES: usize = 256 * 1024;
/// The most readings one shot may have.
pub const MAX_READINGS: usize = 1024;
/// The longest name of a machine, die or reading, in bytes.
pub const MAX_NAME: usize = 128;

/// One casting cycle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shot {
    /// The machine, such as `DCM-03`; also the key of the `shots` topic.
    pub machine: String,
    /// The die (mould, 금형) in the machine.
    pub die: String,
    /// The shot's counter at the machine; it resets with a shift or a restart.
    pub cycle: u64,
    /// When the cycle ended, by the machine's clock.
    pub ended_at: EndedAt,
    /// A warm-up shot after a start or die change (시사출).
    #[serde(default)]
    pub try_shot: bool,
    /// Sensor values by name, absent where there was none.
    pub readings: Readings,
}

/// Why bytes are not a shot.
#[derive(Debug, thiserror::Error)]
pub enum ShotError {
    /// Larger than [`MAX_BYTES`].
    #[error("event of {bytes} bytes is larger than a shot can be ({MAX_BYTES})")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the JSON of a shot; the source says where and why.
    #[error("not a shot: {0}")]
    Json(#[from] serde_json::Error),
    /// A name that is empty, too long or holds control characters.
    #[error("{field} `{text}` is not a name: 1 to {MAX_NAME} bytes, no control characters")]
    Name {
        /// `machine`, `die` or `reading`.
        field: &'static str,
        /// What came.
        text: String,
    },
    /// A time that can't be.
    #[error(transparent)]
    Time(#[from] TimeError),
}

impl Shot {
    /// Reads one event of the `shots` topic. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`ShotError`] with the field and what would be right.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ShotError> {
        if bytes.len() > MAX_BYTES {
            return Err(ShotError::TooLarge { bytes: bytes.len() });
        }
        // serde would also read a struct from a list of its fields in order.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(ShotError::Json(de::Error::custom("a shot is an object, not a list")));
        }
        let shot: Self = serde_json::from_slice(bytes)?;
        shot.checked()
    }

    /// Checks the names of a shot made in this process.
    ///
    /// # Errors
    /// [`ShotError::Name`].
    pub fn checked(self) -> Result<Self, ShotError> {
        check_name("machine", &self.machine)?;
        check_name("die", &self.die)?;
        for (name, _) in self.readings.iter() {
            check_name("reading", name)?;
        }
        Ok(self)
    }

    /// What makes this shot this shot: machine, die, time and cycle.
    ///
    /// The die belongs to it: a line that casts two dies in turn counts each on its own, and two
    /// of its shots can end in the same second with the same count.
    #[must_use]
    pub fn id(&self) -> ShotId {
        let mut text = String::with_capacity(64);
        escape(&self.machine, &mut text);
        text.push('~');
        escape(&self.die, &mut text);
        text.push('~');
        text.extend(self.ended_at.instant().to_string().chars().filter(|c| !matches!(c, '-' | ':')));
        text.push('~');
        text.push_str(itoa(self.cycle, &mut [0; 20]));
        ShotId(text)
    }
}

fn check_name(field: &'static str, text: &str) -> Result<(), ShotError> {
    // Nearly all names are plain: letters need a look only where there is anything else.
    let plain = text.bytes().fold(true, |plain, b| plain & (b' '..=b'~').contains(&b));
    if text.is_empty() || text.len() > MAX_NAME || !plain && text.chars().any(char::is_control) {
        return Err(ShotError::Name { field, text: clip(text) });
    }
    Ok(())
}

/// Letters (of any script), digits, `.`, `_` and `-` stand for themselves; the rest is percent-encoded.
fn escape(name: &str, out: &mut String) {
    use fmt::Write as _;
    for c in name.chars() {
        if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') {
            out.push(c);
        } else {
            let mut bytes = [0; 4];
            for b in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
}

fn itoa(mut value: u64, buffer: &mut [u8; 20]) -> &str {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or("0")
}

/// The identity of a shot as a text that is safe in keys, paths and links, such as
/// `DCM-03~8722~20260115T074506Z~258`. Two shots are the same if and only if their ids are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShotId(String);

impl ShotId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id read back from an event this system wrote.
    #[must_use]
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ShotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The readings of a shot in the order they came: name and finite value, or no value.
///
/// The names lie in one text, since a line reads thousands of shots a second and drops them again.
#[derive(Clone, Default, PartialEq)]
pub struct Readings {
    names: String,
    /// Where each name ends, and its value.
    each: Vec<(usize, Option<f64>)>,
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Readings {
    /// No readings yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one reading; a value that is not finite becomes no value.
    pub fn push(&mut self, name: impl AsRef<str>, value: Option<f64>) {
        self.names.push_str(name.as_ref());
        self.each.push((self.names.len(), value.filter(|v| v.is_finite())));
    }

    /// The value of a reading: `None` when the shot does not have it, `Some(None)` when it is null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Option<f64>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The value of a reading, looking first at `hint`: the place it had in the shot before.
    #[must_use]
    pub fn get_at(&self, hint: usize, name: &str) -> Option<Option<f64>> {
        match self.each.get(hint) {
            Some((end, v)) if self.names.get(self.start(hint)..*end) == Some(name) => Some(*v),
            _ => self.get(name),
        }
    }

    /// Where the name of a reading starts.
    fn start(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|before| self.each.get(before)).map_or(0, |(end, _)| *end)
    }

    /// All readings in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        let mut start = 0;
        self.each.iter().map(move |(end, value)| {
            let name = &self.names[start..*end];
            start = *end;
            (name, *value)
        })
    }

    /// How many readings there are, null ones too.
    #[must_use]
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }
}

impl<N: AsRef<str>> FromIterator<(N, Option<f64>)> for Readings {
    fn from_iter<I: IntoIterator<Item = (N, Option<f64>)>>(pairs: I) -> Self {
        let mut readings = Self::new();
        for (name, value) in pairs {
            readings.push(name, value);
        }
        readings
    }
}

impl Serialize for Readings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// Reads a name onto the end of a text.
struct Name<'n>(&'n mut String);

impl<'de> de::DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl de::Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        self.0.push_str(name);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Readings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Readings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of readings, each a number or null")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Readings, A::Error> {
                let mut readings =
                    Readings { names: String::with_capacity(512), each: Vec::with_capacity(32) };
                while map.next_key_seed(Name(&mut readings.names))?.is_some() {
                    let name = readings.start(readings.len());
                    let value: Option<f64> = map.next_value().map_err(|e| {
                        let name = clip(&readings.names[name..]);
                        de::Error::custom(format_args!("reading `{name}`: {e}"))
                    })?;
                    if readings.len() == MAX_READINGS {
                        return Err(de::Error::custom(format_args!("more than {MAX_READINGS} readings")));
                    }
                    readings.each.push((readings.names.len(), value));
                }
                let mut names: Vec<&str> = readings.iter().map(|(n, _)| n).collect();
                names.sort_unstable();
                if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                    return Err(de::Error::custom(format_args!("reading `{}` stands twice", clip(pair[0]))));
                }
                Ok(readings)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"machine":"DCM-03","die":"8722","cycle":258,"ended_at":"2026-01-15T16:45:06+09:00",
        "try_shot":false,"readings":{"cast_pressure":331.0,"sleeve_temperature":null},"operator":{"name":"x"}}"#;

    #[test]
    fn reads_the_contract_and_ignores_the_unknown() {
        let shot = Shot::from_json(GOOD.as_bytes()).unwrap();
        assert_eq!(shot.id().as_str(), "DCM-03~8722~20260115T074506Z~258");
        assert_eq!(shot.readings.get("cast_pressure"), Some(Some(331.0)));
        assert_eq!(shot.readings.get("sleeve_temperature"), Some(None));
        assert_eq!(shot.readings.get("x"), None);
        let again = Shot::from_json(&serde_json::to_vec(&shot).unwrap()).unwrap();
        assert_eq!(shot, again);
    }

    #[test]
    fn says_what_is_wrong() {
        let cases: &[(&str, &str)] = &[
            ("", "EOF"),
            ("{not json", "key must be a string"),
            ("[1,2]", "a shot is an object, not a list"),
            (&GOOD.replace("\"machine\":\"DCM-03\",", ""), "missing field `machine`"),
            (&GOOD.replace("\"DCM-03\"", "7"), "invalid type: integer `7`, expected a string"),
            (&GOOD.replace("\"DCM-03\"", "\"\""), "machine `` is not a name"),
            (&GOOD.replace("\"8722\"", "\"a\\u0000b\""), "die `a\\u{0}b` is not a name"),
            (&GOOD.replace("cast_pressure", "a\\u001b[2J"), "reading `a\\u{1b}[2J` is not a name"),
            (
                &GOOD.replace("331.0", "1,\"a\\nb\":\"x\\ny\""),
                r#"reading `a\nb`: invalid type: string "x\ny""#,
            ),
            (&GOOD.replace("258", "-1"), "invalid value: integer `-1`"),
            (&GOOD.replace("258", "1.5"), "invalid type: floating point"),
            (&GOOD.replace("\"ended_at\":\"2026-01-15T16:45:06+09:00\",", ""), "missing field `ended_at`"),
            (&GOOD.replace("2026-01-15T16:45:06+09:00", "1970-01-01T00:00:00Z"), "outside 2000 to 2099"),
            (&GOOD.replace("2026-01-15T16:45:06+09:00", "2100-06-01T00:00:00Z"), "outside 2000 to 2099"),
            (
                &GOOD.replace("331.0", "\"331.0\""),
                "reading `cast_pressure`: invalid type: string \"331.0\", expected f64",
            ),
            (&GOOD.replace("331.0", "NaN"), "expected value"),
            (&GOOD.replace("331.0", "Infinity"), "expected value"),
            (&GOOD.replace("331.0", "1e999"), "number out of range"),
            (&GOOD.replace("331.0", "true"), "reading `cast_pressure`: invalid type: boolean"),
            (&GOOD.replace("sleeve_temperature", "cast_pressure"), "stands twice"),
            (
                &GOOD.replace(
                    "\"readings\":{\"cast_pressure\":331.0,\"sleeve_temperature\":null}",
                    "\"readings\":[1]",
                ),
                "an object of readings",
            ),
        ];
        for (text, expected) in cases {
            let error = Shot::from_json(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}\n  said: {error}\n  not:  {expected}");
        }
        let large = vec![b' '; 10 * 1024 * 1024];
        assert!(matches!(Shot::from_json(&large), Err(ShotError::TooLarge { bytes: 10_485_760 })));
    }

    #[test]
    fn ids_differ_when_names_conspire() {
        let shot = |machine: &str, die: &str| {
            let mut shot = Shot::from_json(GOOD.as_bytes()).unwrap();
            shot.machine = machine.into();
            shot.die = die.into();
            shot.id()
        };
        assert_ne!(shot("a~b", "c"), shot("a", "b~c"));
        assert_ne!(shot("a/b", "c"), shot("a%2Fb", "c"));
        assert_eq!(shot("주조기 3", "금형").as_str(), "주조기%203~금형~20260115T074506Z~258");
    }
}
