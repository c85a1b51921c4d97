//! Shadow limits: what they would have said is counted, and what a request used is counted in their accounts.
//!
//! What they would have said is by what this node has applied, without requests in flight: nothing is held in a shadow
//! account. So a burst is refused a little later in the metric than it would be in force.

use std::sync::Arc;

use tollgate_model::{Limit, Subject};
use tollgate_quota::{Reservation, ShadowCharge};

use super::admit::{Need, standing_of};
use crate::gateway::Shared;

/// Has the request counted in the accounts of `shadows`. Costs nothing where there are none.
pub(super) fn follow(
    shared: &Shared,
    shadows: &[Arc<Limit>],
    subject: &Subject<'_>,
    need: Need,
    reservation: Reservation,
) -> Reservation {
    if shadows.is_empty() {
        return reservation;
    }
    let accounts: Vec<_> = shadows.iter().map(|limit| (limit.name.clone(), limit.key(subject))).collect();
    let standings = shared.accounts.standings(&accounts);
    for limit in shadows {
        // An account that this node does not know is one that nobody has used.
        let left = standing_of(&standings, &limit.name).map_or(limit.limit, |it| it.remaining);
        let fits = need.held_by(limit) <= left;
        shared.metrics.decision(&limit.name, if fits { "shadow_granted" } else { "shadow_refused" });
    }
    let charge = |(limit, (_, key)): (&Arc<Limit>, (_, Vec<String>))| ShadowCharge {
        limit: limit.name.to_string(),
        key,
        limit_version: limit.version.0,
    };
    reservation.with_shadow(shadows.iter().zip(accounts).map(charge).collect())
}
