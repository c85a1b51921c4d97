//! Standing shares in the book (QUOTA.md R1, R4): what this node has of accounts by rule, and spends before there is a record.
//!
//! What a replica says of rosters is kept here. A cell that begins with a share has no account number yet: what it draws is
//! journaled under a number of its own, which the journal is told the meaning of before, and is said to the log by limit and
//! key, in a window that the replica shows to be open there. Once the replica has a record, the cell is a lease like any other.

use tollgate_proto::state::v1::{JournalTouch, Report, Touch};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::Bug;
use super::{Ask, Book, Cell, MAX_CELLS, Part};
use crate::{
    Ledger,
    journal::OWN_NUMBERS,
    ledger::{LeaseView, MAX_UNRECORDED, ShareView},
};

/// Between two attempts to have the log turn a window that this node is in already.
const NUDGE_EVERY_US: u64 = 50_000;

impl Book {
    /// A cell for what is asked that may draw on a standing share, should there be one: made, or made of one that has no lease
    /// in the window that is open by now.
    pub(super) fn stand(&mut self, ask: &Ask<'_>, known: Option<u32>, now: u64) -> Option<u32> {
        if self.closed || self.shares.is_empty() || self.unrecorded >= MAX_UNRECORDED {
            return None;
        }
        let serves = |it: &&ShareView| {
            let (since, newest) = it.versions;
            it.in_force
                && !it.shut
                && !self.blind.contains(&it.epoch)
                && (it.start..it.end).contains(&now)
                && (since.0..=newest.0).contains(&ask.version)
        };
        let share = self.shares.get(ask.limit)?.iter().find(serves)?.clone();
        if self.nameless.get(&share.epoch).is_some_and(|keys| keys.contains_key(ask.key)) {
            return None;
        }
        let old = known.and_then(|at| self.cells[at as usize].as_ref());
        // One that knows its account for this window has the better figures.
        if old.is_some_and(|cell| cell.lease.is_some_and(|lease| lease.epoch >= share.epoch)) {
            return None;
        }
        let bound = old.is_some_and(|cell| cell.lease.is_some());
        let at = match known {
            Some(at) if !bound => {
                self.unbound.retain(|it| *it != at);
                at
            }
            _ if self.cells.len() - self.vacant.len() >= MAX_CELLS => return None,
            _ => {
                let demand = old.map(|cell| cell.demand).unwrap_or_default();
                let cell =
                    Cell { limit: ask.limit.into(), key: ask.key.to_vec(), named: true, demand, ..Cell::default() };
                if let Some(old) = known.and_then(|at| self.cells[at as usize].as_mut()) {
                    old.named = false; // its window is over: only its sums are still of use
                }
                self.put(cell)
            }
        };
        self.begin_with(at, &share);
        Some(at)
    }

    fn begin_with(&mut self, at: u32, share: &ShareView) {
        self.next_own = self.next_own.wrapping_add(1) & !OWN_NUMBERS;
        let account = OWN_NUMBERS | self.next_own;
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        cell.was_bound = false;
        if std::mem::take(&mut cell.is_dirty) {
            self.dirty.retain(|it| *it != at);
        }
        (cell.own, cell.own_epoch, cell.is_told) = (account, share.epoch, false);
        cell.lease = Some(lease_of(account, share));
        self.nameless.entry(share.epoch).or_default().insert(cell.key.clone(), at);
        self.unrecorded += 1;
        #[cfg(any(test, feature = "seeded-bugs"))]
        self.names_of_own.insert(account, (cell.limit.clone(), cell.key.clone()));
    }

    /// The journal is to know what a number means before it is told of anything that was drawn under it.
    pub(super) fn tell_journal(&mut self, at: u32) {
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::TouchesLater) {
            return;
        }
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        if cell.own != 0 && !cell.is_told {
            cell.is_told = true;
            self.touched.push(cell.journal_touch());
        }
    }

    /// What the journal has to be told before anything else.
    pub(crate) fn take_touched(&mut self) -> Vec<JournalTouch> {
        std::mem::take(&mut self.touched)
    }

    /// What numbers mean that are still in use, for the journal.
    pub(crate) fn own_numbers(&self) -> impl Iterator<Item = JournalTouch> {
        self.cells.iter().flatten().filter(|cell| cell.own != 0 && cell.is_told).map(Cell::journal_touch)
    }

    /// Whether the account of a part has a number in the ledger, as far as is known.
    pub(crate) fn has_number(&self, part: &Part) -> bool {
        let cell = self.cells.get(part.cell as usize).and_then(Option::as_ref);
        cell.filter(|cell| cell.is_of(part)).is_none_or(Cell::has_number)
    }

    /// What has happened to shares of accounts without a number, at most `max` of them. Of a window that is not open in the
    /// log yet only one is said, so that it turns.
    pub(crate) fn touches(&mut self, now: u64, max: usize) -> Vec<Touch> {
        let mut said = Vec::new();
        let mut later = Vec::new();
        for at in std::mem::take(&mut self.unsaid) {
            let Some((limit, epoch)) = self.cells[at as usize].as_ref().map(|it| (&it.limit, it.own_epoch)) else {
                continue;
            };
            let current = self.share(limit, epoch).is_none_or(|share| share.current);
            let nudges = !current && now >= self.nudged_at.saturating_add(NUDGE_EVERY_US);
            if said.len() >= max || !(current || nudges) {
                later.push(at);
                continue;
            }
            said.extend(self.say(at).map(|report| self.named(at, report)));
            if nudges {
                self.nudged_at = now;
                if let Some(cell) = self.cells[at as usize].as_mut() {
                    cell.is_dirty = true;
                    later.push(at);
                }
            }
        }
        self.unsaid = later;
        said
    }

    fn named(&self, at: u32, report: Report) -> Touch {
        let cell = self.cells[at as usize].as_ref();
        let (limit, key) = cell.map(|cell| (cell.limit.to_string(), cell.key.clone())).unwrap_or_default();
        Touch { limit, key, report: Some(Report { account: 0, ..report }) }
    }

    fn share(&self, limit: &str, epoch: u64) -> Option<&ShareView> {
        self.shares.get(limit)?.iter().find(|share| share.epoch == epoch)
    }

    /// Reads anew what this node has by rule, and what became of the cells that know no more than that.
    pub(super) fn read_shares(&mut self, ledger: &Ledger) {
        self.shares.clear();
        for share in ledger.shares_of(self.node, self.incarnation) {
            self.shares.entry((&*share.limit).into()).or_default().push(share);
        }
        let open: Vec<u64> = self.shares.values().flatten().map(|share| share.epoch).collect();
        self.blind.retain(|epoch| open.contains(epoch));
        for at in self.without_number() {
            let Some(cell) = self.cells[at as usize].as_ref() else { continue };
            let account = ledger.account_in(cell.own_epoch, &cell.limit, &cell.key);
            match (account, self.share(&cell.limit, cell.own_epoch).cloned()) {
                (Some(account), _) => self.recognise(ledger, at, account),
                (None, Some(share)) => self.renew(at, &share),
                (None, None) => self.let_go(at),
            }
        }
    }

    /// Cells that have no account number, in order.
    fn without_number(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.nameless.values().flat_map(|keys| keys.values().copied()).collect();
        all.sort_unstable();
        all
    }

    /// An account has a record now: a cell may have been waiting for that.
    pub(super) fn meet(&mut self, ledger: &Ledger, account: u32) {
        if self.unrecorded == 0 {
            return;
        }
        let Some((epoch, key)) = ledger.name_of(account) else { return };
        if let Some(at) = self.nameless.get(&epoch).and_then(|keys| keys.get(&key)).copied() {
            self.recognise(ledger, at, account);
        }
    }

    /// A cell has found the record of its account.
    fn recognise(&mut self, ledger: &Ledger, at: u32, account: u32) {
        let Some(view) = ledger.lease(self.node, self.incarnation, account) else { return };
        self.forget_nameless(at);
        let Some(cell) = self.cells[at as usize].as_mut().filter(|cell| cell.own_epoch == view.epoch) else { return };
        cell.lease = Some(view);
        let called = cell.is_called_back() && (cell.balance(self.age) > 0 || cell.said != view.generation);
        if cell.is_dirty {
            self.unsaid.retain(|it| *it != at);
            self.dirty.push(at);
        }
        self.by_account.insert(account, at);
        if called {
            self.touch(at);
            (self.due, self.urgent) = (true, true);
        }
    }

    fn renew(&mut self, at: u32, share: &ShareView) {
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        cell.lease = Some(lease_of(cell.own, share));
        let called = cell.is_called_back() && cell.balance(self.age) > 0;
        if !share.in_force {
            self.unname(at);
        }
        if called {
            self.touch(at);
            (self.due, self.urgent) = (true, true);
        }
    }

    /// The window of a cell without a number is over.
    fn let_go(&mut self, at: u32) {
        self.forget_nameless(at);
        self.unname(at);
        self.remove(at);
    }

    fn forget_nameless(&mut self, at: u32) {
        let Some(cell) = self.cells[at as usize].as_ref() else { return };
        let Some(keys) = self.nameless.get_mut(&cell.own_epoch) else { return };
        self.unrecorded -= usize::from(keys.remove(&cell.key).is_some());
        if keys.is_empty() {
            self.nameless.remove(&cell.own_epoch);
        }
    }

    /// Everything that has no number is given back.
    pub(super) fn give_back_shares(&mut self) {
        for at in self.without_number() {
            self.touch(at);
            (self.due, self.urgent) = (true, true);
        }
    }
}

/// A standing share as a lease of an account that nobody else is known to have used.
fn lease_of(account: u32, share: &ShareView) -> LeaseView {
    LeaseView {
        account,
        epoch: share.epoch,
        versions: share.versions,
        unit: share.unit,
        capacity: share.capacity,
        window_end: tollgate_model::Timestamp(share.end),
        purse: false,
        span: None,
        in_force: share.in_force,
        central: share.shut,
        generation: 0,
        granted: share.share,
        elsewhere: 0,
        by_rule: share.share,
    }
}

impl Cell {
    fn journal_touch(&self) -> JournalTouch {
        JournalTouch { account: self.own, epoch: self.own_epoch, limit: self.limit.to_string(), key: self.key.clone() }
    }
}
