//! Holds in all limits that a request meets, or in none, as the newest configuration has them.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tollgate_model::{ConfigView, Durability, Limit, LogIndex, Mode, Subject, WhenUnavailable};
use tollgate_quota::{Attribution, Charge, Reservation, ReserveError};

use crate::{error::Rejection, gateway::Shared};

/// Who asks, for how long, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) subject: Subject<'a>,
    /// What is written down is what the strongest of the limits asks for, and this.
    pub(super) at_least: Durability,
    pub(super) hold_for: Duration,
    pub(super) deadline: Instant,
    /// Whose the request is, where the log is to know.
    pub(super) whose: Option<&'a Attribution>,
}

/// The limits that a request has met, as they were when they were asked last.
#[derive(Debug)]
pub(super) struct Met {
    /// In force.
    pub(super) limits: Vec<Arc<Limit>>,
    pub(super) shadows: Vec<Arc<Limit>>,
    /// When that was.
    pub(super) asked: Instant,
}

/// Why nothing is held.
#[derive(Debug)]
pub(super) enum NotReserved {
    /// It was not asked for: there is nothing to hold.
    Nothing,
    /// It was not asked for: no limit will ever hold as much.
    Never(Rejection),
    Quota(ReserveError),
    /// A limit has changed, and this node did not learn in time how.
    Outdated,
}

impl Asking<'_> {
    /// Holds what `charges` makes of the limits it meets of those that `concern` it. Should a limit have changed meanwhile, it
    /// asks again by the newest configuration.
    pub(super) async fn reserve(
        self,
        shared: &Shared,
        view: &Arc<ConfigView>,
        concern: impl Fn(&Limit) -> bool,
        charges: impl Fn(&Met) -> Result<Vec<Charge>, NotReserved>,
    ) -> (Met, Result<Reservation, NotReserved>) {
        let mut view = Arc::clone(view);
        loop {
            let met = view.limits_for(self.subject).filter(|limit| concern(limit)).cloned();
            let (limits, shadows) = met.partition(|limit| limit.mode == Mode::Enforce);
            let met = Met { limits, shadows, asked: Instant::now() };
            let reserved = match charges(&met) {
                Ok(charges) => self.ask(shared, &met.limits, charges).await,
                Err(why) => return (met, Err(why)),
            };
            let version = match reserved {
                Err(ReserveError::Stale { version, .. }) => version,
                reserved => return (met, reserved.map_err(NotReserved::Quota)),
            };
            let Some(newer) = newer_view(shared, version, self.deadline).await else {
                return (met, Err(NotReserved::Outdated));
            };
            view = newer;
        }
    }

    async fn ask(
        &self,
        shared: &Shared,
        limits: &[Arc<Limit>],
        charges: Vec<Charge>,
    ) -> Result<Reservation, ReserveError> {
        let durability = limits.iter().map(|limit| limit.durability).fold(self.at_least, Durability::max);
        let allowed: Vec<bool> = limits.iter().map(|it| it.when_unavailable == WhenUnavailable::Allow).collect();
        let durability = quota_durability(durability);
        shared.desk.reserve_or_allow(charges, &allowed, durability, self.deadline, self.hold_for, self.whose).await
    }
}

pub(super) fn quota_durability(durability: Durability) -> tollgate_quota::Durability {
    match durability {
        Durability::Memory => tollgate_quota::Durability::Memory,
        Durability::Journal => tollgate_quota::Durability::Journal,
        Durability::Quorum => tollgate_quota::Durability::Quorum,
    }
}

/// The configuration at `version` or later, as soon as this node serves it.
pub(super) async fn newer_view(shared: &Shared, version: LogIndex, deadline: Instant) -> Option<Arc<ConfigView>> {
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let view = Arc::clone(&shared.current().view);
        if view.index >= version {
            return Some(view);
        }
        timeout_at(deadline, changed).await.ok()?;
    }
}
