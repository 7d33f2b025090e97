//! Any bytes on the `shots` topic are a shot or an error, and a shot that was read can be written
//! and read again as the same shot.
#![no_main]

use castwatch_core::Shot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(shot) = Shot::from_json(bytes) {
        let written = serde_json::to_vec(&shot).expect("a shot can be written");
        let again = Shot::from_json(&written).expect("what was written can be read");
        assert_eq!(shot, again);
        assert_eq!(shot.id(), again.id());
    }
});
