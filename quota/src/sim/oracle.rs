//! One perfect counter that is fed the very arrivals of a run: what it would have admitted is what we are measured by.
//!
//! It stands where no two nodes could: it knows at once of everything that came and ended, and decides at once and for
//! all. Nothing ever fails it. Each arrival has the same charges for it, lasts as long and uses as much as in the run;
//! of those that we never sent out, dice of its own say how long and how much. Windows of the clock turn by the clock of
//! the log, one that slides is as long as it says to the microsecond, permits are free when their request ends.
//!
//! So it goes its own way: who takes what we refused may be in the way of what we admit next. Its count of units is the
//! measure of ours, and a refusal of ours is false when it admitted that very arrival.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use tollgate_model::{Algorithm, Unit};

use super::{net::Dice, witness::used_within};
use crate::{Charge, Rule};

/// How one request goes on, once it was sent out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) lasts: u64,
    /// Tokens; none when it is voided.
    pub(super) used: Option<u64>,
}

/// What became of an arrival with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    Undecided,
    Sent,
    Refused,
}

#[derive(Debug)]
struct Arrival {
    charges: Vec<(String, String, u64)>,
    ours: Ours,
    lasts: Option<u64>,
    used: Option<Option<u64>>,
}

#[derive(Debug)]
enum What {
    /// In force from here on; none is deleted.
    Limit(String, Option<Rule>),
    Arrival(usize),
}

#[derive(Debug)]
struct Step {
    /// True time, and that of the log.
    at: u64,
    log: u64,
    what: What,
}

/// The arrivals of a run as they come, and what became of them.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    steps: Vec<Step>,
    arrivals: Vec<Arrival>,
    /// By process and number, while something is to be heard of them.
    known: BTreeMap<(usize, u64), usize>,
    log: u64,
}

/// What a run comes to beside the oracle.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) our_units: u64,
    pub(super) oracle_units: u64,
    pub(super) false_refusals: u64,
}

impl Oracle {
    pub(super) fn limit(&mut self, at: u64, log: u64, name: &str, rule: Option<&Rule>) {
        self.step(at, log, What::Limit(name.to_owned(), rule.cloned()));
    }

    pub(super) fn arrives(&mut self, at: u64, log: u64, request: (usize, u64), charges: &[Charge]) {
        let charge = |it: &Charge| (it.limit.to_string(), it.key.join("\0"), it.amount);
        let charges = charges.iter().map(charge).collect();
        self.known.insert(request, self.arrivals.len());
        self.step(at, log, What::Arrival(self.arrivals.len()));
        self.arrivals.push(Arrival { charges, ours: Ours::Undecided, lasts: None, used: None });
    }

    fn step(&mut self, at: u64, log: u64, what: What) {
        self.log = self.log.max(log);
        self.steps.push(Step { at, log: self.log, what });
    }

    fn known(&mut self, request: (usize, u64)) -> Option<&mut Arrival> {
        self.known.get(&request).and_then(|at| self.arrivals.get_mut(*at))
    }

    /// We sent it out, and it will last so long, should its process live.
    pub(super) fn sent(&mut self, request: (usize, u64), lasts: u64) {
        if let Some(arrival) = self.known(request) {
            (arrival.ours, arrival.lasts) = (Ours::Sent, Some(lasts));
        }
    }

    /// We refused it for lack of room.
    pub(super) fn refused(&mut self, request: (usize, u64)) {
        if let Some(arrival) = self.known(request) {
            arrival.ours = Ours::Refused;
        }
        self.known.remove(&request);
    }

    pub(super) fn ended(&mut self, request: (usize, u64), used: Option<u64>) {
        if let Some(arrival) = self.known(request) {
            arrival.used = Some(used);
        }
        self.known.remove(&request);
    }

    /// Lets the perfect counter decide on all of it. `fate` tells of what we have not seen: given the greatest of its charges.
    pub(super) fn judge(&self, dice: &mut Dice, fate: impl Fn(&mut Dice, u64) -> Fate) -> Compared {
        let (mut counter, mut compared) = (Counter::default(), Compared::default());
        for Step { at, log, what } in &self.steps {
            counter.pass(*at);
            match what {
                What::Limit(name, Some(rule)) => drop(counter.rules.insert(name, rule)),
                What::Limit(name, None) => drop(counter.rules.remove(name.as_str())),
                What::Arrival(nth) => {
                    let arrival = &self.arrivals[*nth];
                    let units: u64 = arrival.charges.iter().map(|(.., amount)| amount).sum();
                    let unseen = fate(dice, arrival.charges.iter().map(|(.., amount)| *amount).max().unwrap_or(0));
                    let fate = Fate {
                        lasts: arrival.lasts.unwrap_or(unseen.lasts),
                        used: arrival.used.unwrap_or(unseen.used),
                    };
                    compared.our_units += if arrival.ours == Ours::Sent { units } else { 0 };
                    if counter.admits(*at, *log, &arrival.charges, fate) {
                        compared.oracle_units += units;
                        compared.false_refusals += u64::from(arrival.ours == Ours::Refused);
                    }
                }
            }
        }
        compared
    }
}

/// Of one account: in one window, if it is of the clock.
#[derive(Debug, Default)]
struct Counts {
    held: u64,
    used: u64,
    overrun: u64,
    /// When what was taken that slides, and by which request.
    taken: VecDeque<(u64, usize, u64)>,
}

/// Limit, key, and where the window began.
type Account<'a> = (&'a str, &'a str, u64);

/// One who was admitted.
#[derive(Debug)]
struct Open<'a> {
    charges: Vec<(Account<'a>, Unit, Option<u64>, u64)>,
    used: Option<u64>,
}

#[derive(Debug, Default)]
struct Counter<'a> {
    rules: BTreeMap<&'a str, &'a Rule>,
    accounts: BTreeMap<Account<'a>, Counts>,
    open: Vec<Open<'a>>,
    ends: BinaryHeap<Reverse<(u64, usize)>>,
}

/// How long a window is that slides.
fn slides(rule: &Rule) -> Option<u64> {
    let slides = rule.unit != Unit::Concurrency && rule.algorithm == Algorithm::Sliding;
    slides.then(|| rule.window.longest_us())
}

impl<'a> Counter<'a> {
    /// In all accounts or in none. A limit that is not in force has no say.
    fn admits(&mut self, at: u64, log: u64, charges: &'a [(String, String, u64)], fate: Fate) -> bool {
        let of = |(name, key, amount): &'a (String, String, u64)| {
            let rule = *self.rules.get(name.as_str())?;
            let turns = rule.turns();
            let window = if turns { log - log % rule.window.longest_us() } else { 0 };
            Some((((name.as_str(), key.as_str(), window), rule.unit, slides(rule), *amount), rule.capacity))
        };
        let path: Vec<_> = charges.iter().filter_map(of).collect();
        let fits = path.iter().all(|((account, _, slides, amount), capacity)| {
            let counts = self.accounts.entry(*account).or_default();
            if let Some(length) = slides {
                while counts.taken.front().is_some_and(|(taken, ..)| taken + length <= at) {
                    counts.taken.pop_front();
                }
            }
            let taken: u64 = counts.taken.iter().map(|(.., taken)| taken).sum();
            counts.held + counts.used + counts.overrun + taken + amount <= *capacity
        });
        if !fits {
            return false;
        }
        let nth = self.open.len();
        for ((account, _, slides, amount), _) in &path {
            let counts = self.accounts.entry(*account).or_default();
            match slides {
                Some(_) => counts.taken.push_back((at, nth, *amount)),
                None => counts.held += amount,
            }
        }
        self.open.push(Open { charges: path.into_iter().map(|(charge, _)| charge).collect(), used: fate.used });
        self.ends.push(Reverse((at + fate.lasts, nth)));
        true
    }

    /// Ends what is over by `now`.
    fn pass(&mut self, now: u64) {
        while let Some(Reverse((at, nth))) = self.ends.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.ends.pop();
            let Open { charges, used } = &self.open[nth];
            for (account, unit, slides, amount) in charges {
                let used = match (unit, used) {
                    (_, None) | (Unit::Concurrency, _) => 0,
                    (Unit::Requests, _) => 1,
                    (_, Some(used)) => *used,
                };
                let (within, beyond) = used_within(used, *amount);
                let Some(counts) = self.accounts.get_mut(account) else { continue };
                if slides.is_some() {
                    let own = counts.taken.iter_mut().find(|(_, of, _)| *of == nth);
                    own.into_iter().for_each(|(.., taken)| *taken = within);
                    if beyond > 0 {
                        counts.taken.push_back((at, usize::MAX, beyond));
                    }
                } else {
                    counts.held -= amount;
                    counts.used += within;
                    counts.overrun += beyond;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_model::{LogIndex, Name, TimeZone, Window};

    use super::*;

    const SECOND: u64 = 1_000_000;
    const MINUTE: u64 = 60 * SECOND;

    fn rule(limit: &str, unit: Unit, window: Window, algorithm: Algorithm, capacity: u64) -> Rule {
        Rule {
            limit: Name::new(limit),
            version: LogIndex(1),
            unit,
            per: Vec::new(),
            capacity,
            window,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
            algorithm,
        }
    }

    fn fixed(capacity: u64) -> Rule {
        rule("a", Unit::Tokens, Window::Minute, Algorithm::Fixed, capacity)
    }

    /// What became of each: when it came, what it asked of `limit`, how long it lasts and what it uses, and what we said.
    fn judged(rules: &[(u64, Rule)], arrivals: &[(u64, &str, u64, u64, u64, Ours)]) -> Compared {
        let mut oracle = Oracle::default();
        let mut steps: Vec<(u64, Result<&Rule, usize>)> = rules.iter().map(|(at, rule)| (*at, Ok(rule))).collect();
        steps.extend((0..arrivals.len()).map(|nth| (arrivals[nth].0, Err(nth))));
        steps.sort_by_key(|(at, what)| (*at, what.is_err()));
        for (at, what) in steps {
            match what {
                Ok(rule) => oracle.limit(at, at, &rule.limit, Some(rule)),
                Err(nth) => {
                    let (_, limit, amount, lasts, used, ours) = arrivals[nth];
                    let (limit, request) = (Name::new(limit), (0, nth as u64));
                    let charge = Charge { limit, version: LogIndex(1), key: Vec::new(), amount };
                    oracle.arrives(at, at, request, &[charge]);
                    match ours {
                        Ours::Sent => {
                            oracle.sent(request, lasts);
                            oracle.ended(request, Some(used));
                        }
                        Ours::Refused => oracle.refused(request),
                        Ours::Undecided => {}
                    }
                }
            }
        }
        // What we did not send out: as long as nothing, and it uses the whole.
        oracle.judge(&mut Dice(0), |_, most| Fate { lasts: 0, used: Some(most) })
    }

    fn compared(our_units: u64, oracle_units: u64, false_refusals: u64) -> Compared {
        Compared { our_units, oracle_units, false_refusals }
    }

    #[test]
    fn in_a_window_of_the_clock_what_was_not_used_is_there_again_until_it_turns() {
        use Ours::{Refused, Sent, Undecided};
        let rules = [(0, fixed(100))];
        let arrivals = [
            (1, "a", 80, 10, 30, Sent),               // uses 30 of 80
            (5, "a", 30, 10, 30, Refused),            // 80 are held: rightly
            (20, "a", 70, 10, 70, Refused),           // 70 were there: falsely, and are used from here on
            (30, "a", 1, 10, 1, Refused),             // nothing is left beside those
            (MINUTE, "a", 100, 10, 100, Undecided),   // nobody said no
            (MINUTE + 1, "a", 100, 10, 100, Refused), // it has them
        ];
        assert_eq!(judged(&rules, &arrivals), compared(80, 80 + 70 + 100, 1));
    }

    #[test]
    fn what_was_overrun_is_in_the_way_and_an_edit_counts_from_its_moment() {
        use Ours::{Refused, Sent};
        let rules = [(0, fixed(100)), (50, fixed(120))];
        let arrivals = [
            (1, "a", 60, 10, 75, Sent),  // 15 beyond
            (20, "a", 26, 10, 26, Sent), // 25 are left: we should not have
            (30, "a", 25, 10, 25, Refused),
            (60, "a", 20, 10, 20, Refused), // 120 since a moment
        ];
        assert_eq!(judged(&rules, &arrivals), compared(86, 60 + 25 + 20, 2));
    }

    #[test]
    fn a_window_that_slides_forgets_to_the_microsecond() {
        use Ours::{Refused, Sent};
        let rules = [(0, rule("a", Unit::Tokens, Window::Second, Algorithm::Sliding, 100))];
        let arrivals = [
            (10, "a", 100, 5, 60, Sent),
            (20, "a", 40, 5, 40, Sent),
            (SECOND + 9, "a", 60, 5, 60, Refused),  // rightly, by a microsecond
            (SECOND + 10, "a", 60, 5, 60, Refused), // falsely
            (SECOND + 19, "a", 1, 5, 1, Refused),   // 40 and 60 are there
        ];
        assert_eq!(judged(&rules, &arrivals), compared(140, 200, 1));
    }

    #[test]
    fn a_permit_is_free_when_its_request_ends_and_a_request_counts_as_one() {
        use Ours::{Refused, Sent};
        let permits = [(0, rule("a", Unit::Concurrency, Window::Minute, Algorithm::Fixed, 1))];
        let arrivals = [(10, "a", 1, 10, 500, Sent), (19, "a", 1, 1, 1, Refused), (20, "a", 1, 1, 1, Refused)];
        assert_eq!(judged(&permits, &arrivals), compared(1, 2, 1));
        let requests = [(0, rule("a", Unit::Requests, Window::Minute, Algorithm::Fixed, 2))];
        let arrivals = [(10, "a", 1, 1, 500, Sent), (19, "a", 1, 1, 1, Sent), (30, "a", 1, 1, 1, Refused)];
        assert_eq!(judged(&requests, &arrivals), compared(2, 2, 0));
    }
}
