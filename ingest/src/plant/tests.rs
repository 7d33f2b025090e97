use super::*;

const GOOD: &str = r#"
name = "p"
[machine]
constant = "M1"
[die]
column = "die"
[cycle]
column = "n"
[time]
column = "at"
format = "%Y-%m-%d %H:%M:%S"
zone = "Asia/Seoul"
[[reading]]
column = "temp"
name = "molten_temp"
range = [600, 800]
no_sensor = [0]
ko = "용탕 온도"
en = "Melt temperature"
[[shift]]
ko = "야간"
en = "Night"
start = "20:00"
end = "08:00"
"#;

fn said(text: &str) -> Vec<String> {
    Plant::read("plant.toml", text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_what_is_right() {
    let plant = Plant::read("plant.toml", GOOD).unwrap();
    assert_eq!(plant.columns(), ["die", "n", "at", "temp"]);
    assert_eq!((plant.encoding, plant.delimiter), (Encoding::Auto, ','));
    assert_eq!(plant.readings[0].no_sensor, [0.0]);
    assert_eq!(plant.shifts[0].start, Time::constant(20, 0, 0, 0));
}

#[test]
fn the_plants_of_the_project_are_sound() {
    for name in ["casting_process", "casting_quality30", "simulated"] {
        let plant =
            Plant::load(format!("{}/../tests/plants/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(plant.readings.iter().all(|r| !r.words.ko.is_empty() && !r.words.en.is_empty()), "{name}");
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = r#"name = "p"
[table]
encoding = "euc"
[machine]
column = "m"
constant = "M1"
[die]
[cycle]
rows = false
[time]
column = "at"
format = "%Y-%m"
zone = "Seoul"
[label]
column = "bad"
defect = "1"
[[reading]]
column = "bad"
range = [5, 1]
ko = "가"
en = "A"
[[reading]]
column = "temp"
ko = "나"
[[reading]]
column = "temp"
range = [1, 5]
no_sensors = [0]
ko = "다"
en = "C"
[[shift]]
ko = "주간"
en = "Day"
start = "8 o'clock"
end = "20:00"
"#;
    let said = said(text);
    let expected = [
        "plant.toml:3: `table.encoding` must be one of auto, utf-8, cp949, not `euc`",
        "plant.toml:6: `machine.constant` and `column` exclude each other",
        "plant.toml:7: `die.column` is missing: the table's column, or `constant`",
        "plant.toml:8: `cycle.column` or `rows = true` says where the count comes from",
        "plant.toml:12: `time.format` is not a date and time as strptime has it",
        "plant.toml:13: `time.zone` `Seoul` is not a zone: write Asia/Seoul or +09:00",
        "plant.toml:18: `reading[0].column` `bad` is the label or the try-shot signal",
        "plant.toml:19: `reading[0].range` must be two numbers, the lower first",
        "plant.toml:22: `reading[1].range` is missing",
        "plant.toml:22: `reading[1].en` is missing",
        "plant.toml:26: `reading[2].column` `temp` is a reading already",
        "plant.toml:28: `reading[2].no_sensors` is not known; did you mean `no_sensor`?",
        "plant.toml:34: `shift[0].start` must be a time of day such as 08:00",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}\nnot {expected}");
    }
}

#[test]
fn an_empty_file_says_what_a_plant_needs() {
    let said = said("");
    for key in ["name", "machine", "die", "cycle", "time", "reading"] {
        assert!(
            said.iter().any(|s| s.starts_with(&format!("plant.toml:1: `{key}` is missing: "))),
            "{key}: {said:#?}"
        );
    }
}

#[test]
fn a_clock_and_a_column_of_times_exclude_each_other() {
    let text =
        GOOD.replace("[[shift]]", "[clock]\nstart = \"noon\"\nzone = \"+09:00\"\nstep_s = 0\n[[shift]]");
    let said = said(&text);
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said.iter().any(|s| s.contains("`clock` and `time` exclude each other")), "{said:#?}");
    assert!(said.iter().any(|s| s.contains("`clock.start` must be a date and time")), "{said:#?}");
    assert!(said.iter().any(|s| s.contains("`clock.step_s` must be above 0")), "{said:#?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Plant::load("no/such/plant.toml").unwrap_err();
    assert!(error.to_string().contains("no/such/plant.toml can't be read"), "{error}");
    let bytes = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bytes.path(), b"name = \"\xB0\xA1\"").unwrap();
    assert!(matches!(Plant::load(bytes.path()).unwrap_err(), PlantError::Mistakes(_)));
}

#[test]
fn a_file_from_korean_windows_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plant.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Plant::load(&file)
    };
    let (cp949, _, lost) = encoding_rs::EUC_KR.encode(GOOD);
    assert!(!lost && std::str::from_utf8(&cp949).is_err());
    for bytes in [&cp949, GOOD.as_bytes(), &[b"\xEF\xBB\xBF", GOOD.as_bytes()].concat()] {
        assert_eq!(load(bytes).unwrap().readings[0].words.ko, "용탕 온도");
    }
    let said = |bytes: &[u8]| load(bytes).unwrap_err().to_string();
    let damaged = [GOOD.as_bytes(), b"# \xB0\xA1\n"].concat();
    let line = GOOD.lines().count() + 1;
    assert!(
        said(&damaged)
            .ends_with(&format!("plant.toml:{line}: holds bytes that are not UTF-8: save the file as UTF-8"))
    );
    assert!(said(b"\xFF\xFEn\0").ends_with("plant.toml:1: the file is in UTF-16: save it as UTF-8"));
}

#[test]
fn a_plant_says_what_its_tables_are() {
    let with = |format: &str| format!("{GOOD}[table]\nformat = \"{format}\"\n");
    for (word, format) in [
        ("auto", Format::Auto),
        ("csv", Format::Delimited),
        ("jsonl", Format::Json),
        ("parquet", Format::Parquet),
    ] {
        assert_eq!(Plant::read("plant.toml", &with(word)).unwrap().format, format);
    }
    assert!(
        said(&with("json"))[0]
            .ends_with("`table.format` must be one of auto, csv, jsonl, parquet, not `json`"),
        "{:?}",
        said(&with("json"))
    );
}
