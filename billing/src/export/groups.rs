//! Sums by key, of any number of keys, in bounded memory.
//!
//! No more than so many groups are kept, those of the smallest keys; what has a greater one is left for another pass over
//! the same rows. Nothing is written to a disk, and what comes out does not depend on how many passes it took.

use std::collections::BTreeMap;

/// The groups of one pass.
#[derive(Debug)]
pub(crate) struct Groups<K, V> {
    most: usize,
    /// Keys up to this one came out of an earlier pass.
    after: Option<K>,
    /// Keys from this one on are for a later pass.
    below: Option<K>,
    sums: BTreeMap<K, V>,
}

impl<K: Ord + Clone, V: Default> Groups<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), after: None, below: None, sums: BTreeMap::new() }
    }

    /// The same, of which keys up to this one came out before.
    pub(crate) fn beyond(most: usize, after: Option<K>) -> Self {
        Self { after, ..Self::new(most) }
    }

    /// Whether there are sums of a key in this pass.
    pub(crate) fn has(&self, key: &K) -> bool {
        self.sums.contains_key(key)
    }

    /// Adds to the sums of a key, if it is of this pass.
    pub(crate) fn add<E>(&mut self, key: K, add: impl FnOnce(&mut V) -> Result<(), E>) -> Result<(), E> {
        let is_past = self.after.as_ref().is_some_and(|after| key <= *after);
        let is_later = self.below.as_ref().is_some_and(|below| key >= *below);
        if is_past || is_later {
            return Ok(());
        }
        add(self.sums.entry(key).or_default())?;
        if self.sums.len() > self.most {
            self.below = self.sums.pop_last().map(|(key, _)| key);
        }
        Ok(())
    }

    /// The next group, in order of the keys, once all rows were added.
    pub(crate) fn take(&mut self) -> Option<(K, V)> {
        let (key, sums) = self.sums.pop_first()?;
        self.after = Some(key.clone());
        Some((key, sums))
    }

    /// Whether another pass is needed, once all groups were taken: it begins now.
    pub(crate) fn turn(&mut self) -> bool {
        self.below.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_number_of_passes_gives_what_one_gives(rows in prop::collection::vec((0u8..40, 1u64..9), 0..200), most in 1usize..50) {
            let mut wanted: BTreeMap<u8, u64> = BTreeMap::new();
            for (key, units) in &rows {
                *wanted.entry(*key).or_default() += units;
            }
            let (mut groups, mut found) = (Groups::<u8, u64>::new(most), Vec::new());
            loop {
                for (key, units) in &rows {
                    groups.add(*key, |sum| { *sum += units; Ok::<_, ()>(()) }).unwrap();
                    prop_assert!(groups.sums.len() <= most);
                }
                found.extend(std::iter::from_fn(|| groups.take()));
                if !groups.turn() {
                    break;
                }
            }
            prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }
    }
}
