//! What went past a limit that says `whenUnavailable: allow`, while its node could ask nobody.
//!
//! It is counted of the limit, apart: in no account and in no window, as nothing was held for it and nobody was refused for
//! it (QUOTA.md 3.8). So I1 and I3 speak of everything else, and what a limit failed to protect is one figure. The usage itself
//! counts, and is billed, as any.

use tollgate_model::Name;
use tollgate_proto::state::v1::Settle;

use super::{Ledger, MAX_CHARGES, holds::actual};

/// What one limit let through unprotected, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unprotected {
    /// Requests.
    pub requests: u64,
    /// What they used, in the limit's unit.
    pub units: u64,
}

impl Ledger {
    pub(super) fn count_unprotected(&mut self, settle: &Settle) {
        let (usage, outcome) = (settle.usage.unwrap_or_default(), settle.outcome());
        let charges = &settle.unprotected[..settle.unprotected.len().min(MAX_CHARGES)];
        for (at, charge) in charges.iter().enumerate() {
            let again = charges[..at].iter().any(|earlier| earlier.limit == charge.limit);
            let rule = self.rules.form_at(&charge.limit, charge.limit_version).filter(|_| !again);
            #[cfg(any(test, feature = "seeded-bugs"))]
            if self.goes_wrong_with_unprotected(rule, charge, &usage, outcome) {
                continue;
            }
            let Some(state) = rule.and_then(|id| self.rules.slab.get_mut(id)) else { continue };
            let counted = &mut state.unprotected;
            counted.requests = counted.requests.saturating_add(1);
            counted.units = counted.units.saturating_add(actual(state.rule.unit, &usage, outcome));
            self.dirty.rules.extend(rule);
        }
    }

    /// What each limit in force let through unprotected, of those that did, in order of their names.
    #[must_use]
    pub fn unprotected(&self) -> Vec<(Name, Unprotected)> {
        let states = self.rules.slab.iter().map(|(_, state)| state);
        let open = states.filter(|state| state.deleted_at.is_none() && state.unprotected.requests > 0);
        let mut all: Vec<_> = open.map(|state| (state.rule.limit.clone(), state.unprotected)).collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

#[cfg(any(test, feature = "seeded-bugs"))]
impl Ledger {
    /// The form of a limit that was in force at `version`, by its number.
    pub(crate) fn form_of(&self, limit: &str, version: u64) -> Option<u32> {
        self.rules.form_at(limit, version)
    }

    pub(crate) fn unprotected_of(&self, form: u32) -> Option<Unprotected> {
        self.rules.slab.get(form).map(|state| state.unprotected)
    }

    pub(crate) fn unprotected_by_form(&self) -> impl Iterator<Item = (u32, Unprotected)> {
        self.rules.slab.iter().map(|(form, state)| (form, state.unprotected))
    }
}
