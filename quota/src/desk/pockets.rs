//! The keeper of the pockets: opens one for a lease that is asked for often, pours into it, looks at it now and then, and
//! closes it. All under the desk's lock; the requests that take from pockets don't know of it (`fast.rs`).
//!
//! A pocket has about half of what is in hand, so that whoever comes by the lock finds some too; what a request lacks is
//! taken back from it first. It is closed when the terms change that it was opened for (called back, lowered, deleted,
//! another window), when its time is over, when nobody has taken from it for a second, and with the desk.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
};

use parking_lot::RwLock;
use tollgate_model::{Name, Timestamp};

use crate::{
    Charge,
    agent::Agent,
    book::{Made, Terms},
    pocket::{MOST, Pocket, Sums, WORN},
};

/// Pockets that are open, or of which requests still hold something; other accounts go by the lock.
const MAX_POCKETS: usize = 4_096;
/// A pocket that nobody took from for this long is closed: what is in it belongs to who asks next.
const UNUSED_US: u64 = 1_000_000;
/// A pocket has room for so many of the greatest requests, or is not worth having.
const FEWEST: u64 = 4;

/// A pocket, and what requests need to know of it. What is written now and then is not on the pocket's own cache lines.
#[derive(Debug)]
pub(super) struct Purse {
    pub(super) pocket: Pocket,
    pub(super) limit: Name,
    pub(super) terms: Terms,
    /// The age at which its slot is over, of a sliding lease.
    pub(super) until: u64,
    /// The greatest taken since the keeper has looked.
    pub(super) largest: AtomicU64,
    /// With less left than this the keeper should look.
    pub(super) low: AtomicU64,
    /// What is in it may be spent once the journal is durable up to here.
    pub(super) after: AtomicU64,
    /// What is left of the account besides what is left here, as far as this node knows.
    pub(super) room: AtomicI64,
}

/// Pockets by the names of their accounts, for requests that come without a `Path`.
pub(super) type Index = RwLock<HashMap<Name, HashMap<Vec<String>, Arc<Purse>>>>;

/// A pocket as its keeper knows it.
#[derive(Debug)]
struct Kept {
    number: u64,
    lease: u32,
    purse: Arc<Purse>,
    key: Vec<String>,
    /// Its sums as they were taken in.
    seen: Sums,
    /// The age at which somebody was last seen to have taken from it.
    used_at: u64,
}

/// All pockets of a desk.
#[derive(Debug, Default)]
pub(super) struct Pockets {
    /// By lease.
    open: HashMap<u32, Kept>,
    by_account: HashMap<u32, u32>,
    /// Closed, while requests hold something of them.
    closing: Vec<Kept>,
}

/// What is left of an account while all of a pocket is in use, as a number that fits.
fn narrow(room: Option<i128>) -> i64 {
    i64::try_from(room.unwrap_or_default()).unwrap_or(if room > Some(0) { i64::MAX } else { i64::MIN })
}

impl Kept {
    /// Takes in what requests have made of it. Of a closed one also what they gave back.
    fn look(&mut self, agent: &mut Agent, now: Timestamp, is_open: bool) {
        let sums = self.purse.pocket.sums();
        let back = if is_open { 0 } else { sums.left() - self.seen.left() };
        let made = Made { spent: sums.spent - self.seen.spent, overrun: sums.overrun - self.seen.overrun, back };
        agent.take_in(self.number, made);
        let drawn = sums.taken - self.seen.taken;
        self.seen = sums;
        if is_open {
            agent.set_idle(self.number, sums.left());
            if drawn > 0 {
                self.used_at = agent.age();
                agent.attend(self.number, now, drawn, self.purse.largest.swap(0, Relaxed));
            }
        }
    }

    fn is_valid(&self, agent: &Agent, now: Timestamp) -> bool {
        let same = agent.book().terms(self.lease) == Some(self.purse.terms);
        same && self.is_in_time(agent, now) && self.seen.taken < WORN / 2
    }

    fn is_in_time(&self, agent: &Agent, now: Timestamp) -> bool {
        let age = agent.age();
        age < self.purse.until && now.0 < self.purse.terms.window_end && age < self.used_at.saturating_add(UNUSED_US)
    }

    /// Nobody has used it since it was last looked at, and its time is not over: whatever else changes its terms, the keeper
    /// is told.
    fn is_quiet(&self, agent: &Agent, now: Timestamp) -> bool {
        self.is_in_time(agent, now) && self.purse.pocket.sums() == self.seen
    }

    /// Looks at it, and pours in what it lacks. Whether it stays open.
    fn tend(&mut self, agent: &mut Agent, now: Timestamp) -> bool {
        self.look(agent, now, true);
        let stays = self.is_valid(agent, now) && self.fill(agent);
        if stays {
            self.tell(agent);
        }
        stays
    }

    /// Pours in what it lacks. Whether it is worth having.
    fn fill(&mut self, agent: &mut Agent) -> bool {
        let Some(hand) = agent.hand(self.number) else { return false };
        if hand.owed > 0 {
            self.take_back(agent, hand.owed);
        }
        let left = self.seen.left();
        let share = (hand.free / 2 + left / 2).min(MOST / 2);
        if share < hand.largest.saturating_mul(FEWEST).max(FEWEST) {
            return false;
        }
        let lacks = share.saturating_sub(left).min(hand.free);
        if left < share / 2 && lacks > 0 {
            let after = agent.pour(self.number, lacks);
            self.purse.after.fetch_max(after, Release);
            self.purse.pocket.pour(lacks);
            self.seen.credit += lacks;
            agent.set_idle(self.number, self.seen.left());
        }
        self.purse.low.store(share / 4, Relaxed);
        true
    }

    /// Takes back what somebody else needs of the same lease.
    fn take_back(&mut self, agent: &mut Agent, at_most: u64) {
        let back = self.purse.pocket.take_back(at_most);
        self.seen.taken += back;
        agent.take_in(self.number, Made { back, ..Made::default() });
        agent.set_idle(self.number, self.seen.left());
        self.tell(agent);
    }

    /// Says what is left besides it. What is left in it is not in there.
    fn tell(&self, agent: &Agent) {
        self.purse.room.store(narrow(agent.book().room(self.lease)), Relaxed);
    }
}

impl Pockets {
    /// Open ones.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Looks at all of them: pours into those that lack, and closes those whose time has come.
    pub(super) fn tend(&mut self, agent: &mut Agent, index: &Index, now: Timestamp) {
        self.closing.retain_mut(|kept| {
            kept.look(agent, now, false);
            !agent.forget_pocket(kept.number)
        });
        let mut over = Vec::new();
        for kept in self.open.values_mut() {
            if !kept.is_quiet(agent, now) && !kept.tend(agent, now) {
                over.push(kept.lease);
            }
        }
        over.into_iter().for_each(|lease| self.close(agent, index, now, lease));
    }

    /// Looks at the pocket of one account.
    pub(super) fn tend_one(&mut self, agent: &mut Agent, index: &Index, now: Timestamp, account: u32) {
        let Some(lease) = self.by_account.get(&account).copied() else { return };
        if self.open.get_mut(&lease).is_some_and(|kept| !kept.tend(agent, now)) {
            self.close(agent, index, now, lease);
        }
    }

    /// The age at which one of them has to be looked at, though nobody takes from it.
    pub(super) fn next(&self) -> Option<u64> {
        let over = |kept: &Kept| kept.purse.until.min(kept.used_at.saturating_add(UNUSED_US));
        self.open.values().map(over).min()
    }

    /// What has changed in the replica: pockets whose terms are no more are closed at once.
    pub(super) fn follow(&mut self, agent: &mut Agent, index: &Index, now: Timestamp, changed: Option<&[u32]>) {
        if self.open.is_empty() {
            return;
        }
        let leases: Vec<u32> = match changed {
            None => self.open.keys().copied().collect(),
            Some(accounts) => accounts.iter().filter_map(|account| self.by_account.get(account).copied()).collect(),
        };
        for lease in leases {
            let Some(kept) = self.open.get(&lease) else { continue };
            if agent.book().terms(lease) == Some(kept.purse.terms) {
                kept.tell(agent);
            } else {
                self.close(agent, index, now, lease);
            }
        }
    }

    /// Closes those that `concerns` says.
    pub(super) fn close_where(
        &mut self,
        agent: &mut Agent,
        index: &Index,
        now: Timestamp,
        concerns: impl Fn(&str, &[String]) -> bool,
    ) {
        let over = self.open.values().filter(|kept| concerns(&kept.purse.limit, &kept.key));
        let over: Vec<u32> = over.map(|kept| kept.lease).collect();
        over.into_iter().for_each(|lease| self.close(agent, index, now, lease));
    }

    fn close(&mut self, agent: &mut Agent, index: &Index, now: Timestamp, lease: u32) {
        let Some(mut kept) = self.open.remove(&lease) else { return };
        self.by_account.remove(&kept.purse.terms.account);
        forget(index, &kept);
        kept.purse.pocket.close();
        kept.look(agent, now, true);
        agent.take_in(kept.number, Made { back: kept.seen.left(), ..Made::default() });
        agent.send_out(kept.number);
        if !agent.forget_pocket(kept.number) {
            self.closing.push(kept);
        }
    }

    /// Before a request draws from leases: what it lacks is taken from their pockets.
    pub(super) fn make_room(&mut self, agent: &mut Agent, now: Timestamp, charges: &[Charge]) {
        if self.open.is_empty() {
            return;
        }
        for charge in charges {
            let lease = agent.book().find(&charge.limit, &charge.key);
            let Some(kept) = lease.and_then(|lease| self.open.get_mut(&lease)) else { continue };
            kept.look(agent, now, true);
            let free = agent.hand(kept.number).map_or(0, |hand| hand.free);
            kept.take_back(agent, charge.amount.saturating_sub(free));
        }
    }

    /// After a request has drawn from these leases, in the order of its path: says so to those who take from their pockets.
    pub(super) fn tell(&self, agent: &Agent, leases: &[u32]) {
        leases.iter().filter_map(|lease| self.open.get(lease)).for_each(|kept| kept.tell(agent));
    }

    /// Opens pockets for these leases, of one path, and fills them: if all of them are asked for often enough.
    pub(super) fn serve(&mut self, agent: &mut Agent, index: &Index, now: Timestamp, leases: &[u32]) {
        let is_hot = |lease: &u32| agent.book().hand(*lease).is_some_and(|hand| hand.is_hot);
        if !leases.iter().all(|lease| self.open.contains_key(lease) || is_hot(lease)) {
            return;
        }
        for lease in leases {
            if !self.open.get_mut(lease).is_some_and(|kept| kept.tend(agent, now)) {
                self.close(agent, index, now, *lease);
                self.open(agent, index, now, *lease);
            }
        }
    }

    fn open(&mut self, agent: &mut Agent, index: &Index, now: Timestamp, lease: u32) {
        if self.open.len() + self.closing.len() >= MAX_POCKETS {
            return;
        }
        let Some((limit, key)) = agent.book().name_of(lease).map(|(limit, key)| (Name::new(limit), key.to_vec()))
        else {
            return;
        };
        let Some((number, terms)) = agent.open_pocket(lease) else { return };
        let age = agent.age();
        let purse = Purse {
            pocket: Pocket::new(),
            limit,
            terms,
            until: terms.span.map_or(u64::MAX, |span| span.label(age)),
            largest: AtomicU64::new(0),
            low: AtomicU64::new(0),
            after: AtomicU64::new(0),
            room: AtomicI64::new(0),
        };
        let mut kept = Kept { number, lease, purse: Arc::new(purse), key, seen: Sums::default(), used_at: age };
        if !(kept.is_valid(agent, now) && kept.fill(agent)) {
            agent.forget_pocket(number);
            return;
        }
        remember(index, &kept);
        self.by_account.insert(terms.account, lease);
        self.open.insert(lease, kept);
    }
}

fn remember(index: &Index, kept: &Kept) {
    let mut index = index.write();
    index.entry(kept.purse.limit.clone()).or_default().insert(kept.key.clone(), Arc::clone(&kept.purse));
}

fn forget(index: &Index, kept: &Kept) {
    let mut index = index.write();
    let Some(keys) = index.get_mut(&kept.purse.limit) else { return };
    if keys.get(&kept.key).is_some_and(|purse| Arc::ptr_eq(purse, &kept.purse)) {
        keys.remove(&kept.key);
        if keys.is_empty() {
            index.remove(&kept.purse.limit);
        }
    }
}
