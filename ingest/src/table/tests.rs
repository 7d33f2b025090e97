use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn plant() -> Plant {
    Plant::read(
        "plant.toml",
        r#"
name = "p"
[machine]
column = "machine"
[die]
column = "die"
[cycle]
column = "count"
[time]
column = "at"
zone = "Asia/Seoul"
[try_shot]
column = "try"
value = "D"
[label]
column = "bad"
defect = "1"
[[reading]]
column = "temp"
name = "molten_temp"
range = [600, 800]
no_sensor = [0]
ko = "용탕 온도"
en = "Melt temperature"
[[reading]]
column = "speed"
range = [0, 300]
no_sensor = [65534, 65535]
ko = "속도"
en = "Speed"
"#,
    )
    .unwrap()
}

const HEADER: &str = "id,machine,die,count,at,try,bad,temp,speed";

fn csv(rows: &[&str]) -> Vec<u8> {
    format!("{HEADER}\n{}\n", rows.join("\n")).into_bytes()
}

fn read(bytes: &[u8]) -> Vec<Result<Row, RowError>> {
    open(bytes).unwrap().collect()
}

fn open(bytes: &[u8]) -> Result<Table, TableError> {
    Table::from_reader("t.csv", Cursor::new(bytes.to_vec()), &plant())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

const ROW: &str = "7,M1,8722,258,2026-01-15 16:45:06,,0,731,110";

#[test]
fn a_row_becomes_a_shot() {
    let rows = read(&csv(&[
        ROW,
        "8,M1,8722,259,2026-01-15T16:47:06+09:00,D,1,0,65535",
        "9,M1,8722,3.0,2026-01-15 16:49:06,,,NaN,",
    ]));
    let rows: Vec<Row> = rows.into_iter().map(Result::unwrap).collect();
    let first = &rows[0];
    assert_eq!((first.number, first.label, first.shot.try_shot), (1, Some(false), false));
    assert_eq!(first.shot.id().as_str(), "M1~8722~20260115T074506Z~258");
    assert_eq!(first.shot.ended_at.to_string(), "2026-01-15T16:45:06+09:00");
    assert_eq!(
        first.shot.readings.iter().collect::<Vec<_>>(),
        [("molten_temp", Some(731.0)), ("speed", Some(110.0))]
    );
    assert!(first.nulled.is_empty());
    assert_eq!((rows[1].label, rows[1].shot.try_shot, &rows[1].nulled[..]), (Some(true), true, &[0, 1][..]));
    assert_eq!(rows[1].shot.readings.get("molten_temp"), Some(None));
    assert_eq!((rows[2].label, rows[2].shot.cycle, rows[2].nulled.len()), (None, 3, 0), "blank is no code");
    assert_eq!(rows[2].shot.readings.get("speed"), Some(None));
}

#[test]
fn a_bad_row_is_refused_and_its_neighbours_go_on() {
    let cases: &[(&str, &str)] = &[
        ("7,M1,8722,258,2026-01-15 16:45:06,,0,hot,110", "column `temp`: `hot` is not a number"),
        ("7,M1,8722,258,2026-01-15 16:45:06,,0,inf,110", "column `temp`: `inf` is not a finite number"),
        ("7,M1,8722,258,2026-01-15 16:45:06,,0,1e999,110", "column `temp`: `1e999` is not a finite number"),
        ("7,M1,8722,-1,2026-01-15 16:45:06,,0,731,110", "column `count`: `-1` is not a count"),
        ("7,M1,8722,,2026-01-15 16:45:06,,0,731,110", "column `count` is blank: is not a count"),
        ("7,M1,8722,258,yesterday,,0,731,110", "column `at`: `yesterday` is not a time such as"),
        ("7,M1,8722,258,,,0,731,110", "column `at` is blank: is not a time"),
        ("7,M1,8722,258,1970-01-01 00:00:12,,0,731,110", "outside 2000 to 2099"),
        ("7,M1,8722,258,2100-06-01 00:00:00,,0,731,110", "outside 2000 to 2099"),
        ("7,,8722,258,2026-01-15 16:45:06,,0,731,110", "column `machine` is blank: a name must stand there"),
        ("7,M1,87\u{1}22,258,2026-01-15 16:45:06,,0,731,110", "is not a name"),
        ("7,M1,8722", "has 3 cells where the first line names 9 columns"),
        ("7,M1,8722,258,2026-01-15 16:45:06,,0,731,110,1,2", "has 11 cells where the first line names 9"),
        ("7,M1,\"8722,258,2026-01-15 16:45:06,,0,731,110", "a quote is opened and not closed"),
    ];
    for (bad, expected) in cases {
        let rows = read(&csv(&[ROW, bad, &ROW.replace("258", "260")]));
        assert_eq!(rows.len(), 3, "{bad}");
        assert_eq!(rows[0].as_ref().unwrap().shot.cycle, 258, "{bad}");
        assert_eq!(rows[2].as_ref().unwrap().shot.cycle, 260, "{bad}");
        assert_eq!(rows[2].as_ref().unwrap().number, 3, "{bad}");
        match &rows[1] {
            Err(RowError::Refused { row: 2, why, bytes }) => {
                assert!(why.contains(expected), "{bad}\n  said: {why}\n  not:  {expected}");
                assert_eq!(bytes, bad.as_bytes());
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
}

#[test]
fn bytes_that_are_no_text_cost_their_row() {
    let mut bytes = csv(&[ROW]);
    bytes.extend(b"7,M1,\xFF\xFE\xFF,258,2026-01-15 16:45:06,,0,731,110\n");
    bytes.extend("7,M1,금형,261,2026-01-15 16:45:06,,0,731,110\n".as_bytes());
    let rows = read(&bytes);
    let RowError::Refused { row: 2, why, bytes } = rows[1].as_ref().unwrap_err() else { panic!("{rows:?}") };
    assert_eq!(why, "holds bytes that are not UTF-8");
    assert!(bytes.windows(3).any(|w| w == b"\xFF\xFE\xFF"), "the bytes are kept as they came");
    assert_eq!(rows[2].as_ref().unwrap().shot.die, "금형");
}

#[test]
fn korean_tables_are_read_in_cp949_and_utf8() {
    let text = format!("{HEADER}\n{ROW}\n").replace("8722", "금형-똠").replace("id,", "순번,");
    let (cp949, _, lost) = encoding_rs::EUC_KR.encode(&text);
    assert!(!lost);
    let with_bom = [b"\xEF\xBB\xBF", text.as_bytes()].concat();
    for bytes in [&cp949, text.as_bytes(), &with_bom, &gzip(&cp949)] {
        let rows = read(bytes);
        assert_eq!(rows[0].as_ref().unwrap().shot.die, "금형-똠");
    }
    let declared = |encoding| Plant { encoding, ..plant() };
    let open = |bytes: &[u8], encoding| {
        Table::from_reader("t.csv", Cursor::new(bytes.to_vec()), &declared(encoding))
            .map(|t| t.map(Result::unwrap).count())
    };
    assert_eq!(open(&cp949, crate::plant::Encoding::Cp949).unwrap(), 1);
    let error = open(&cp949, crate::plant::Encoding::Utf8).unwrap_err().to_string();
    assert!(error.contains("t.csv is not a table") && error.contains("not UTF-8"), "{error}");
}

#[test]
fn a_missing_column_is_named_with_the_nearest() {
    let bytes = String::from_utf8(csv(&[ROW])).unwrap();
    let message = |text: &str| open(text.as_bytes()).err().unwrap().to_string();
    assert_eq!(
        message(&bytes.replace("temp", "Tempp").replace(",at,", ",ended,")),
        "t.csv lacks columns that the plant `p` needs: `at`, `temp` (did you mean `Tempp`?); \
         it has: id, machine, die, count, ended, try, bad, Tempp, speed"
    );
    assert!(message(&bytes.replace("id,", "temp,")).contains("has the column `temp` twice"));
    for (delimiter, advice) in
        [(";", "`;` ([table] delimiter = \";\")"), ("\t", "tabs ([table] delimiter = \"\\t\")")]
    {
        let said = message(&bytes.replace(',', delimiter));
        assert!(said.contains(&format!("is it delimited by {advice}? Say so in the plant file")), "{said}");
        assert!(!said.contains("did you mean") && !said.contains('\t'), "{said}");
    }
    let plant = Plant { delimiter: ';', ..plant() };
    let table = Table::from_reader("t", Cursor::new(bytes.replace(',', ";").into_bytes()), &plant).unwrap();
    assert_eq!(table.map(Result::unwrap).count(), 1);
}

#[test]
fn what_is_no_table_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let message = |bytes: &[u8]| {
        let path = dir.path().join("t.csv");
        std::fs::write(&path, bytes).unwrap();
        let error = Table::open(&path, &plant()).err().unwrap();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    for empty in [&b""[..], b"\n\n", b"\xEF\xBB\xBF", &gzip(b"")] {
        assert!(message(empty).contains("t.csv is empty"), "{empty:?}");
    }
    assert!(
        message(b"PK\x03\x04rest").contains("is an Excel workbook or a zip archive: save the sheet as CSV")
    );
    assert!(message(b"\xFF\xFEi\0d\0").contains("is in UTF-16: save it as UTF-8"));
    assert!(message(b"\x89\xFF\xFA\x00\n").contains("is not a table: its first line"));
    assert!(message(b"i\0d\0,\0a\0\n\0").contains("holds NUL bytes; if the file is in UTF-16"));
    let long = message(&vec![b'x'; 3 << 20]);
    assert!(long.contains("it has: xxx") && long.len() < 500, "{long}");
    assert!(message(b"PAR1 and no more").contains("t.csv can't be read: "));
    let packed = gzip(&csv(&[ROW]));
    for cut in [3, 8, 10, 14] {
        let said = message(&packed[..cut]);
        assert!(said.contains("t.csv can't be read: its gzip data is cut off"), "{cut}: {said}");
    }

    let error = Table::open(dir.path().join("none.csv"), &plant()).err().unwrap();
    assert!(error.to_string().ends_with("none.csv can't be opened"), "{error}");
    assert!(Table::open(dir.path(), &plant()).is_err(), "a folder is no table");
}

#[test]
fn a_gzip_file_that_is_cut_off_gives_what_came_before() {
    let rows: Vec<String> =
        (0..5_000).map(|i| ROW.replace("258", &(i * 7919 % 10_007).to_string())).collect();
    let all = csv(&rows.iter().map(String::as_str).collect::<Vec<_>>());
    let packed = gzip(&all);
    assert_eq!(read(&packed).into_iter().map(Result::unwrap).count(), 5_000);

    let cut = &packed[..packed.len() * 2 / 3];
    let rows = read(cut);
    let good = rows.len() - 1;
    assert!((1_000..5_000).contains(&good), "{good}");
    for (at, row) in rows[..good].iter().enumerate() {
        let row = row.as_ref().unwrap();
        assert_eq!((row.number, row.shot.cycle), (at as u64 + 1, at as u64 * 7919 % 10_007));
    }
    let error = rows[good].as_ref().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("t.csv can't be read on at row {}: its gzip data is cut off or damaged", good + 1)
    );

    let mut damaged = packed.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0x55);
    assert!(
        matches!(read(&damaged).last(), Some(Err(RowError::Broken { .. }))),
        "damage does not pass unnoticed"
    );
}

#[test]
fn two_gzip_members_are_one_table() {
    let (head, tail) = (csv(&[ROW]), format!("{ROW}\n"));
    assert_eq!(
        read(&[gzip(&head), gzip(tail.as_bytes())].concat()).into_iter().map(Result::unwrap).count(),
        2
    );
}

#[test]
fn json_lines_are_shots_or_rows() {
    let text = r#"{"machine":"M1","die":"8722","cycle":1,"ended_at":"2026-01-15T16:45:06+09:00","readings":{"molten_temp":0,"speed":110.5,"other":0},"defect":true,"cause":"cold_melt"}
{"machine":"M1","die":"8722","cycle":2,"ended_at":"2026-01-15T16:45:06+09:00","readings":{"molten_temp":"731"}}

{"machine":"M1","die":8722,"count":3,"at":"2026-01-15 16:45:06","try":"D","bad":1,"temp":731.5,"speed":null}
{"machine":"M1","die":8722,"count":3,"at":"2026-01-15 16:45:06","temp":[1],"speed":1}
not json
[1,2]
{"machine":"M1","die":"8722","cycle":7,"ended_at":"2026-01-15T16:45:06+09:00","readings":{}}
"#;
    for bytes in [text.as_bytes().to_vec(), gzip(text.as_bytes())] {
        let rows: Vec<_> =
            Table::from_reader("standard input", Cursor::new(bytes), &plant()).unwrap().collect();
        assert_eq!(rows.len(), 7);
        let first = rows[0].as_ref().unwrap();
        assert_eq!((first.label, &first.nulled[..]), (Some(true), &[0][..]));
        assert_eq!(first.shot.readings.get("molten_temp"), Some(None));
        assert_eq!(
            first.shot.readings.get("other"),
            Some(Some(0.0)),
            "a reading the plant does not know stays"
        );
        let third = rows[2].as_ref().unwrap();
        assert_eq!((third.shot.die.as_str(), third.shot.cycle, third.shot.try_shot), ("8722", 3, true));
        assert_eq!((third.label, third.shot.readings.get("molten_temp")), (Some(true), Some(Some(731.5))));
        for (at, expected) in [
            (1, "reading `molten_temp`: invalid type: string \"731\", expected a number at"),
            (3, "column `temp`: `a list` is not a number"),
            (4, "is not JSON: "),
            (5, "is not a JSON object"),
        ] {
            let RowError::Refused { row, why, .. } = rows[at].as_ref().unwrap_err() else { panic!() };
            assert!(*row == at as u64 + 1 && why.contains(expected), "{why}\nnot {expected}");
        }
        assert_eq!(rows[6].as_ref().unwrap().shot.cycle, 7);
    }
}

#[test]
fn times_and_counts_can_follow_from_rows() {
    let plant = Plant::read(
        "plant.toml",
        r#"
name = "p"
[machine]
constant = "M1"
[die]
constant = "D1"
[cycle]
rows = true
per = "run"
[clock]
start = "2026-01-05T08:00:00"
zone = "+09:00"
step_s = 30
run = "run"
between_runs_s = 3600
[[reading]]
column = "t"
range = [0, 9]
ko = "온도"
en = "Temperature"
"#,
    )
    .unwrap();
    let bytes = b"run,t\nA,1\nA,2\nA,x\nA,4\nB\nB,5\n".to_vec();
    let rows: Vec<_> = Table::from_reader("t.csv", Cursor::new(bytes), &plant).unwrap().collect();
    let said: Vec<String> = rows
        .iter()
        .map(|r| match r {
            Ok(r) => format!("{} {} {}", r.number, r.shot.cycle, r.shot.ended_at),
            Err(e) => e.to_string(),
        })
        .collect();
    assert_eq!(
        said,
        [
            "1 1 2026-01-05T08:00:00+09:00",
            "2 2 2026-01-05T08:00:30+09:00",
            "row 3: column `t`: `x` is not a number",
            "4 4 2026-01-05T08:01:30+09:00",
            "row 5: has 1 cells where the first line names 2 columns",
            "6 1 2026-01-05T09:02:00+09:00",
        ]
    );
}

#[test]
fn a_table_can_move_between_threads() {
    fn sendable<T: Send>(_: T) {}
    sendable(open(&csv(&[ROW])).unwrap());
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b",".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\"".to_vec()),
            Just(ROW.as_bytes().to_vec()),
            Just(HEADER.as_bytes().to_vec()),
            Just("금형".as_bytes().to_vec()),
            Just(b"\xB1\xDD\xC7\xFC".to_vec()),
            Just(b"{\"readings\":{".to_vec()),
            "[ -~]{0,12}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn never_panic(bytes in text(), header in any::<bool>()) {
            let bytes = if header { [csv(&[ROW]), bytes].concat() } else { bytes };
            if let Ok(table) = open(&bytes) {
                for (at, row) in table.enumerate() {
                    match row {
                        Ok(row) => {
                            prop_assert_eq!(row.number, at as u64 + 1);
                            prop_assert!(row.shot.checked().is_ok());
                        }
                        Err(RowError::Refused { row, .. }) => prop_assert_eq!(row, at as u64 + 1),
                        Err(RowError::Broken { .. }) => prop_assert!(false, "memory does not fail"),
                    }
                }
            }
        }

        #[test]
        fn never_panic_in_gzip(bytes in text(), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4)) {
            let mut packed = gzip(&[csv(&[ROW]), bytes].concat());
            for (at, to) in flips {
                let at = at % packed.len();
                packed[at] = to;
            }
            if let Ok(table) = open(&packed) {
                let _ = table.count();
            }
        }

        #[test]
        fn a_plant_file_of_any_text(text in "[a-z\\[\\]=\" \n.0-9]{0,200}") {
            let _ = Plant::read("plant.toml", &text);
        }
    }
}

mod first_lines;
mod parquet_files;
mod real;
