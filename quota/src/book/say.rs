//! What the book has to say of its leases, and when: what became of them, what is given back, and what more is asked for.

use tollgate_proto::state::v1::{Knows, Report, Want};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::Bug;
use super::{Book, cell::Counts};

/// Between two asks for one lease: a grant takes a commit to arrive.
const ASK_EVERY_US: u64 = 50_000;

impl Book {
    /// Whether there is something to say that should not wait.
    pub(crate) fn is_due(&self) -> bool {
        self.due || self.urgent || !self.short.is_empty()
    }

    /// Whether somebody waits for what there is to say, here or elsewhere.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether there is something to say that may wait a little.
    pub(crate) fn is_behind(&self) -> bool {
        !self.dirty.is_empty() || !self.unsaid.is_empty()
    }

    /// What has happened to leases since they were last reported, at most `max` of them; gives back what is to be given.
    pub(crate) fn reports(&mut self, max: usize) -> Vec<Report> {
        let keep = self.dirty.len().saturating_sub(max);
        let dirty = self.dirty.split_off(keep);
        self.due &= keep > 0;
        self.urgent &= keep > 0;
        dirty.into_iter().filter_map(|at| self.report(at)).collect()
    }

    /// Lets time pass, by a monotonic clock of this process: what has aged may be drawn again, or given back.
    pub(crate) fn elapse(&mut self, age: u64) {
        self.age = self.age.max(age);
        while let Some((due, at)) = self.wakes.first().copied().filter(|(due, _)| *due <= self.age) {
            self.wakes.remove(&(due, at));
            if let Some(cell) = self.cells[at as usize].as_mut() {
                cell.wake_at = None;
                self.touch(at);
                (self.due, self.urgent) = (true, true);
            }
        }
    }

    /// The age at which there will be something to say that nothing else tells.
    pub(crate) fn next_news(&self) -> Option<u64> {
        self.wakes.first().map(|(due, _)| *due)
    }

    pub(super) fn wake_later(&mut self, at: u32) {
        let (age, closed) = (self.age, self.closed);
        let Some(cell) = self.cells[at as usize].as_mut() else { return };
        let wake_at = cell.next_news(age, closed);
        if let Some(was) = std::mem::replace(&mut cell.wake_at, wake_at) {
            self.wakes.remove(&(was, at));
        }
        self.wakes.extend(wake_at.map(|due| (due, at)));
    }

    fn report(&mut self, at: u32) -> Option<Report> {
        let report = self.say(at);
        self.wake_later(at);
        report
    }

    pub(super) fn say(&mut self, at: u32) -> Option<Report> {
        let (closed, age) = (self.closed, self.age);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let bug = self.bug;
        let cell = self.cells[at as usize].as_mut()?;
        cell.is_dirty = false;
        let lease = cell.lease?;
        let kept = cell.demand.target().saturating_mul(2).max(lease.by_rule);
        let surplus = cell.balance(age).saturating_add(cell.idle).saturating_sub(kept);
        let surplus = surplus.min(cell.balance(age));
        let all = closed || cell.is_called_back() || cell.is_idle(age);
        let back = if all { cell.balance(age) } else { surplus };
        #[cfg(any(test, feature = "seeded-bugs"))]
        let back = match bug {
            Some(Bug::ReturnsWhatIsHeld) if back > 0 => back + cell.held,
            Some(Bug::ReturnsWhatIsUsed) if all => back + cell.let_go_of_used(age),
            Some(Bug::ReturnsOnce) if cell.said == lease.generation => 0,
            _ => back,
        };
        cell.returned += back;
        cell.said = lease.generation;
        let Counts { held, spent } = cell.counts(age);
        let report = Report {
            account: lease.account,
            epoch: lease.epoch,
            generation: lease.generation,
            spent,
            returned: cell.returned,
            overrun: cell.overrun,
            // Whoever was granted nothing yet holds nothing for anybody to see.
            held: held.saturating_sub(cell.idle).saturating_sub(cell.undecided),
        };
        #[cfg(any(test, feature = "seeded-bugs"))]
        if bug == Some(Bug::ReturnsAndKeeps) {
            cell.returned -= back;
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        let report = if bug == Some(Bug::ReportsDeltas) { cell.since_last(report) } else { report };
        Some(report)
    }

    /// Limits that are to count in another way, of which everything is said that was ever drawn: to be called after reports and
    /// touches, and to be said after them.
    pub(crate) fn knows(&mut self) -> Vec<Knows> {
        let (cells, dirty, unsaid) = (&self.cells, &self.dirty, &self.unsaid);
        let is_said = |limit: &str| {
            let mut cells = dirty.iter().chain(unsaid).filter_map(|at| cells[*at as usize].as_ref());
            cells.all(|cell| *cell.limit != *limit)
        };
        let said = self.asked.extract_if(.., |(limit, _)| is_said(limit));
        said.map(|(limit, version)| Knows { limit, version }).collect()
    }

    /// What to ask for, at most `max` leases.
    pub(crate) fn wants(&mut self, now: u64, max: usize) -> Vec<Want> {
        let short = self.short.split_off(self.short.len().saturating_sub(max));
        short.into_iter().filter_map(|at| self.want(at, now)).collect()
    }

    fn want(&mut self, at: u32, now: u64) -> Option<Want> {
        let cell = self.cells[at as usize].as_mut()?;
        cell.is_short = false;
        if self.closed || cell.is_called_back() {
            return None;
        }
        cell.ask_after = now.saturating_add(ASK_EVERY_US);
        Some(Want {
            limit: cell.limit.to_string(),
            key: cell.key.clone(),
            limit_version: cell.demand.version,
            target: cell.demand.target(),
            need: cell.demand.largest,
        })
    }
}
