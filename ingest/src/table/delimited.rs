//! Delimited text: one row a line, cells in quotes where they hold the delimiter.

use std::borrow::Cow;

/// Splits a line into its cells. A quote that is opened must be closed in the same line.
pub(crate) fn split<'a>(
    line: &'a str,
    delimiter: char,
    cells: &mut Vec<Cow<'a, str>>,
) -> Result<(), &'static str> {
    cells.clear();
    let mut rest = line;
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            None => match rest.split_once(delimiter) {
                Some((cell, after)) => (Cow::Borrowed(cell), Some(after)),
                None => (Cow::Borrowed(rest), None),
            },
            Some(quoted) => {
                let (cell, after) = unquote(quoted)?;
                match after.split_once(delimiter) {
                    // Text after the closing quote belongs to the cell.
                    Some((tail, after)) => (cell + tail, Some(after)),
                    None => (cell + after, None),
                }
            }
        };
        cells.push(cell);
        match after {
            Some(after) => rest = after,
            None => return Ok(()),
        }
    }
}

/// The text up to the closing quote, two quotes being one, and what follows it.
fn unquote(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let mut cell = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is opened and not closed in this row")?;
        cell += part;
        match after.strip_prefix('"') {
            Some(more) => {
                cell += "\"";
                rest = more;
            }
            None => return Ok((cell, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(line: &str) -> Result<Vec<String>, &'static str> {
        let mut cells = Vec::new();
        split(line, ',', &mut cells)?;
        Ok(cells.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn splits_as_rfc_4180_has_it() {
        assert_eq!(cells("a,,b,").unwrap(), ["a", "", "b", ""]);
        assert_eq!(cells("").unwrap(), [""]);
        assert_eq!(cells("\"a,b\",\"say \"\"x\"\"\",\"\"").unwrap(), ["a,b", "say \"x\"", ""]);
        assert_eq!(cells("\"a\" b,5\" pipe").unwrap(), ["a b", "5\" pipe"]);
        assert!(cells("1,\"open,2").is_err());
    }
}
