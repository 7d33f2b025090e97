//! What a partition's scorer knows: of each machine the shots seen, of each die its history.
//!
//! **The bytes are the state**: reading them back gives an equal state, and anything else is an
//! error, never a guess. Layout, little-endian, after one version byte: the number of machines,
//! then for each its name, its identities and its dies with their histories; texts and lists have
//! 32-bit lengths before them.

use std::collections::BTreeMap;

use castwatch_core::Shot;
use castwatch_models::DieHistory;

use crate::seen::Seen;

const VERSION: u8 = 1;

/// Why saved bytes are not a state.
#[derive(Debug, thiserror::Error)]
pub enum StateBytesError {
    /// Written by a version that this one does not know.
    #[error("the state has version {0}, this castwatch reads version {VERSION}")]
    Version(u8),
    /// Cut off, or not a state at all.
    #[error("the state ends early or is damaged at byte {0}")]
    Damaged(usize),
    /// The history of a die can't be read.
    #[error("the history of die {die} of machine {machine} can't be read")]
    History {
        /// The machine.
        machine: String,
        /// The die.
        die: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What one machine's shots taught.
#[derive(Clone, Debug, Default, PartialEq)]
struct Machine {
    seen: Seen,
    dies: BTreeMap<String, DieHistory>,
}

/// The state of one partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionState {
    machines: BTreeMap<String, Machine>,
}

impl PartitionState {
    /// The shots seen of a shot's machine, and the history of its die there.
    pub fn machine_and_die(&mut self, shot: &Shot) -> (&mut Seen, &mut DieHistory) {
        if !self.machines.contains_key(&shot.machine) {
            self.machines.insert(shot.machine.clone(), Machine::default());
        }
        let machine = self.machines.entry(shot.machine.clone()).or_default();
        if !machine.dies.contains_key(&shot.die) {
            machine.dies.insert(shot.die.clone(), DieHistory::default());
        }
        (&mut machine.seen, machine.dies.entry(shot.die.clone()).or_default())
    }

    /// The state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_len(&mut out, self.machines.len());
        for (name, machine) in &self.machines {
            put_bytes(&mut out, name.as_bytes());
            put_len(&mut out, machine.seen.iter().len());
            for fingerprint in machine.seen.iter() {
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
            put_len(&mut out, machine.dies.len());
            for (die, history) in &machine.dies {
                put_bytes(&mut out, die.as_bytes());
                put_bytes(&mut out, &history.to_bytes());
            }
        }
        out
    }

    /// Reads what [`Self::to_bytes`] wrote; no bytes are the state at the beginning.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateBytesError> {
        let Some((version, _)) = bytes.split_first() else { return Ok(Self::default()) };
        if *version != VERSION {
            return Err(StateBytesError::Version(*version));
        }
        let mut reader = Reader { bytes, at: 1 };
        let mut state = Self::default();
        for _ in 0..reader.len()? {
            let name = reader.text()?;
            let count = reader.len()?;
            let seen =
                (0..count).map(|_| reader.array().map(u64::from_le_bytes)).collect::<Result<_, _>>()?;
            let mut machine = Machine { seen, dies: BTreeMap::new() };
            for _ in 0..reader.len()? {
                let die = reader.text()?;
                let history =
                    DieHistory::from_bytes(reader.bytes()?).map_err(|source| StateBytesError::History {
                        machine: name.clone(),
                        die: die.clone(),
                        source: source.into(),
                    })?;
                machine.dies.insert(die, history);
            }
            state.machines.insert(name, machine);
        }
        if reader.at == bytes.len() { Ok(state) } else { Err(StateBytesError::Damaged(reader.at)) }
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], StateBytesError> {
        let end = self.at.checked_add(n).ok_or(StateBytesError::Damaged(self.at))?;
        let taken = self.bytes.get(self.at..end).ok_or(StateBytesError::Damaged(self.at))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateBytesError> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| StateBytesError::Damaged(at))
    }

    fn len(&mut self) -> Result<usize, StateBytesError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn bytes(&mut self) -> Result<&'b [u8], StateBytesError> {
        let n = self.len()?;
        self.take(n)
    }

    fn text(&mut self) -> Result<String, StateBytesError> {
        let at = self.at;
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| StateBytesError::Damaged(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> PartitionState {
        let mut state = PartitionState::default();
        for n in 0..40_u64 {
            let text = format!(
                r#"{{"machine":"DCM-{}","die":"금형 {}","cycle":{n},"ended_at":"2026-01-15T16:45:{:02}+09:00","readings":{{}}}}"#,
                n % 3,
                n % 5,
                n
            );
            let shot = Shot::from_json(text.as_bytes()).unwrap();
            assert!(state.machine_and_die(&shot).0.insert(&shot));
        }
        state
    }

    #[test]
    fn bytes_are_the_state() {
        let state = state();
        assert_eq!(PartitionState::from_bytes(&state.to_bytes()).unwrap(), state);
        assert_eq!(PartitionState::from_bytes(&[]).unwrap(), PartitionState::default());
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = state().to_bytes();
        for cut in 1..bytes.len() {
            assert!(PartitionState::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(PartitionState::from_bytes(&longer), Err(StateBytesError::Damaged(_))));
        assert!(matches!(PartitionState::from_bytes(&[9]), Err(StateBytesError::Version(9))));
    }
}
