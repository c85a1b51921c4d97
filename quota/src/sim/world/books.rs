//! What the books of the log must come to, to the unit, whoever died meanwhile (I4).
//!
//! Of an incarnation that is open: what its process did. Of one that is gone: what the log knew when the next one was
//! opened. That is all that was leased out to it and not given back; and of its holds what each had come to if its end was
//! in the log by then, else the whole. So a hold of a dead process that was on its way until then counts too, though
//! nobody was ever admitted by it, and in the window in which it arrived.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    invariants::truthful,
    sim::witness::{Place, used_within},
};

/// Account and window.
type Window = (u32, u64);
/// Node, incarnation and number.
type Request = (u64, u64, u64);

/// What was taken of an account: within what was reserved, and beyond it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Taken {
    within: u64,
    beyond: u64,
}

impl Taken {
    fn add(&mut self, within: u64, beyond: u64) {
        self.within += within;
        self.beyond += beyond;
    }
}

#[derive(Debug, Default)]
pub(super) struct Books {
    /// By process: what its requests have taken.
    done: BTreeMap<(usize, Window), Taken>,
    /// What requests that the log held something for had come to.
    ends: BTreeMap<Request, Vec<(Window, Taken)>>,
    /// Of those, the ones that the log was told of.
    told: BTreeSet<Request>,
    /// What incarnations left behind that are gone.
    left: BTreeMap<Window, Taken>,
    /// Of each account of a window, what an incarnation that is gone had by rule; but for those that it had a lease of.
    by_rule: BTreeMap<u64, Vec<(u64, BTreeSet<u32>)>>,
}

impl World {
    /// A request goes out.
    pub(super) fn book_dispatch(&mut self, at: usize, labels: &[Label]) {
        for &(account, epoch, amount) in labels {
            self.books.done.entry((at, (account, epoch))).or_default().add(amount, 0);
        }
    }

    /// A request has ended, having used so much.
    pub(super) fn book_end(&mut self, at: usize, request: u64, labels: &[Label], used: impl Fn(&Place) -> u64) {
        let Process { node, incarnation, .. } = self.processes[at];
        let mut ended = Vec::with_capacity(labels.len());
        for &(account, epoch, amount) in labels {
            let used = self.witness.place(account, epoch).map_or(0, &used);
            let (within, beyond) = used_within(used, amount);
            let done = self.books.done.entry((at, (account, epoch))).or_default();
            done.within -= amount;
            done.add(within, beyond);
            ended.push(((account, epoch), Taken { within, beyond }));
        }
        let name = (node, incarnation, request);
        if self.central.contains_key(&name) {
            self.books.ends.insert(name, ended);
        }
    }

    /// The log was told of the end of a request.
    pub(super) fn book_told(&mut self, name: Request) {
        self.books.told.insert(name);
    }

    /// The next incarnation of a node is about to be opened, or the node given up: nothing of those up to `last` counts from
    /// here on.
    pub(super) fn book_gone(&mut self, node: u64, last: u64) {
        let newest = self.truth.node(node).filter(|(newest, _)| *newest <= last && !self.truth.is_lost(node));
        let Some((old, _)) = newest else { return };
        for (account, epoch, taken, overrun) in self.truth.leases_of(node, old) {
            let account = self.common(account, epoch);
            self.books.left.entry((account, epoch)).or_default().add(taken, overrun);
        }
        for (epoch, share) in self.truth.rosters_of(node, old) {
            let leased = self.truth.leases_of(node, old).into_iter().filter(|it| it.1 == epoch);
            let leased = leased.map(|(account, ..)| self.common(account, epoch)).collect();
            self.books.by_rule.entry(epoch).or_default().push((share, leased));
        }
        for (name, labels) in self.central.range((node, old, 0)..=(node, old, u64::MAX)) {
            let ended = self.books.ends.get(name).filter(|_| self.books.told.contains(name));
            let open = !self.books.told.contains(name);
            for &(account, epoch, amount) in labels {
                let window = (account, epoch);
                let known = ended.into_iter().flatten().find(|(of, _)| *of == window).map(|(_, taken)| *taken);
                // One whose end is known and who never went out was voided.
                let Taken { within, beyond } = match known {
                    Some(taken) => taken,
                    None => Taken { within: if open { amount } else { 0 }, beyond: 0 },
                };
                self.books.left.entry(window).or_default().add(within, beyond);
            }
        }
    }

    /// I4 for incarnations that are gone, at any time: what they sent out is used, held or in suspense, and in nobody's hands.
    pub(super) fn nothing_of_the_gone_is_lost(&self, account: u32, epoch: u64, told: u64) -> Checked {
        let window = (self.common(account, epoch), epoch);
        let gone = self
            .processes
            .iter()
            .enumerate()
            .filter(|(_, it)| self.truth.node(it.node).is_some_and(|(newest, _)| newest > it.incarnation));
        let done = gone.filter_map(|(at, _)| self.books.done.get(&(at, window)));
        let sent: u64 = done.map(|taken| taken.within).sum();
        require(sent <= told, "I4", || format!("{window:?}: those that are gone took {sent}, and {told} is known of"))
    }

    /// What open incarnations have sent out of an account beyond what the log holds for them and has given them of it.
    pub(super) fn drawn_beyond_leases(&self, account: u32, epoch: u64) -> u64 {
        let window = (self.common(account, epoch), epoch);
        let open = self.processes.iter().enumerate().filter(|(_, it)| {
            it.is_newest(&self.truth) && self.truth.node(it.node).is_some_and(|(newest, _)| newest == it.incarnation)
        });
        let beyond = open.map(|(at, it)| {
            let done = self.books.done.get(&(at, window)).map_or(0, |taken| taken.within);
            let view = self.truth.lease(it.node, it.incarnation, account).filter(|view| view.epoch == epoch);
            let lease =
                self.truth.leases_of(it.node, it.incarnation).into_iter().find(|it| (it.0, it.1) == (account, epoch));
            let given = lease.map_or(view.map_or(0, |view| view.granted), |(_, _, given, _)| given);
            done.saturating_sub(self.sent_by_holds(it, window)).saturating_sub(given)
        });
        beyond.sum()
    }

    /// What a process has sent out of an account by what the log held for it.
    fn sent_by_holds(&self, process: &Process, window: Window) -> u64 {
        let (node, incarnation) = (process.node, process.incarnation);
        let held = self.central.range((node, incarnation, 0)..=(node, incarnation, u64::MAX));
        let labels = held.flat_map(|(name, labels)| labels.iter().map(move |label| (name, label)));
        let of_window = labels.filter(|(_, label)| (label.0, label.1) == window);
        let sent = of_window.map(|(name, label)| match self.books.ends.get(name) {
            Some(ended) => ended.iter().filter(|(of, _)| *of == window).map(|(_, taken)| taken.within).sum(),
            None if process.flights.contains_key(&name.2) => label.2,
            None => 0,
        });
        sent.sum()
    }

    /// What the books must say of an account in a window, once it is quiet.
    fn booked(&self, window: Window) -> Taken {
        let mut sum = self.books.left.get(&window).copied().unwrap_or_default();
        let by_rule = self.books.by_rule.get(&window.1).into_iter().flatten();
        by_rule.filter(|(_, leased)| !leased.contains(&window.0)).for_each(|(share, _)| sum.add(*share, 0));
        for (at, process) in self.processes.iter().enumerate() {
            let is_known = self.truth.node(process.node).is_some_and(|(newest, _)| newest == process.incarnation);
            if is_known && process.is_newest(&self.truth) {
                let done = self.books.done.get(&(at, window)).copied().unwrap_or_default();
                sum.add(done.within + self.expired(process, window), done.beyond);
            }
        }
        sum
    }

    /// What was consumed at its deadline of holds that nobody was admitted by: their answer came too late.
    fn expired(&self, process: &Process, window: Window) -> u64 {
        let (node, incarnation) = (process.node, process.incarnation);
        let held = self.central.range((node, incarnation, 0)..=(node, incarnation, u64::MAX));
        let still = held.filter(|(name, _)| !self.truth.held_by(node, name.2).is_empty());
        let unused = still.filter(|(name, _)| !process.flights.contains_key(&name.2));
        let labels = unused.flat_map(|(_, labels)| labels);
        labels.filter(|(account, epoch, _)| (*account, *epoch) == window).map(|(.., amount)| amount).sum()
    }

    /// I4: to the unit where no incarnation has ended in this window. Else at least what was really used, beyond what was
    /// reserved as far as a journal tells it; and at most what the log knew of those that are gone, as a journal can only
    /// say that it was less.
    pub(super) fn books_are_true(&self, account: u32, place: &Place) -> Checked {
        let ([used, held, _, suspense, overrun], _) = self.truth.figures(account);
        let epoch = self.truth.place(account).map_or(0, |(epoch, ..)| epoch);
        let account = self.common(account, epoch);
        let Taken { within, beyond } = self.booked((account, epoch));
        let seen = self.witness.figures[place];
        let told = used + held + suspense;
        let was_replaced = self.books.left.contains_key(&(account, epoch)) || self.books.by_rule.contains_key(&epoch);
        let holds = if was_replaced {
            // Of what was given to others although it may have been spent, a journal may tell that it was.
            let within = (seen.held + seen.settled).saturating_sub(seen.lost)..=within;
            within.contains(&told) && (beyond..=seen.overrun + seen.lost).contains(&overrun)
        } else {
            truthful(within.into(), told, 0) && truthful(beyond.into(), 0, overrun)
        };
        require(holds, "I4", || {
            format!(
                "{place:?}: {told} and {overrun} beyond in the books, {within} and {beyond} were taken, seen was {seen:?}"
            )
        })
    }
}
