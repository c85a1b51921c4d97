//! How the book follows its node's replica: leases are read anew from what was applied, never from what happened.

#[cfg(any(test, feature = "seeded-bugs"))]
use super::Bug;
use super::{Book, FORGET_UNBOUND_US};
use crate::{Ledger, ledger::News};

impl Book {
    /// Reads anew what has changed in the replica.
    pub(crate) fn follow(&mut self, ledger: &Ledger, news: &News) {
        let newest = ledger.node(self.node).map(|(incarnation, _)| incarnation);
        if newest.is_some_and(|newest| newest > self.incarnation || ledger.is_lost(self.node)) {
            self.closed = true;
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        (self.is_snapshot = news.all);
        if news.all {
            self.bound().into_iter().for_each(|at| self.look(ledger, at));
        }
        if news.all || news.shares {
            self.read_shares(ledger);
        }
        if news.all || news.shares {
            self.asked = ledger.asks(self.node, self.incarnation);
            self.due |= !self.asked.is_empty();
        }
        // Names are let go of before anything is adopted: what is called back is not adopted where a cell has its name, as that
        // looks for the account itself. One whose window is over does not; and without any, a share of it would be drawn on by
        // name, as nobody here knew that it is called back.
        if news.all {
            ledger.accounts_in_hand(self.node, self.incarnation).for_each(|account| self.adopt(ledger, account));
        } else {
            for account in &news.accounts {
                if let Some(at) = self.by_account.get(account).copied() {
                    self.look(ledger, at);
                }
                self.meet(ledger, *account);
                self.adopt(ledger, *account);
            }
        }
        for at in std::mem::take(&mut self.unbound) {
            self.bind(ledger, at);
        }
    }

    /// Reads the lease of one cell. One whose window is over is let go.
    fn look(&mut self, ledger: &Ledger, at: u32) {
        #[cfg(any(test, feature = "seeded-bugs"))]
        let (bug, snapshot) = (self.bug, self.is_snapshot);
        let (node, incarnation, age) = (self.node, self.incarnation, self.age);
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        let Some(known) = cell.lease else { return };
        let view = ledger.lease(node, incarnation, known.account).filter(|view| view.epoch == known.epoch);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let view = if bug == Some(Bug::ForgetsEmptyLeases) && cell.balance(age) == 0 { None } else { view };
        let Some(view) = view else {
            self.by_account.remove(&known.account);
            cell.forget_sums();
            if cell.named {
                self.unbound.push(at);
            } else {
                self.remove(at);
            }
            return;
        };
        if view.granted == 0 && view.by_rule > 0 && known.granted == known.by_rule {
            // What it had by rule is free by its own word (`ledger/change.rs`): what it gave back of that later is nothing.
            cell.returned = cell.returned.saturating_sub(known.granted);
        }
        cell.lease = Some(view);
        #[cfg(any(test, feature = "seeded-bugs"))]
        cell.go_wrong(bug, known, snapshot);
        let called = cell.is_called_back() && (cell.balance(age) > 0 || cell.said != view.generation);
        if !view.in_force {
            self.unname(at);
        }
        if called {
            self.touch(at);
            (self.due, self.urgent) = (true, true);
        }
        self.wake_later(at);
    }

    /// Finds the account of a cell that has none. An account has one cell, whatever became of its limit meanwhile.
    fn bind(&mut self, ledger: &Ledger, at: u32) {
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        let Some(view) = ledger.lease_of(self.node, self.incarnation, &cell.limit, &cell.key) else {
            let waited = ledger.counters().last_time_us > cell.demand.last().saturating_add(FORGET_UNBOUND_US);
            if waited || cell.was_bound {
                self.unname(at);
                self.remove(at);
            } else {
                self.unbound.push(at);
            }
            return;
        };
        match self.by_account.get(&view.account).copied() {
            None => {
                cell.lease = Some(view);
                cell.was_bound = false;
                // Granted and called back before this node saw either.
                let called = cell.is_called_back() && cell.balance(self.age) > 0;
                self.by_account.insert(view.account, at);
                self.wake_later(at);
                if called {
                    self.touch(at);
                    (self.due, self.urgent) = (true, true);
                }
            }
            Some(first) => {
                let name = (cell.limit.clone(), cell.key.clone());
                self.remove(at);
                self.names.entry(name.0).or_default().insert(name.1, first);
                if let Some(first) = self.cells[first as usize].as_mut() {
                    first.named = true;
                }
            }
        }
    }

    /// The limit is gone: its name may come to mean another account.
    pub(super) fn unname(&mut self, at: u32) {
        let Some(cell) = self.cells[at as usize].as_mut().filter(|cell| cell.named) else { return };
        cell.named = false;
        if let Some(keys) = self.names.get_mut(&cell.limit) {
            keys.remove(&cell.key);
            if keys.is_empty() {
                self.names.remove(&cell.limit);
            }
        }
    }

    pub(super) fn remove(&mut self, at: u32) {
        let Some(cell) = self.cells[at as usize].take() else { return };
        self.vacant.push(at);
        if let Some(due) = cell.wake_at {
            self.wakes.remove(&(due, at));
        }
        if cell.is_dirty {
            self.dirty.retain(|it| *it != at);
            self.unsaid.retain(|it| *it != at);
        }
        if cell.is_short {
            self.short.retain(|it| *it != at);
        }
    }

    /// Nothing is drawn from here on, and all that no request holds goes back.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.give_back_shares();
        for at in self.bound() {
            self.touch(at);
            (self.due, self.urgent) = (true, true);
        }
    }

    /// Cells that have a lease, in order.
    fn bound(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.by_account.values().copied().collect();
        all.sort_unstable();
        all
    }
}
