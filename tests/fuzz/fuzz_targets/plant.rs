//! Any text is a plant file or a list of mistakes with their lines.
#![no_main]

use castwatch_ingest::Plant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = Plant::read("plant.toml", text) {
        assert!(!problems.0.is_empty(), "refused without a reason");
        assert!(problems.0.iter().all(|p| p.line >= 1));
    }
});
