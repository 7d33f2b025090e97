//! JSON lines: shots as machines publish them, or objects by the table's column names.

use castwatch_core::Shot;
use serde_json::{Map, Value};

use crate::cell::Cell;
use crate::row::{Mapped, Mapper};

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
            return Err(format!("is not JSON: {error}"));
        }
    };
    if is_shot(&object) {
        return match Shot::from_json(line.as_bytes()) {
            Ok(shot) => Ok(mapper.adopt(shot, &object)),
            Err(error) => {
                mapper.pass();
                Err(error.to_string())
            }
        };
    }
    let cells: Vec<Cell<'_>> =
        mapper.columns().iter().map(|c| object.get(c).map_or(Cell::Missing, cell)).collect();
    mapper.map(&cells)
}

/// The columns of an object of a table; `None` for a shot, and for what is no object.
pub(crate) fn columns(line: &str) -> Option<Vec<String>> {
    let object: Map<String, Value> = serde_json::from_str(line).ok()?;
    (!is_shot(&object)).then(|| object.keys().cloned().collect())
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
