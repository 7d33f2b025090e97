//! JSON lines: shots as machines publish them, or objects by the table's column names.

use castwatch_core::Shot;
use serde_json::{Map, Value};

use super::columns::with_nearest;
use crate::cell::Cell;
use crate::row::{Mapped, Mapper};

/// How many missing fields are named.
const SHOWN: usize = 6;

/// The shot of one line.
pub(crate) fn read(line: &str, mapper: &mut Mapper) -> Result<Mapped, String> {
    let object = match serde_json::from_str(line) {
        Ok(Value::Object(object)) => object,
        Ok(_) => {
            mapper.pass();
            return Err("is not a JSON object".into());
        }
        Err(error) => {
            mapper.pass();
            return Err(format!("is not JSON: {}", plain(&error.to_string())));
        }
    };
    if is_shot(&object) {
        return match Shot::from_json(line.as_bytes()) {
            Ok(shot) => Ok(mapper.adopt(shot, &object)),
            Err(error) => {
                mapper.pass();
                Err(plain(&error.to_string()))
            }
        };
    }
    let lacks: Vec<&String> =
        mapper.needed_columns().filter(|column| !object.contains_key(column.as_str())).collect();
    if !lacks.is_empty() {
        let why = lacking(&lacks, &object, mapper.columns());
        mapper.pass();
        return Err(why);
    }
    let cells: Vec<Cell<'_>> =
        mapper.columns().iter().map(|c| object.get(c).map_or(Cell::Missing, cell)).collect();
    mapper.map(&cells)
}

/// What an object lacks to be a row: a field that is not there, unlike one that is null, may be
/// spelled otherwise.
fn lacking(lacks: &[&String], object: &Map<String, Value>, columns: &[String]) -> String {
    let unknown = || object.keys().filter(|key| !columns.contains(key));
    let named: Vec<String> = lacks.iter().take(SHOWN).map(|column| with_nearest(column, unknown())).collect();
    let more = match lacks.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("lacks {}{more}, and is no shot with its `readings` either", named.join(", "))
}

/// An error of JSON in the words of those who write it.
fn plain(error: &str) -> String {
    error
        .replace("expected f64", "expected a number")
        .replace("expected u64", "expected a whole number of 0 or more")
        .replace("expected struct Shot", "expected a shot")
        .replace("EOF while parsing", "the line ends within")
}

fn is_shot(object: &Map<String, Value>) -> bool {
    object.get("readings").is_some_and(Value::is_object)
}

pub(crate) fn cell(value: &Value) -> Cell<'_> {
    match value {
        Value::Null => Cell::Missing,
        Value::Bool(b) => Cell::Flag(*b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Cell::Whole(i),
            (None, Some(x)) => Cell::Number(x),
            (None, None) => Cell::Other("a number out of range"),
        },
        Value::String(text) => Cell::text(text.as_str().into()),
        Value::Array(_) => Cell::Other("a list"),
        Value::Object(_) => Cell::Other("an object"),
    }
}
