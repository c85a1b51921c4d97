//! The end of every run: all is well again, and nothing may be stuck, lost or forgotten (I4, I6, I7).

use super::*;

/// Longer than any delay and any request.
const QUIET: u64 = 8 * SECOND;
/// How often a little is asked for before a lot is.
const SMALL: u64 = 6;

impl World {
    pub(super) fn drain(&mut self) -> Checked {
        self.leaderless = false;
        self.remake()?;
        for at in 0..self.processes.len() {
            self.heal(at);
        }
        self.run_until(self.now + QUIET)?;
        for node in 1..=self.plan.nodes {
            if let Some(dead) = self.processes.iter().position(|it| it.node == node) {
                self.restart(dead)?;
            }
        }
        self.run_until(self.now + 2 * SECOND)?;
        self.everyone_agrees()?;
        self.draining = true;
        self.nothing_is_stuck()?;
        self.everyone_was_counted()?;
        for (limit, key) in [(0, "x"), (0, "y"), (0, &requests::RARE[..1]), (2, ""), (3, "x"), (4, "")] {
            if limit < 3 {
                self.nothing_is_forgotten(limit, key)?;
            }
            self.everything_is_usable(limit, key)?;
        }
        self.the_flipped_is_usable()?;
        self.credit_is_true()
    }

    /// Every replica is the same to the bit, whether it came by entries or by snapshots.
    fn everyone_agrees(&self) -> Checked {
        let truth: Vec<_> = self.truth.image().into_rows().collect();
        let kept = self.store.iter().map(|(key, value)| (key.clone(), value.clone()));
        require(kept.eq(truth.iter().cloned()), "same", || "the rows that changed are not those there are".into())?;
        for process in self.processes.iter().filter(|it| it.alive && it.applied == self.log.len()) {
            let same = process.replica.image().into_rows().eq(truth.iter().cloned());
            let same = same && process.credit == self.credit;
            require(same, "same", || format!("the replica of node {} is not the log's ledger", process.node))?;
        }
        Ok(())
    }

    fn nothing_is_stuck(&self) -> Checked {
        for process in self.processes.iter().filter(|it| it.alive) {
            let held = self.truth.open_requests(process.node);
            require(held.is_empty(), "I7", || format!("{held:?} of {} are held for nobody", process.node))?;
        }
        Ok(())
    }

    fn everyone_was_counted(&self) -> Checked {
        for (at, id) in self.settled.iter().filter(|(_, id)| !self.forgotten.contains(id)) {
            let times = self.witness.terminals.of(id);
            require(times == 1, "I6", || format!("{id} of process {at} was counted {times} times"))?;
        }
        Ok(())
    }

    /// The account of a limit in the window that is open, should it have been touched.
    fn account(&self, limit: usize, key: &str) -> Option<u32> {
        let key: Vec<String> = if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
        let view = self.truth.lease_of(0, 0, self.name_of(limit), &key)?;
        (view.window_end.0 > self.now).then_some(view.account)
    }

    /// I4: the books say what was taken, of processes that died too.
    fn nothing_is_forgotten(&self, limit: usize, key: &str) -> Checked {
        let Some(account) = self.account(limit, key) else { return Ok(()) };
        let (epoch, place, _) = self.place(account).expect("it was just found");
        let known = self.witness.place(self.common(account, epoch), epoch);
        require(known == Some(&place), "I4", || format!("{place:?} was seen as {known:?}"))?;
        self.books_are_true(account, &place)
    }

    /// I7: what is left is granted, a half of it and then the rest or all at once, to any node and each at once; then nothing.
    pub(super) fn everything_is_usable(&mut self, limit: usize, key: &str) -> Checked {
        self.hand_out(limit, key)?;
        // All at once has to be called together from those who have some in hand.
        let parts: &[u64] = if self.dice.percent(50) { &[1] } else { &[2, 1] };
        for part in parts {
            let left = self.left(limit, key);
            let amount = if limit == 2 || limit == 4 { left.min(1) } else { left / part };
            if amount > 0 {
                let decision = self.ask(limit, key, amount)?;
                require(decision == Some(Decision::Granted), "I7", || {
                    format!("{amount} of {left} that are left of {}/{key}: {decision:?}", self.name_of(limit))
                })?;
                self.report.drained += 1;
            }
        }
        // What a second ago was used of a sliding limit may be there again.
        if limit < 2 || self.name_of(limit) == PURSE {
            let decision = self.ask(limit, key, 1)?;
            require(decision.is_some_and(|it| it != Decision::Granted), "I7", || {
                format!("nothing is left of {}/{key}, and the answer is {decision:?}", self.name_of(limit))
            })?;
        }
        Ok(())
    }

    /// Has some nodes ask for a little, so that leases are in their hands.
    fn hand_out(&mut self, limit: usize, key: &str) -> Checked {
        for _ in 0..SMALL {
            let left = self.left(limit, key);
            if limit != 2 && left > SMALL {
                let decision = self.ask(limit, key, 1)?;
                require(decision == Some(Decision::Granted), "I7", || {
                    format!("1 of {left} that are left of {}/{key}: {decision:?}", self.name_of(limit))
                })?;
            }
        }
        Ok(())
    }

    fn left(&self, limit: usize, key: &str) -> u64 {
        let rules = self.truth.rules();
        let capacity = rules.iter().find(|rule| *rule.limit == *self.name_of(limit)).map_or(0, |rule| rule.capacity);
        let Some(account) = self.account(limit, key) else {
            let key: Vec<String> = if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
            let stands = self.truth.peek(Timestamp(self.now), self.name_of(limit), &key);
            return stands.map_or(capacity, |standing| standing.remaining);
        };
        let ([_, _, leased, _, _], available) = self.truth.figures(account);
        // What is used of a sliding limit is still with its node.
        let slides = limit == SIXTH && self.flips.slides() || self.name_of(limit) == SLIDING;
        let ages = if slides { self.truth.used_by_nodes(account) } else { 0 };
        u64::try_from(available + i128::from(leased) - i128::from(ages)).unwrap_or(0)
    }

    /// One request all alone, to any node; used to the unit when it is granted.
    fn ask(&mut self, limit: usize, key: &str, amount: u64) -> Result<Option<Decision>, Violation> {
        let Some(at) = self.anyone() else { return Ok(None) };
        let Some(request) = self.reserve(at, &[limit], key, amount)? else { return Ok(None) };
        let until = self.now + PATIENCE;
        while self.now < until && !self.decided.contains_key(&(at, request)) {
            self.run_until(self.now + 5 * MS)?;
        }
        let decision = self.decided.get(&(at, request)).copied();
        if let Some(labels) = self.processes[at].flights.remove(&request) {
            self.finish(at, request, &labels, amount, Outcome::Settled);
        }
        self.run_until(self.now + 300 * MS)?;
        Ok(decision)
    }
}
