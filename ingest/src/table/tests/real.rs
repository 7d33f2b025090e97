//! The two real tables, where they are present.

use super::*;

fn data(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CASTWATCH_TEST_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there (set CASTWATCH_TEST_DATA)", path.display());
        return None;
    }
    Some(path)
}

fn plant_of(name: &str) -> Plant {
    Plant::load(format!("{}/../tests/plants/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn casting_process() {
    let Some(path) = data("casting_process_train.csv.gz") else { return };
    let rows: Vec<Row> =
        Table::open(path, &plant_of("casting_process")).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), 63_310);
    assert_eq!(rows.iter().filter(|r| r.label == Some(true)).count(), 2_775);
    assert_eq!(rows.iter().filter(|r| r.shot.try_shot).count(), 899);
    assert!(rows.iter().filter(|r| r.shot.try_shot).all(|r| r.label == Some(true)));
    let ids: std::collections::HashSet<_> = rows.iter().map(|r| r.shot.id()).collect();
    assert_eq!(ids.len(), 63_310, "two dies may end in the same second with the same count");
    assert!(rows.iter().all(|r| r.shot.readings.len() == 16));
    assert!(rows.iter().any(|r| !r.nulled.is_empty()));
    assert!(rows.windows(2).all(|w| w[0].shot.ended_at <= w[1].shot.ended_at));
    assert!(rows[0].shot.ended_at.to_string().ends_with("+09:00"));
}

#[test]
fn casting_quality30() {
    let Some(path) = data("casting_quality30_train.csv.gz") else { return };
    let rows: Vec<Row> =
        Table::open(path, &plant_of("casting_quality30")).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), 3_231);
    assert_eq!(rows.iter().filter(|r| r.label == Some(true)).count(), 799);
    assert!(rows.iter().all(|r| r.shot.readings.len() == 30));
    let ids: std::collections::HashSet<_> = rows.iter().map(|r| r.shot.id()).collect();
    assert_eq!(ids.len(), 3_231);
    let gap = |w: &[Row]| (w[1].shot.ended_at.seconds() - w[0].shot.ended_at.seconds()) as i64;
    let gaps: Vec<i64> = rows.windows(2).map(gap).collect();
    assert_eq!(gaps.iter().filter(|g| **g == 43_200).count(), 5, "six runs");
    assert!(gaps.iter().all(|g| *g == 30 || *g == 43_200));
}
