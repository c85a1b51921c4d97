//! A limit that changes between fixed and sliding (`ledger/change.rs`), and what must count of it whichever way it counts by now.
//!
//! What went out counts in one window of the clock, or in one time of sliding: where its label says. With a change to sliding what
//! was taken of the window that is open counts on, since it was taken or later; with a change to fixed, what was taken within the
//! last length of a window, before the one of the clock began or since. Anything that was out then belongs to both, also when it is
//! sent out later. I3: what counts in a window of the clock, and in any window of that length, is never more than the limit.

use super::*;
use crate::{
    ledger::{News, WayView},
    sim::witness::{Place, Request},
};

pub(in crate::sim) const FLIPS: &str = "f";
/// How often it changes when a request comes; while some node can't hear of it; and soon after the last time.
const PER_MILLE: u64 = 20;
const PER_MILLE_UNHEARD: u64 = 120;
const PER_MILLE_SOON: u64 = 3;
/// How long its windows are, in either way.
const WINDOW: u64 = SECOND;
/// What is older is forgotten: no request goes out so long after it was granted.
const KEPT: u64 = 8 * WINDOW;

/// Where something counts: in the window that began then, or in any; since it has changed so many times. With the first change to
/// fixed in a window what slides from before it counts there too. Of that, what has aged until the limit comes back to the same
/// window is free, so each time counts what is carried over to it anew. That forgives nothing that was taken in the window itself: this
/// is younger than a window is long, and carried over each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Fixed(u64, u64),
    Sliding(u64),
}

#[derive(Debug)]
struct Taken {
    at: u64,
    request: Request,
    amount: u64,
    ended: bool,
    counts_in: Vec<Way>,
}

impl Taken {
    /// It counts in `to` as well, if it did in `from` and was taken after that.
    fn goes_over(&mut self, (from, to, after): (Way, Way, u64)) {
        if self.at > after && self.counts_in.contains(&from) && !self.counts_in.contains(&to) {
            self.counts_in.push(to);
        }
    }
}

/// What was taken of it, and how it counted when.
#[derive(Debug, Default)]
pub(super) struct Flips {
    slides: bool,
    /// The window that was open after the last entry.
    window: (u64, u64),
    /// When the next one begins, where nodes may draw on that already.
    next: Option<u64>,
    /// Times that it has changed, and when it last did.
    times: u64,
    changed_at: u64,
    /// By account and window.
    labels: BTreeMap<(u32, u64), Way>,
    /// By window alone, where all accounts have the same: nodes draw on accounts that the log has no number for.
    windows: BTreeMap<u64, Way>,
    /// By key, in order of time.
    taken: BTreeMap<String, Vec<Taken>>,
    /// From what to what it has changed, and after when what counted there counts here.
    carried: Vec<(Way, Way, u64)>,
}

impl Flips {
    pub(super) fn slides(&self) -> bool {
        self.slides
    }

    pub(super) fn changes(&self) -> u64 {
        self.times
    }

    fn turns_over(&mut self, now: u64, log: u64, open: WayView) {
        // One that is over by now, and that no entry was about, is none that was open.
        let next = self.next.filter(|start| log < start + WINDOW).map(|start| self.way(start));
        let was = self.way(self.window.0);
        let is_open = log < self.window.1;
        let changes = self.slides != open.slides;
        self.times += u64::from(changes);
        (self.slides, self.window, self.next) = (open.slides, open.window, open.next.map(|(start, _)| start));
        let way = self.way(open.window.0);
        if changes {
            self.changed_at = now;
            let after = if open.slides { 0 } else { now.saturating_sub(WINDOW) };
            // What is drawn of the next window, too, by those who have heard of nothing.
            for was in Some(was).filter(|_| is_open).into_iter().chain(next) {
                let change = (was, way, after);
                self.taken.values_mut().flatten().for_each(|taken| taken.goes_over(change));
                self.carried.push(change);
            }
        }
        self.windows.entry(open.epoch).or_insert(way);
        if let Some((start, epoch)) = open.next {
            let way = self.way(start);
            self.windows.entry(epoch).or_insert(way);
        }
    }

    /// How it counts by now, in a window that began then.
    fn way(&self, start: u64) -> Way {
        if self.slides { Way::Sliding(self.times) } else { Way::Fixed(start, self.times) }
    }

    fn way_of(&self, label: (u32, u64), place: &Place) -> Way {
        let known = self.labels.get(&label).or_else(|| self.windows.get(&label.1));
        known.copied().unwrap_or(Way::Fixed(place.2, self.times))
    }

    fn take(&mut self, key: &str, way: Way, at: u64, request: Request, amount: u64) -> Vec<(Way, u64)> {
        let mut next = Taken { at, request, amount, ended: false, counts_in: vec![way] };
        self.carried.iter().for_each(|change| next.goes_over(*change));
        let ways = next.counts_in.clone();
        let taken = self.taken.entry(key.to_owned()).or_default();
        taken.retain(|it| it.at + KEPT > at);
        let place = taken.partition_point(|it| it.at <= at);
        taken.insert(place, next);
        ways.into_iter().map(|way| (way, most(taken, way, at))).collect()
    }

    /// What a request did not use is there again.
    pub(super) fn end(&mut self, request: Request, used: u64) {
        let open = self.taken.values_mut().flatten().find(|it| it.request == request && !it.ended);
        if let Some(it) = open {
            (it.amount, it.ended) = (it.amount.min(used), true);
        }
    }

    /// What of an account counts now, as far as it is known.
    pub(super) fn counts(&self, place: &Place, now: u64) -> u64 {
        let way = self.way(self.window.0);
        let taken = self.taken.get(&place.1).into_iter().flatten();
        let counts =
            taken.filter(|it| it.counts_in.contains(&way) && (!self.slides || it.at + WINDOW * 115 / 100 > now));
        counts.map(|it| it.amount).sum()
    }
}

/// The most that counts at once of what was taken in one way, of windows that `at` is in where it slides.
fn most(taken: &[Taken], way: Way, at: u64) -> u64 {
    let of_way = || taken.iter().filter(|it| it.counts_in.contains(&way));
    let Way::Sliding(_) = way else { return of_way().map(|it| it.amount).sum() };
    let begins = of_way().filter(|it| it.at <= at && it.at + WINDOW > at).map(|it| it.at);
    let within = |begin: u64| {
        let within = of_way().filter(|it| (begin..begin + WINDOW).contains(&it.at));
        within.map(|it| it.amount).sum()
    };
    begins.map(within).max().unwrap_or(0)
}

impl World {
    /// Makes the limit, or has it count in the other way.
    pub(super) fn flip(&mut self) -> Checked {
        let known = self.truth.rule(FLIPS).map(|rule| (rule.algorithm, rule.capacity));
        let least = if self.plan.scarce { 100 } else { 20_000 };
        let (was, capacity) = known.unwrap_or_else(|| (Algorithm::Sliding, self.sixth.range(least, 3 * least)));
        let algorithm = if was == Algorithm::Sliding { Algorithm::Fixed } else { Algorithm::Sliding };
        let rule = Rule {
            limit: Name::new(FLIPS),
            version: LogIndex(self.log.len() as u64 + 1),
            unit: Unit::Tokens,
            per: vec![KeyPart::Consumer],
            capacity,
            window: Window::Second,
            algorithm,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        self.append(Command::Set(rule)).map(drop)
    }

    /// Of a thousand requests, those with which it comes to count in the other way. Seldom soon after the last time: what was spent
    /// unheard of meanwhile shows once a whole window has passed. Most often while a node can't hear of it.
    pub(super) fn flips_in_a_thousand(&self) -> u64 {
        let wanted = self.truth.rule(FLIPS).map(|rule| rule.algorithm == Algorithm::Sliding);
        let is_pending = wanted.is_some_and(|slides| slides != self.flips.slides);
        let is_soon = self.now < self.flips.changed_at + 2 * WINDOW;
        let unheard = || self.processes.iter().any(|it| it.alive && it.cut);
        match is_pending || is_soon {
            true => PER_MILLE_SOON,
            false if unheard() => PER_MILLE_UNHEARD,
            false => PER_MILLE,
        }
    }

    /// Takes in how it counts after an entry.
    pub(super) fn note_flip(&mut self, news: &News) {
        let Some(open) = self.truth.way_of(FLIPS) else { return };
        self.flips.turns_over(self.now, self.truth.counters().last_time_us, open);
        for account in log::changed(news) {
            if let Some((epoch, (limit, _, start), _)) = self.truth.place(account).filter(|_| self.plan.flips)
                && limit == FLIPS
            {
                let way = self.flips.way(start);
                self.flips.labels.entry((account, epoch)).or_insert(way);
            }
        }
    }

    /// A request goes out: from `reserved` on counts what it drew itself, from `granted` on what the log holds for it.
    pub(super) fn goes_out_anew(
        &mut self,
        request: Request,
        labels: &[Label],
        (reserved, granted): (u64, u64),
        drawn: usize,
    ) -> Checked {
        for (nth, &(account, epoch, amount)) in labels.iter().enumerate().filter(|_| self.plan.flips) {
            let Some(place) = self.witness.place(account, epoch).filter(|place| place.0 == FLIPS) else { continue };
            let (at, way) = (if nth < drawn { reserved } else { granted }, self.flips.way_of((account, epoch), place));
            let capacity = self.truth.rule(FLIPS).map_or(0, |rule| rule.capacity);
            for (way, counts) in self.flips.take(&place.1, way, at, request, amount) {
                require(counts <= capacity, "I3", || {
                    format!("{place:?}: {counts} of {capacity} count in {way:?} around {at}")
                })?;
            }
        }
        Ok(())
    }

    /// I7: the last change has become effective, and what is left is granted.
    pub(super) fn the_flipped_is_usable(&mut self) -> Checked {
        let Some(rule) = self.truth.rule(FLIPS) else { return Ok(()) };
        let is_changed = (rule.algorithm == Algorithm::Sliding) == self.flips.slides;
        require(is_changed, "I7", || format!("limit {FLIPS} is to be {:?}, and is not", rule.algorithm))?;
        self.everything_is_usable(SIXTH, "x")
    }
}
