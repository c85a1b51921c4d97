//! Requests that go on although nobody could decide on some of their path.

use super::*;
use crate::ledger::MAX_CHARGES;

/// A request that goes on without some of its limits.
#[derive(Debug)]
pub struct Allowed {
    /// Its number.
    pub request: u64,
    /// Of the accounts that leases covered.
    pub standings: Vec<Standing>,
    /// Which of its charges nothing was drawn for, in order.
    pub unprotected: Vec<usize>,
}

impl Agent {
    /// Draws what leases cover, and goes on without the rest where all of it is `allowed`; else nothing is held. The log is
    /// not asked: only for whom it could not be.
    pub fn allow(
        &mut self,
        charges: &[Charge],
        allowed: &[bool],
        durability: Durability,
        now: Timestamp,
    ) -> Option<Allowed> {
        let twice = |at: usize| charges[..at].iter().any(|earlier| earlier.limit == charges[at].limit);
        if charges.len() > MAX_CHARGES || (0..charges.len()).any(twice) {
            return None;
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        let contact = (self.book.bug == Some(Bug::AllowsFromLeases)).then(|| std::mem::take(&mut self.contact));
        let (mut parts, drawn) = self.draw_what_is_covered(charges, durability, now);
        #[cfg(any(test, feature = "seeded-bugs"))]
        if let Some(contact) = contact {
            self.contact = contact;
        }
        let unprotected: Vec<usize> = (0..charges.len()).filter(|at| drawn >> at & 1 == 0).collect();
        if !unprotected.iter().all(|at| allowed.get(*at).copied().unwrap_or(false)) {
            self.give_back(&parts);
            return None;
        }
        self.book.go_out(&mut parts);
        let standings = parts.iter().map(|part| self.book.standing(part, now.0)).collect();
        let request = self.number();
        self.requests
            .insert(request, Request { phase: Phase::Open, parts, ..Request::queued(durability, self.contact.now()) });
        Some(Allowed { request, standings, unprotected })
    }
}
