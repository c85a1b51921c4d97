//! Limits that say `whenUnavailable: allow`: a node that nobody answers goes on without them, as the desk does, and what
//! that comes to is counted apart (QUOTA.md 3.8).

use tollgate_proto::state::v1::ShadowCharge;

use super::*;
use crate::{
    agent::Allowed,
    ledger::Unprotected,
    sim::witness::{Place, Request},
};

/// Of `LIMITS`, those that allow: all but one of the clock.
const ALLOW: u8 = 0b1_1110;
/// Nobody is there once nothing was answered for so long.
const SILENCE: u64 = 500 * MS;

/// What goes past limits, as who sends it out sees it.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Of requests in flight: what they do without.
    open: BTreeMap<Request, Vec<ShadowCharge>>,
    /// Of those that have ended, by what their usage is recorded with: what of it each limit has not seen.
    ended: BTreeMap<String, Vec<(ShadowCharge, u64)>>,
    /// Of those that the log has counted, by the number of the limit's form.
    counted: BTreeMap<u32, Unprotected>,
}

impl World {
    /// A caller waits no longer: it goes on without what nobody decides on, if that may be, or leaves.
    pub(super) fn lose_patience(&mut self, at: usize, request: u64) -> Checked {
        if self.goes_without(at, request)? || self.give_up(at, request) {
            return self.check(at);
        }
        Ok(())
    }

    fn goes_without(&mut self, at: usize, request: u64) -> Result<bool, Violation> {
        let process = &self.processes[at];
        let Some(Waiting { wanted, durability, .. }) = process.waiting.get(&request).copied() else { return Ok(false) };
        let is_silent = process.asked_since.is_some_and(|since| self.now - since >= SILENCE);
        let is_open = process.alive && !process.agent.is_fenced();
        // That the disk is slow is no silence; a stream that cannot grow is cut.
        let is_undecided = !process.outgoing.contains_key(&request) && wanted.part == Part::Whole;
        let charges = self.charges(at, wanted).filter(|_| is_silent && is_open && is_undecided);
        let Some(charges) = charges else { return Ok(false) };
        let allowed: Vec<bool> =
            (0..=SIXTH).filter(|limit| wanted.has(*limit)).map(|limit| ALLOW >> limit & 1 == 1).collect();
        let now = self.clock(at);
        let allowed = self.processes[at].agent.allow(&charges, &allowed, durability, now);
        let Some(Allowed { request: next, unprotected, .. }) = allowed else { return Ok(false) };
        self.let_go(at, request);
        self.tell(|it| format!("{} goes on with request {next} without {} limits", it.named(at), unprotected.len()));
        self.report.unprotected += u64::from(!unprotected.is_empty());
        let waiting = Waiting { charges: charges.len() - unprotected.len(), durability, wanted };
        self.processes[at].waiting.insert(next, waiting);
        let charges = unprotected.iter().map(|nth| named(&charges[*nth])).collect();
        self.apart.open.insert((at, next), charges);
        self.write_down(at);
        self.heeds(at, next)?;
        self.labels(at, next);
        self.granted(at, next)?;
        Ok(true)
    }

    /// A request ends: what it did without, to be told to the log with its usage.
    pub(super) fn ends_apart(
        &mut self,
        at: usize,
        request: u64,
        id: Option<&str>,
        used: impl Fn(&Place) -> u64,
    ) -> Vec<ShadowCharge> {
        let charges = self.apart.open.remove(&(at, request)).unwrap_or_default();
        if let Some(id) = id.filter(|_| !charges.is_empty()) {
            let used = |it: &ShadowCharge| used(&(it.limit.clone(), String::new(), 0));
            let ended = charges.iter().map(|it| (it.clone(), used(it))).collect();
            self.apart.ended.insert(id.to_owned(), ended);
        }
        charges
    }

    /// I6 for what went past limits: of the usage that the log has counted it has counted all that did, once. A limit that
    /// was made anew since begins anew.
    pub(super) fn is_counted_apart(&mut self, ended: &[String]) -> Checked {
        for (charge, units) in ended.iter().filter_map(|id| self.apart.ended.remove(id)).flatten() {
            let Some(form) = self.truth.form_of(&charge.limit, charge.limit_version) else { continue };
            let counted = self.apart.counted.entry(form).or_default();
            counted.requests += 1;
            counted.units += units;
        }
        let Self { apart, truth, .. } = self;
        apart.counted.retain(|form, _| truth.unprotected_of(*form).is_some());
        for (form, counted) in truth.unprotected_by_form() {
            let seen = apart.counted.get(&form).copied().unwrap_or_default();
            require(counted == seen, "I6", || format!("{seen:?} went past limit {form}, and {counted:?} is counted"))?;
        }
        Ok(())
    }
}

fn named(charge: &Charge) -> ShadowCharge {
    ShadowCharge { limit: charge.limit.to_string(), key: charge.key.clone(), limit_version: charge.version.0 }
}
