//! The path of a request: all that it asks for, of which leases cover some and the log decides on the rest (QUOTA.md R8).

use tollgate_proto::state::v1::{Charge as WireCharge, Hold};

use crate::{
    Charge,
    book::{Ask, Book, Parts, Spending},
    ledger::MAX_CHARGES,
};

/// Everything that a request asks for, and which of its charges are drawn from leases.
#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Path {
    pub(super) hold: Hold,
    pub(super) drawn: u64,
}

impl Path {
    pub(super) fn is_drawn(&self, at: usize) -> bool {
        at < MAX_CHARGES && self.drawn >> at & 1 == 1
    }

    /// What is left to the log.
    pub(super) fn rest(&self) -> Hold {
        let charges = self.hold.charges.iter().enumerate().filter(|(at, _)| !self.is_drawn(*at));
        let charges = charges.map(|(_, charge)| charge.clone()).collect();
        let Hold { request, hold_for_us, journaled, ref attribution, .. } = self.hold;
        Hold { request, charges, hold_for_us, journaled, attribution: attribution.clone(), ..Hold::default() }
    }

    /// Which charge of the path is the `nth` that was left to the log.
    pub(super) fn position(&self, nth: u32) -> u32 {
        let left = (0..self.hold.charges.len()).filter(|at| !self.is_drawn(*at));
        let at = left.into_iter().nth(usize::try_from(nth).unwrap_or(usize::MAX));
        at.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
    }
}

/// Draws what leases cover of a path: the parts in its order, and a bit for each charge that was drawn. Of a path that the
/// log would call malformed nothing is drawn.
pub(super) fn draw<'a>(
    book: &mut Book,
    path: impl Iterator<Item = Ask<'a>> + Clone,
    spending: Spending,
    now: u64,
) -> (Parts, u64) {
    let mut parts = Parts::new();
    let mut drawn = 0;
    let twice = path.clone().enumerate().any(|(at, ask)| path.clone().take(at).any(|it| it.limit == ask.limit));
    if twice || path.clone().nth(MAX_CHARGES).is_some() {
        return (parts, drawn);
    }
    for (at, ask) in path.enumerate() {
        if let Some(part) = book.draw(ask, spending, now) {
            parts.push(part);
            drawn |= 1 << at;
        }
    }
    (parts, drawn)
}

pub(super) fn asked(charge: &WireCharge) -> Ask<'_> {
    Ask { limit: &charge.limit, version: charge.limit_version, key: &charge.key, amount: charge.amount }
}

pub(super) fn to_wire(charge: &Charge) -> WireCharge {
    WireCharge {
        limit: charge.limit.to_string(),
        key: charge.key.clone(),
        amount: charge.amount,
        limit_version: charge.version.0,
    }
}
