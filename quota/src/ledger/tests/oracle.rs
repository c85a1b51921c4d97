//! A perfect counter: what a ledger must decide, in the plainest words, with nothing interned, collected or skipped.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_model::{Timestamp, Unit};
use tollgate_proto::state::v1::{Frame, Hold, Outcome, Refusal, Settle, record::Kind};

use crate::Rule;

/// One form of a limit: name, unit, number of key values.
type Form = (String, Unit, usize);
/// One account in one window: form, key, label of the window.
pub(super) type Place = (Form, Vec<String>, u64);

#[derive(Debug, Clone)]
struct FormState {
    rule: Rule,
    since: u64,
    end: u64,
    label: u64,
    live: bool,
}

/// What is known of an account in a window. `most` is the greatest capacity that was in force in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) used: u64,
    pub(super) held: u64,
    pub(super) overrun: u64,
    pub(super) most: u64,
    /// What its requests really used, and what was consumed for those that nobody settled.
    pub(super) truth: u128,
}

#[derive(Debug, Clone)]
struct Held {
    deadline: u64,
    expired: bool,
    charges: Vec<(Place, u64)>,
}

/// What the ledger must say of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    Refused(Refusal),
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    now: u64,
    labels: u64,
    forms: BTreeMap<Form, FormState>,
    pub(super) figures: BTreeMap<Place, Figures>,
    holds: BTreeMap<(u64, u64), Held>,
    incarnations: BTreeMap<u64, u64>,
    seen: BTreeSet<(u64, u64, u64)>,
}

impl Oracle {
    /// Moves time on: windows turn, deadlines pass.
    pub(super) fn at(&mut self, now: u64) {
        self.now = now;
        for state in self.forms.values_mut().filter(|state| state.end <= now) {
            self.labels += 1;
            state.label = self.labels;
            state.end = end(&state.rule, now);
        }
        let due = self.holds.iter().filter(|(_, hold)| !hold.expired && hold.deadline <= now);
        for name in due.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.consume(name);
            self.holds.get_mut(&name).unwrap().expired = true;
        }
        self.note_capacities();
    }

    pub(super) fn set(&mut self, rule: &Rule) {
        let form: Form = (rule.limit.to_string(), rule.unit, rule.per.len());
        for (other, state) in &mut self.forms {
            state.live &= other.0 != form.0 || *other == form;
        }
        self.labels += 1;
        let fresh = FormState {
            rule: rule.clone(),
            since: rule.version.0,
            end: end(rule, self.now),
            label: self.labels,
            live: true,
        };
        let state = self.forms.entry(form).or_insert(fresh);
        if !state.live {
            (state.live, state.since) = (true, rule.version.0);
        }
        if state.rule.window != rule.window {
            state.end = end(rule, self.now);
        }
        state.rule = rule.clone();
        self.note_capacities();
    }

    pub(super) fn remove(&mut self, limit: &str) {
        self.forms.iter_mut().filter(|(form, _)| form.0 == limit).for_each(|(_, state)| state.live = false);
    }

    pub(super) fn open(&mut self, node: u64, incarnation: u64) {
        if self.incarnations.get(&node).is_some_and(|open| *open >= incarnation) {
            return;
        }
        self.incarnations.insert(node, incarnation);
        for name in self.holds.keys().filter(|(of, _)| *of == node).copied().collect::<Vec<_>>() {
            if !self.holds[&name].expired {
                self.consume(name);
            }
            self.holds.remove(&name);
        }
    }

    /// Whether this record counts: it was not seen before, and its incarnation is open.
    pub(super) fn is_new(&mut self, frame: &Frame, at: usize) -> bool {
        self.incarnations.get(&frame.node) == Some(&frame.incarnation)
            && self.seen.insert((frame.node, frame.incarnation, frame.first_seq + at as u64))
    }

    pub(super) fn is_held(&self, node: u64, request: u64) -> bool {
        self.holds.get(&(node, request)).is_some_and(|hold| !hold.expired)
    }

    pub(super) fn verdict(&self, hold: &Hold) -> Verdict {
        let live = |limit: &str| self.forms.iter().find(|(form, state)| form.0 == limit && state.live);
        let stale = hold.charges.iter().any(|charge| {
            live(&charge.limit).is_none_or(|(_, state)| {
                charge.limit_version < state.since || charge.limit_version > state.rule.version.0
            })
        });
        if stale {
            return Verdict::Refused(Refusal::Stale);
        }
        let accounts = hold.charges.iter().map(|charge| {
            let (form, state) = live(&charge.limit).unwrap();
            let figures = self.figures.get(&(form.clone(), charge.key.clone(), state.label)).copied();
            (charge.amount, state.rule.capacity, figures.unwrap_or_default())
        });
        let accounts: Vec<_> = accounts.collect();
        if accounts.iter().any(|(amount, capacity, _)| amount > capacity) {
            return Verdict::Refused(Refusal::ExceedsLimit);
        }
        let short = |(amount, capacity, it): &(u64, u64, Figures)| it.used + it.held + it.overrun + amount > *capacity;
        if accounts.iter().any(short) { Verdict::Refused(Refusal::Exhausted) } else { Verdict::Granted }
    }

    /// Takes the units of a hold that was granted.
    pub(super) fn grant(&mut self, node: u64, hold: &Hold) {
        let mut charges = Vec::new();
        for charge in &hold.charges {
            let live = self.forms.iter().find(|(form, state)| form.0 == charge.limit && state.live);
            let Some((form, state)) = live else { continue };
            let place = (form.clone(), charge.key.clone(), state.label);
            let figures = self.figures.entry(place.clone()).or_default();
            figures.held += charge.amount;
            figures.most = figures.most.max(state.rule.capacity);
            charges.push((place, charge.amount));
        }
        let deadline = self.now + hold.hold_for_us;
        self.holds.insert((node, hold.request), Held { deadline, expired: false, charges });
    }

    /// Ends a request, once.
    pub(super) fn settle(&mut self, node: u64, settle: &Settle) {
        let Some(hold) = self.holds.remove(&(node, settle.request)) else { return };
        let usage = settle.usage.unwrap_or_default();
        for (place, amount) in hold.charges {
            let actual = match place.0.1 {
                _ if settle.outcome() == Outcome::Voided => 0,
                Unit::Tokens => usage.input_tokens + usage.output_tokens,
                Unit::InputTokens => usage.input_tokens,
                Unit::OutputTokens => usage.output_tokens,
                Unit::Requests => 1,
                Unit::Cost(_) => usage.cost,
                Unit::Concurrency => 0,
            };
            let figures = self.figures.get_mut(&place).unwrap();
            if hold.expired {
                figures.used -= amount;
                figures.truth -= u128::from(amount);
            } else {
                figures.held -= amount;
            }
            figures.used += actual.min(amount);
            figures.overrun += actual.saturating_sub(amount);
            figures.truth += u128::from(actual);
        }
    }

    fn consume(&mut self, name: (u64, u64)) {
        for (place, amount) in self.holds[&name].charges.clone() {
            let figures = self.figures.get_mut(&place).unwrap();
            figures.held -= amount;
            figures.used += amount;
            figures.truth += u128::from(amount);
        }
    }

    fn note_capacities(&mut self) {
        for (place, figures) in &mut self.figures {
            if let Some(state) = self.forms.get(&place.0).filter(|state| state.live && state.label == place.2) {
                figures.most = figures.most.max(state.rule.capacity);
            }
        }
    }

    /// The accounts of the windows that are open, by limit and account as they are shown.
    pub(super) fn shown(&self) -> BTreeMap<(String, String), Figures> {
        let current = self
            .figures
            .iter()
            .filter(|(place, _)| self.forms.get(&place.0).is_some_and(|state| state.live && state.label == place.2));
        let title = |key: &[String]| if key.is_empty() { "*".to_owned() } else { key.join("/") };
        current.map(|((form, key, _), figures)| ((form.0.clone(), title(key)), *figures)).collect()
    }

    /// Everything in `frame` that counts now, with the ledger's word on each hold.
    pub(super) fn take(&mut self, frame: &Frame, granted: &[bool]) -> Vec<(Verdict, bool, u64)> {
        let mut verdicts = Vec::new();
        let mut granted = granted.iter().copied();
        for (at, record) in frame.records.iter().enumerate() {
            let new = self.is_new(frame, at);
            match &record.kind {
                Some(Kind::Hold(hold)) => {
                    let said = granted.next().unwrap_or_default();
                    if new {
                        verdicts.push((self.verdict(hold), said, hold.request));
                        if said {
                            self.grant(frame.node, hold);
                        }
                    }
                }
                Some(Kind::Settle(settle)) if new => self.settle(frame.node, settle),
                _ => {}
            }
        }
        verdicts
    }
}

fn end(rule: &Rule, now: u64) -> u64 {
    rule.window.bounds(Timestamp(now), &rule.time_zone).1.0
}
