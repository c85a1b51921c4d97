//! The lives of requests: what they draw, what they ask the log for, and how they end.

use tollgate_proto::state::v1::Attribution;

use super::{lingering::Refused, *};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting until others have given back, or their requests have ended.
    Parked,
    /// Waiting to be put into a frame.
    Queued,
    /// In a frame that is not confirmed.
    Sent,
    /// As `Sent`, but nobody waits any more: void it should it be granted.
    Abandoned,
    /// Granted and not ended.
    Open,
}

#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Request {
    pub(super) phase: Phase,
    /// What it has drawn from leases.
    pub(super) parts: Parts,
    /// The whole path, while the log has to decide on some of it.
    pub(super) path: Option<Box<Path>>,
    /// The log holds something for it, or may.
    pub(super) in_log: bool,
    /// And knows whose it is.
    pub(super) attributed: bool,
    pub(super) durability: Durability,
    /// It was sent out, and this is what the journal says of it.
    pub(super) journaled: Option<Box<JournalAdmit>>,
    /// It was told to wait until others have given back.
    pub(super) was_parked: bool,
    /// When it came, by this node's own clock.
    pub(super) since: u64,
    /// The log has said no, but it asks once more.
    pub(super) refused: Option<Box<Refused>>,
}

impl Request {
    pub(super) fn queued(durability: Durability, since: u64) -> Self {
        Self {
            phase: Phase::Queued,
            parts: Parts::new(),
            path: None,
            in_log: false,
            attributed: false,
            durability,
            journaled: None,
            was_parked: false,
            since,
            refused: None,
        }
    }
}

impl Agent {
    /// Queues a hold; its number is in the answer to come. `hold.request` is set here.
    pub fn hold(&mut self, mut hold: Hold) -> u64 {
        hold.request = self.number();
        let request = hold.request;
        self.requests.insert(request, Request::queued(Durability::Quorum, self.contact.now()));
        self.queued += 1;
        self.holds.push_back(hold);
        request
    }

    /// Draws every charge from leases, or asks the log for those that they can't cover. With the standings of the accounts
    /// when the request is granted at once, at `now`.
    pub fn reserve(
        &mut self,
        charges: &[Charge],
        durability: Durability,
        hold_for_us: u64,
        now: Timestamp,
    ) -> (u64, Option<Vec<Standing>>) {
        self.reserve_for(charges, durability, hold_for_us, now, None)
    }

    /// The same for somebody: what the log holds for it says whose it is, if the journal is to have it too.
    pub fn reserve_for(
        &mut self,
        charges: &[Charge],
        durability: Durability,
        hold_for_us: u64,
        now: Timestamp,
        whose: Option<&Attribution>,
    ) -> (u64, Option<Vec<Standing>>) {
        let (request, granted) = self.reserve_now(charges, durability, hold_for_us, now, whose);
        let parts = self.requests.get(&request).into_iter().flat_map(|known| &known.parts);
        (request, granted.then(|| parts.map(|part| self.book.standing(part, now.0)).collect()))
    }

    /// The same, and only whether it is granted at once: how the accounts stand, [`Agent::figures`] says.
    pub(crate) fn reserve_now(
        &mut self,
        charges: &[Charge],
        durability: Durability,
        hold_for_us: u64,
        now: Timestamp,
        whose: Option<&Attribution>,
    ) -> (u64, bool) {
        let request = self.number();
        let mut known = Request::queued(durability, self.contact.now());
        let (parts, drawn) = self.draw_what_is_covered(charges, durability, now);
        known.parts = parts;
        if known.parts.len() == charges.len() {
            self.book.go_out(&mut known.parts);
            known.phase = Phase::Open;
            self.requests.insert(request, known);
            return (request, true);
        }
        let charges = charges.iter().map(to_wire).collect();
        let journaled = durability != Durability::Memory;
        let attribution = whose.filter(|_| journaled).map(|whose| whose.clone().into());
        let hold = Hold { request, charges, hold_for_us, journaled, attribution, ..Hold::default() };
        self.ask(request, known, Path { hold, drawn });
        (request, false)
    }

    /// How the accounts stand that an open request has drawn on, in the order of its path.
    pub(crate) fn figures(&self, request: u64, now: Timestamp) -> impl Iterator<Item = Figures> {
        let parts = self.requests.get(&request).into_iter().flat_map(|known| &known.parts);
        parts.map(move |part| self.book.figures(part, now.0))
    }

    /// Which parts of an open request, in the order of its path, are of accounts without a number, and of which windows: what others
    /// have used of those is not in the book.
    pub(crate) fn unnumbered(&self, request: u64) -> SmallVec<[(usize, u64); 4]> {
        let parts = self.requests.get(&request).into_iter().flat_map(|known| &known.parts).enumerate();
        parts.filter(|(_, part)| !self.book.has_number(part)).map(|(at, part)| (at, part.epoch)).collect()
    }

    /// The number that the next request has.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn next_request(&self) -> u64 {
        self.next_request
    }

    /// What leases cover of a path, and which of its charges that is: nothing of one that the log would call malformed.
    pub(super) fn draw_what_is_covered(
        &mut self,
        charges: &[Charge],
        durability: Durability,
        now: Timestamp,
    ) -> (Parts, u64) {
        let asks = charges.iter().map(|charge| Ask {
            limit: &charge.limit,
            version: charge.version.0,
            key: &charge.key,
            amount: charge.amount,
        });
        let spending = self.spending(durability);
        let drawn = draw(&mut self.book, asks, spending, now.0);
        self.write_drawn();
        drawn
    }

    /// What the journal has to know before anything of what was just drawn goes out.
    pub(super) fn write_drawn(&mut self) {
        self.outbox.touch(self.book.take_touched());
        self.book.write_ceilings(|ceiling| self.outbox.ceiling(ceiling));
    }

    pub(super) fn spending(&self, durability: Durability) -> Spending {
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.book.bug == Some(Bug::IgnoresIsolation) {
            return Spending::Journaled;
        }
        match durability {
            _ if self.contact.is_isolated() => Spending::Nothing,
            Durability::Quorum => Spending::Nothing,
            Durability::Journal => Spending::Journaled,
            Durability::Memory => Spending::BelowCeiling,
        }
    }

    /// Leaves to the log what was not drawn.
    fn ask(&mut self, request: u64, mut known: Request, path: Path) {
        #[cfg(any(test, feature = "seeded-bugs"))]
        let path = if self.book.bug == Some(Bug::HoldsTheWholePath) { Path { drawn: 0, ..path } } else { path };
        self.holds.push_back(path.rest());
        self.queued += 1;
        (known.phase, known.path) = (Phase::Queued, Some(Box::new(path)));
        self.requests.insert(request, known);
    }

    /// Begins anew with the requests that wait; those that can be granted from leases by now are. Who has waited is asked for
    /// before who has come meanwhile.
    pub fn retry(&mut self, now: Timestamp) -> Vec<Answer> {
        let waiting = std::mem::take(&mut self.parked).into_iter().chain(std::mem::take(&mut self.lingering));
        let newcomers = self.holds.len();
        let answers = waiting.filter_map(|request| self.try_again(request, now.0)).collect();
        self.holds.rotate_left(newcomers);
        answers
    }

    fn try_again(&mut self, request: u64, now: u64) -> Option<Answer> {
        self.requests.get(&request).filter(|known| known.phase == Phase::Parked)?;
        let mut known = self.requests.remove(&request)?;
        let mut path = known.path.take()?;
        let spending = self.spending(known.durability);
        (known.parts, path.drawn) = draw(&mut self.book, path.hold.charges.iter().map(asked), spending, now);
        self.write_drawn();
        if known.parts.len() < path.hold.charges.len() {
            self.ask(request, known, *path);
            return None;
        }
        self.book.go_out(&mut known.parts);
        let standings = known.parts.iter().map(|part| self.book.standing(part, now)).collect();
        (known.phase, known.in_log, known.refused) = (Phase::Open, false, None);
        self.requests.insert(request, known);
        self.granted_parked += 1;
        let outcome = HoldOutcome { request, granted: true, standings, ..HoldOutcome::default() };
        Some(Answer { request, outcome: Some(outcome) })
    }

    /// Opens a request that holds nothing, so that its settlement has a place.
    pub fn admit(&mut self) -> u64 {
        self.unheld += 1;
        self.number()
    }

    pub(super) fn number(&mut self) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        request
    }

    /// Ends an open request. One that was not granted, or has ended, is left alone.
    pub fn settle(&mut self, mut settle: Settle) {
        if self.fenced {
            return;
        }
        let known = self.requests.remove(&settle.request);
        if known.is_none() && settle.unheld {
            self.unheld = self.unheld.saturating_sub(1);
            return self.settles.push_back(settle);
        }
        let Some(ended) = known.filter(|it| it.phase == Phase::Open) else {
            debug_assert!(false, "only a granted request is settled, and once");
            return;
        };
        let (request, usage, outcome) = (settle.request, settle.usage.unwrap_or_default(), settle.outcome());
        let consumed = self.end_parts(&ended.parts, &usage, outcome);
        settle.unheld = !ended.in_log;
        self.ended_in_log |= ended.in_log;
        // Of a void that it holds nothing for, and that nobody was asked to do, the log has never heard.
        let is_known = ended.in_log || outcome != Outcome::Voided || settle.attribution.is_some();
        let mut said = is_known.then_some(settle);
        if ended.journaled.is_some() {
            self.outbox.end(request, consumed, said.as_mut());
        }
        self.settles.extend(said);
    }

    fn end_parts(&mut self, parts: &Parts, usage: &Usage, outcome: Outcome) -> Vec<Consumed> {
        parts.iter().filter_map(|part| self.book.finish(*part, usage, outcome)).collect()
    }

    pub(super) fn give_back(&mut self, parts: &Parts) {
        self.end_parts(parts, &Usage::default(), Outcome::Voided);
    }

    /// Forgets a request without charges: it used nothing.
    pub fn release(&mut self, request: u64) {
        if self.requests.contains_key(&request) {
            return self.void(request);
        }
        self.unheld = self.unheld.saturating_sub(1);
    }

    /// The caller is gone, or never sent the request anywhere: whatever it holds, or will be granted, is given back.
    pub fn cancel(&mut self, request: u64) {
        let Some(known) = self.requests.get_mut(&request) else { return };
        match known.phase {
            Phase::Open => return self.void(request),
            Phase::Abandoned => return,
            Phase::Sent => {
                known.phase = Phase::Abandoned;
                let parts = std::mem::take(&mut known.parts);
                return self.give_back(&parts);
            }
            Phase::Queued => self.queued -= 1,
            Phase::Parked => {
                self.parked.retain(|parked| *parked != request);
                self.lingering.retain(|lingering| *lingering != request);
            }
        }
        if let Some(gone) = self.requests.remove(&request) {
            self.give_back(&gone.parts);
        }
        self.compact();
    }

    /// Lets go of holds that nobody wants any more, once they are most of the queue.
    fn compact(&mut self) {
        if self.holds.len() > 64 + 2 * self.queued {
            let requests = &self.requests;
            self.holds.retain(|hold| requests.get(&hold.request).is_some_and(|it| it.phase == Phase::Queued));
        }
    }

    pub(super) fn void(&mut self, request: u64) {
        self.settle(Settle { request, outcome: Outcome::Voided.into(), ..Settle::default() });
    }
}
