//! The texts of keys, each kept once: a consumer under three limits has three accounts and one text.
//!
//! Numbers of texts are no part of the state: rows hold the texts, and a restored ledger may number them otherwise.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::Arc,
};

use hashbrown::{HashTable, hash_table::Entry};

use super::slab::{Shared, Slab};

/// Names the key of an account: its values joined by NUL, which no value contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(NonZeroU32);

impl Key {
    /// Of an account that has no record.
    pub(super) const NONE: Self = Self(NonZeroU32::MAX);

    fn of(id: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(id))
    }

    /// Of its text, in the slab.
    pub(super) fn id(self) -> u32 {
        self.0.get() - 1
    }
}

/// Where to find a text again. With its hash at hand, a table that grows need not look at a million texts.
#[derive(Debug, Clone, Copy)]
struct Place {
    hash: u32,
    id: u32,
}

impl Place {
    /// Spread over all bits, as a table takes some from each end.
    fn spread(self) -> u64 {
        spread(self.hash)
    }
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Keys {
    texts: Slab<Arc<str>>,
    /// Accounts that have this key, by its number.
    uses: Vec<u32>,
    /// Never iterated.
    table: HashTable<Place>,
    /// Values come from outside: nobody can choose some that all collide.
    hasher: RandomState,
}

impl Keys {
    pub(super) fn find(&self, text: &str) -> Option<Key> {
        let hash = self.hash(text);
        let is_it = |place: &Place| place.hash == hash && self.texts.get(place.id).is_some_and(|it| **it == *text);
        self.table.find(spread(hash), is_it).map(|place| Key::of(place.id))
    }

    pub(super) fn text(&self, key: Key) -> &str {
        self.texts.get(key.id()).map_or("", |text| text)
    }

    /// To be kept while the ledger changes.
    pub(super) fn shared(&self, key: Key) -> Arc<str> {
        self.texts.get(key.id()).cloned().unwrap_or_default()
    }

    /// One account more has this key.
    pub(super) fn enter(&mut self, text: &str) -> Key {
        let hash = self.hash(text);
        let Self { texts, uses, table, .. } = self;
        let is_it = |place: &Place| place.hash == hash && texts.get(place.id).is_some_and(|it| **it == *text);
        let id = match table.entry(spread(hash), is_it, |place| place.spread()) {
            Entry::Occupied(known) => known.get().id,
            Entry::Vacant(none) => {
                let id = texts.insert(text.into());
                none.insert(Place { hash, id });
                id
            }
        };
        let at = id as usize;
        if uses.len() <= at {
            uses.resize(at + 1, 0);
        }
        uses[at] += 1;
        Key::of(id)
    }

    /// One account less has this key; with the last its text goes.
    pub(super) fn leave(&mut self, key: Key) {
        let (id, at) = (key.id(), key.id() as usize);
        let Some(uses) = self.uses.get_mut(at).filter(|uses| **uses > 0) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        let Some(text) = self.texts.remove(id) else { return };
        let hash = self.hash(&text);
        if let Ok(known) = self.table.find_entry(spread(hash), |place| place.id == id) {
            known.remove();
        }
        if self.table.is_empty() {
            (self.table, self.uses) = (HashTable::new(), Vec::new());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn share(&self) -> Texts {
        Texts { texts: self.texts.share() }
    }

    fn hash(&self, text: &str) -> u32 {
        // The upper half: no bit of it is better than another.
        (self.hasher.hash_one(text) >> 32) as u32
    }
}

/// The texts as they were.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    texts: Shared<Arc<str>>,
}

impl Texts {
    pub(super) fn get(&self, key: Key) -> &str {
        self.texts.get(key.id()).map_or("", |text| text)
    }

    /// To be kept beyond the image.
    pub(super) fn shared(&self, key: Key) -> Arc<str> {
        self.texts.get(key.id()).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_as_long_as_somebody_has_it() {
        let mut keys = Keys::default();
        let (alice, bob) = (keys.enter("alice"), keys.enter("bob"));
        assert_eq!((keys.enter("alice"), keys.texts.len()), (alice, 2));
        keys.leave(alice);
        assert_eq!((keys.find("alice"), keys.text(alice)), (Some(alice), "alice"));
        let image = keys.share();
        keys.leave(alice);
        assert_eq!((keys.find("alice"), keys.find("bob"), keys.text(bob)), (None, Some(bob), "bob"));
        assert_eq!(&*image.shared(alice), "alice", "an image keeps what it saw");
        assert_eq!((keys.enter("carol"), image.get(alice)), (alice, "alice"), "its number is free again");
    }

    #[test]
    fn every_one_of_many_is_found_while_they_come_and_go() {
        let mut keys = Keys::default();
        let text = |at: u32| format!("consumer-{at}");
        let named: Vec<Key> = (0..10_000).map(|at| keys.enter(&text(at))).collect();
        (0..10_000).filter(|at| at % 3 == 0).for_each(|at| keys.leave(named[at as usize]));
        for at in 0..10_000 {
            let expected = (at % 3 != 0).then_some(named[at as usize]);
            assert_eq!(keys.find(&text(at)), expected, "{at}");
        }
        named.iter().for_each(|key| keys.leave(*key));
        assert_eq!((keys.texts.len(), keys.table.len(), keys.uses.len()), (0, 0, 0));
    }
}
