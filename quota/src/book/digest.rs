//! A book as a text that is the same whenever it is: for searches that must know a state again.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use super::Book;

impl Book {
    /// Cells that have no account number.
    pub(crate) fn unrecorded(&self) -> usize {
        self.unrecorded
    }

    /// Everything that it will ever act upon, in one order.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn digest(&self, out: &mut impl Write) -> fmt::Result {
        let Self { cells, vacant, names, by_account, unbound, dirty, short, due, closed, .. } = self;
        let Self { nameless, next_own, touched, unsaid, nudged_at, .. } = self;
        let nameless: BTreeMap<_, BTreeMap<_, _>> =
            nameless.iter().map(|(epoch, keys)| (epoch, keys.iter().collect())).collect();
        let names: BTreeMap<_, BTreeMap<_, _>> =
            names.iter().map(|(limit, keys)| (limit, keys.iter().collect())).collect();
        let by_account: BTreeMap<_, _> = by_account.iter().collect();
        write!(out, "{cells:?} {vacant:?} {names:?} {by_account:?} {unbound:?} {dirty:?} {short:?} {due} {closed}")?;
        write!(out, " {nameless:?} {next_own} {touched:?} {unsaid:?} {nudged_at}")
    }
}
