//! Secrets: sealed, hashed, and never shown.
//!
//! Provider keys are *sealed* under the cluster key and can be opened again by a node that has it; API keys and admin
//! tokens are kept only as keyed hashes. The texts of both name the cluster key, so that another cluster's are refused
//! for what they are. The cluster key itself is in a file on every node, and in no log, snapshot or answer.

mod key;
mod prepare;
mod seal;

use std::fmt;

pub use key::{ClusterKey, KeyFileError};
pub use prepare::{has_plain_secret, prepare, without_plain};
pub(crate) use seal::{parse_hash, parse_sealed};
use zeroize::Zeroize;

/// A value that `Debug` does not show and that is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a sealed secret or a hash is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Made under another cluster's key.
    #[error(
        "was made under the cluster key {theirs}, and this cluster's is {ours}: give it the same `[cluster] key_file`"
    )]
    OtherKey {
        /// The id in the text.
        theirs: String,
        /// The id of this cluster's key.
        ours: String,
    },
    /// Not the text of a sealed secret or of a hash, or it was changed.
    #[error("is damaged, or was not made by tollgate")]
    Damaged,
}
