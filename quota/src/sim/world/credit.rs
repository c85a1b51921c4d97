//! Credit: a purse that somebody pays into and takes from, and that requests are billed to, in the very entry that tells of their
//! end, as a node's state does it (`ledger/purse.rs`).
//!
//! [`Credit`] is replicated beside the ledger. [`Served`] is the witness of it, and knows nothing of either: what went out, what it
//! came to, for whom somebody was billed, and what is at the operator's expense, as nobody ever will be. At any time
//! `sent + free <= paid in - taken off + lost` (I3); when nothing is in flight and every node was given up, exactly
//! `free = paid in - taken off - billed` (I4).

use super::*;
use crate::{
    ledger::{Bearer, PurseBill, Used},
    sim::witness::{Place, Request},
};

pub(in crate::sim) const PURSE: &str = "p";
/// Of requests, those that are paid for in advance; and how often somebody pays in, or takes off, when one comes.
const PERCENT: u64 = 60;
const PERCENT_PAID_IN: u64 = 3;
/// Or, in runs of that kind, that a key moves, or keys come to go by clocks of their own, or no longer do.
const PERCENT_MOVES: u64 = 1;

/// What was paid in and is not spent, as the books have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// There is a purse.
    kept: bool,
    rest: u64,
    /// Was billed, and was not there.
    owed: u64,
    paid_in: u64,
    taken_off: u64,
    billed: u64,
    written_off: u64,
    wrong: Option<Wrong>,
}

fn purse(capacity: u64) -> Rule {
    Rule {
        limit: Name::new(PURSE),
        version: LogIndex(1),
        unit: Unit::Tokens,
        per: Vec::new(),
        capacity,
        window: Window::Minute,
        algorithm: Algorithm::Never,
        time_zone: TimeZone::UTC,
        apart: false,
        shadow: false,
    }
}

impl Credit {
    pub(super) fn of(plan: Plan) -> Self {
        Self { kept: plan.purses, wrong: plan.bug.map(|bug| bug.0), ..Self::default() }
    }

    /// Makes the purse hold what is left, and `beside` that.
    fn fund(&self, ledger: &mut Ledger, now: Timestamp, beside: u64, changes: &mut Changes) {
        ledger.put_purse(now, purse(self.rest + beside), changes);
    }

    /// What is owed is paid first.
    pub(super) fn grant(&mut self, ledger: &mut Ledger, now: Timestamp, amount: u64, changes: &mut Changes) {
        let paid = amount.min(self.owed);
        self.owed -= paid;
        self.rest += amount - paid;
        self.paid_in += amount;
        self.fund(ledger, now, paid, changes);
        if paid > 0 {
            let bill = PurseBill { limit: Name::new(PURSE), by: None, cost: 0, burnt: paid };
            ledger.bill_purses(now, &[bill], changes);
        }
    }

    /// Takes off what nobody holds, and calls the rest back.
    pub(super) fn take_off(&mut self, ledger: &mut Ledger, now: Timestamp, amount: u64, changes: &mut Changes) {
        let free = ledger.purse(PURSE).map_or(0, |purse| u64::try_from(purse.free).unwrap_or(0));
        let heedless = self.wrong == Some(Wrong::TakesWhatIsHeld);
        let taken = amount.min(self.rest).min(if heedless { u64::MAX } else { free });
        self.rest -= taken;
        self.taken_off += taken;
        self.fund(ledger, now, 0, changes);
        if taken < amount {
            ledger.recall_purse(now, PURSE, changes);
        }
    }

    /// Bills what requests have used.
    pub(super) fn spend(&mut self, ledger: &mut Ledger, now: Timestamp, used: &[Used<'_>], changes: &mut Changes) {
        if self.wrong == Some(Wrong::ClosesBeforeItBills) {
            self.close(ledger, now, changes);
        }
        let mut bills = Vec::new();
        for used in used.iter().filter(|used| used.attribution.prepaid) {
            let cost = used.usage.input_tokens;
            let burnt = cost.min(self.rest);
            self.rest -= burnt;
            self.owed += cost - burnt;
            self.billed += cost;
            let by = Bearer { node: used.node, incarnation: used.incarnation };
            let by = Some(by).filter(|_| self.wrong != Some(Wrong::BillsNobody));
            bills.push(PurseBill { limit: Name::new(PURSE), by, cost, burnt });
        }
        if !bills.is_empty() {
            ledger.bill_purses(now, &bills, changes);
        }
    }

    /// What every entry ends with.
    pub(super) fn close(&mut self, ledger: &mut Ledger, now: Timestamp, changes: &mut Changes) {
        if self.kept && ledger.is_closing_purses() {
            ledger.close_purses(now, changes);
        }
        if self.kept && ledger.has_written_off() {
            self.written_off += ledger.take_written_off().iter().map(|it| it.amount).sum::<u64>();
        }
    }
}

/// A request that nobody was billed for.
#[derive(Debug, Default)]
struct Unbilled {
    of: (u64, u64),
    /// In flight, or was when its process died.
    held: u64,
    within: u64,
    beyond: u64,
}

/// What was served against credit, in the plainest words.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// By what its usage is recorded with.
    unbilled: BTreeMap<String, Unbilled>,
    /// As long as they are in flight.
    records: BTreeMap<Request, String>,
    /// Of those that are dead, and that nothing more was to be heard of.
    lost: BTreeMap<String, Unbilled>,
    lost_units: u64,
    paid_in: u64,
    asked_off: u64,
    /// Went out: what is in flight whole, and of the rest what was used within what was held.
    sent: u64,
    billed: u64,
    /// Nodes that were given up, and are not written off yet.
    given_up: BTreeMap<u64, u64>,
}

impl Served {
    /// What of the purse is taken, and nobody was billed for.
    pub(super) fn unbilled(&self) -> u64 {
        self.unbilled.values().map(|it| it.held + it.within).sum()
    }

    /// What was billed, and what is lost.
    pub(super) fn sums(&self) -> (u64, u64) {
        (self.billed, self.lost_units)
    }

    /// Whether somebody is to be billed for it.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.unbilled.contains_key(id) || self.lost.contains_key(id)
    }

    pub(super) fn give_up(&mut self, node: u64, incarnation: u64) {
        self.given_up.insert(node, incarnation);
    }

    /// Of whom nothing more will be heard: what they served is at the operator's expense.
    fn write_off(&mut self, is_gone: impl Fn((u64, u64)) -> bool) {
        let gone: Vec<_> = self.unbilled.extract_if(.., |_, it| is_gone(it.of)).collect();
        self.lost_units += gone.iter().map(|(_, it)| it.held + it.within).sum::<u64>();
        self.lost.extend(gone);
    }

    fn bill(&mut self, id: &str) {
        let billed = self.unbilled.remove(id).or_else(|| self.lost.remove(id));
        self.billed += billed.map_or(0, |it| it.within + it.beyond);
    }
}

impl World {
    /// Whether a request asks for the sixth limit, too. Now and then somebody pays in when it comes, or takes off; or changes it.
    pub(super) fn sixth_limit(&mut self) -> Result<u8, Violation> {
        if self.plan.zones && self.may_be_edited() && self.sixth.percent(PERCENT_MOVES) {
            self.report.faults.note(Fault::Edit);
            self.someone_moves()?;
        }
        if !self.plan.purses && !self.plan.flips {
            return Ok(0);
        }
        if self.plan.purses && !self.leaderless && self.sixth.percent(PERCENT_PAID_IN) {
            let command = match self.sixth.percent(75) {
                true => Command::Grant(self.sixth.range(50, 700)),
                false => Command::TakeOff(self.sixth.range(50, 400)),
            };
            self.append(command)?;
        }
        let flips = if self.plan.flips { self.flips_in_a_thousand() } else { 0 };
        if flips > 0 && self.may_be_edited() && self.sixth.range(0, 1_000) < flips {
            self.report.faults.note(Fault::Edit);
            self.flip()?;
        }
        Ok(u8::from(self.sixth.percent(PERCENT)) << SIXTH)
    }

    /// The order that pays in, or takes off, reaches the log.
    pub(super) fn pay(&mut self, entry: &Entry) {
        match entry.command {
            Command::Grant(amount) => self.served.paid_in += amount,
            Command::TakeOff(amount) => self.served.asked_off += amount,
            _ => {}
        }
        let capacity = self.served.paid_in.saturating_sub(self.served.asked_off);
        self.oracle.limit(self.now, entry.at.0, PURSE, Some(&purse(capacity)));
    }

    /// A request goes out. I3 for credit: what was served is within what was paid in and not taken off, but for what is at the
    /// operator's expense.
    pub(super) fn serve(&mut self, at: usize, request: u64, wanted: Wanted, labels: &[Label]) -> Checked {
        let Some(amount) = self.of_purse(labels) else { return Ok(()) };
        let process = &self.processes[at];
        let row = match wanted.part {
            Part::Whole => request,
            Part::First => process.records.get(&request).copied().unwrap_or(request),
            Part::Of(first) => process.streams.get(&first).map_or(request, |stream| stream.row),
        };
        let (of, id) = ((process.node, process.incarnation), disk::id_of(process, row));
        self.served.records.insert((at, request), id.clone());
        self.served.sent += amount;
        let unbilled = self.served.unbilled.entry(id).or_insert_with(|| Unbilled { of, ..Unbilled::default() });
        unbilled.held += amount;
        let Served { sent, lost_units, paid_in, .. } = self.served;
        let most = (paid_in + lost_units).saturating_sub(self.credit.taken_off);
        require(sent <= most, "I3", || format!("{sent} was served against {most} of credit, {lost_units} of it lost"))
    }

    fn of_purse(&self, labels: &[Label]) -> Option<u64> {
        let is_purse = |it: &&Label| self.witness.place(it.0, it.1).is_some_and(|place| place.0 == PURSE);
        labels.iter().find(is_purse).filter(|_| self.plan.purses).map(|(.., amount)| *amount)
    }

    /// A request that went out is over.
    pub(super) fn ends_served(&mut self, at: usize, request: u64, labels: &[Label], used: impl Fn(&Place) -> u64) {
        let Some(amount) = self.of_purse(labels) else { return };
        let used = used(&(PURSE.to_owned(), String::new(), 0));
        let Some(id) = self.served.records.remove(&(at, request)) else { return };
        let Served { unbilled, lost, sent, .. } = &mut self.served;
        let Some(it) = unbilled.get_mut(&id).or_else(|| lost.get_mut(&id)) else { return };
        it.held -= amount;
        it.within += used.min(amount);
        it.beyond += used.saturating_sub(amount);
        *sent -= amount - used.min(amount);
        if it.held + it.within + it.beyond == 0 {
            unbilled.remove(&id);
            lost.remove(&id);
        }
    }

    /// The incarnations of which a command brings the last word, if it is heard.
    pub(super) fn closes(&self, command: &Command) -> Vec<(u64, u64)> {
        let Command::Batch(batch) = command else { return Vec::new() };
        let frame = &batch.frames[0];
        let heard = self.truth.node(frame.node).filter(|(newest, _)| *newest == frame.incarnation);
        let Some((_, last)) = heard.filter(|_| self.plan.purses && !self.truth.is_lost(frame.node)) else {
            return Vec::new();
        };
        let waits = |incarnation| self.truth.earlier(frame.node).iter().any(|it| it.incarnation == incarnation);
        let new =
            frame.records.iter().zip(frame.first_seq..).filter(|(_, seq)| *seq > last && frame.first_seq <= last + 1);
        let done = new.filter_map(|(record, _)| match &record.kind {
            Some(Kind::Recover(it)) if it.done && waits(it.incarnation) => Some((frame.node, it.incarnation)),
            _ => None,
        });
        done.collect()
    }

    /// What an entry has billed, and whose last word it was.
    pub(super) fn note_bills(&mut self, ended: &[String], closes: &[(u64, u64)]) {
        if !self.plan.purses {
            return;
        }
        ended.iter().for_each(|id| self.served.bill(id));
        self.served.write_off(|of| closes.contains(&of));
        for (node, last) in self.served.given_up.clone() {
            let newest = self.truth.node(node).map_or(0, |(newest, _)| newest);
            if newest == last && self.truth.is_written_off(node) {
                self.served.write_off(|(of, incarnation)| of == node && incarnation <= last);
            }
            if newest > last || self.truth.is_written_off(node) {
                self.served.given_up.remove(&node);
            }
        }
    }

    /// I3 from the log's side: nothing that was served is free, but for what is lost.
    pub(super) fn no_credit_is_free_twice(&self) -> Checked {
        let Some(purse) = self.truth.purse(PURSE) else { return Ok(()) };
        let Served { sent, lost_units, paid_in, .. } = self.served;
        let most = i128::from(paid_in + lost_units) - i128::from(self.credit.taken_off);
        require(purse.free + i128::from(sent) <= most, "I3", || {
            format!("{} of credit is free, {sent} was served, of {most}, {lost_units} of it lost", purse.free)
        })
    }

    /// I4: to the unit, once every node was given up. Then everybody was billed for what he used, or it is lost, and that was said.
    pub(super) fn credit_is_true(&mut self) -> Checked {
        if !self.plan.purses {
            return Ok(());
        }
        self.everything_is_usable(SIXTH, "")?;
        for node in 1..=self.plan.nodes {
            let Some((incarnation, _)) = self.truth.node(node) else { continue };
            let write_off = tollgate_proto::state::v1::WriteOff::Release.into();
            self.append(Command::Lose(NodeLost { node, incarnation, write_off, actor: String::new() }))?;
            self.served.give_up(node, incarnation);
        }
        self.run_until(self.now + 2 * ISOLATION)?;
        self.append(Command::TakeOff(0))?;
        let (seen, kept, purse) = (&self.served, &self.credit, self.truth.purse(PURSE).unwrap_or_default());
        let rest = i128::from(seen.paid_in) - i128::from(kept.taken_off) - i128::from(seen.billed);
        let told = seen.billed == kept.billed && kept.written_off >= seen.lost_units && seen.unbilled() == 0;
        let holds = purse.free == rest && rest == i128::from(kept.rest) - i128::from(kept.owed);
        let is_out = purse.leased + purse.suspense > 0;
        require(told && holds && !is_out, "I4", || {
            format!(
                "{rest} must be left of credit: {purse:?}, {kept:?}; {} were billed, {} in flight, {} lost",
                seen.billed,
                seen.unbilled(),
                seen.lost_units
            )
        })
    }
}
