//! The lease book: the part of each account that this node may spend alone. Pure, no clock, no I/O.
//!
//! What was granted is read from this node's own replica of the ledger and from nowhere else; what was made of it are this
//! incarnation's own sums. So the balance is `granted - held - spent - returned`, computed anew whenever it is asked for:
//! there are no grant events to miss (QUOTA.md R17).
//!
//! What always holds:
//! 1. `held + spent + returned <= granted` for each lease (I2): a draw takes from the balance, all else moves within it.
//! 2. A lease can only say yes. What it can't cover goes to the log, which alone says no.
//! 3. The sums of a lease live until the replica shows that its window is over, whatever this node's time says.
//!    What is used of a sliding lease ages here, by this process's own clock, and is fresh again: `spent` is what counts now.
//! 4. Once an account is seen to be central nothing is drawn, and every report gives back all that no request holds (R11).

mod adopt;
#[cfg(any(test, feature = "seeded-bugs"))]
mod bugs;
mod cell;
mod demand;
#[cfg(any(test, feature = "seeded-bugs"))]
mod digest;
mod follow;
mod poured;
mod say;
mod share;

use std::collections::{BTreeSet, HashMap};

use smallvec::{SmallVec, smallvec};
use tollgate_proto::state::v1::{Consumed, JournalSum, JournalTouch, Outcome, Standing, Usage};

#[cfg(any(test, feature = "seeded-bugs"))]
pub(crate) use self::bugs::Bug;
use self::cell::{Cell, Counts, STEP};
pub(crate) use self::poured::{Hand, Made, Poured, Terms};
use crate::{
    invariants::{Violation, require, within_lease},
    ledger::{ShareView, actual},
};

/// Leases in the book at most; what is beyond asks the log for every request.
const MAX_CELLS: usize = 131_072;
/// Cells that look for their account at once: they are looked up with every entry.
const MAX_UNBOUND: usize = 1_024;
/// An account that never came to be, or shares its record, is forgotten after this long.
const FORGET_UNBOUND_US: u64 = 5_000_000;

/// What one request holds of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    cell: u32,
    pub(crate) account: u32,
    pub(crate) epoch: u64,
    pub(crate) amount: u64,
    /// Drawn below a ceiling, and in no journal itself.
    pub(crate) below_ceiling: bool,
    /// The age at which its request went out, if it has.
    at: Option<u64>,
}

impl Part {
    /// The lease that it is of.
    pub(crate) fn cell(&self) -> u32 {
        self.cell
    }
}

/// What may be drawn, and what has to be written before it is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spending {
    /// Nothing: the log decides.
    Nothing,
    /// Each request is journaled before it is sent out.
    Journaled,
    /// Only how much may be spent at once is written ahead, in steps. Not of permits: time alone frees those that a process
    /// leaves behind.
    BelowCeiling,
}

/// What one request holds of the leases on its path.
pub(crate) type Parts = SmallVec<[Part; 4]>;

/// How an account stands, in its unit and in log time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) capacity: u64,
    pub(crate) remaining: u64,
    pub(crate) window_end_us: u64,
    pub(crate) resets_in_us: u64,
}

/// What is asked of one account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) limit: &'a str,
    pub(crate) version: u64,
    pub(crate) key: &'a [String],
    pub(crate) amount: u64,
}

/// The leases of one incarnation.
#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(crate) struct Book {
    node: u64,
    incarnation: u64,
    cells: Vec<Option<Cell>>,
    vacant: Vec<u32>,
    names: HashMap<Box<str>, HashMap<Vec<String>, u32>>,
    by_account: HashMap<u32, u32>,
    unbound: Vec<u32>,
    /// What this node has of accounts by rule, by limit (`share.rs`).
    shares: HashMap<Box<str>, SmallVec<[ShareView; 2]>>,
    /// Cells that know no account number yet, by window and key; and how many those are.
    nameless: HashMap<u64, HashMap<Vec<String>, u32>>,
    unrecorded: usize,
    /// The last number that was given to one of them, and what the journal has to be told of these.
    next_own: u32,
    touched: Vec<JournalTouch>,
    /// Of those, to be reported, each once.
    unsaid: Vec<u32>,
    nudged_at: u64,
    /// Limits that are to count in another way, and their versions: the log is to be told that this node knows.
    asked: Vec<(String, u64)>,
    /// Windows in which something was called back that no cell knows of.
    blind: BTreeSet<u64>,
    /// To be reported, each once.
    dirty: Vec<u32>,
    /// To be asked for, each once.
    short: Vec<u32>,
    /// Ceilings that the journal has to be told of.
    raised: Vec<u32>,
    /// How long this process has run: what was used of a sliding lease ages by it.
    age: u64,
    /// When a cell may have something to give back, by age.
    wakes: BTreeSet<(u64, u32)>,
    /// Something in `dirty` should not wait for another reason to send a frame.
    due: bool,
    /// Somebody waits for it: what was called back is there to be given, or a lease runs out.
    urgent: bool,
    /// A newer incarnation is open, or this one ends: nothing is drawn any more.
    closed: bool,
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) bug: Option<Bug>,
    #[cfg(any(test, feature = "seeded-bugs"))]
    is_snapshot: bool,
    /// What numbers of its own ever meant.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) names_of_own: HashMap<u32, (Box<str>, Vec<String>)>,
}

impl Book {
    pub(crate) fn new(node: u64, incarnation: u64) -> Self {
        Self {
            node,
            incarnation,
            cells: Vec::new(),
            vacant: Vec::new(),
            names: HashMap::new(),
            by_account: HashMap::new(),
            unbound: Vec::new(),
            shares: HashMap::new(),
            nameless: HashMap::new(),
            unrecorded: 0,
            next_own: 0,
            touched: Vec::new(),
            unsaid: Vec::new(),
            nudged_at: 0,
            asked: Vec::new(),
            blind: BTreeSet::new(),
            dirty: Vec::new(),
            short: Vec::new(),
            raised: Vec::new(),
            age: 0,
            wakes: BTreeSet::new(),
            due: false,
            urgent: false,
            closed: false,
            #[cfg(any(test, feature = "seeded-bugs"))]
            bug: None,
            #[cfg(any(test, feature = "seeded-bugs"))]
            is_snapshot: false,
            #[cfg(any(test, feature = "seeded-bugs"))]
            names_of_own: HashMap::new(),
        }
    }

    /// Takes `amount` from the lease of an account, or nothing; notes what is asked for either way.
    pub(crate) fn draw(&mut self, ask: Ask<'_>, spending: Spending, now: u64) -> Option<Part> {
        let at = self.cell_of(&ask, now)?;
        let (closed, age) = (self.closed || spending == Spending::Nothing, self.age);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let heedless = self.bug == Some(Bug::DrawsWhenCentral);
        let cell = self.cells[at as usize].as_mut()?;
        cell.demand.note(now, ask.amount);
        cell.demand.version = ask.version;
        cell.asked_at = age;
        let serves = cell.serves(ask.version, now);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let serves = serves || (heedless && cell.lease.is_some_and(|it| it.in_force && now < it.window_end.0));
        let enough = cell.spendable(age) >= ask.amount.max(1);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let enough = enough || (self.bug == Some(Bug::DrawsOnCredit) && cell.spendable(age) > ask.amount / 2);
        let part = cell.lease.filter(|_| serves && enough && !closed).map(|lease| {
            cell.held += ask.amount;
            cell.undecided += ask.amount;
            let below_ceiling = spending == Spending::BelowCeiling && lease.is_used_up();
            if below_ceiling && cell.draw_unjournaled(age, ask.amount, ask.amount.saturating_mul(STEP)) {
                #[cfg(any(test, feature = "seeded-bugs"))]
                if self.bug != Some(Bug::IgnoresCeilings) {
                    self.raised.push(at);
                }
                #[cfg(not(any(test, feature = "seeded-bugs")))]
                self.raised.push(at);
            }
            cell.waiting += if lease.span.is_some() { ask.amount } else { 0 };
            let (account, epoch) = (cell.number(), lease.epoch);
            Part { cell: at, account, epoch, amount: ask.amount, below_ceiling, at: None }
        });
        if !closed {
            self.ask_ahead(at, now, part.is_none());
        }
        if part.is_some() {
            self.touch(at);
            self.tell_journal(at);
        }
        part
    }

    /// Notes that a lease has to be asked for: it was too small for a request, or is about to be.
    fn ask_ahead(&mut self, at: u32, now: u64, missed: bool) {
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        let (hand, target) = (cell.spendable(self.age).saturating_add(cell.idle), cell.wanted());
        let low = missed || hand < target / 2;
        if low && !cell.is_short && now >= cell.ask_after && !self.closed && !cell.is_called_back() {
            cell.is_short = true;
            self.short.push(at);
        }
        // What lasts for half a second yet is asked for with whatever else there is to say.
        self.urgent |= cell.is_short && (missed || hand < target / 8);
    }

    fn cell_of(&mut self, ask: &Ask<'_>, now: u64) -> Option<u32> {
        let known = self.names.get(ask.limit).and_then(|keys| keys.get(ask.key)).copied();
        let lease = known.and_then(|at| self.cells[at as usize].as_ref()).and_then(|cell| cell.lease);
        let is_over = lease.is_none_or(|lease| now >= lease.window_end.0);
        if let Some(at) = is_over.then(|| self.stand(ask, known, now)).flatten() {
            return Some(at);
        }
        if known.is_some() {
            return known;
        }
        let full = self.cells.len() - self.vacant.len() >= MAX_CELLS || self.unbound.len() >= MAX_UNBOUND;
        if self.closed || full {
            return None;
        }
        let cell = Cell { limit: ask.limit.into(), key: ask.key.to_vec(), named: true, ..Cell::default() };
        Some(self.add(cell))
    }

    /// A request goes out: what it has drawn of sliding leases counts from now on.
    pub(crate) fn go_out(&mut self, parts: &mut Parts) {
        let age = self.age;
        for part in parts.iter_mut().filter(|part| part.at.is_none()) {
            part.at = Some(age);
            let cell = self.cells.get_mut(part.cell as usize).and_then(Option::as_mut);
            let Some(cell) = cell.filter(|cell| cell.is_of(part)) else { continue };
            cell.undecided = cell.undecided.saturating_sub(part.amount);
            if let Some(span) = cell.span() {
                cell.send_out(span, age, part.amount, part.below_ceiling);
            }
            // Said as undecided before: nothing else will say that it is not.
            if !cell.is_dirty {
                self.due = true;
                self.touch(part.cell);
            }
        }
    }

    /// Ends what a request held: what was used is spent, the rest is in hand again. After the window nothing moves.
    ///
    /// What was made of it, where anything was.
    pub(crate) fn finish(&mut self, part: Part, usage: &Usage, outcome: Outcome) -> Option<Consumed> {
        #[cfg(any(test, feature = "seeded-bugs"))]
        let bug = self.bug;
        let cell = self.cells.get_mut(part.cell as usize)?.as_mut()?;
        let same = cell.is_of(&part);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let same = match bug {
            Some(Bug::SettlesIntoTheNextWindow) => true,
            Some(Bug::SettlesByTheModeNow) => same && !cell.is_called_back(),
            _ => same,
        };
        let lease = cell.lease.filter(|_| same)?;
        let used = actual(lease.unit, usage, outcome);
        let within = used.min(part.amount);
        cell.held = cell.held.saturating_sub(part.amount);
        cell.undecided = cell.undecided.saturating_sub(if part.at.is_none() { part.amount } else { 0 });
        match cell.span() {
            Some(span) => cell.end_aged(span, part.at, part.amount, within, part.below_ceiling),
            None => {
                cell.spent += within;
                if part.below_ceiling {
                    cell.unjournaled -= part.amount - within;
                    cell.unjournaled_spent += within;
                }
            }
        }
        cell.overrun = cell.overrun.saturating_add(used - within);
        let fresh_at_us = cell.span().zip(part.at).map_or(0, |(span, at)| span.fresh_at(at));
        let (urgent, account) = (cell.is_called_back(), cell.number());
        self.touch(part.cell);
        (self.due, self.urgent) = (true, self.urgent || urgent);
        let (epoch, overrun) = (lease.epoch, used - within);
        Some(Consumed { account, epoch, spent: within, overrun, fresh_at_us })
    }

    /// What a request that has gone out may make of a part, for the journal.
    pub(crate) fn at_most(&self, part: &Part) -> Consumed {
        let cell = self.cells.get(part.cell as usize).and_then(Option::as_ref);
        let span = cell.filter(|cell| cell.is_of(part)).and_then(Cell::span);
        let fresh_at_us = span.zip(part.at).map_or(0, |(span, at)| span.fresh_at(at));
        let &Part { account, epoch, amount: spent, .. } = part;
        Consumed { account, epoch, spent, overrun: 0, fresh_at_us }
    }

    /// How long this process has run.
    pub(crate) fn age(&self) -> u64 {
        self.age
    }

    /// Hands out the ceilings that were raised; `write` says where the journal has them.
    pub(crate) fn write_ceilings(&mut self, mut write: impl FnMut(JournalSum) -> u64) {
        for at in std::mem::take(&mut self.raised) {
            let Some(cell) = self.cells[at as usize].as_mut() else { continue };
            let Some(lease) = cell.lease else { continue };
            let consumed = Consumed { account: cell.number(), epoch: lease.epoch, ..Consumed::default() };
            cell.ceiling_at = write(JournalSum { consumed: Some(consumed), ceiling: cell.ceiling });
        }
    }

    /// Up to where the journal must be durable before this may be spent.
    pub(crate) fn ceiling_of(&self, part: &Part) -> u64 {
        let cell = self.cells.get(part.cell as usize).and_then(Option::as_ref);
        cell.filter(|cell| part.below_ceiling && cell.is_of(part)).map_or(0, |cell| cell.ceiling_at)
    }

    /// What became of each lease by requests that have ended, for the journal.
    pub(crate) fn sums(&self) -> impl Iterator<Item = JournalSum> {
        self.cells.iter().flatten().flat_map(|cell| cell.sums(self.age))
    }

    /// Whether there is anything to spend, should somebody ask for it.
    pub(crate) fn is_in_hand(&self) -> bool {
        !self.by_account.is_empty() || self.unrecorded > 0
    }

    fn touch(&mut self, at: u32) {
        if let Some(cell) = self.cells[at as usize].as_mut().filter(|cell| !cell.is_dirty) {
            cell.is_dirty = true;
            if cell.has_number() { self.dirty.push(at) } else { self.unsaid.push(at) }
        }
    }

    /// How the account of a part stands, as far as this node knows.
    pub(crate) fn figures(&self, part: &Part, now: u64) -> Figures {
        let cell = self.cells.get(part.cell as usize).and_then(Option::as_ref);
        let Some((cell, lease)) = cell.and_then(|cell| Some((cell, cell.lease?))) else { return Figures::default() };
        let Counts { held, spent } = cell.counts(self.age);
        let overrun = if cell.span().is_some() { 0 } else { cell.overrun };
        let own = held.saturating_sub(cell.idle).saturating_add(spent).saturating_add(overrun);
        let resets_in_us = match cell.span() {
            Some(span) => cell.slide.all_fresh(span, self.age).map_or(0, |at| at.saturating_sub(self.age)),
            None if lease.turns() => lease.window_end.0.saturating_sub(now),
            None => 0,
        };
        Figures {
            capacity: lease.capacity,
            remaining: lease.capacity.saturating_sub(lease.elsewhere).saturating_sub(own),
            window_end_us: if lease.turns() { lease.window_end.0 } else { now.saturating_add(resets_in_us) },
            resets_in_us,
        }
    }

    /// The same, with the limit's name.
    pub(crate) fn standing(&self, part: &Part, now: u64) -> Standing {
        let Figures { capacity, remaining, window_end_us, resets_in_us } = self.figures(part, now);
        let cell = self.cells.get(part.cell as usize).and_then(Option::as_ref);
        let limit = cell.filter(|cell| cell.lease.is_some()).map(|cell| cell.limit.to_string()).unwrap_or_default();
        Standing { limit, capacity, remaining, window_end_us, resets_in_us }
    }

    /// I2 of every lease, given what the requests of this node hold.
    ///
    /// # Errors
    /// The first violation.
    pub(crate) fn audit<'a>(&self, parts: impl Iterator<Item = &'a Part>) -> Result<(), Violation> {
        let mut held: SmallVec<[u64; 16]> = smallvec![0; self.cells.len()];
        for part in parts {
            let cell = self.cells.get(part.cell as usize).and_then(Option::as_ref);
            if cell.is_some_and(|cell| cell.is_of(part)) {
                held[part.cell as usize] += part.amount;
            }
        }
        for (cell, held) in self.cells.iter().zip(held) {
            let Some((cell, lease)) = cell.as_ref().and_then(|cell| Some((cell, cell.lease?))) else { continue };
            let Counts { held: holds, spent } = cell.counts(self.age);
            let within = within_lease(lease.granted, holds, spent, cell.returned);
            require(within, "I2", || format!("{cell:?}"))?;
            require(held == cell.held, "I5", || format!("{cell:?}, and requests hold {held}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
