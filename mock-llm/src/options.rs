//! How one server behaves.

use crate::knobs::Knobs;

/// Enough for a long test at some thousand requests a second; 64 bytes and a model name each.
const RECORDS: usize = 200_000;

/// How one server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key that every call must bring (`Authorization: Bearer`, `x-api-key`, `x-goog-api-key` or `?key=`); no key is
    /// asked for when absent.
    pub api_key: Option<String>,
    /// The names that the models endpoint lists. Any other name is served as well.
    pub models: Vec<String>,
    /// The most records that the witness keeps; the oldest go first. Counters go on for ever.
    pub records: usize,
    /// Decides which requests fail when only a part of them shall; the same seed, the same requests.
    pub seed: u64,
    /// What happens to a call that says nothing itself.
    pub knobs: Knobs,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            api_key: None,
            models: vec!["mock-1".into(), "mock-2".into()],
            records: RECORDS,
            seed: 0,
            knobs: Knobs::default(),
        }
    }
}
