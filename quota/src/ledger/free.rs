//! Numbers that are free, of which the lowest is taken first.

/// Levels of bits: 64^6 is more than there are numbers.
const LEVELS: usize = 6;

/// A bit for each number, and above each word of them a bit that tells whether it has any.
#[derive(Debug, Clone, Default)]
pub(super) struct Free {
    levels: [Vec<u64>; LEVELS],
}

impl Free {
    pub(super) fn insert(&mut self, number: u32) {
        let mut at = number as usize;
        for words in &mut self.levels {
            let (word, bit) = (at / 64, at % 64);
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << bit;
            at = word;
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        let mut at = number as usize;
        for words in &mut self.levels {
            let Some(word) = words.get_mut(at / 64) else { return };
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    pub(super) fn pop_first(&mut self) -> Option<u32> {
        let mut at = 0;
        for words in self.levels.iter().rev() {
            let word = words.get(at).copied().filter(|word| *word != 0)?;
            at = at * 64 + word.trailing_zeros() as usize;
        }
        let number = u32::try_from(at).ok()?;
        self.remove(number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_in_order(steps in vec((0..3u8, prop_oneof![0..200u32, 0..5_000_000u32]), 1..300)) {
            let (mut free, mut set) = (Free::default(), BTreeSet::new());
            for (what, number) in steps {
                match what {
                    0 => prop_assert_eq!(free.pop_first(), set.pop_first()),
                    1 => {
                        free.remove(number);
                        set.remove(&number);
                    }
                    _ => {
                        free.insert(number);
                        set.insert(number);
                    }
                }
            }
            while let Some(number) = set.pop_first() {
                prop_assert_eq!(free.pop_first(), Some(number));
            }
            prop_assert_eq!(free.pop_first(), None);
        }
    }
}
