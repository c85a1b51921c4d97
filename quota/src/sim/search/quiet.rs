//! The end of a story: all that is sent arrives, everyone catches up, and nothing may be stuck (I4, I6, I7).

use super::state::{Checked, GREATEST, State};
use crate::invariants::{Violation, require, truthful};
use tollgate_model::Timestamp;

/// Longer than anything takes that is not stuck.
const ROUNDS: usize = 64;
/// Between two rounds: waits for others to give back end within some of them.
const ROUND_US: u64 = 60_000;

impl State {
    pub(super) fn come_to_an_end(mut self) -> Checked {
        let crashed = self.processes.iter().any(|it| it.cut);
        self.processes.iter_mut().for_each(|it| it.cut = false);
        self.settle_down()?;
        for process in 0..self.processes.len() {
            if self.processes[process].alive {
                let held = self.truth().held_requests(self.node_of(process));
                require(held.is_empty(), "I7", || format!("{held:?} of process {process} are held for nobody"))?;
            }
        }
        self.everyone_was_counted()?;
        self.the_books_are_true(crashed)?;
        self.what_is_left_is_admitted()
    }

    /// Everything that waits for something gets it.
    fn settle_down(&mut self) -> Checked {
        for _ in 0..ROUNDS {
            let mut quiet = self.under_way.is_empty();
            for frame in std::mem::take(&mut self.under_way) {
                self.deliver(&frame, true)?;
            }
            for process in 0..self.processes.len() {
                if self.processes[process].alive {
                    quiet &= !self.advance(process)?;
                }
            }
            if quiet {
                return Ok(());
            }
            self.now += ROUND_US;
        }
        require(false, "I7", || "there is no end to it".to_owned())
    }

    /// What one process can do by itself; whether that was anything.
    fn advance(&mut self, process: usize) -> Result<bool, Violation> {
        let mut any = self.is_behind(process);
        self.catch_up(process, false);
        if !self.processes[process].alive {
            return Ok(any);
        }
        let flights = self.processes[process].flights.clone();
        for (request, labels) in &flights {
            self.end(process, *request, labels.iter().map(|(.., amount)| *amount).sum());
        }
        any |= !flights.is_empty() || self.processes[process].agent.is_waiting();
        self.retry(process)?;
        if self.can_send(process) {
            self.send(process);
            any = true;
        }
        Ok(any)
    }

    /// I4: what was used is in the books, to the unit; with more besides where a process died before it could say.
    fn the_books_are_true(&self, crashed: bool) -> Checked {
        let Some((_, (_, _, start), _)) = self.truth().place(0) else { return Ok(()) };
        let ([used, held, _, suspense, overrun], _) = self.truth().figures(0);
        let (seen, told) = (self.seen.in_window(start), used + held + suspense);
        let really = u128::from(seen.held) + u128::from(seen.used);
        let holds = if crashed { really <= u128::from(told) } else { truthful(really, told, 0) };
        let beyond = u128::from(seen.beyond);
        let beyond = if crashed { u128::from(overrun) <= beyond } else { truthful(beyond, 0, overrun) };
        require(holds && beyond, "I4", || format!("{told} and {overrun} beyond in the books, seen was {seen:?}"))
    }

    fn left(&self) -> u64 {
        let capacity = self.truth().rules().first().map_or(0, |rule| rule.capacity);
        let open = self.truth().lease_of(0, 0, "a", &["x".to_owned()]).filter(|it| it.window_end.0 > self.now);
        let Some(view) = open else {
            let stands = self.truth().peek(Timestamp(self.now), "a", &["x".to_owned()]);
            return stands.map_or(capacity, |standing| standing.remaining);
        };
        let ([_, _, leased, _, _], available) = self.truth().figures(view.account);
        u64::try_from(available + i128::from(leased)).unwrap_or_default()
    }

    /// I7: all that is left is admitted, a request at each node in turn; then nothing.
    fn what_is_left_is_admitted(mut self) -> Checked {
        let alive: Vec<usize> = (0..self.processes.len()).filter(|at| self.processes[*at].alive).collect();
        for process in alive.iter().copied().cycle().take(ROUNDS) {
            let left = self.left();
            let granted = self.is_granted(process, left.clamp(1, GREATEST))?;
            require(granted == (left > 0), "I7", || {
                format!("{left} are left, and process {process} is told {granted}")
            })?;
            if left == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_granted(&mut self, process: usize, amount: u64) -> Result<bool, Violation> {
        let before = self.seen_in_all();
        self.reserve(process, amount)?;
        self.settle_down()?;
        Ok(self.seen_in_all() > before)
    }

    fn seen_in_all(&self) -> usize {
        self.processes.iter().map(|it| it.ended_requests()).sum()
    }
}
