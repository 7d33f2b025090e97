//! Rubbish in front of good lines, and lines beyond measure among them.

use castwatch_core::{Outgoing, PortError, Publisher, Topic};

use super::*;
use crate::plant::Format;

const SHOT: &str = r#"{"machine":"M1","die":"8722","cycle":7,"ended_at":"2026-01-15T16:45:06+09:00","readings":{"molten_temp":731}}"#;
const OBJECT: &str =
    r#"{"machine":"M1","die":8722,"count":7,"at":"2026-01-15 16:45:06","temp":731.5,"speed":null}"#;

/// A pipe in which every piece comes by itself.
struct Pieces(std::vec::IntoIter<Vec<u8>>);

impl io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.next() else { return Ok(0) };
        into[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

fn piped(pieces: &[&str], plant: &Plant) -> Result<Vec<Result<Row, RowError>>, TableError> {
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|p| p.as_bytes().to_vec()).collect();
    Table::from_reader("standard input", Pieces(pieces.into_iter()), plant).map(Iterator::collect)
}

fn from_file(name: &str, bytes: &[u8], plant: &Plant) -> Result<Vec<Result<Row, RowError>>, TableError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Table::open(&path, plant).map(Iterator::collect)
}

fn refused(row: &Result<Row, RowError>) -> (u64, &str, &[u8]) {
    match row {
        Err(RowError::Refused { row, why, bytes }) => (*row, why, bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rubbish_before_json_lines_costs_its_own_line() {
    let said = Plant { format: Format::Json, ..plant() };
    let text = format!("garbage\n{SHOT}\n{SHOT}\n{OBJECT}\n");
    let mut reads = vec![
        piped(&[&text], &plant()),
        piped(&["garbage\n", &format!("{SHOT}\n{SHOT}\n"), &format!("{OBJECT}\n")], &plant()),
        piped(&["g", "arbage\n", &text[8..]], &said),
    ];
    for name in ["t.jsonl", "t.txt", "t"] {
        reads.push(from_file(name, text.as_bytes(), &plant()));
    }
    reads.push(from_file("t.csv", text.as_bytes(), &said));
    reads.push(from_file("t.gz", &gzip(text.as_bytes()), &plant()));
    for read in reads {
        let rows = read.unwrap();
        assert_eq!((rows.len(), rows.iter().filter(|r| r.is_ok()).count()), (4, 3));
        let (row, why, bytes) = refused(&rows[0]);
        assert!(row == 1 && bytes == b"garbage" && why.starts_with("is not JSON"), "{why}");
    }
}

#[test]
fn half_a_shot_in_front_costs_its_own_line() {
    let half = r#"{"machine":"DCM-01"}"#;
    let text = format!("{half}\n{SHOT}\n{OBJECT}\n{}\n", OBJECT.replace("temp", "Tempp"));
    for read in [
        piped(&[&text], &plant()),
        piped(&[half, "\n", &text[half.len() + 1..]], &plant()),
        from_file("t.jsonl", text.as_bytes(), &plant()),
    ] {
        let rows = read.unwrap();
        assert_eq!((rows.len(), rows.iter().filter(|r| r.is_ok()).count()), (4, 2));
        let (row, why, bytes) = refused(&rows[0]);
        assert_eq!((row, bytes), (1, half.as_bytes()));
        assert_eq!(
            why,
            "lacks `die`, `count`, `at`, `temp`, `speed`, and is no shot with its `readings` either"
        );
        assert!(refused(&rows[3]).1.starts_with("lacks `temp` (did you mean `Tempp`?), and"));
    }
}

#[test]
fn a_stray_object_makes_no_json_of_a_table() {
    let text = format!("{HEADER}\n{SHOT}\n{ROW}\n");
    for read in [piped(&[&text], &plant()), from_file("t", text.as_bytes(), &plant())] {
        let rows = read.unwrap();
        assert!(rows.len() == 2 && rows[1].is_ok());
        assert_eq!(refused(&rows[0]).2, SHOT.as_bytes());
    }
    // Korean names in CP949 are names too.
    let korean = Plant::read("p", &tests_plant_with("die", "금형")).unwrap();
    let text = format!("{}\n{SHOT}\n{ROW}\n", HEADER.replace("die", "금형"));
    let (cp949, _, _) = encoding_rs::EUC_KR.encode(&text);
    assert_eq!(from_file("t", &cp949, &korean).unwrap().len(), 2);
}

/// A plant file whose only column is the die's.
fn tests_plant_with(key: &str, column: &str) -> String {
    format!(
        "name = \"p\"\n[machine]\nconstant = \"M1\"\n[{key}]\ncolumn = \"{column}\"\n[cycle]\nrows = true\n[clock]\n\
         start = \"2026-01-05T08:00:00\"\nzone = \"+09:00\"\nstep_s = 30\n[[reading]]\ncolumn = \"temp\"\n\
         range = [600, 800]\nko = \"온도\"\nen = \"Temperature\"\n"
    )
}

#[test]
fn a_row_is_not_kept_waiting_for_the_next() {
    /// A pipe that nobody may read further than it was filled.
    struct Live(Option<Vec<u8>>);
    impl io::Read for Live {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let piece = self.0.take().expect("nothing more has come");
            into[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }
    for first in [format!("{SHOT}\n"), format!("{OBJECT}\n"), format!("{HEADER}\n{ROW}\n")] {
        let mut table =
            Table::from_reader("standard input", Live(Some(first.into_bytes())), &plant()).unwrap();
        assert_eq!(table.next().unwrap().unwrap().number, 1);
    }
}

#[test]
fn a_line_of_10_mb_is_kept_whole_and_alone() {
    let long = "x".repeat(10_000_000);
    let in_json = OBJECT.replace("731.5", &format!("\"{long}\""));
    let in_csv = ROW.replace("731", &long);
    let tables = [
        ("t.jsonl", format!("{SHOT}\n{in_json}\n{SHOT}\n"), &in_json, "column `temp`: `xxx"),
        ("t.jsonl", format!("{SHOT}\n{long}\n{SHOT}\n"), &long, "is not JSON"),
        ("t.csv", format!("{HEADER}\n{ROW}\n{in_csv}\n{ROW}\n"), &in_csv, "column `temp`: `xxx"),
    ];
    for (name, text, line, expected) in tables {
        for read in [from_file(name, text.as_bytes(), &plant()), {
            Table::from_reader("standard input", Cursor::new(text.clone().into_bytes()), &plant())
                .map(Iterator::collect)
        }] {
            let rows = read.unwrap();
            assert!(rows.len() == 3 && rows[0].is_ok() && rows[2].is_ok(), "{name}");
            let (row, why, bytes) = refused(&rows[1]);
            assert!(row == 2 && why.contains(expected) && why.len() < 1_000, "{why}");
            assert!(bytes == line.as_bytes(), "the letter is not the line");
        }
    }
}

#[tokio::test]
async fn the_letter_of_a_long_line_is_the_line() {
    struct Log(std::sync::Mutex<Vec<Outgoing>>);
    impl Publisher for Log {
        async fn publish(&self, events: &[Outgoing]) -> Result<(), PortError> {
            self.0.lock().unwrap().extend_from_slice(events);
            Ok(())
        }
    }
    let long = OBJECT.replace("731.5", &format!("\"{}\"", "x".repeat(10_000_000)));
    let text = format!("garbage\n{SHOT}\n{long}\n{OBJECT}\n");
    let table = Table::from_reader("standard input", Cursor::new(text.into_bytes()), &plant()).unwrap();
    let log = Log(std::sync::Mutex::default());
    let done =
        crate::ingest("-", table, &log, &crate::PumpSettings::default(), async |_| Ok(())).await.unwrap();
    assert_eq!((done.published, done.refused), (2, 2));
    let sent = log.0.into_inner().unwrap();
    let letters: Vec<_> = sent.iter().filter(|e| e.topic == Topic::SHOTS.dead_letters()).collect();
    assert_eq!(letters[0].event.data, &b"garbage"[..]);
    assert!(letters[1].event.data == long.as_bytes(), "the letter is not the line");
}

#[test]
fn a_line_that_was_cut_says_so() {
    let long = "x".repeat(MAX_LINE + 7);
    let rows = from_file("t.jsonl", format!("{SHOT}\n{long}\n{SHOT}\n").as_bytes(), &plant()).unwrap();
    assert!(rows.len() == 3 && rows[0].is_ok() && rows[2].is_ok());
    let (_, why, bytes) = refused(&rows[1]);
    assert_eq!(bytes.len(), MAX_LINE);
    assert_eq!(
        why,
        "is a line of 33554439 bytes, longer than 33554432: its dead letter has been cut to the first 33554432"
    );
}

#[test]
fn a_table_must_be_what_the_plant_says() {
    let message =
        |format, bytes: &[u8]| from_file("t", bytes, &Plant { format, ..plant() }).unwrap_err().to_string();
    assert!(message(Format::Parquet, SHOT.as_bytes()).ends_with("is not Parquet, as the plant file says"));
    assert!(message(Format::Json, b"PAR1").ends_with("is Parquet, and the plant file says that it is not"));
    assert!(message(Format::Delimited, SHOT.as_bytes()).contains("lacks columns"));
}
