//! The bundle that castwatch ships.

use std::path::Path;

use crate::Bundle;

#[test]
fn the_default_bundle_loads_and_speaks_both_languages() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/default");
    let bundle = Bundle::load(&dir).unwrap();
    assert_eq!(bundle.name(), "default");
    assert!(!bundle.features().iter().any(|f| f.name.contains("try")), "the try-shot signal is a leak");
    for reading in bundle.readings() {
        for words in [&reading.words, &reading.equipment, &reading.advice_low, &reading.advice_high] {
            let hangul = words.ko.chars().any(|c| ('가'..='힣').contains(&c));
            assert!(hangul && words.en.is_ascii() && !words.en.is_empty(), "{}: {words:?}", reading.name);
        }
    }
    let size: u64 = std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 600_000, "{size} bytes");
}
