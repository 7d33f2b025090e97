//! Parquet files, row by row.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use crate::cell::Cell;

/// How the times of a column are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamps {
    /// They are not times.
    None,
    /// Instants in UTC; the number is the column's units a second.
    Utc(i64),
    /// Times of a clock on the wall.
    Local(i64),
}

/// Opens a file.
pub(crate) fn open<R: ChunkReader + 'static>(input: R) -> Result<SerializedFileReader<R>, ParquetError> {
    contained(|| SerializedFileReader::new(input))
}

/// The parquet crate panics on some damaged files (an index past the end of a page). Whatever was
/// being read is given up after that.
fn contained<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".into())))
}

pub(crate) struct Rows {
    rows: RowIter<'static>,
    /// The place in a row of each column asked for, and how its times are to be taken.
    slots: Vec<(usize, Stamps)>,
}

/// The columns that a file has.
pub(crate) fn columns<R: ChunkReader + 'static>(reader: &SerializedFileReader<R>) -> Vec<String> {
    let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
    schema.get_fields().iter().map(|f| f.name().to_owned()).collect()
}

impl Rows {
    /// Rows with the columns `wanted`, all of which the file has.
    pub(crate) fn new<R: ChunkReader + 'static>(
        reader: SerializedFileReader<R>,
        wanted: &[String],
    ) -> Result<Self, ParquetError> {
        let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
        let fields: Vec<_> =
            schema.get_fields().iter().filter(|f| wanted.iter().any(|w| w == f.name())).cloned().collect();
        let slots = wanted
            .iter()
            .filter_map(|w| {
                let at = fields.iter().position(|f| f.name() == w)?;
                Some((at, stamps(&fields[at])))
            })
            .collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
        let rows = contained(|| RowIter::from_file_into(Box::new(reader)).project(Some(projection)))?;
        Ok(Self { rows, slots })
    }

    /// The next row; after an error there is none.
    pub(crate) fn next(&mut self) -> Option<Result<Row, ParquetError>> {
        contained(|| self.rows.next().transpose()).transpose()
    }

    /// The cells of a row, in the order of the columns asked for.
    pub(crate) fn cells<'r>(&self, row: &'r Row) -> Vec<Cell<'r>> {
        let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        self.slots
            .iter()
            .map(|&(at, stamps)| fields.get(at).map_or(Cell::Missing, |field| cell(field, stamps)))
            .collect()
    }
}

/// A row as JSON, for a dead letter.
pub(crate) fn as_json(cells: &[Cell<'_>], columns: &[String]) -> Vec<u8> {
    let object: serde_json::Map<String, serde_json::Value> = columns
        .iter()
        .zip(cells)
        .map(|(column, cell)| {
            let value = match cell {
                Cell::Missing => serde_json::Value::Null,
                Cell::Whole(i) => (*i).into(),
                Cell::Flag(b) => (*b).into(),
                Cell::Number(x) if x.is_finite() => (*x).into(),
                other => other.shown().into_owned().into(),
            };
            (column.clone(), value)
        })
        .collect();
    serde_json::Value::Object(object).to_string().into_bytes()
}

fn stamps(field: &Type) -> Stamps {
    let info = field.get_basic_info();
    match info.logical_type_ref() {
        Some(LogicalType::Timestamp(stamp)) => {
            let units = match stamp.unit {
                TimeUnit::MILLIS => 1_000,
                TimeUnit::MICROS => 1_000_000,
                TimeUnit::NANOS => 1_000_000_000,
            };
            if stamp.is_adjusted_to_u_t_c { Stamps::Utc(units) } else { Stamps::Local(units) }
        }
        _ => Stamps::None,
    }
}

fn cell(field: &Field, stamps: Stamps) -> Cell<'_> {
    match field {
        Field::Null => Cell::Missing,
        Field::Bool(b) => Cell::Flag(*b),
        Field::Byte(i) => Cell::Whole((*i).into()),
        Field::Short(i) => Cell::Whole((*i).into()),
        Field::Int(i) => Cell::Whole((*i).into()),
        Field::Long(i) => time(*i, stamps).unwrap_or(Cell::Whole(*i)),
        Field::UByte(i) => Cell::Whole((*i).into()),
        Field::UShort(i) => Cell::Whole((*i).into()),
        Field::UInt(i) => Cell::Whole((*i).into()),
        Field::ULong(i) => i64::try_from(*i).map_or(Cell::Number(*i as f64), Cell::Whole),
        Field::Float16(x) => Cell::Number(x.to_f64()),
        Field::Float(x) => Cell::Number(f64::from(*x)),
        Field::Double(x) => Cell::Number(*x),
        Field::Str(text) => Cell::text(text.as_str().into()),
        Field::TimestampMillis(i) => {
            time(*i, if stamps == Stamps::None { Stamps::Utc(1_000) } else { stamps })
                .unwrap_or(Cell::Other("a time out of range"))
        }
        Field::TimestampMicros(i) => {
            time(*i, if stamps == Stamps::None { Stamps::Utc(1_000_000) } else { stamps })
                .unwrap_or(Cell::Other("a time out of range"))
        }
        Field::Bytes(_) => Cell::Other("bytes"),
        Field::Decimal(_) => Cell::Other("a decimal"),
        Field::Date(_) | Field::TimeMillis(_) | Field::TimeMicros(_) => Cell::Other("half a time"),
        Field::Group(_) => Cell::Other("an object"),
        Field::ListInternal(_) | Field::MapInternal(_) => Cell::Other("a list"),
    }
}

fn time(value: i64, stamps: Stamps) -> Option<Cell<'static>> {
    let (units, local) = match stamps {
        Stamps::None => return None,
        Stamps::Utc(units) => (units, false),
        Stamps::Local(units) => (units, true),
    };
    let nanoseconds = i128::from(value) * i128::from(1_000_000_000 / units);
    let at = Timestamp::from_nanosecond(nanoseconds).ok()?;
    Some(if local { Cell::Civil(TimeZone::UTC.to_datetime(at)) } else { Cell::Instant(at) })
}
