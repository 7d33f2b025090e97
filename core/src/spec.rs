//! Reading the TOML files people write (plant files, bundles, settings) so that **every mistake
//! is reported at once, with file, line and what would be right**.
//!
//! A [`Doc`] collects [`Problem`]s while a [`Table`] is walked; nothing is reported twice and
//! keys nobody asked for are named, with the nearest known key.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::time::clip;

/// One mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// All mistakes of a file, in the order of their lines.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

#[derive(Debug)]
struct Shared {
    file: String,
    /// Byte offset at which each line begins.
    lines: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
}

impl Shared {
    fn report(&self, span: &Range<usize>, message: String) {
        let line = self.lines.partition_point(|start| *start <= span.start);
        self.problems.borrow_mut().push(Problem { file: self.file.clone(), line: line.max(1), message });
    }
}

/// A TOML file being read.
#[derive(Debug)]
pub struct Doc {
    shared: Rc<Shared>,
}

impl Doc {
    /// Parses `text` and walks it with `read`, which asks for what it needs and reports what it
    /// does not like.
    ///
    /// # Errors
    /// [`Problems`]: the syntax error, or everything that was reported.
    pub fn read<T>(file: &str, text: &str, read: impl FnOnce(&mut Table<'_>) -> T) -> Result<T, Problems> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let shared = Rc::new(Shared { file: file.to_owned(), lines, problems: RefCell::default() });
        let doc = Self { shared };
        let value = match DeTable::parse(text) {
            Ok(table) => {
                let span = table.span();
                let mut root = Table::new(Rc::clone(&doc.shared), String::new(), table.get_ref(), span);
                let value = read(&mut root);
                root.finish();
                Some(value)
            }
            Err(error) => {
                doc.shared.report(&error.span().unwrap_or(0..0), format!("not TOML: {}", error.message()));
                None
            }
        };
        let mut problems = doc.shared.problems.take();
        problems.sort_by_key(|p| p.line);
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(Problems(problems)),
        }
    }
}

/// One table of the file, with its path for messages.
#[derive(Debug)]
pub struct Table<'t> {
    shared: Rc<Shared>,
    path: String,
    table: &'t DeTable<'t>,
    span: Range<usize>,
    asked: Vec<String>,
}

impl<'t> Table<'t> {
    fn new(shared: Rc<Shared>, path: String, table: &'t DeTable<'t>, span: Range<usize>) -> Self {
        Self { shared, path, table, span, asked: Vec::new() }
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn value(&mut self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.asked.push(key.to_owned());
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }

    fn typed<T>(
        &mut self,
        key: &str,
        what: &str,
        take: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let taken = take(value.get_ref());
        if taken.is_none() {
            let name = self.name(key);
            self.shared
                .report(&value.span(), format!("`{name}` must be {what}, not {}", kind(value.get_ref())));
        }
        taken
    }

    /// Reports a mistake at `key`, or at the table where the key is absent.
    pub fn report(&self, key: &str, message: impl fmt::Display) {
        let span =
            self.table.iter().find(|(k, _)| k.get_ref() == key).map_or(self.span.clone(), |(_, v)| v.span());
        self.shared.report(&span, format!("`{}` {message}", self.name(key)));
    }

    /// Reports that `key` is missing, with what it should be.
    pub fn missing(&self, key: &str, what: &str) {
        self.shared.report(&self.span, format!("`{}` is missing: {what}", self.name(key)));
    }

    /// Whether the key is there.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(k, _)| k.get_ref() == key)
    }

    /// A text, if it is there.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a text in quotes", |v| match v {
            DeValue::String(s) => Some(s.to_string()),
            _ => None,
        })
    }

    /// A text that must be there; the empty text after a report.
    pub fn need_text(&mut self, key: &str, what: &str) -> String {
        if !self.has(key) {
            self.missing(key, what);
        }
        self.text(key).unwrap_or_default()
    }

    /// A truth value, if it is there.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", |v| match v {
            DeValue::Boolean(b) => Some(*b),
            _ => None,
        })
    }

    /// A finite number, if it is there.
    pub fn number(&mut self, key: &str) -> Option<f64> {
        self.typed(key, "a finite number", number)
    }

    /// A number that must be there; 0 after a report.
    pub fn need_number(&mut self, key: &str, what: &str) -> f64 {
        if !self.has(key) {
            self.missing(key, what);
        }
        self.number(key).unwrap_or_default()
    }

    /// A whole number of 0 or more, if it is there.
    pub fn count(&mut self, key: &str) -> Option<u64> {
        self.typed(key, "a whole number of 0 or more", |v| match v {
            DeValue::Integer(i) => {
                i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok()?.try_into().ok()
            }
            _ => None,
        })
    }

    /// A list of finite numbers, if it is there.
    pub fn numbers(&mut self, key: &str) -> Option<Vec<f64>> {
        self.typed(key, "a list of finite numbers", |v| match v {
            DeValue::Array(a) => a.iter().map(|x| number(x.get_ref())).collect(),
            _ => None,
        })
    }

    /// A list of texts, if it is there.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.typed(key, "a list of texts", |v| match v {
            DeValue::Array(a) => a
                .iter()
                .map(|x| match x.get_ref() {
                    DeValue::String(s) => Some(s.to_string()),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// One of the given words, if it is there.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.report(key, format_args!("must be one of {}, not `{}`", words.join(", "), clip(&text)));
        }
        found
    }

    /// Walks a table below this one, if it is there.
    pub fn table<T>(&mut self, key: &str, read: impl FnOnce(&mut Table<'t>) -> T) -> Option<T> {
        let value = self.value(key)?;
        let name = self.name(key);
        if let DeValue::Table(table) = value.get_ref() {
            let mut inner = Table::new(Rc::clone(&self.shared), name, table, value.span());
            let out = read(&mut inner);
            inner.finish();
            Some(out)
        } else {
            self.shared
                .report(&value.span(), format!("`{name}` must be a table, not {}", kind(value.get_ref())));
            None
        }
    }

    /// Walks every entry of a list of tables (`[[key]]`); an absent list is empty.
    pub fn tables<T>(&mut self, key: &str, mut read: impl FnMut(&mut Table<'t>) -> T) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let name = self.name(key);
        let DeValue::Array(entries) = value.get_ref() else {
            self.shared.report(
                &value.span(),
                format!("`{name}` must be a list of tables, not {}", kind(value.get_ref())),
            );
            return Vec::new();
        };
        let mut out = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let name = format!("{name}[{at}]");
            if let DeValue::Table(table) = entry.get_ref() {
                let mut inner = Table::new(Rc::clone(&self.shared), name, table, entry.span());
                out.push(read(&mut inner));
                inner.finish();
            } else {
                self.shared.report(
                    &entry.span(),
                    format!("`{name}` must be a table, not {}", kind(entry.get_ref())),
                );
            }
        }
        out
    }

    /// The keys of this table, in the order of the file; asking for them makes them known.
    pub fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<(usize, String)> =
            self.table.iter().map(|(k, _)| (k.span().start, k.get_ref().to_string())).collect();
        keys.sort();
        let keys: Vec<String> = keys.into_iter().map(|(_, k)| k).collect();
        self.asked.extend(keys.iter().cloned());
        keys
    }

    /// Names the keys that nobody asked for.
    fn finish(self) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if self.asked.iter().any(|a| a == name) {
                continue;
            }
            let near = self.asked.iter().map(|a| (distance(a, name), a)).min().filter(|(d, _)| *d <= 3);
            let hint = near.map_or_else(
                || format!("known here: {}", self.asked.join(", ")),
                |(_, a)| format!("did you mean `{a}`?"),
            );
            self.shared.report(&key.span(), format!("`{}` is not known; {hint}", self.name(name)));
        }
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(i) => {
            i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok().map(|i| i as f64)
        }
        DeValue::Float(x) => x.as_str().replace('_', "").parse().ok().filter(|x: &f64| x.is_finite()),
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => format!("the text \"{}\"", clip(s)),
        DeValue::Integer(i) => format!("the number {}", i.as_str()),
        DeValue::Float(x) => format!("the number {}", x.as_str()),
        DeValue::Boolean(b) => format!("{b}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// How many single-letter changes lie between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, f64), Problems> {
        Doc::read("plant.toml", text, |root| {
            let name = root.need_text("name", "the plant's name");
            let limit =
                root.table("limits", |t| t.need_number("high", "the upper limit")).unwrap_or_default();
            root.tables("reading", |t| t.need_text("column", "the table's column"));
            (name, limit)
        })
    }

    #[test]
    fn reports_every_mistake_with_its_line() {
        let problems = read("nam = \"x\"\n[limits]\nhigh = \"9\"\n\n[[reading]]\ncolumn = 3\n[[reading]]\n")
            .unwrap_err();
        let said: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "plant.toml:1: `name` is missing: the plant's name",
                "plant.toml:1: `nam` is not known; did you mean `name`?",
                "plant.toml:3: `limits.high` must be a finite number, not the text \"9\"",
                "plant.toml:6: `reading[0].column` must be a text in quotes, not the number 3",
                "plant.toml:7: `reading[1].column` is missing: the table's column",
            ]
        );
    }

    #[test]
    fn reads_what_is_right_and_names_bad_syntax() {
        assert_eq!(read("name = \"x\"\n[limits]\nhigh = 1_000\n").unwrap(), ("x".into(), 1000.0));
        let problems = read("name = \n").unwrap_err();
        assert!(problems.to_string().starts_with("plant.toml:1: not TOML:"), "{problems}");
    }
}
