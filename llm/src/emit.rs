//! Bytes to send on: slices of what came in wherever nothing had to change.

use bytes::Bytes;
use smallvec::SmallVec;

/// What a [`StreamRelay`](crate::StreamRelay) wants sent to the caller next, in order; often empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Emit(SmallVec<[Bytes; 2]>);

impl Emit {
    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All bytes in all pieces.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// The pieces joined; free when there is only one.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        if self.0.len() == 1 {
            return self.0.into_iter().next().unwrap_or_default();
        }
        self.0
            .iter()
            .fold(Vec::with_capacity(self.byte_len()), |mut all, part| {
                all.extend_from_slice(part);
                all
            })
            .into()
    }

    pub(crate) fn add(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.0.push(bytes);
        }
    }
}

impl IntoIterator for Emit {
    type Item = Bytes;
    type IntoIter = smallvec::IntoIter<[Bytes; 2]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
