//! Shadow limits: what they would have said is counted, and what a request used is counted in their accounts; for a limit on
//! concurrency, that it is in flight.
//!
//! What they would have said is by what this node has applied. Of what is used that is without requests in flight: nothing is held
//! in a shadow account, so a burst is refused a little later in the metric than it would be in force.

use std::sync::Arc;

use tollgate_model::{Limit, Subject, Unit};
use tollgate_quota::{Account, Presence, Reservation, Shadow, ShadowCharge};

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
    let (permits, counts): (Vec<_>, Vec<_>) = shadows.iter().partition(|limit| limit.unit == Unit::Concurrency);
    let charges = charged(shared, &counts, subject, need);
    let presence = (!permits.is_empty()).then(|| present(shared, &permits, subject));
    reservation.with_shadow(Shadow { charges, presence })
}

/// Where what it uses is counted once it has ended.
fn charged(shared: &Shared, limits: &[&Arc<Limit>], subject: &Subject<'_>, need: Need) -> Vec<ShadowCharge> {
    let accounts: Vec<_> = limits.iter().map(|limit| (limit.name.clone(), limit.key(subject))).collect();
    let standings = shared.accounts.standings(&accounts);
    for limit in limits {
        // An account that this node does not know is one that nobody has used.
        let left = standing_of(&standings, &limit.name).map_or(limit.limit, |it| it.remaining);
        decided(shared, limit, need.held_by(limit) <= left);
    }
    let charge = |(limit, (_, key)): (&&Arc<Limit>, (_, Vec<String>))| ShadowCharge {
        limit: limit.name.to_string(),
        key,
        limit_version: limit.version.0,
    };
    limits.iter().zip(accounts).map(charge).collect()
}

/// It is in flight from here on.
fn present(shared: &Shared, limits: &[&Arc<Limit>], subject: &Subject<'_>) -> Presence {
    let account =
        |limit: &&Arc<Limit>| Account { limit: limit.name.clone(), version: limit.version, key: limit.key(subject) };
    let (presence, in_flight) = shared.desk.presence(limits.iter().map(account).collect());
    for (limit, in_flight) in limits.iter().zip(in_flight) {
        decided(shared, limit, in_flight <= limit.limit);
    }
    presence
}

fn decided(shared: &Shared, limit: &Limit, fits: bool) {
    shared.metrics.decision(&limit.name, if fits { "shadow_granted" } else { "shadow_refused" });
}
