//! What a partition's scorer knows: of each machine the shots seen, of each die its history.
//!
//! **The bytes are the state**: reading them back gives an equal state, and anything else is an
//! error, never a guess. **The state is bounded**: beyond [`MACHINES`] and [`DIES`] whoever was idle
//! for the most shots is forgotten. Idleness is counted in shots and kept in the state, so that the
//! same log forgets the same, wherever a snapshot cut it in two.
//!
//! Layout, little-endian, after one version byte: the number of shots so far, the number of
//! machines, then for each its name, the number of its last shot, its identities and its dies, each
//! with the number of its last shot and its history; texts and lists have 32-bit lengths before
//! them, numbers of shots are 64 bits.

use std::collections::BTreeMap;

use castwatch_core::Shot;
use castwatch_models::DieHistory;

use crate::seen::Seen;

const VERSION: u8 = 2;
/// The most machines of a partition that are remembered: far more than a plant has, so that only
/// names that are made up for each shot ever reach it.
pub const MACHINES: usize = 1024;
/// The most dies of a machine that are remembered. One that comes back after it was forgotten
/// begins as a new die does.
pub const DIES: usize = 128;

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
    dies: BTreeMap<String, Used<DieHistory>>,
}

/// Something with the number of the shot that used it last.
#[derive(Clone, Debug, Default, PartialEq)]
struct Used<T> {
    at: u64,
    it: T,
}

/// The state of one partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionState {
    /// How many shots came so far, known ones too.
    shots: u64,
    machines: BTreeMap<String, Used<Machine>>,
}

impl PartitionState {
    /// The shots seen of a shot's machine, and the history of its die there.
    pub fn machine_and_die(&mut self, shot: &Shot) -> (&mut Seen, &mut DieHistory) {
        self.shots += 1;
        let machine = touch(&mut self.machines, &shot.machine, self.shots, MACHINES);
        let die = touch(&mut machine.dies, &shot.die, self.shots, DIES);
        (&mut machine.seen, die)
    }

    /// The state as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.push(VERSION);
        out.extend_from_slice(&self.shots.to_le_bytes());
        put_len(&mut out, self.machines.len());
        for (name, Used { at, it: machine }) in &self.machines {
            put_bytes(&mut out, name.as_bytes());
            out.extend_from_slice(&at.to_le_bytes());
            put_len(&mut out, machine.seen.iter().len());
            for fingerprint in machine.seen.iter() {
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
            put_len(&mut out, machine.dies.len());
            for (die, Used { at, it: history }) in &machine.dies {
                put_bytes(&mut out, die.as_bytes());
                out.extend_from_slice(&at.to_le_bytes());
                put_len(&mut out, history.size());
                history.write(&mut out);
            }
        }
        out
    }

    /// So many bytes does [`Self::to_bytes`] give.
    fn size(&self) -> usize {
        let used = |name: &str| 4 + name.len() + 8;
        let dies = |machine: &Machine| -> usize {
            machine.dies.iter().map(|(die, history)| used(die) + 4 + history.it.size()).sum()
        };
        let machine = |(name, machine): (&String, &Used<Machine>)| {
            used(name) + 4 + machine.it.seen.iter().len() * 8 + 4 + dies(&machine.it)
        };
        1 + 8 + 4 + self.machines.iter().map(machine).sum::<usize>()
    }

    /// Reads what [`Self::to_bytes`] wrote; no bytes are the state at the beginning.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateBytesError> {
        let Some((version, _)) = bytes.split_first() else { return Ok(Self::default()) };
        if *version != VERSION {
            return Err(StateBytesError::Version(*version));
        }
        let mut reader = Reader { bytes, at: 1 };
        let mut state = Self { shots: reader.number()?, machines: BTreeMap::new() };
        for _ in 0..reader.len()? {
            let name = reader.text()?;
            let at = reader.number()?;
            let count = reader.len()?;
            let (seen, _) = reader.take(count * 8)?.as_chunks();
            let seen = seen.iter().map(|fingerprint| u64::from_le_bytes(*fingerprint)).collect();
            let mut machine = Machine { seen, dies: BTreeMap::new() };
            for _ in 0..reader.len()? {
                let die = reader.text()?;
                let at = reader.number()?;
                let history =
                    DieHistory::from_bytes(reader.bytes()?).map_err(|source| StateBytesError::History {
                        machine: name.clone(),
                        die: die.clone(),
                        source: source.into(),
                    })?;
                machine.dies.insert(die, Used { at, it: history });
            }
            state.machines.insert(name, Used { at, it: machine });
        }
        if reader.at == bytes.len() { Ok(state) } else { Err(StateBytesError::Damaged(reader.at)) }
    }
}

/// The entry of `name`, used by shot number `now`. A new one takes the place of the one that was
/// idle longest when there are `most` already; only then are all of them looked at.
fn touch<'m, T: Default>(
    entries: &'m mut BTreeMap<String, Used<T>>,
    name: &str,
    now: u64,
    most: usize,
) -> &'m mut T {
    if entries.len() >= most && !entries.contains_key(name) {
        let idlest = entries.iter().min_by_key(|(_, used)| used.at).map(|(name, _)| name.clone());
        if let Some(idlest) = idlest {
            entries.remove(&idlest);
        }
    }
    let entry = entries.entry(name.to_owned()).or_default();
    entry.at = now;
    &mut entry.it
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

    fn number(&mut self) -> Result<u64, StateBytesError> {
        self.array().map(u64::from_le_bytes)
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

    fn shot(machine: u64, die: u64, cycle: u64) -> Shot {
        let text = format!(
            r#"{{"machine":"DCM-{machine}","die":"금형 {die}","cycle":{cycle},"ended_at":"2026-01-15T16:45:06+09:00","readings":{{}}}}"#
        );
        Shot::from_json(text.as_bytes()).unwrap()
    }

    fn take(state: &mut PartitionState, shot: &Shot) -> bool {
        state.machine_and_die(shot).0.insert(shot)
    }

    fn state() -> PartitionState {
        let mut state = PartitionState::default();
        for n in 0..40 {
            assert!(take(&mut state, &shot(n % 3, n % 5, n)));
        }
        state
    }

    /// How many machines, and how many dies of machine 0.
    fn size(state: &PartitionState) -> (usize, usize) {
        (state.machines.len(), state.machines.get("DCM-0").map_or(0, |machine| machine.it.dies.len()))
    }

    #[test]
    fn bytes_are_the_state() {
        let state = state();
        let bytes = state.to_bytes();
        assert_eq!((bytes.len(), PartitionState::from_bytes(&bytes).unwrap()), (state.size(), state));
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

    #[test]
    fn a_serial_number_for_a_die_pushes_out_only_what_is_idle() {
        let mut state = PartitionState::default();
        for n in 0..3 * DIES as u64 {
            take(&mut state, &shot(0, 1_000_000, n));
            take(&mut state, &shot(0, n, n));
        }
        assert_eq!(size(&state), (1, DIES));
        let machine = &state.machines["DCM-0"].it;
        assert!(machine.dies.contains_key("금형 1000000"), "the die in use stays");
        let last = 3 * DIES as u64 - 1;
        assert!(machine.dies.contains_key(&format!("금형 {last}")));
        assert!(!machine.dies.contains_key("금형 0"));
        assert!(!take(&mut state, &shot(0, 0, 0)), "its shots are still known");
    }

    #[test]
    fn machines_are_forgotten_with_their_shots() {
        let mut state = PartitionState::default();
        for machine in 0..=MACHINES as u64 {
            assert!(take(&mut state, &shot(machine, 1, 1)));
            // Told again, which counts as use.
            assert!(!take(&mut state, &shot(0, 1, 1)) || machine == 0);
        }
        assert_eq!(size(&state), (MACHINES, 1));
        assert!(take(&mut state, &shot(1, 1, 1)), "the longest idle was forgotten");
        assert!(!take(&mut state, &shot(3, 1, 1)));
    }

    #[test]
    fn a_state_read_back_forgets_the_same() {
        let shots: Vec<Shot> = (0..6 * DIES as u64).map(|n| shot(n % 2, n * 7919 % 311, n)).collect();
        let mut whole = PartitionState::default();
        shots.iter().for_each(|shot| assert!(take(&mut whole, shot)));
        assert_eq!(size(&whole), (2, DIES));
        for cut in [1, 100, 300, 500, 767] {
            let mut first = PartitionState::default();
            shots[..cut].iter().for_each(|shot| assert!(take(&mut first, shot)));
            let mut rest = PartitionState::from_bytes(&first.to_bytes()).unwrap();
            shots[cut..].iter().for_each(|shot| assert!(take(&mut rest, shot)));
            assert_eq!(rest.to_bytes(), whole.to_bytes(), "cut at {cut}");
        }
    }
}
