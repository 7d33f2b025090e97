use std::sync::Arc;

use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use super::*;

/// Three rows, the second with a bad count.
fn file(time: &str) -> Vec<u8> {
    let schema = format!(
        "message table {{
            optional binary machine (UTF8); optional int64 die; optional int64 count;
            optional int64 at ({time});
            optional binary try (UTF8); optional int64 bad; optional double temp; optional double speed;
            optional double unused;
        }}"
    );
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let at = 1_768_463_106_000_i64;
    let at = if time.contains("NANOS") {
        at * 1_000_000
    } else if time.contains("MICROS") {
        at * 1_000
    } else {
        at
    };
    let texts = |v: &[&str]| v.iter().map(|t| ByteArray::from(*t)).collect::<Vec<_>>();
    for name in ["machine", "die", "count", "at", "try", "bad", "temp", "speed", "unused"] {
        let mut column = group.next_column().unwrap().unwrap();
        let all = Some(&[1_i16, 1, 1][..]);
        match name {
            "machine" => column.typed::<ByteArrayType>().write_batch(&texts(&["M1", "M1", "M1"]), all, None),
            "try" => column.typed::<ByteArrayType>().write_batch(&texts(&["D"]), Some(&[1, 0, 0]), None),
            "die" => column.typed::<Int64Type>().write_batch(&[8722, 8722, 8722], all, None),
            "count" => column.typed::<Int64Type>().write_batch(&[1, -2, 3], all, None),
            "at" => column.typed::<Int64Type>().write_batch(&[at, at, at], all, None),
            "bad" => column.typed::<Int64Type>().write_batch(&[1, 0, 0], all, None),
            "temp" => column.typed::<DoubleType>().write_batch(&[0.0, 731.0, f64::NAN], all, None),
            _ => column.typed::<DoubleType>().write_batch(&[110.5], Some(&[1, 0, 0]), None),
        }
        .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn rows_come_from_files_and_streams() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    for (time, instant) in [
        ("TIMESTAMP(MILLIS,true)", "2026-01-15T07:45:06Z"),
        ("TIMESTAMP(MICROS,true)", "2026-01-15T07:45:06Z"),
        ("TIMESTAMP(NANOS,true)", "2026-01-15T07:45:06Z"),
        // A clock on the wall is in the plant's zone, nine hours ahead.
        ("TIMESTAMP(MICROS,false)", "2026-01-14T22:45:06Z"),
        ("TIMESTAMP(NANOS,false)", "2026-01-14T22:45:06Z"),
    ] {
        let bytes = file(time);
        std::fs::write(&path, &bytes).unwrap();
        for table in [Table::open(&path, &plant()).unwrap(), open(&bytes).unwrap()] {
            let rows: Vec<_> = table.collect();
            assert_eq!(rows.len(), 3);
            let first = rows[0].as_ref().unwrap();
            assert_eq!(first.shot.ended_at.instant().to_string(), instant, "{time}");
            assert_eq!((first.shot.die.as_str(), first.shot.cycle), ("8722", 1));
            assert_eq!((first.shot.try_shot, first.label, &first.nulled[..]), (true, Some(true), &[0][..]));
            let RowError::Refused { row: 2, why, bytes } = rows[1].as_ref().unwrap_err() else { panic!() };
            assert!(why.contains("column `count`: `-2` is not a count"), "{why}");
            let kept: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            assert_eq!((&kept["count"], &kept["temp"]), (&(-2).into(), &731.0.into()));
            assert_eq!(
                rows[2].as_ref().unwrap().shot.readings.get("molten_temp"),
                Some(None),
                "NaN is no value"
            );
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let good = file("TIMESTAMP(MILLIS,true)");
    for at in 0..good.len() {
        for to in [0x00, 0x7F, 0xFF] {
            let mut bytes = good.clone();
            bytes[at] = to;
            if let Ok(table) = open(&bytes) {
                let _ = table.take(100).count();
            }
        }
        let _ = open(&good[..at]).map(|t| t.take(100).count());
    }
}

#[test]
fn a_missing_column_is_named() {
    let plant =
        Plant { label: Some(crate::plant::Mark { column: "badd".into(), value: "1".into() }), ..plant() };
    let bytes = file("TIMESTAMP(MILLIS,true)");
    let error = Table::from_reader("t.parquet", Cursor::new(bytes), &plant).err().unwrap().to_string();
    assert!(error.contains("`badd` (did you mean `bad`?)"), "{error}");
}
