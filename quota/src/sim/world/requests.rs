//! Requests: who asks, what becomes of it, and how it ends.

use super::*;
use crate::{
    invariants::all_or_nothing,
    journal::OWN_NUMBERS,
    sim::{oracle::Fate, witness::Place},
};

/// Some holds are over before the longest requests are, and corrected then; those of permits are not.
const SHORT_HOLD: u64 = 3 * SECOND;

/// Of `LIMITS`, those of which no journal is kept when a request asks for them alone.
const UNBILLED: u8 = 0b1_0100;
/// How often one that asks for these asks for nothing else.
const UNBILLED_ALONE_PLAIN: u64 = 10;
const UNBILLED_ALONE: u64 = 35;

/// How soon after its entry a request goes out that the log holds: what is later counts from then on.
const SOON: u64 = 50 * MS;

/// Keys that are asked for now and then.
pub(super) const RARE: &str = "abcdefghijklmnopqrstuvwABCDEFGHIJKLMNOPQRSTUVW";

impl World {
    pub(super) fn arrive(&mut self) -> Checked {
        if self.now < TROUBLES && self.report.arrivals < self.plan.arrivals {
            let soon = self.now + self.dice.range(MS, 14 * MS);
            self.queue.at(soon, Event::Arrive);
        }
        let Some(process) = self.anyone() else { return Ok(()) };
        let amount = if self.dice.percent(5) { self.dice.range(50, 400) } else { self.dice.range(1, 20) };
        let key = if self.dice.percent(70) { "x" } else { "y" };
        // Some are rare, where nodes have shares of what nobody has asked for.
        let rare = self.plan.standing && self.dice.percent(20);
        let nth = if rare { self.dice.index(RARE.len()) } else { 0 };
        let key = if rare { &RARE[nth..=nth] } else { key };
        let without_turns = self.dice.percent(60);
        let picked = match without_turns {
            true => self.dice.range(1, 16) | u64::from(self.dice.percent(25)) << 4,
            false => self.dice.range(1, 8),
        };
        let limits = u8::try_from(picked).expect("there are five limits");
        let unbilled = limits & UNBILLED;
        let percent = if self.plan.is_plain() { UNBILLED_ALONE_PLAIN } else { UNBILLED_ALONE };
        let limits = if unbilled != 0 && self.growth.percent(percent) { unbilled } else { limits };
        let limits = limits | self.sixth_limit()?;
        let part = self.begins_stream(limits);
        let request = self.ask_for(process, Wanted { limits, key, amount, part })?;
        let patience = if self.plan.scarce && self.dice.percent(10) { 3 * MS } else { SECOND };
        if let Some(request) = request {
            self.queue.at(self.now + patience, Event::GiveUp { process, request });
        }
        Ok(())
    }

    /// Asks for some limits; the number of the request, unless it was refused before it was asked.
    pub(super) fn reserve(
        &mut self,
        at: usize,
        limits: &[usize],
        key: &str,
        amount: u64,
    ) -> Result<Option<u64>, Violation> {
        let rare = RARE.find(key).filter(|_| !key.is_empty()).map(|at| &RARE[at..=at]);
        let key = ["x", "y"].into_iter().find(|known| *known == key).or(rare).unwrap_or_default();
        let limits = limits.iter().fold(0, |all, limit| all | 1 << limit);
        self.ask_for(at, Wanted { limits, key, amount, part: Part::Whole })
    }

    pub(super) fn ask_for(&mut self, at: usize, wanted: Wanted) -> Result<Option<u64>, Violation> {
        let charges = self.charges(at, wanted);
        let (Some(charges), false) = (charges, self.processes[at].agent.is_fenced()) else { return Ok(None) };
        self.report.arrivals += 1;
        let now = self.clock(at);
        let is_short = wanted.amount % 10 == 7 || wanted.has(4);
        let hold_for = if self.may_fail() && is_short { SHORT_HOLD } else { 600 * SECOND };
        let durability = match wanted.limits {
            limits if limits & !UNBILLED == 0 => Durability::Memory,
            1 if !wanted.key.is_empty() && RARE.contains(wanted.key) => Durability::Memory,
            1..=3 if !self.plan.is_plain() && wanted.amount.is_multiple_of(4) => Durability::Memory,
            _ if self.dice.percent(3) => Durability::Quorum,
            8 if wanted.amount.is_multiple_of(4) => Durability::Memory,
            _ => Durability::Journal,
        };
        let process = &mut self.processes[at];
        let request_id = disk::id_of(process, process.agent.next_request());
        // What is held in parts is recorded apart.
        let whose = Attribution { request_id, ..Attribution::default() };
        let whose = Some(&whose).filter(|_| wanted.part == Part::Whole);
        let (request, granted) = process.agent.reserve_for(&charges, durability, hold_for, now, whose);
        process.waiting.insert(request, Waiting { charges: charges.len(), durability, wanted });
        if !self.draining {
            self.oracle.arrives(self.now, self.now + self.leader_skew, (at, request), &charges);
        }
        self.write_down(at);
        self.tell(|it| format!("{} asks for {} as request {request}", it.named(at), story::asked(&charges)));
        self.heeds(at, request)?;
        self.labels(at, request);
        if let Some(standings) = granted {
            require(standings.len() == charges.len(), "I5", || format!("{standings:?} for {charges:?}"))?;
            self.granted(at, request)?;
        }
        self.check(at)?;
        Ok(Some(request))
    }

    pub(super) fn charges(&self, at: usize, wanted: Wanted) -> Option<Vec<Charge>> {
        let rules = &self.processes[at].rules;
        let charge = |limit: usize| {
            let rule = rules.iter().find(|rule| *rule.limit == *self.name_of(limit))?;
            let key = rule.per.iter().map(|_| wanted.key.to_owned()).collect();
            let amount = if matches!(rule.unit, Unit::Requests | Unit::Concurrency) { 1 } else { wanted.amount };
            Some(Charge { limit: rule.limit.clone(), version: rule.version, key, amount })
        };
        (0..=SIXTH).filter(|limit| wanted.has(*limit)).map(charge).collect()
    }

    /// I8: what was applied counts at once. Nothing is drawn from an account that this node knows to be called back.
    pub(super) fn heeds(&self, at: usize, request: u64) -> Checked {
        let process = &self.processes[at];
        for (account, epoch, _) in process.agent.drawn(request) {
            require(self.may_draw(at, account, epoch), "I8", || {
                format!("request {request} of {} draws from {}", process.node, self.about(at, account, epoch))
            })?;
            let released = self.released.get(&(process.node, process.incarnation));
            require(released.is_none(), "I3", || {
                format!(
                    "request {request} of {} draws from {account} what others have since {released:?}",
                    process.node
                )
            })?;
            let alone = self.now - process.heard;
            require(alone <= ISOLATION + ISOLATION / 50, "I8", || {
                format!("request {request} of {} draws from {account} {alone} us after the last answer", process.node)
            })?;
        }
        Ok(())
    }

    /// A request was granted and goes out: it must hold its whole path, once.
    pub(super) fn dispatch(&mut self, at: usize, request: u64) -> Checked {
        let process = &self.processes[at];
        let Some(Waiting { charges, wanted, .. }) = process.waiting.get(&request).copied() else { return Ok(()) };
        let mut labels = self.labels(at, request);
        let process = &self.processes[at];
        let drawn = labels.len();
        let name = (process.node, process.incarnation, request);
        labels.extend(self.central.get(&name).into_iter().flatten());
        require(all_or_nothing(true, charges, labels.len()), "I5", || format!("{labels:?} for {charges} charges"))?;
        self.report.admissions += 1;
        self.report.local += u64::from(drawn == labels.len());
        let own = self.processes[at].agent.drawn(request).into_iter().any(|(account, ..)| account >= OWN_NUMBERS);
        self.report.by_rule += u64::from(own);
        self.report.mixed += u64::from(drawn > 0 && drawn < labels.len());
        self.tell(|it| it.sent_out(at, request, &labels, drawn));
        self.promised.remove(&name);
        // What was drawn, and what the log holds, counts from then on; and a request goes out soon after.
        let granted = self.granted_at.get(&name).map_or(self.now, |at| self.now.min(*at + SOON));
        let reserved = self.processes[at].drawn_at.remove(&request).map_or(self.now, |at| self.now.min(at + SOON));
        let times = (0..labels.len()).map(|nth| if nth < drawn { reserved } else { granted });
        self.witness.dispatch((at, request), &labels, times)?;
        self.permits(&labels)?;
        self.serve(at, request, wanted, &labels)?;
        self.goes_out_anew((at, request), &labels, (reserved, granted), drawn)?;
        self.book_dispatch(at, &labels);
        self.decide(at, request, Decision::Granted);
        let process = &mut self.processes[at];
        process.waiting.remove(&request);
        process.flights.insert(request, labels);
        if self.draining || self.by_hand {
            return Ok(()); // `drain.rs` ends it itself
        }
        let lasts = lasts(&mut self.dice);
        self.oracle.sent((at, request), lasts);
        match wanted.part {
            Part::Whole => self.queue.at(self.now + lasts, Event::End { process: at, request }),
            Part::First => self.begin_stream(at, request, wanted, lasts),
            Part::Of(stream) => self.goes_on(at, stream, request),
        }
        Ok(())
    }

    /// I3 for what is in flight: no more permits are in use at once than there are. Who is dead uses none.
    fn permits(&self, labels: &[Label]) -> Checked {
        let place_of = |&(account, epoch, _): &Label| self.witness.place(account, epoch).filter(|it| it.0 == PERMITS);
        let Some(place) = labels.iter().find_map(place_of) else { return Ok(()) };
        let open = self.in_use(place) + 1;
        let most = self.witness.figures[place].most;
        require(open <= most, "I3", || format!("{place:?}: {open} of {most} are in flight"))
    }

    pub(super) fn in_use(&self, place: &Place) -> u64 {
        let alive = self.processes.iter().filter(|it| it.alive);
        let labels = alive.flat_map(|it| it.flights.values()).flatten();
        labels.filter(|(account, epoch, _)| self.witness.place(*account, *epoch) == Some(place)).count() as u64
    }

    /// Ends a request; false when it has ended, or its process is dead.
    pub(super) fn end(&mut self, at: usize, request: u64) -> bool {
        let process = &mut self.processes[at];
        if !process.alive {
            return false;
        }
        if let Some(stream) = process.streams.remove(&request) {
            self.end_stream(at, stream);
            return true;
        }
        let Some(labels) = process.flights.remove(&request) else { return false };
        let most = labels.iter().map(|(_, _, amount)| *amount).max().unwrap_or_default();
        let (outcome, used) = used(&mut self.dice, most);
        self.oracle.ended((at, request), (outcome != Outcome::Voided).then_some(used));
        self.finish(at, request, &labels, used, outcome);
        true
    }

    pub(super) fn finish(&mut self, at: usize, request: u64, labels: &[Label], used: u64, outcome: Outcome) {
        let row = self.record(at, request, outcome);
        self.close(at, request, labels, (used, outcome), row);
    }

    /// What the usage of a request is recorded with, should it have any: it is to be counted once.
    pub(super) fn record(&mut self, at: usize, request: u64, outcome: Outcome) -> Option<Attribution> {
        let process = &self.processes[at];
        let id = disk::id_of(process, request);
        let prepaid = self.served.knows(&id);
        if outcome != Outcome::Voided {
            if !process.is_newest(&self.truth) {
                self.forgotten.insert(id.clone()); // nobody listens to it any more, and it does not know yet
            }
            self.settled.push((at, id.clone()));
        }
        Some(Attribution { request_id: id, prepaid, ..Attribution::default() })
    }

    /// Ends what holds something; without a record for what a stream holds in parts.
    pub(super) fn close(
        &mut self,
        at: usize,
        request: u64,
        labels: &[Label],
        (used, outcome): (u64, Outcome),
        attribution: Option<Attribution>,
    ) {
        let voided = outcome == Outcome::Voided;
        self.tell(|it| {
            let used = if voided { 0 } else { used };
            format!("{} ends request {request}: {used} used", it.named(at))
        });
        let used_of = |place: &Place| match &*place.0 {
            _ if voided => 0,
            PERMITS => 0,
            "c" => 1,
            _ => used,
        };
        self.witness.settle(self.now, (at, request), labels, used_of);
        self.ends_served(at, request, labels, used_of);
        self.flips.end((at, request), if voided { 0 } else { used });
        self.book_end(at, request, labels, used_of);
        let id = attribution.as_ref().filter(|_| !voided).map(|it| &*it.request_id);
        let unprotected = self.ends_apart(at, request, id, used_of);
        self.processes[at].agent.settle(Settle {
            request,
            unprotected,
            outcome: outcome.into(),
            usage: Some(Usage { input_tokens: used, ..Usage::default() }),
            attribution: attribution.map(Into::into),
            ..Settle::default()
        });
        self.write_down(at);
    }

    /// The caller leaves; false when it has its answer, or its process is dead.
    pub(super) fn give_up(&mut self, at: usize, request: u64) -> bool {
        let left = self.let_go(at, request);
        if let Some(wanted) = left {
            self.report.undecided += 1;
            self.tell(|it| format!("{}: the caller of request {request} leaves", it.named(at)));
            self.ends_undecided(at, wanted.part);
        }
        left.is_some()
    }

    /// Nobody waits any more for what a request asked for, if anyone did.
    pub(super) fn let_go(&mut self, at: usize, request: u64) -> Option<Wanted> {
        let process = &mut self.processes[at];
        if !process.alive {
            return None;
        }
        let wanted = process.waiting.remove(&request)?.wanted;
        let drawn = self.drawn(at, request);
        self.witness.let_go(self.now, &drawn);
        let process = &mut self.processes[at];
        process.agent.cancel(request);
        if let Some(row) = process.records.remove(&request) {
            process.agent.release(row);
        }
        process.outgoing.remove(&request);
        process.drawn_at.remove(&request);
        self.write_down(at);
        Some(wanted)
    }

    pub(super) fn told(&mut self, at: usize, answers: Vec<Answer>, drawn: bool) -> Checked {
        for Answer { request, outcome } in answers {
            match outcome {
                Some(said) if said.granted => {
                    if drawn {
                        self.heeds(at, request)?;
                    }
                    self.granted(at, request)?;
                }
                Some(said) => {
                    self.report.refusals += 1;
                    self.tell(|it| format!("{} refuses request {request}: {:?}", it.named(at), said.refusal()));
                    let waited = self.processes[at].waiting.remove(&request);
                    if let Some(Waiting { wanted, .. }) = waited {
                        self.ends_undecided(at, wanted.part);
                    }
                    if said.refusal() == Refusal::Exhausted {
                        self.oracle.refused((at, request));
                    }
                    self.decide(at, request, Decision::Refused(said.refusal()));
                }
                None => drop(self.processes[at].waiting.remove(&request)),
            }
        }
        Ok(())
    }

    fn decide(&mut self, at: usize, request: u64, decision: Decision) {
        if self.draining {
            self.decided.insert((at, request), decision);
        }
    }

    /// Lets the perfect counter say what it would have made of what came.
    pub(super) fn compare(&mut self) {
        let fate = |dice: &mut Dice, most| {
            let (lasts, (outcome, used)) = (lasts(dice), used(dice, most));
            Fate { lasts, used: (outcome != Outcome::Voided).then_some(used) }
        };
        // Dice of its own: nothing that happens may follow from what would have happened.
        let mut dice = Dice(!self.plan.seed);
        let Compared { our_units, oracle_units, false_refusals } = self.oracle.judge(&mut dice, fate);
        self.report.admitted_units = our_units;
        (self.report.oracle_units, self.report.false_refusals) = (oracle_units, false_refusals);
    }

    /// Any process that lives.
    pub(super) fn anyone(&mut self) -> Option<usize> {
        let alive = self.processes.iter().filter(|it| it.alive).count();
        let nth = if alive > 0 { self.dice.index(alive) } else { return None };
        (0..self.processes.len()).filter(|at| self.processes[*at].alive).nth(nth)
    }
}

/// How long a request is in flight.
fn lasts(dice: &mut Dice) -> u64 {
    if dice.percent(3) { 4 * SECOND } else { dice.range(0, 400 * MS) }
}

/// How a request ends whose greatest charge is `most`, and how many tokens it has used by then.
pub(super) fn used(dice: &mut Dice, most: u64) -> (Outcome, u64) {
    let outcome = if dice.percent(10) { Outcome::Voided } else { Outcome::Settled };
    let used = if dice.percent(3) { most + dice.range(0, 9) } else { dice.range(most / 2, most + 1) };
    (outcome, used)
}
