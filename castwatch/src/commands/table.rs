//! The table of features that training reads, as Parquet or CSV.
//!
//! Columns: `row`, `machine`, `die`, `cycle`, `ended_at`, `try_shot`, `label` (absent where the
//! plant file has none), `scorable`, then the bundle's features by name (32-bit floats, NaN where
//! missing), and with attributions `base` and `shap:<input>` (64-bit, log-odds) for every input of the
//! trees: the features, and the latent values and the anomaly where the trees take them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use castwatch_ingest::Row;
use castwatch_models::{Attributions, Bundle, Features};
use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

/// Rows of one Parquet row group.
const GROUP: usize = 20_000;

/// Writes the table in the form that the file's name asks for.
pub struct Writer {
    sink: Sink,
    columns: Columns,
}

enum Sink {
    Parquet(Box<SerializedFileWriter<BufWriter<File>>>),
    Csv(BufWriter<File>),
}

/// One row group, column by column.
#[derive(Default)]
struct Columns {
    row: Vec<i64>,
    machine: Vec<ByteArray>,
    die: Vec<ByteArray>,
    cycle: Vec<i64>,
    ended_at: Vec<ByteArray>,
    try_shot: Vec<bool>,
    label: Vec<Option<bool>>,
    scorable: Vec<bool>,
    features: Vec<Vec<f32>>,
    attributions: Vec<Vec<f64>>,
}

impl Writer {
    /// A new file for the features of `bundle`, with the attributions of `model` if there is one;
    /// `.parquet` or `.csv`.
    pub fn create(path: &Path, bundle: &Bundle, model: Option<&Bundle>) -> Result<Self> {
        let features: Vec<String> = bundle.features().iter().map(|f| f.name.clone()).collect();
        let mut shap = Vec::new();
        if let Some(model) = model {
            shap.push("base".to_owned());
            shap.extend(model.inputs().iter().map(|input| format!("shap:{input}")));
        }
        let sink = match path.extension().and_then(|e| e.to_str()) {
            Some("parquet") => {
                let file = super::offline::create(path)?;
                let schema = Arc::new(schema(&features, &shap)?);
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                Sink::Parquet(Box::new(SerializedFileWriter::new(file, schema, Arc::new(properties))?))
            }
            Some("csv") => {
                let mut file = super::offline::create(path)?;
                write!(file, "row,machine,die,cycle,ended_at,try_shot,label,scorable")?;
                for name in features.iter().chain(&shap) {
                    write!(file, ",{name}")?;
                }
                writeln!(file)?;
                Sink::Csv(file)
            }
            _ => bail!("{} is neither .parquet nor .csv", path.display()),
        };
        let columns = Columns {
            features: vec![Vec::new(); features.len()],
            attributions: vec![Vec::new(); shap.len()],
            ..Columns::default()
        };
        Ok(Self { sink, columns })
    }

    /// Adds one shot.
    pub fn row(&mut self, row: &Row, features: &Features, attributions: Option<&Attributions>) -> Result<()> {
        let shot = &row.shot;
        let c = &mut self.columns;
        c.row.push(row.number.cast_signed());
        c.machine.push(shot.machine.as_str().into());
        c.die.push(shot.die.as_str().into());
        c.cycle.push(shot.cycle.cast_signed());
        c.ended_at.push(shot.ended_at.to_string().as_str().into());
        c.try_shot.push(shot.try_shot);
        c.label.push(row.label);
        c.scorable.push(features.unscorable.is_none());
        for (column, value) in c.features.iter_mut().zip(&features.values) {
            column.push(*value);
        }
        if let Some(attributions) = attributions {
            let values = std::iter::once(&attributions.base).chain(&attributions.values);
            for (column, value) in c.attributions.iter_mut().zip(values) {
                column.push(*value);
            }
        }
        if self.columns.row.len() == GROUP { self.flush() } else { Ok(()) }
    }

    /// Writes what is left and closes the file.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self.sink {
            Sink::Parquet(writer) => {
                drop(writer.into_inner()?.into_inner().context("writing the last bytes")?)
            }
            Sink::Csv(mut file) => file.flush()?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match &mut self.sink {
            Sink::Parquet(writer) => self.columns.write_group(writer)?,
            Sink::Csv(file) => self.columns.write_lines(file)?,
        }
        self.columns.clear();
        Ok(())
    }
}

impl Columns {
    fn clear(&mut self) {
        let blank = |columns: usize| vec![Vec::new(); columns];
        let attributions = vec![Vec::new(); self.attributions.len()];
        *self = Self { features: blank(self.features.len()), attributions, ..Self::default() };
    }

    fn write_group(&self, writer: &mut SerializedFileWriter<BufWriter<File>>) -> Result<()> {
        let mut group = writer.next_row_group()?;
        macro_rules! column {
            ($ty:ty, $values:expr, $levels:expr) => {
                if let Some(mut column) = group.next_column()? {
                    column.typed::<$ty>().write_batch($values, $levels, None)?;
                    column.close()?;
                }
            };
        }
        column!(Int64Type, &self.row, None);
        column!(ByteArrayType, &self.machine, None);
        column!(ByteArrayType, &self.die, None);
        column!(Int64Type, &self.cycle, None);
        column!(ByteArrayType, &self.ended_at, None);
        column!(BoolType, &self.try_shot, None);
        let known: Vec<i16> = self.label.iter().map(|l| i16::from(l.is_some())).collect();
        let labels: Vec<bool> = self.label.iter().flatten().copied().collect();
        column!(BoolType, &labels, Some(&known));
        column!(BoolType, &self.scorable, None);
        for values in &self.features {
            column!(FloatType, values, None);
        }
        for values in &self.attributions {
            column!(DoubleType, values, None);
        }
        group.close()?;
        Ok(())
    }

    fn write_lines(&self, file: &mut BufWriter<File>) -> Result<()> {
        let text = |bytes: &ByteArray| super::offline::cell(&String::from_utf8_lossy(bytes.data()));
        for at in 0..self.row.len() {
            write!(
                file,
                "{},{},{},{},{},{},{},{}",
                self.row[at],
                text(&self.machine[at]),
                text(&self.die[at]),
                self.cycle[at],
                text(&self.ended_at[at]),
                self.try_shot[at],
                self.label[at].map_or_else(String::new, |l| l.to_string()),
                self.scorable[at]
            )?;
            for column in &self.features {
                let value = column[at];
                if value.is_finite() { write!(file, ",{value}")? } else { write!(file, ",")? }
            }
            for column in &self.attributions {
                write!(file, ",{}", column[at])?;
            }
            writeln!(file)?;
        }
        Ok(())
    }
}

fn schema(features: &[String], shap: &[String]) -> Result<Type> {
    let field = |name: &str, physical: Physical, repetition: Repetition| {
        let text = if physical == Physical::BYTE_ARRAY { ConvertedType::UTF8 } else { ConvertedType::NONE };
        Type::primitive_type_builder(name, physical)
            .with_repetition(repetition)
            .with_converted_type(text)
            .build()
            .map(Arc::new)
    };
    let must = Repetition::REQUIRED;
    let mut fields = vec![
        field("row", Physical::INT64, must)?,
        field("machine", Physical::BYTE_ARRAY, must)?,
        field("die", Physical::BYTE_ARRAY, must)?,
        field("cycle", Physical::INT64, must)?,
        field("ended_at", Physical::BYTE_ARRAY, must)?,
        field("try_shot", Physical::BOOLEAN, must)?,
        field("label", Physical::BOOLEAN, Repetition::OPTIONAL)?,
        field("scorable", Physical::BOOLEAN, must)?,
    ];
    for name in features {
        fields.push(field(name, Physical::FLOAT, must)?);
    }
    for name in shap {
        fields.push(field(name, Physical::DOUBLE, must)?);
    }
    Ok(Type::group_type_builder("castwatch").with_fields(fields).build()?)
}
