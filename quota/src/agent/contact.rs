//! Contact: the proof that a leader with a quorum knows this incarnation as the newest (QUOTA.md R15).

use std::collections::VecDeque;

/// Frames whose proof of contact is waited for; more say nothing new.
const MAX_PROOFS: usize = 64;

/// When this incarnation was last known to be the newest by a leader with a quorum (QUOTA.md R15), on this node's own
/// monotonic clock, in microseconds.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    now: u64,
    at: u64,
    isolation: u64,
    /// Frames that this node's own replica does not show yet: their last records, and when they were first sent.
    sent: VecDeque<(u64, u64)>,
}

impl Default for Contact {
    /// One that is never lost.
    fn default() -> Self {
        Self::since(0, u64::MAX)
    }
}

impl Contact {
    pub(super) fn since(at: u64, isolation: u64) -> Self {
        Self { now: at, at, isolation, sent: VecDeque::new() }
    }

    /// What time it is.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn pass(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    pub(super) fn is_isolated(&self) -> bool {
        self.now.saturating_sub(self.at) >= self.isolation
    }

    /// When it will be isolated, should nothing be shown until then.
    pub(super) fn lost_at(&self) -> u64 {
        self.at.saturating_add(self.isolation)
    }

    /// It is time to prove that somebody is there.
    pub(super) fn is_old(&self) -> bool {
        self.now >= self.ask_at()
    }

    fn renew_at(&self) -> u64 {
        self.at.saturating_add(self.isolation / 3)
    }

    /// When something is to be sent for that. What was sent lately is a proof as soon as it is shown: a replica that is behind
    /// does not show it sooner for more of it.
    pub(super) fn ask_at(&self) -> u64 {
        let waited_for = self.sent.back().map_or(0, |(_, at)| at.saturating_add(self.isolation / 10));
        self.renew_at().max(waited_for)
    }

    pub(super) fn sends(&mut self, last_seq: u64) {
        if self.sent.len() >= MAX_PROOFS {
            self.sent.pop_back();
        }
        self.sent.push_back((last_seq, self.now));
    }

    /// The log held everything up to here, as this node's own replica shows.
    pub(super) fn shown(&mut self, last_seq: u64) {
        while let Some((_, at)) = self.sent.pop_front_if(|(seq, _)| *seq <= last_seq) {
            self.at = self.at.max(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sends_all_the_time_to_a_replica_that_is_behind() {
        let mut contact = Contact::since(0, 300);
        contact.pass(100);
        assert!(contact.is_old());
        for seq in 1..=100 {
            contact.sends(seq);
        }
        assert_eq!((contact.is_old(), contact.ask_at(), contact.sent.len()), (false, 130, MAX_PROOFS));
        contact.pass(130);
        assert!(contact.is_old(), "then it is tried anew");
        contact.sends(101);
        contact.shown(101);
        assert_eq!((contact.renew_at(), contact.ask_at()), (230, 230));
    }

    #[test]
    fn contact_is_as_old_as_the_sending_of_what_was_shown_and_is_lost_in_time() {
        let mut contact = Contact::since(100, 30);
        contact.pass(129);
        assert!(!contact.is_isolated() && contact.is_old());
        contact.sends(7);
        contact.pass(140);
        assert!(contact.is_isolated(), "it was sent, and nobody has shown it");
        contact.sends(9);
        contact.shown(8);
        assert_eq!(
            (contact.is_isolated(), contact.renew_at()),
            (false, 139),
            "since it was sent, not since it was shown"
        );
        contact.pass(159);
        assert!(contact.is_isolated());
        contact.shown(9);
        contact.pass(120);
        assert!(!contact.is_isolated(), "time does not go back: {contact:?}");
        contact.pass(170);
        assert!(contact.is_isolated());
    }
}
