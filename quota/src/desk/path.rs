//! Requests that are admitted from pockets: by a few atomic operations, without the desk's lock.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;
use tokio::time::Instant;
use tollgate_model::{LogIndex, Name, Unit};
use tollgate_proto::{
    Shared as SharedMessage,
    state::v1::{Attribution, Outcome, Settle, ShadowCharge, Usage},
};

use super::{Desk, Ticket, pockets::Purse, shared::Shared};
use crate::{
    Charge, Durability, Reservation, ReserveError, Standing, Unavailable, book::Figures, ledger::actual, pocket::Ended,
};

/// An account of a limit, for requests of which more will come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// The limit's name.
    pub limit: Name,
    /// Its resource version that amounts will be computed for.
    pub version: LogIndex,
    /// Values of the limit's `per`, in its order.
    pub key: Vec<String>,
}

/// The accounts that the requests of one kind have in common: found once, not with every request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Path {
    known: Arc<Known>,
}

#[derive(Debug)]
struct Known {
    shared: Arc<Shared>,
    accounts: Vec<Account>,
    /// Their pockets, as they were found last.
    way: ArcSwapOption<Way>,
}

impl Path {
    pub(super) fn new(desk: &Desk, accounts: Vec<Account>) -> Self {
        Self { known: Arc::new(Known { shared: Arc::clone(&desk.shared), accounts, way: ArcSwapOption::empty() }) }
    }

    /// Holds these amounts, one for each account in their order, or none of them: from memory alone, of class
    /// [`Durability::Memory`], without waiting and without allocating. None when that can't be done: then [`Path::reserve`].
    #[must_use]
    pub fn try_reserve(&self, amounts: &[u64]) -> Option<Reservation> {
        let way = self.known.way.load();
        let way = way.as_ref().filter(|way| way.take(amounts))?;
        Some(Taken::reservation(Arc::clone(way), amounts))
    }

    /// Holds these amounts, one for each account in their order, or none of them: as [`Desk::reserve`] does.
    ///
    /// # Errors
    /// Those of [`Desk::reserve`]; `Unavailable(Invalid)` when there are not as many amounts as accounts.
    ///
    /// # Cancel safety
    /// That of [`Desk::reserve`].
    pub async fn reserve(
        &self,
        amounts: &[u64],
        durability: Durability,
        deadline: Instant,
        hold_for: Duration,
    ) -> Result<Reservation, ReserveError> {
        let Known { shared, accounts, way } = &*self.known;
        if amounts.len() != accounts.len() {
            return Err(ReserveError::Unavailable(Unavailable::Invalid));
        }
        if durability == Durability::Memory
            && let Some(reservation) = self.try_reserve(amounts)
        {
            return Ok(reservation);
        }
        let charge = |(account, amount): (&Account, &u64)| Charge {
            limit: account.limit.clone(),
            version: account.version,
            key: account.key.clone(),
            amount: *amount,
        };
        let charges: Vec<Charge> = accounts.iter().zip(amounts).map(charge).collect();
        let names = charges.clone();
        let desk = Desk { shared: Arc::clone(shared) };
        let reservation = desk.reserve(charges, durability, deadline, hold_for).await?;
        if reservation.is_local() && durability == Durability::Memory {
            way.store(shared.way(&names).map(Arc::new));
        }
        Ok(reservation)
    }
}

/// The pockets of a path, and when they are over.
#[derive(Debug)]
pub(super) struct Way {
    shared: Arc<Shared>,
    purses: SmallVec<[Arc<Purse>; 4]>,
    /// The age, and the log time, at which the first of them is over.
    until: u64,
    window_end: u64,
}

impl Way {
    fn new(shared: Arc<Shared>, purses: SmallVec<[Arc<Purse>; 4]>) -> Self {
        let until = purses.iter().map(|purse| purse.until).min().unwrap_or(0);
        let window_end = purses.iter().map(|purse| purse.terms.window_end).min().unwrap_or(0);
        Self { shared, purses, until, window_end }
    }

    /// Takes all, or nothing.
    fn take(&self, amounts: &[u64]) -> bool {
        let (shared, front) = (&self.shared, &self.shared.front);
        let age = shared.age();
        let in_time = age < self.until && front.log_time(age) < self.window_end && front.is_open(age);
        if !in_time || amounts.len() != self.purses.len() || !front.enter(shared.config.max_open) {
            return false;
        }
        for (at, (purse, amount)) in self.purses.iter().zip(amounts).enumerate() {
            if !self.take_one(purse, *amount) {
                self.give_back(&amounts[..at]);
                front.turn_back();
                return false;
            }
        }
        front.drew(&shared.wake);
        true
    }

    fn take_one(&self, purse: &Purse, amount: u64) -> bool {
        // Who holds nothing of a pocket does not keep it.
        let Some(left) = (amount > 0).then(|| purse.pocket.take(amount)).flatten() else { return false };
        if purse.largest.load(Relaxed) < amount {
            purse.largest.fetch_max(amount, Relaxed);
        }
        if left < purse.low.load(Relaxed) {
            self.shared.front.is_low(&self.shared.wake);
        }
        true
    }

    fn give_back(&self, amounts: &[u64]) {
        self.end(amounts, |_| 0);
    }

    fn end(&self, amounts: &[u64], used: impl Fn(Unit) -> u64) {
        let (mut late, mut over) = (false, false);
        for (purse, amount) in self.purses.iter().zip(amounts) {
            let used = used(purse.terms.unit);
            late |= purse.pocket.end(*amount, used) == Ended::Late;
            over |= used > *amount;
        }
        if late {
            self.shared.front.ended_late(&self.shared.wake);
        }
        if over {
            // What is owed blocks from now on.
            self.shared.look_at(self.purses.iter().map(|purse| purse.terms.account));
        }
    }
}

/// What one request has taken from the pockets of its path.
#[derive(Debug)]
pub(crate) struct Taken {
    way: Arc<Way>,
    amounts: SmallVec<[u64; 4]>,
}

impl Taken {
    fn reservation(way: Arc<Way>, amounts: &[u64]) -> Reservation {
        Reservation::taken(Ticket::taken(Self { way, amounts: SmallVec::from_slice(amounts) }))
    }

    pub(super) fn amounts(&self) -> &[u64] {
        &self.amounts
    }

    /// Up to where the journal must be durable before the request is sent out.
    pub(super) fn position(&self) -> u64 {
        self.way.purses.iter().map(|purse| purse.after.load(Acquire)).max().unwrap_or_default()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.way.shared
    }

    /// Nothing was used.
    pub(super) fn void(&self) {
        let Shared { front, wake, .. } = &*self.way.shared;
        self.way.give_back(&self.amounts);
        front.leave();
        front.ended(wake);
    }

    /// This was used. The log is told of it by name if there is a name, or only by the sums.
    pub(super) fn settle(
        &self,
        usage: Usage,
        outcome: Outcome,
        attribution: Option<SharedMessage<Attribution>>,
        shadow: Vec<ShadowCharge>,
    ) {
        let Shared { front, wake, .. } = &*self.way.shared;
        self.way.end(&self.amounts, |unit| actual(unit, &usage, outcome));
        if shadow.is_empty() && attribution.as_deref().is_none_or(is_nobody) {
            front.leave();
        } else {
            let usage = Some(usage);
            front.say(Settle { outcome: outcome.into(), usage, attribution, shadow, ..Settle::default() }, wake);
        }
        front.ended(wake);
    }

    /// How the accounts stand, as far as this node knows.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let age = self.way.shared.age();
        let now = self.way.shared.front.log_time(age);
        self.way.purses.iter().map(|purse| purse.standing(age, now)).collect()
    }
}

/// Whether it names nothing. Not by comparing: on some processors that is slow where there is nothing to compare.
fn is_nobody(attribution: &Attribution) -> bool {
    let Attribution { request_id, tenant, consumer, route, provider, model, provider_model, currency, .. } =
        attribution;
    let names = [request_id, tenant, consumer, route, provider, model, provider_model, currency];
    attribution.status == 0 && names.iter().all(|name| name.is_empty())
}

impl Purse {
    fn standing(&self, age: u64, now: u64) -> Standing {
        let left = i128::from(self.pocket.sums().left()) + i128::from(self.room.load(Relaxed));
        let resets_in = match self.terms.span {
            // Whoever asks has just taken from it.
            Some(span) => self.until.saturating_add(span.lasts()).saturating_sub(age),
            None if self.terms.turns() => self.terms.window_end.saturating_sub(now),
            None => 0,
        };
        let window_end = if self.terms.turns() { self.terms.window_end } else { now.saturating_add(resets_in) };
        let figures = Figures {
            capacity: self.terms.capacity,
            remaining: u64::try_from(left.max(0)).unwrap_or(u64::MAX).min(self.terms.capacity),
            window_end_us: window_end,
            resets_in_us: resets_in,
        };
        Standing::of(self.limit.clone(), figures)
    }
}

impl Shared {
    /// Takes from the pockets of all these accounts, if there are any.
    pub(super) fn take(self: &Arc<Self>, charges: &[Charge]) -> Option<Reservation> {
        let way = Arc::new(self.way(charges)?);
        let amounts: SmallVec<[u64; 4]> = charges.iter().map(|charge| charge.amount).collect();
        way.take(&amounts).then(|| Taken::reservation(way, &amounts))
    }

    /// The pockets of all these accounts. Of a path that the log would call malformed there is none.
    fn way(self: &Arc<Self>, charges: &[Charge]) -> Option<Way> {
        let index = self.front.index.read();
        let mut purses = SmallVec::new();
        for (at, charge) in charges.iter().enumerate() {
            let purse = index.get(&*charge.limit)?.get(&charge.key)?;
            let (oldest, newest) = purse.terms.versions;
            let twice = charges[..at].iter().any(|earlier| earlier.limit == charge.limit);
            if twice || !(oldest..=newest).contains(&charge.version.0) {
                return None;
            }
            purses.push(Arc::clone(purse));
        }
        drop(index);
        (!purses.is_empty()).then(|| Way::new(Arc::clone(self), purses))
    }
}
