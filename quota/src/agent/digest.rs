//! An agent as simulators and searches need to see it: a text that is the same whenever it is, and ways to be wrong.

use std::fmt::{self, Write};

use super::{Agent, requests::Request};
use crate::book::Bug;

impl Agent {
    pub(crate) fn set_bug(&mut self, bug: Option<Bug>) {
        self.book.bug = bug;
    }

    /// Whether the journal was told of a request.
    pub(crate) fn is_journaled(&self, request: u64) -> bool {
        self.requests.get(&request).is_some_and(|known| known.journaled.is_some())
    }

    /// What an open request has drawn: account, window, amount.
    pub(crate) fn drawn(&self, request: u64) -> Vec<(u32, u64, u64)> {
        let parts = self.requests.get(&request).into_iter().flat_map(|request| &request.parts);
        parts.map(|part| (part.account, part.epoch, part.amount)).collect()
    }

    /// Accounts that it has drawn on, or may, and knows no record of.
    pub(crate) fn unrecorded(&self) -> usize {
        self.book.unrecorded()
    }

    /// What a number of its own means.
    pub(crate) fn name_of_own(&self, number: u32) -> Option<(&str, &[String])> {
        self.book.names_of_own.get(&number).map(|(limit, key)| (&**limit, &**key))
    }

    /// Everything that it will ever act upon, in one order.
    ///
    /// # Errors
    /// Those of `out`.
    pub(crate) fn digest(&self, out: &mut impl Write) -> fmt::Result {
        let Self { node, incarnation, next_request, next_seq, requests, book, unheld, settles, holds, .. } = self;
        let Self { parked, lingering, patience, queued, in_flight, fenced, .. } = self;
        write!(out, "{node} {incarnation} {next_request} {next_seq} {unheld} {settles:?} {holds:?} ")?;
        write!(out, "{parked:?} {lingering:?} {patience} {queued} {in_flight:?} {fenced} ")?;
        // Of the rest of a request only figures are made.
        let acted_upon = requests.iter().map(|(number, request)| {
            let Request { phase, parts, path, in_log, attributed, durability, journaled, refused, .. } = request;
            (number, phase, parts, path, (in_log, attributed), durability, journaled, refused)
        });
        let mut known: Vec<_> = acted_upon.collect();
        known.sort_unstable_by_key(|(request, ..)| **request);
        write!(out, "{known:?} ")?;
        book.digest(out)
    }
}
