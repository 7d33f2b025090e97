//! Waiting between tries: exponential with full jitter, inside a budget.
//!
//! **The sum of all waits never passes the budget**, so that a batch is given up before the
//! broker thinks its reader dead. Time is tokio's, which tests can pause.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How patient a retry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// The longest first wait.
    pub first: Duration,
    /// The longest single wait.
    pub most: Duration,
    /// The longest sum of waits.
    pub budget: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            most: Duration::from_secs(5),
            budget: Duration::from_secs(60),
        }
    }
}

/// The waits of one operation that is tried again and again.
#[derive(Debug)]
pub struct Backoff {
    patience: Patience,
    spent: Duration,
    tries: u32,
    seed: u64,
}

impl Backoff {
    /// A fresh row of tries; `seed` moves the jitter, so that readers do not retry in step.
    #[must_use]
    pub const fn new(patience: Patience, seed: u64) -> Self {
        Self { patience, spent: Duration::ZERO, tries: 0, seed }
    }

    /// How many waits there were.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// The next wait, or `None` when the budget is spent.
    pub fn next_wait(&mut self) -> Option<Duration> {
        let ceiling = self.patience.first.saturating_mul(1 << self.tries.min(20)).min(self.patience.most);
        self.tries += 1;
        // splitmix64: spreads the tries of one seed evenly and needs no state of its own.
        let mut z = self.seed.wrapping_add(u64::from(self.tries).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let part = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        let wait = ceiling.mul_f64(0.1 + 0.9 * part);
        if self.spent + wait > self.patience.budget {
            return None;
        }
        self.spent += wait;
        Some(wait)
    }

    /// Waits for the next try; `false` when the budget is spent.
    pub async fn wait(&mut self) -> bool {
        match self.next_wait() {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_jitter_and_end_at_the_budget() {
        let patience = Patience {
            first: Duration::from_millis(100),
            most: Duration::from_secs(1),
            budget: Duration::from_secs(10),
        };
        for seed in 0..200 {
            let mut backoff = Backoff::new(patience, seed);
            let waits: Vec<Duration> = std::iter::from_fn(|| backoff.next_wait()).collect();
            assert!(waits[0] <= Duration::from_millis(100));
            assert!(waits.iter().all(|w| *w <= Duration::from_secs(1) && *w >= Duration::from_millis(10)));
            assert!(waits.iter().sum::<Duration>() <= Duration::from_secs(10));
            assert!(waits.len() > 8, "{}", waits.len());
        }
        let first = |seed| Backoff::new(patience, seed).next_wait();
        assert_ne!(first(1), first(2));
    }
}
