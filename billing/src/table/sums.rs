//! Sums of some hours, each of one combination of who and what.

use foldhash::HashMap;

use super::{Totals, names::place};

/// Sums by the number of who and what, in [`super::Names`]. They lie side by side in the order in which they came, as a query reads
/// all of them: of a month that is millions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    numbers: Vec<u32>,
    totals: Vec<Totals>,
    /// Where each number is in the others. Never iterated.
    places: HashMap<u32, u32>,
}

/// What adding to a sum has made of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Added {
    /// What it is now.
    pub(super) totals: Totals,
    /// There was none before.
    pub(super) is_first: bool,
}

impl Sums {
    /// Adds to one of them.
    pub(super) fn add(&mut self, number: u32, more: &Totals) -> Added {
        let next = u32::try_from(self.totals.len()).expect("there are no more sums than numbers");
        let at = *self.places.entry(number).or_insert(next);
        if at == next {
            self.numbers.push(number);
            self.totals.push(Totals::default());
        }
        let totals = &mut self.totals[place(at)];
        totals.add(more);
        Added { totals: *totals, is_first: at == next }
    }

    /// All of them, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Totals)> {
        self.numbers.iter().copied().zip(&self.totals)
    }

    pub(super) fn len(&self) -> usize {
        self.totals.len()
    }
}
