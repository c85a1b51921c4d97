//! Requests that the log refuses for what others hold, and that ask once more: those may be about to end (QUOTA.md I7).
//!
//! From the last byte of an answer until the log knows of its end some milliseconds pass. Whoever comes within them finds the
//! whole of what was held, although next to nothing may have been used. So a refusal is told at once where what is *used*
//! justifies it; where only requests in flight stand in the way, the request lets go of what it has drawn, and begins anew as
//! those do that wait for others to give back.
//!
//! Bounds: one request lingers for as long as [`Agent::linger_for`] says, and is told the newest refusal then. Of one account
//! [`MAX_OF_ACCOUNT`] requests linger at a time, on a node [`MAX_LINGERING`]; all others are told at once. They ask together, in
//! the order in which they were refused and before who has come since, so that a node sends one frame for all of them.

use tollgate_proto::state::v1::{Charge, Hold, HoldOutcome, Refusal};

use super::{Agent, path::Path, requests::Phase};

/// Requests of this node that linger at a time.
const MAX_LINGERING: usize = 64;
/// Of those, the ones that the same account stands in the way of: who holds one for long takes no place from others.
const MAX_OF_ACCOUNT: usize = 16;

/// A refusal that its caller was not told yet.
#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Refused {
    /// When it is told, by this node's own clock.
    until: u64,
    /// As of the last time that it asked, of the whole path.
    word: HoldOutcome,
}

impl Agent {
    /// From here on requests linger for so long, in microseconds, where others hold what they are short of. At first they don't.
    pub fn linger_for(&mut self, patience: u64) {
        self.patience = patience;
    }

    /// What the log has said of a request that lingers, or asks once more.
    #[must_use]
    pub fn refused_before(&self, request: u64) -> Option<&HoldOutcome> {
        self.requests.get(&request)?.refused.as_ref().map(|refused| &refused.word)
    }

    /// Whether a request had to wait for others before the log said its last word on it.
    #[must_use]
    pub fn was_parked(&self, request: u64) -> bool {
        self.requests.get(&request).is_some_and(|known| known.was_parked)
    }

    /// Has a request ask once more that the log has just refused, if it may.
    pub(super) fn linger(&mut self, said: &HoldOutcome, hold: &Hold, now: u64) -> bool {
        let Some(until) = self.lingers_until(said, hold) else { return false };
        let Some(known) = self.requests.get_mut(&said.request) else { return false };
        (known.phase, known.in_log, known.was_parked) = (Phase::Parked, false, true);
        known.path.get_or_insert_with(|| Box::new(Path { hold: hold.clone(), drawn: 0 }));
        let parts = std::mem::take(&mut known.parts);
        self.give_back(&parts);
        let path = self.requests.get(&said.request).and_then(|known| known.path.as_deref());
        let word = self.whole(&parts, path, said, now);
        let Some(known) = self.requests.get_mut(&said.request) else { return false };
        known.refused = Some(Box::new(Refused { until, word }));
        self.lingering.push(said.request);
        true
    }

    fn lingers_until(&self, said: &HoldOutcome, hold: &Hold) -> Option<u64> {
        if said.refusal() != Refusal::Exhausted || !said.only_held || self.lingering.len() >= MAX_LINGERING {
            return None;
        }
        let known = self.requests.get(&said.request).filter(|known| known.phase == Phase::Sent)?;
        let now = self.contact.now();
        let until = known.refused.as_ref().map_or(now.saturating_add(self.patience), |refused| refused.until);
        let short_of = hold.charges.get(usize::try_from(said.refused_by).ok()?)?;
        let others = self.lingering.iter().filter(|request| self.is_short_of(**request, short_of));
        (now < until && others.count() < MAX_OF_ACCOUNT).then_some(until)
    }

    /// Whether the account of `charge` stands in the way of a request that lingers.
    fn is_short_of(&self, request: u64, charge: &Charge) -> bool {
        let known = self.requests.get(&request);
        let Some((path, refused)) = known.and_then(|it| Some((it.path.as_ref()?, it.refused.as_ref()?))) else {
            return false;
        };
        let at = usize::try_from(refused.word.refused_by).unwrap_or(usize::MAX);
        path.hold.charges.get(at).is_some_and(|it| (&it.limit, &it.key) == (&charge.limit, &charge.key))
    }
}
