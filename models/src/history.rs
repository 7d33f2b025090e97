//! What is remembered of one die: for each reading a centre and a spread at each speed.
//!
//! **A history is a pure function of the die's shots in their order**: the same shots give the
//! same bytes, wherever a snapshot cut the sequence in two.
//!
//! With `a` the step, `x` the reading and `s' = max(s, floor)`:
//!
//! ```text
//! c += a · clip(x − c, ±1.5·s')         one outlier moves the centre by a small, bounded amount
//! s += a · (min(|x − c|, 3·s') − s)      the spread follows |x − c|, and one outlier can't inflate it
//! ```
//!
//! `floor` is a thousandth of the reading's plausible range: without it a reading that stood still
//! (spread 0) could never be left again after a set-point change. The first values of a die count
//! as a plain mean (`a = max(step, 1/(n+1))`), so that the slow centre is right after a few shots
//! instead of keeping the first, often a warm-up shot, for a hundred; the first [`WARM`] are not
//! clipped since there is no spread yet to clip by, and until then ratios and usual values are not
//! given.
//!
//! A clock that steps back gives a gap of 0 and becomes the new last time: measuring from the
//! later time would call every shot simultaneous until the clock has caught up.

use castwatch_core::payload::Usual;

/// So many values of a reading make its spread worth using.
pub const WARM: u16 = 5;
/// Deviations move the centre by at most this many spreads.
const CENTRE_CLIP: f64 = 1.5;
/// Deviations count for the spread up to this many spreads.
const SPREAD_CAP: f64 = 3.0;
/// The first byte of a saved history.
const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Track {
    centre: f32,
    spread: f32,
}

/// The state of one die.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DieHistory {
    /// Which readings and steps the tracks are of; see [`crate::features::Layout::fingerprint`].
    layout: u32,
    /// End of the last shot in milliseconds since 1970.
    last_ms: Option<i64>,
    since_restart: u32,
    /// Values seen of each reading, up to `u16::MAX`.
    seen: Vec<u16>,
    /// Reading by reading, its steps in order.
    tracks: Vec<Track>,
}

/// Bytes that are not a saved history.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Written by another version.
    #[error("the history of a die is of version {0}, this build reads {VERSION}")]
    Version(u8),
    /// Cut short, too long, or with values that can't be.
    #[error("the history of a die is damaged: {0}")]
    Damaged(&'static str),
}

impl DieHistory {
    /// Makes the history fit a bundle: one that was kept for other readings or steps starts afresh,
    /// since its numbers mean something else.
    pub(crate) fn fit(&mut self, layout: u32, readings: usize, steps: usize) {
        if self.layout != layout || self.seen.len() != readings || self.tracks.len() != readings * steps {
            *self = Self {
                layout,
                seen: vec![0; readings],
                tracks: vec![Track::default(); readings * steps],
                ..Self::default()
            };
        }
    }

    /// Takes the time of a shot; gives the seconds since the die's last one, if there was one, and
    /// the shots since its restart.
    pub(crate) fn tick(&mut self, ended_ms: i64, restart_after: f64) -> (Option<f64>, u32) {
        let gap = self.last_ms.map(|last| (ended_ms.saturating_sub(last)).max(0) as f64 / 1000.0);
        self.since_restart = match gap {
            Some(gap) if gap <= restart_after => self.since_restart.saturating_add(1),
            _ => 0,
        };
        self.last_ms = Some(ended_ms);
        (gap, self.since_restart)
    }

    /// The centre and the floored spread of a reading at a step, and how many values made them.
    pub(crate) fn track(&self, reading: usize, step: usize, steps: usize, floor: f64) -> (u16, f64, f64) {
        let track = self.tracks[reading * steps + step];
        (self.seen[reading], f64::from(track.centre), f64::from(track.spread).max(floor))
    }

    /// What the reading usually is, by its slowest step; nothing before [`WARM`] values.
    pub(crate) fn usual(&self, reading: usize, steps: usize) -> Option<Usual> {
        let track = self.tracks[reading * steps];
        (self.seen[reading] >= WARM)
            .then(|| Usual { centre: f64::from(track.centre), spread: f64::from(track.spread) })
    }

    /// Learns one value of a reading.
    pub(crate) fn learn(&mut self, reading: usize, x: f64, steps: &[f64], floor: f64) {
        let n = self.seen[reading];
        let mean_step = 1.0 / (f64::from(n) + 1.0);
        for (track, step) in self.tracks[reading * steps.len()..].iter_mut().zip(steps) {
            let (centre, spread) = (f64::from(track.centre), f64::from(track.spread));
            let off = if n == 0 { x } else { x - centre };
            let a = step.max(mean_step);
            let scale = spread.max(floor);
            let (moved, width) = match n {
                0 => (off, 0.0),
                1..WARM => (off, off.abs()),
                _ => {
                    (off.clamp(-CENTRE_CLIP * scale, CENTRE_CLIP * scale), off.abs().min(SPREAD_CAP * scale))
                }
            };
            *track =
                Track { centre: (centre + a * moved) as f32, spread: (spread + a * (width - spread)) as f32 };
        }
        self.seen[reading] = n.saturating_add(1);
    }

    /// The history in a few hundred bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.write(&mut out);
        out
    }

    /// So many bytes does [`Self::write`] write.
    #[must_use]
    pub fn size(&self) -> usize {
        22 + self.seen.len() * 2 + self.tracks.len() * 8
    }

    /// Writes [`Self::to_bytes`] onto the end of `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend(self.layout.to_le_bytes());
        out.push(u8::from(self.last_ms.is_some()));
        out.extend(self.last_ms.unwrap_or_default().to_le_bytes());
        out.extend(self.since_restart.to_le_bytes());
        out.extend((self.seen.len() as u16).to_le_bytes());
        out.extend((self.tracks.len() as u16).to_le_bytes());
        for n in &self.seen {
            out.extend_from_slice(&n.to_le_bytes());
        }
        for track in &self.tracks {
            let both = u64::from(track.centre.to_bits()) | u64::from(track.spread.to_bits()) << 32;
            out.extend_from_slice(&both.to_le_bytes());
        }
    }

    /// Reads a history back.
    ///
    /// # Errors
    /// [`HistoryError`] for anything that [`DieHistory::to_bytes`] did not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HistoryError> {
        const SHORT: HistoryError = HistoryError::Damaged("it is cut short");
        let mut rest = bytes;
        let [version] = take(&mut rest).ok_or(SHORT)?;
        if version != VERSION {
            return Err(HistoryError::Version(version));
        }
        let layout = u32::from_le_bytes(take(&mut rest).ok_or(SHORT)?);
        let [timed] = take(&mut rest).ok_or(SHORT)?;
        let last = i64::from_le_bytes(take(&mut rest).ok_or(SHORT)?);
        let since_restart = u32::from_le_bytes(take(&mut rest).ok_or(SHORT)?);
        let readings = usize::from(u16::from_le_bytes(take(&mut rest).ok_or(SHORT)?));
        let tracks = usize::from(u16::from_le_bytes(take(&mut rest).ok_or(SHORT)?));
        let last_ms = match (timed, last) {
            (0, 0) => None,
            (1, last) => Some(last),
            _ => return Err(HistoryError::Damaged("its time is neither there nor absent")),
        };
        if rest.len() != readings * 2 + tracks * 8 {
            return Err(HistoryError::Damaged("its length does not match its readings"));
        }
        let (seen, rest) = rest.split_at(readings * 2);
        let number = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let history = Self {
            layout,
            last_ms,
            since_restart,
            seen: seen.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
            tracks: rest
                .chunks_exact(8)
                .map(|b| Track { centre: number(b), spread: number(&b[4..]) })
                .collect(),
        };
        if history.tracks.iter().any(|t| !(t.centre.is_finite() && t.spread.is_finite() && t.spread >= 0.0)) {
            return Err(HistoryError::Damaged("a centre or spread is not a number that can be"));
        }
        Ok(history)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}
