//! How many requests are in flight under shadow limits on concurrency.
//!
//! Such a limit holds nobody up, so nothing is asked for: requests are counted here, and the log is told of what has changed some
//! times a second. How many there are in all is what this node has now, and what others have said last. Kept is no more than what
//! is in flight, and what the log was told and is not true any more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_proto::state::v1::{Present, ShadowCharge};

use super::{Account, due::DRAWS_WITHIN, shared::Shared};

/// In flight on this node, by account.
#[derive(Debug, Default)]
pub(super) struct Presences {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<Arc<Account>, Count>,
    /// Those of which the log was told something else.
    changed: HashSet<Arc<Account>>,
    /// When it is told.
    due: Option<Instant>,
    seats: Seats,
}

/// What the log knows accounts by: a number is free again once it was told that nobody is there.
#[derive(Debug, Default)]
struct Seats {
    free: BTreeSet<u32>,
    next: u32,
}

impl Seats {
    fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    now: u64,
    said: u64,
    /// From when the log is told of somebody until it is told of nobody.
    seat: Option<u32>,
}

impl State {
    fn change(&mut self, account: &Arc<Account>, change: i64) -> Count {
        let count = self.counts.entry(Arc::clone(account)).or_default();
        count.now = count.now.saturating_add_signed(change);
        let count = *count;
        if count.now != count.said {
            self.changed.insert(Arc::clone(account));
            self.due.get_or_insert_with(|| Instant::now() + DRAWS_WITHIN);
            return count;
        }
        self.changed.remove(account);
        if count.now == 0 {
            self.counts.remove(account);
        }
        count
    }
}

impl Presences {
    /// How many there are with it on this node; and whether that is to be told to the log at a time that nobody waits for yet.
    fn enter(&self, accounts: &[Arc<Account>]) -> (Vec<Count>, bool) {
        let mut state = self.state.lock();
        let was_due = state.due.is_some();
        let counts = accounts.iter().map(|account| state.change(account, 1)).collect();
        (counts, state.due.is_some() && !was_due)
    }

    fn leave(&self, accounts: &[Arc<Account>]) -> bool {
        let mut state = self.state.lock();
        let was_due = state.due.is_some();
        for account in accounts {
            state.change(account, -1);
        }
        state.due.is_some() && !was_due
    }

    /// When there is something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.state.lock().due
    }

    /// What is to be told by `now`.
    pub(super) fn take(&self, now: Instant) -> Vec<Present> {
        let mut state = self.state.lock();
        if state.due.take_if(|due| *due <= now).is_none() {
            return Vec::new();
        }
        let State { counts, changed, seats, .. } = &mut *state;
        changed.drain().filter_map(|account| said(counts, seats, account)).collect()
    }
}

/// Notes that the log is told.
fn said(counts: &mut HashMap<Arc<Account>, Count>, seats: &mut Seats, account: Arc<Account>) -> Option<Present> {
    let count = counts.get_mut(&account)?;
    let seat = *count.seat.get_or_insert_with(|| seats.take());
    count.said = count.now;
    let count = count.now;
    if count == 0 {
        counts.remove(&account);
        seats.free.insert(seat);
    }
    let Account { limit, version, key } = Arc::unwrap_or_clone(account);
    let account = ShadowCharge { limit: limit.to_string(), key, limit_version: version.0 };
    Some(Present { seat, account: Some(account), count })
}

/// A request that is in flight under shadow limits, until it is dropped.
pub struct Presence {
    shared: Arc<Shared>,
    accounts: Vec<Arc<Account>>,
}

impl Presence {
    /// Counts one more request in flight, and how many of each account there are with it: on this node now, and elsewhere by what
    /// others have said last.
    pub(super) fn new(shared: &Arc<Shared>, accounts: Vec<Account>) -> (Self, Vec<u64>) {
        let accounts: Vec<_> = accounts.into_iter().map(Arc::new).collect();
        let (counts, wakes) = shared.presences.enter(&accounts);
        let mut in_flight: Vec<u64> = counts.iter().map(|count| count.now).collect();
        if wakes {
            shared.wake.notify_one();
        }
        if let Some(replica) = &shared.config.replica {
            let own = (shared.config.node.0, shared.config.incarnation);
            replica.show(&mut |ledger| {
                for ((account, Count { seat, .. }), all) in accounts.iter().zip(&counts).zip(&mut in_flight) {
                    *all = all.saturating_add(ledger.held_elsewhere(own, *seat, &account.limit, &account.key));
                }
            });
        }
        (Self { shared: Arc::clone(shared), accounts }, in_flight)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.shared.presences.leave(&self.accounts) {
            self.shared.wake.notify_one();
        }
    }
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}
