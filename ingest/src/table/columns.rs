//! The columns that a plant needs and those that a table has.

use castwatch_core::time::clip;

use super::TableError;
use crate::plant::Plant;
use crate::row::Mapper;

/// The most names in one message.
const SHOWN: usize = 60;

/// Where each column that the plant needs stands in the table.
pub(crate) fn places(
    file: &str,
    plant: &Plant,
    mapper: &Mapper,
    has: Vec<String>,
) -> Result<Vec<usize>, TableError> {
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

pub(crate) fn missing_columns(file: &str, plant: &str, missing: &[String], has: &[String]) -> String {
    let lacks: Vec<String> = missing.iter().map(|column| with_nearest(column, has.iter())).collect();
    let more = if has.len() > SHOWN { format!(", and {} more", has.len() - SHOWN) } else { String::new() };
    let shown: Vec<String> = has.iter().take(SHOWN).map(|h| clip(h)).collect();
    let advice = match has {
        [only] => other_delimiter(only),
        _ => None,
    };
    format!(
        "{file} lacks columns that the plant `{plant}` needs: {}; it has: {}{more}{}",
        lacks.join(", "),
        shown.join(", "),
        advice.map(|d| format!("; is it delimited by {d}? Say so in the plant file")).unwrap_or_default()
    )
}

/// What seems to stand between the cells of a first line that was taken for one cell.
fn other_delimiter(line: &str) -> Option<&'static str> {
    let kinds = [
        (';', "`;` ([table] delimiter = \";\")"),
        ('\t', "tabs ([table] delimiter = \"\\t\")"),
        ('|', "`|` ([table] delimiter = \"|\")"),
        (',', "`,` ([table] delimiter = \",\")"),
    ];
    let counted = kinds.map(|(c, what)| (line.matches(c).count(), what));
    counted.into_iter().max_by_key(|(count, _)| *count).filter(|(count, _)| *count > 0).map(|(_, what)| what)
}

/// A name that is missing, and the one that may be meant.
pub(crate) fn with_nearest<'h>(missing: &str, has: impl Iterator<Item = &'h String>) -> String {
    let letters = missing.chars().count();
    let near = has
        .filter(|h| h.chars().take(2 * letters).count() < 2 * letters)
        .map(|h| (distance(missing, h), h))
        .min()
        .filter(|(d, h)| d * 3 <= h.chars().count());
    match near {
        Some((_, near)) => format!("`{missing}` (did you mean `{}`?)", clip(near)),
        None => format!("`{missing}`"),
    }
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
