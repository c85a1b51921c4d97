//! One number that decides everything random in a run.

use std::{env, fmt};

use rand::{SeedableRng, rngs::StdRng};

/// Repeats a run.
const SEED: &str = "TOLLGATE_SEED";

/// One number that decides everything random in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// `TOLLGATE_SEED`, or a new one.
    ///
    /// # Panics
    /// `TOLLGATE_SEED` is not a number.
    pub fn from_env() -> Seed {
        match env::var(SEED) {
            Ok(text) => Seed(text.parse().expect("TOLLGATE_SEED is a whole number")),
            Err(_) => Seed(rand::random()),
        }
    }

    /// Random numbers for one purpose; other purposes of the same run don't shift them.
    pub fn rng(self, purpose: &str) -> StdRng {
        let salt = purpose
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        StdRng::seed_from_u64(self.0 ^ salt)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
