//! What a selection goes by, besides weights: what is in the request, chance, and whom it was sent to before.

use super::hash::mix;

/// What one selection is made by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    /// Of what the request has to say, where the policy asks for it and it says something.
    pub(crate) hash: Option<u64>,
    /// Drawn for this selection.
    pub(crate) random: u64,
}

impl Draw {
    /// The `n`th number of this draw.
    pub(super) fn number(&self, n: u64) -> u64 {
        mix(self.random.wrapping_add(n))
    }

    /// What a table is asked with. What says nothing is like nothing else.
    pub(super) fn key(&self) -> u64 {
        self.hash.unwrap_or(self.random)
    }
}

/// More endpoints than one request is ever sent to at one upstream.
const MAX_TRIED: usize = 24;

/// The endpoints that a request was sent to already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried {
    indexes: [u32; MAX_TRIED],
    count: usize,
}

impl Tried {
    /// What does not fit any more may be tried again.
    pub(crate) fn note(&mut self, index: usize) {
        if let (Some(place), Ok(index)) = (self.indexes.get_mut(self.count), u32::try_from(index)) {
            *place = index;
            self.count += 1;
        }
    }

    /// And those that somebody else has noted.
    pub(crate) fn add(&mut self, others: &Self) {
        for &index in &others.indexes[..others.count] {
            if !self.indexes[..self.count].contains(&index) {
                self.note(index as usize);
            }
        }
    }

    /// How many they are, some perhaps twice.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        self.indexes[..self.count].iter().any(|&tried| u32::try_from(index) == Ok(tried))
    }
}
