//! An agent as a text that is the same whenever it is: for searches that must know a state again.

use std::fmt::{self, Write};

use super::Agent;

impl Agent {
    /// Everything that it will ever act upon, in one order.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn digest(&self, out: &mut impl Write) -> fmt::Result {
        let Self { node, incarnation, next_request, next_seq, requests, book, unheld, settles, holds, .. } = self;
        let Self { parked, queued, in_flight, fenced, .. } = self;
        write!(out, "{node} {incarnation} {next_request} {next_seq} {unheld} {settles:?} {holds:?} ")?;
        write!(out, "{parked:?} {queued} {in_flight:?} {fenced} ")?;
        let mut known: Vec<_> = requests.iter().collect();
        known.sort_unstable_by_key(|(request, _)| **request);
        write!(out, "{known:?} ")?;
        book.digest(out)
    }
}
