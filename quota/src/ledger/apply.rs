//! Frames: records once each, and an answer for every hold in them.

use std::borrow::Cow;

use smallvec::SmallVec;
use tollgate_model::LogIndex;
use tollgate_proto::state::v1::{
    Charge, Frame, FrameOutcome, Hold, HoldOutcome, Outcome, Refusal, Standing, Usage, record::Kind,
};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{
    Ledger, MAX_CHARGES, MAX_KEY_BYTES, Told, Used,
    accounts::Account,
    holds::{Counted, Held, HoldState},
    rules::RuleState,
};
use crate::{
    Rule,
    slide::{Span, by_the_log},
};

/// When permits come back nobody knows: it is worth asking again after this.
const PERMIT_RETRY_US: u64 = 1_000_000;
/// No request lasts longer, whatever a frame says.
pub(super) const MAX_HOLD_US: u64 = 24 * 3_600 * 1_000_000;

/// One charge of a hold, looked up: good until the ledger changes.
struct Step<'a> {
    rule: u32,
    key: Cow<'a, str>,
    amount: u64,
    /// Without a record the account is untouched in its window.
    account: Option<u32>,
}

type Path<'a> = SmallVec<[Step<'a>; 4]>;

/// Why a hold was not granted, and by which of its charges.
pub(super) struct Refused {
    by: usize,
    why: Refusal,
    stale_until: u64,
}

impl Refused {
    fn new(by: usize, why: Refusal) -> Self {
        Self { by, why, stale_until: 0 }
    }
}

impl Ledger {
    pub(super) fn apply_frame<'a>(
        &mut self,
        at: LogIndex,
        now: u64,
        frame: &'a Frame,
        used: &mut Vec<Used<'a>>,
    ) -> FrameOutcome {
        let mut outcome = FrameOutcome { node: frame.node, incarnation: frame.incarnation, ..FrameOutcome::default() };
        let Some(state) = self.nodes.get(frame.node).filter(|state| state.incarnation >= frame.incarnation) else {
            outcome.unopened = true;
            return outcome;
        };
        outcome.fenced = !state.is_open(frame.incarnation);
        outcome.last_seq = state.last_seq;
        #[cfg(any(test, feature = "seeded-bugs"))]
        self.hold_for_the_fenced(at, now, frame, outcome.fenced);
        if outcome.fenced || frame.first_seq == 0 || frame.first_seq > outcome.last_seq.saturating_add(1) {
            return outcome;
        }
        for (record, seq) in frame.records.iter().zip(frame.first_seq..) {
            let known = seq <= outcome.last_seq;
            outcome.last_seq = outcome.last_seq.max(seq);
            match &record.kind {
                Some(Kind::Hold(hold)) if known => outcome.holds.push(self.repeat(at, now, frame.node, hold)),
                Some(Kind::Hold(hold)) => outcome.holds.push(self.hold(at, now, frame.node, hold)),
                #[cfg(any(test, feature = "seeded-bugs"))]
                Some(Kind::Settle(settle)) if self.bug == Some(Bug::RepeatsCount) && settle.unheld => {
                    used.extend(used_by((frame.node, frame.incarnation), settle, Counted::default()));
                }
                Some(Kind::Settle(settle)) if !known => {
                    if let Some(state) = self.nodes.get_mut(frame.node) {
                        state.last_terminal = state.last_terminal.max(settle.terminal);
                    }
                    if let Some(counted) = self.settle(now, frame.node, settle) {
                        used.extend(used_by((frame.node, frame.incarnation), settle, counted));
                    }
                }
                #[cfg(any(test, feature = "seeded-bugs"))]
                Some(Kind::Report(report)) if self.bug == Some(Bug::AddsDeltas) => {
                    self.report(frame.node, frame.incarnation, report);
                }
                Some(Kind::Report(report)) if !known => self.report(frame.node, frame.incarnation, report),
                Some(Kind::Touch(touch)) if !known => self.touch(now, frame.node, frame.incarnation, touch),
                Some(Kind::Knows(knows)) if !known => self.hear(frame.node, frame.incarnation, knows),
                Some(Kind::Want(want)) if !known => self.want(at, now, frame.node, frame.incarnation, want),
                Some(Kind::Present(said)) if !known => self.count_present(now, frame.node, frame.incarnation, said),
                Some(Kind::Recover(recover)) if !known => self.recover(now, frame.node, recover, used),
                Some(
                    Kind::Settle(_)
                    | Kind::Report(_)
                    | Kind::Touch(_)
                    | Kind::Want(_)
                    | Kind::Knows(_)
                    | Kind::Present(_)
                    | Kind::Recover(_),
                )
                | None => {}
            }
        }
        if let Some(state) = self.nodes.get_mut(frame.node) {
            state.last_seq = outcome.last_seq;
            if self.bounds.standing.is_some() {
                state.heard = now;
            }
            self.dirty.nodes.push(frame.node);
        }
        outcome
    }

    /// Holds every charge or none.
    pub(super) fn hold(&mut self, at: LogIndex, now: u64, node: u64, hold: &Hold) -> HoldOutcome {
        let path = match self.path_of(at, now, node, hold) {
            Ok(path) => path,
            Err(refused) => return self.refuse(now, hold, &[], &refused),
        };
        if let Err(refused) = self.admissible(now, node, &path) {
            if refused.why == Refusal::Recalling {
                self.recall_for(now, hold);
            }
            return self.refuse(now, hold, &path, &refused);
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        let path = if self.bug == Some(Bug::HoldsWhatFits) { self.what_fits(path) } else { path };
        let mut path = path;
        let charges: SmallVec<[Held; 4]> = path.iter_mut().map(|step| self.take(step)).collect();
        charges.iter().for_each(|held| self.reconsider(held.account));
        let deadline_us = now.saturating_add(hold.hold_for_us.min(MAX_HOLD_US));
        let at = self.age();
        let state = HoldState {
            node,
            request: hold.request,
            deadline_us,
            at,
            expired: false,
            journaled: hold.journaled,
            attribution: hold.attribution.clone(),
            orphaned_in: 0,
            closed: false,
            charges,
        };
        let id = self.holds.insert(state);
        self.dirty.holds.push(id);
        if let Some(node) = self.nodes.get_mut(node) {
            node.holds += 1;
        }
        self.meta.granted += 1;
        self.grant(now, hold, &path)
    }

    fn take(&mut self, step: &mut Step<'_>) -> Held {
        let id = self.obtain_account(step.rule, &step.key);
        step.account = Some(id);
        self.note_ask(id, step.amount);
        let age = self.age();
        let account = self.accounts.slab.get_mut(id).expect("it was just obtained");
        account.held += step.amount;
        account.take(step.amount);
        let rule = self.rules.get(step.rule);
        if let Some(span) = rule.rule.span() {
            account.rare_mut().slide.hold(span, age, step.amount);
        }
        let held = Held { account: id, epoch: account.epoch, amount: step.amount };
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug.is_some() {
            return held;
        }
        debug_assert!(account.available(rule, age) >= 0, "{account:?} holds more than {}", rule.rule.capacity);
        held
    }

    /// The answer to a hold that was applied before: from what is held now.
    fn repeat(&mut self, at: LogIndex, now: u64, node: u64, hold: &Hold) -> HoldOutcome {
        for charge in &hold.charges {
            if let Some(rule) = self.rules.live(&charge.limit) {
                self.roll(now, rule);
            }
        }
        match self.holds.find(node, hold.request).and_then(|id| self.holds.slab.get(id)) {
            Some(state) if !state.expired => {
                let standings = hold.charges.iter().take(MAX_CHARGES);
                let standings = standings.map(|charge| self.standing_again(now, charge)).collect();
                return HoldOutcome { request: hold.request, granted: true, standings, ..HoldOutcome::default() };
            }
            Some(_) => return self.denied(now, hold, &[], &Refused::new(0, Refusal::Expired)),
            None => {}
        }
        let again = Refused::new(0, Refusal::Again);
        match self.path_of(at, now, node, hold) {
            Ok(path) => {
                let refused = self.admissible(now, node, &path).err().unwrap_or(again);
                self.denied(now, hold, &path, &refused)
            }
            Err(refused) => self.denied(now, hold, &[], &refused),
        }
    }

    /// Looks the charges up.
    fn path_of<'a>(&mut self, at: LogIndex, now: u64, node: u64, hold: &'a Hold) -> Result<Path<'a>, Refused> {
        if hold.charges.len() > MAX_CHARGES || self.holds.find(node, hold.request).is_some() {
            return Err(Refused::new(0, Refusal::Invalid));
        }
        self.look_up(at, now, hold)
    }

    /// The gravest reason against what was looked up, if there is one.
    fn admissible(&self, now: u64, node: u64, path: &[Step<'_>]) -> Result<(), Refused> {
        if let Some(by) = path.iter().position(|step| self.is_never_enough(step)) {
            return Err(Refused::new(by, Refusal::ExceedsLimit));
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::HoldsWhatFits) {
            return Ok(());
        }
        let blocked: SmallVec<[usize; 4]> = (0..path.len()).filter(|by| self.is_short(&path[*by])).collect();
        let spent = blocked.iter().copied().filter(|by| !self.may_come_back(now, &path[*by]));
        if let Some(by) = spent.max_by_key(|by| (self.wait_for(now, &path[*by]), usize::MAX - by)) {
            return Err(Refused::new(by, Refusal::Exhausted));
        }
        if let Some(by) = blocked.first() {
            return Err(Refused::new(*by, Refusal::Recalling));
        }
        if self.nodes.get(node).is_none_or(|state| state.holds >= self.bounds.holds) {
            return Err(Refused::new(0, Refusal::Overloaded));
        }
        Ok(())
    }

    /// However much is given back. What is in a purse says nothing of what will be.
    fn is_never_enough(&self, step: &Step<'_>) -> bool {
        let rule = &self.rules.get(step.rule).rule;
        step.amount > rule.capacity && !rule.is_purse()
    }

    fn look_up<'a>(&mut self, at: LogIndex, now: u64, hold: &'a Hold) -> Result<Path<'a>, Refused> {
        let mut path = Path::new();
        for (by, charge) in hold.charges.iter().enumerate() {
            let rule = self.rule_of(at, by, &charge.limit, charge.limit_version)?;
            self.roll(now, rule);
            let Rule { per, shadow, .. } = &self.rules.get(rule).rule;
            let Some(key) = join(&charge.key).filter(|_| charge.key.len() == per.len() && !shadow) else {
                return Err(Refused::new(by, Refusal::Invalid));
            };
            if path.iter().any(|step| step.rule == rule) {
                return Err(Refused::new(by, Refusal::Invalid));
            }
            let account = self.find_account(rule, &key).or_else(|| self.would_overflow(rule));
            path.push(Step { rule, key, amount: charge.amount, account });
        }
        Ok(path)
    }

    /// The form of the limit that the charge was computed for, if that is what is in force.
    pub(super) fn rule_of(&self, at: LogIndex, by: usize, limit: &str, version: u64) -> Result<u32, Refused> {
        let stale = |until: u64| Refused { by, why: Refusal::Stale, stale_until: until };
        let Some(id) = self.rules.live(limit) else {
            // Forgotten long ago: then whatever the next version is, it is greater than the one that was read.
            let gone = self.rules.deleted_at(limit).unwrap_or(version.saturating_add(1));
            return Err(stale(gone.min(at.0.max(1))));
        };
        let state = self.rules.get(id);
        if state.rule.is_purse() || (state.oldest()..=state.rule.version.0).contains(&version) {
            Ok(id)
        } else {
            Err(stale(state.rule.version.0))
        }
    }

    #[cfg(any(test, feature = "seeded-bugs"))]
    fn what_fits<'a>(&self, path: Path<'a>) -> Path<'a> {
        path.into_iter().filter(|step| !self.is_short(step)).collect()
    }

    fn is_short(&self, step: &Step<'_>) -> bool {
        let rule = self.rules.get(step.rule);
        let account =
            step.account.and_then(|id| self.accounts.get(id)).filter(|it| rule.is_open(it, self.meta.last_time_us));
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::IgnoresHolds) {
            return account.is_some_and(|account| account.used + step.amount > rule.rule.capacity);
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::AgesAtTheEdge) && rule.rule.span().is_some() {
            return account.is_some_and(|account| !self.fits_since_the_edge(account, step.amount));
        }
        let free =
            account.map_or_else(|| self.free_untouched(step.rule, &step.key), |it| it.available(rule, self.age()));
        free < i128::from(step.amount)
    }

    /// When a step that is short would not be, should nobody else come.
    fn wait_for(&self, now: u64, step: &Step<'_>) -> u64 {
        let account = step.account.and_then(|id| Some((id, self.accounts.get(id)?)));
        let rule = self.rules.get(step.rule);
        if rule.rule.turns() {
            let turns_at = self.window_end_of(now, step.rule, account.map(|(_, it)| it), &step.key);
            return account.map_or(0, |_| turns_at.saturating_sub(now));
        }
        account.map_or(0, |account| self.retry_in(now, rule, account, step.amount))
    }

    /// How long until an account has `amount`, or has all that it holds, by the age of the log: until its window turns, or enough has aged. Nobody
    /// knows when nodes give back, nor when requests end: then a window's length, or a moment for a permit.
    pub(super) fn resets_in(&self, now: u64, rule: &RuleState, account: Option<&Account>, amount: Option<u64>) -> u64 {
        let Some(account) = account else { return 0 };
        if rule.rule.turns() {
            return rule.window_of(account).1.saturating_sub(now);
        }
        let age = self.age().saturating_add(now.saturating_sub(self.meta.last_time_us));
        let unknown = rule.rule.span().map_or(PERMIT_RETRY_US, Span::longest);
        account.wait_for(rule, age, amount.unwrap_or(rule.rule.capacity)).unwrap_or(unknown)
    }

    /// How long whoever was refused `amount` has to wait so that he is surely admitted, should nobody else come: whatever
    /// clocks it ages by. What nodes have used of their leases they may have used just now.
    pub(super) fn retry_in(&self, now: u64, rule: &RuleState, (id, account): (u32, &Account), amount: u64) -> u64 {
        let Some(span) = rule.rule.span() else { return self.resets_in(now, rule, Some(account), Some(amount)) };
        if let Some(wait) = account.wait_for(rule, self.age(), amount) {
            return by_the_log(wait);
        }
        let last = self.leases.of_account(id).map(|lease| lease.free_at).max().unwrap_or(0);
        span.back_from_a_node().max(by_the_log(last.saturating_sub(self.age())))
    }

    /// Whether what a step is short of is in the hands of nodes that may give it back.
    fn may_come_back(&self, now: u64, step: &Step<'_>) -> bool {
        let rule = self.rules.get(step.rule);
        let known = step.account.filter(|id| self.accounts.get(*id).is_some_and(|it| rule.is_open(it, now)));
        match known {
            Some(id) => self.may_be_recalled(now, id, step.amount),
            None => {
                let leased = self.by_rule_untouched(step.rule, &step.key).leased;
                leased > 0 && self.free_untouched(step.rule, &step.key) + i128::from(leased) >= i128::from(step.amount)
            }
        }
    }

    /// Whether what is short is so only for as long as requests are in flight.
    fn would_fit_once_ended(&self, now: u64, path: &[Step<'_>]) -> bool {
        let there = |step: &Step<'_>| self.remaining_once_ended(now, step.rule, step.account, &step.key);
        path.iter().all(|step| there(step) >= i128::from(step.amount))
    }

    fn grant(&self, now: u64, hold: &Hold, path: &[Step<'_>]) -> HoldOutcome {
        HoldOutcome {
            request: hold.request,
            granted: true,
            standings: self.standings(now, hold, path, true),
            ..HoldOutcome::default()
        }
    }

    fn refuse(&mut self, now: u64, hold: &Hold, path: &[Step<'_>], refused: &Refused) -> HoldOutcome {
        // Who is told to wait for others has not been refused yet.
        self.meta.refused += u64::from(refused.why != Refusal::Recalling);
        self.denied(now, hold, path, refused)
    }

    fn denied(&self, now: u64, hold: &Hold, path: &[Step<'_>], refused: &Refused) -> HoldOutcome {
        let told = matches!(refused.why, Refusal::Exhausted | Refusal::ExceedsLimit);
        HoldOutcome {
            request: hold.request,
            granted: false,
            standings: if told { self.standings(now, hold, path, false) } else { Vec::new() },
            refused_by: u32::try_from(refused.by).unwrap_or(u32::MAX),
            refusal: refused.why.into(),
            stale_until: refused.stale_until,
            only_held: refused.why == Refusal::Exhausted && self.would_fit_once_ended(now, path),
        }
    }

    /// One for each charge, in their order, so that they can be told apart by position.
    fn standings(&self, now: u64, hold: &Hold, path: &[Step<'_>], granted: bool) -> Vec<Standing> {
        let steps = hold.charges.iter().zip(path);
        steps.map(|(charge, step)| self.standing(now, charge, step.rule, step.account, granted)).collect()
    }

    /// Of a charge that was granted before.
    fn standing_again(&self, now: u64, charge: &Charge) -> Standing {
        let Some(id) = self.rules.live(&charge.limit) else {
            return Standing { limit: charge.limit.clone(), ..Standing::default() };
        };
        let key = join(&charge.key);
        let account = key.and_then(|key| self.find_account(id, &key).or_else(|| self.would_overflow(id)));
        self.standing(now, charge, id, account, true)
    }

    /// A charge that is short is told when to come again; else when all is as if nobody had come.
    fn standing(&self, now: u64, charge: &Charge, id: u32, account: Option<u32>, granted: bool) -> Standing {
        let rule = self.rules.get(id);
        let capacity = rule.rule.capacity;
        let key = join(&charge.key).unwrap_or_default();
        let remaining = self.remaining(now, id, account, &key);
        let account = account.and_then(|id| Some((id, self.accounts.get(id).filter(|it| rule.is_open(it, now))?)));
        let window_end = self.window_end_of(now, id, account.map(|(_, it)| it), &key);
        let is_short = |it: &Account| !granted && it.available(rule, self.age()) < i128::from(charge.amount);
        let resets_in_us = match account.filter(|(_, it)| is_short(it)) {
            Some(account) => self.retry_in(now, rule, account, charge.amount),
            None if rule.rule.turns() => window_end.saturating_sub(now),
            None => self.resets_in(now, rule, account.map(|(_, it)| it), None),
        };
        Standing {
            limit: charge.limit.clone(),
            capacity,
            remaining: u64::try_from(remaining.max(0)).unwrap_or(u64::MAX),
            window_end_us: if rule.rule.turns() { window_end } else { now.saturating_add(resets_in_us) },
            resets_in_us,
        }
    }
}

/// Key values as one string, or none when they are not fit to be one.
pub(super) fn join(values: &[String]) -> Option<Cow<'_, str>> {
    let bytes = values.iter().fold(values.len(), |sum, value| sum.saturating_add(value.len()));
    let fit = bytes <= MAX_KEY_BYTES && values.iter().all(|value| !value.contains('\0'));
    fit.then(|| match values {
        [] => Cow::Borrowed(""),
        [value] => Cow::Borrowed(value.as_str()),
        _ => Cow::Owned(values.join("\0")),
    })
}

/// What was used where nothing was, or nothing is known.
pub(super) static NOTHING: Usage = Usage {
    input_tokens: 0,
    cached_input_tokens: 0,
    output_tokens: 0,
    cost: 0,
    reasoning_tokens: 0,
    cache_write_tokens: 0,
    audio_input_tokens: 0,
    audio_output_tokens: 0,
    counted: true,
    input_at_most: 0,
    output_at_most: 0,
};

pub(super) fn used_by<'a>(
    (node, incarnation): (u64, u64),
    settle: &'a tollgate_proto::state::v1::Settle,
    counted: Counted,
) -> Option<Used<'a>> {
    let (attribution, outcome) = (settle.attribution.as_ref()?, settle.outcome());
    let usage = if outcome == Outcome::Voided { &NOTHING } else { settle.usage.as_ref()? };
    let Counted { corrects } = counted;
    Some(Used { node, incarnation, attribution, usage, outcome, told: Told::Itself, corrects })
}
