//! The identities of a machine's last shots, so that a shot told twice is judged once.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use castwatch_core::Shot;
use sha2::{Digest, Sha256};

/// So many shots of a machine are remembered: about three days at one a minute. A duplicate that
/// comes later than this is judged again, under the same id, which the record and the alert refuse.
pub const WINDOW: usize = 4096;

/// The last [`WINDOW`] identities of one machine, as 64 bits of their SHA-256 each: a chance of one
/// in 2^52 for each shot to be taken for another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    order: VecDeque<u64>,
    known: HashSet<u64, BuildHasherDefault<AsItIs>>,
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
}

impl Seen {
    /// Remembers a shot; `false` when it was known.
    pub fn insert(&mut self, shot: &Shot) -> bool {
        self.remember(fingerprint(shot))
    }

    fn remember(&mut self, fingerprint: u64) -> bool {
        if !self.known.insert(fingerprint) {
            return false;
        }
        if self.order.len() == WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(fingerprint);
        true
    }

    /// The identities, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.order.iter().copied()
    }
}

impl FromIterator<u64> for Seen {
    fn from_iter<I: IntoIterator<Item = u64>>(fingerprints: I) -> Self {
        let fingerprints = fingerprints.into_iter();
        let mut seen = Self::default();
        seen.known.reserve(fingerprints.size_hint().0.min(WINDOW));
        fingerprints.for_each(|fingerprint| {
            seen.remember(fingerprint);
        });
        seen
    }
}

/// What tells a machine's shots apart: die, time and cycle.
fn fingerprint(shot: &Shot) -> u64 {
    let mut hash = Sha256::new();
    hash.update(shot.ended_at.instant().as_nanosecond().to_le_bytes());
    hash.update(shot.cycle.to_le_bytes());
    hash.update(shot.die.as_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_first() {
        let mut seen: Seen = (0..WINDOW as u64).collect();
        assert!(!seen.remember(0));
        assert!(seen.remember(WINDOW as u64));
        assert!(seen.remember(0), "the oldest was forgotten");
        assert!(!seen.remember(WINDOW as u64));
        assert_eq!(seen.iter().len(), WINDOW);
        let again: Seen = seen.iter().collect();
        assert_eq!(again, seen);
    }
}
