//! Bytes that were changed on the way: an error or the same bundle, never a panic or an endless walk.

use super::tiny::{Tiny, write_to};
use crate::{Bundle, DieHistory};

/// A small generator of its own, so that a failing case replays alone.
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    }
}

fn spoil(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut roll = dice(seed);
    let mut out = bytes.to_vec();
    for _ in 0..=roll(3) {
        if out.is_empty() {
            break;
        }
        let at = roll(out.len());
        match roll(6) {
            0 => out.truncate(at),
            1 => out[at] ^= 1 << roll(8),
            2 => out[at] = roll(256) as u8,
            3 => drop(out.remove(at)),
            4 => out.insert(at, roll(256) as u8),
            _ => {
                let end = (at + roll(16)).min(out.len());
                out.drain(at..end);
            }
        }
    }
    out
}

#[test]
fn spoilt_files_never_panic() {
    let tiny = Tiny::original(1);
    let (manifest, files) = (tiny.manifest(), tiny.files());
    let dir = tempfile::tempdir().unwrap();
    let mut loaded = 0;
    for seed in 0..600_u64 {
        let which = seed as usize % (files.len() + 1);
        let mut text = manifest.clone();
        let mut changed = files.clone();
        match changed.get_mut(which) {
            Some((_, bytes)) => *bytes = spoil(bytes, seed),
            None => text = String::from_utf8_lossy(&spoil(manifest.as_bytes(), seed)).into_owned(),
        }
        // The digests fit, so that what is behind them is reached.
        write_to(dir.path(), &text, &changed);
        match Bundle::load(dir.path()) {
            Ok(bundle) => {
                loaded += 1;
                let features = bundle.extract(&tiny.shot(&[Some(0.5); 30]), &mut DieHistory::default());
                let judged = bundle.judge(&[&features]).unwrap();
                assert!(judged[0].margin.is_finite(), "seed {seed}");
                let _ = bundle.attribute(&features.values);
            }
            Err(error) => assert!(!error.to_string().is_empty(), "seed {seed}"),
        }
    }
    assert!(loaded > 20, "{loaded} loaded: the changes are too coarse to reach what is behind the digests");
}
