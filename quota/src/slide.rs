//! What counts in a sliding window: pure, the same in the log's ledger and in a node's lease.
//!
//! A limit of a sliding window is so many units; each is fresh, or was taken at some moment and is fresh again once that is
//! a window ago. A charge takes fresh units at its admission; ending it makes those fresh at once that it did not use. Only
//! fresh units are ever handed from one holder to another. So no unit is taken twice within a window, wherever the window
//! begins: any window holds at most the limit.
//!
//! Moments are rounded late, to the end of a *slot*, of which some 60 make a window: units come back up to a slot late, never
//! early. Time is an *age*: it must not run faster than real time where units are given out anew.

use tollgate_model::Window;

/// How long what was taken counts, and how exactly that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    slot: u64,
    lasts: u64,
}

/// Slots in a window. Windows of a second are cut in 50, so that each slot divides all longer ones.
const SLOTS: u64 = 60;
/// A request goes out some moments after the log admitted it: it counts for that much longer, or for 1/240 of the window.
const ON_ITS_WAY_US: u64 = 50_000;
/// The log hears within this of what is fresh again in the hands of a node: a frame is at most so late, and then committed.
const SAID_WITHIN_US: u64 = 300_000;

impl Span {
    /// What a window of the log lasts.
    pub(crate) const fn of(window: Window) -> Self {
        let length = window.longest_us();
        let slot = if length < SLOTS * 1_000_000 { length / 50 } else { length / SLOTS };
        let way = if length / 240 > ON_ITS_WAY_US { length / 240 } else { ON_ITS_WAY_US };
        Self { slot, lasts: length + way }
    }

    /// The same, measured by a clock that may be fast by one in a hundred.
    pub(crate) const fn by_any_clock(self) -> Self {
        Self { slot: self.slot, lasts: by_any_clock(self.lasts) }
    }

    /// How long what was taken counts, from the end of its slot on.
    pub(crate) const fn lasts(self) -> u64 {
        self.lasts
    }

    /// Longer than this nothing counts.
    pub(crate) const fn longest(self) -> u64 {
        self.lasts + self.slot
    }

    /// When what was taken at `at` is fresh again.
    pub(crate) fn fresh_at(self, at: u64) -> u64 {
        self.label(at).saturating_add(self.lasts)
    }

    /// How long until what a node has taken of a lease by now is surely in the log again: it ages by a clock that may be slow by
    /// one in a hundred, as long as by one that may be fast, and then it is to be said.
    pub(crate) const fn back_from_a_node(self) -> u64 {
        by_any_clock(self.by_any_clock().longest()).saturating_add(SAID_WITHIN_US)
    }

    /// The moment that `at` counts as.
    pub(crate) fn label(self, at: u64) -> u64 {
        (at / self.slot + 1).saturating_mul(self.slot)
    }
}

/// How long to wait, by a clock that may be fast by one in a hundred, so that `us` has passed.
pub(crate) const fn by_any_clock(us: u64) -> u64 {
    us.saturating_add(us / 99 + 1)
}

/// How long to wait, by a clock that is right, so that the log has surely aged by `us`: its age runs slower by one in a hundred
/// than the clock of its leader, so as never to be fast, and that clock may be as slow itself.
pub(crate) const fn by_the_log(us: u64) -> u64 {
    by_any_clock(by_any_clock(us))
}

/// What was taken at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its end.
    pub(crate) at: u64,
    pub(crate) used: u64,
    /// By requests in flight.
    pub(crate) held: u64,
    /// Used beyond what was held.
    pub(crate) overrun: u64,
}

impl Slot {
    fn all(self) -> u64 {
        self.used.saturating_add(self.held).saturating_add(self.overrun)
    }

    /// Of `all`, what no request holds.
    fn ended(self) -> u64 {
        self.used.wrapping_add(self.overrun)
    }

    fn is_live(self, span: Span, age: u64) -> bool {
        self.at.saturating_add(span.lasts) > age
    }
}

/// What was taken lately, oldest first: at most as many slots as a window has, and two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slide {
    pub(crate) slots: Vec<Slot>,
    /// What was used and overrun of all slots, by a count of its own: kept whenever that changes, and never read but by audits.
    counted: u64,
}

impl Slide {
    pub(crate) const NONE: Self = Self { slots: Vec::new(), counted: 0 };

    pub(crate) fn of(slots: Vec<Slot>) -> Self {
        let counted = sum_of_ended(&slots);
        Self { slots, counted }
    }

    /// I1, by two counts: what was used, and what of each slot.
    pub(crate) fn adds_up(&self) -> bool {
        sum_of_ended(&self.slots) == self.counted
    }

    /// Takes `amount` for a request, at `age`.
    pub(crate) fn hold(&mut self, span: Span, age: u64, amount: u64) {
        self.prune(span, age);
        self.slot(span.label(age)).held += amount;
    }

    /// What requests hold of it is this and nothing else, each since its age.
    pub(crate) fn hold_anew(&mut self, span: Span, holds: &[(u64, u64)]) {
        for slot in &mut self.slots {
            let of_slot = holds.iter().filter(|(at, _)| span.label(*at) == slot.at);
            slot.held = of_slot.fold(0, |sum, (_, amount)| sum.saturating_add(*amount));
        }
    }

    /// Counts `amount` as used from `at` on, which may be some time ahead.
    pub(crate) fn count(&mut self, span: Span, at: u64, amount: u64) {
        if amount > 0 {
            self.prune(span, at);
            self.slot(span.label(at)).used += amount;
            self.counted = self.counted.wrapping_add(amount);
        }
    }

    /// Ends a request that took `held` at `at`: `used` of it counts, the rest is fresh. What has aged meanwhile is.
    pub(crate) fn settle(&mut self, span: Span, at: u64, held: u64, used: u64) {
        if let Some(slot) = self.known(span.label(at)) {
            slot.held = slot.held.saturating_sub(held);
            slot.used += used;
            self.counted = self.counted.wrapping_add(used);
        }
    }

    /// What was counted at `at` was too much by this.
    pub(crate) fn correct(&mut self, span: Span, at: u64, unused: u64) {
        if let Some(slot) = self.known(span.label(at)) {
            let unused = unused.min(slot.used);
            slot.used -= unused;
            self.counted = self.counted.wrapping_sub(unused);
        }
    }

    /// Blocks what was used beyond all that was held, from `age` on.
    pub(crate) fn overrun(&mut self, span: Span, age: u64, amount: u64) {
        if amount > 0 {
            self.prune(span, age);
            let slot = self.slot(span.label(age));
            let amount = amount.min(u64::MAX - slot.overrun);
            slot.overrun += amount;
            self.counted = self.counted.wrapping_add(amount);
        }
    }

    /// Nothing of what counts was used. What requests hold stays.
    pub(crate) fn forget_use(&mut self) {
        for slot in &mut self.slots {
            (slot.used, slot.overrun) = (0, 0);
        }
        self.counted = 0;
        self.slots.retain(|slot| slot.held > 0);
    }

    /// What counts at `age`, as one.
    pub(crate) fn live(&self, span: Span, age: u64) -> Slot {
        self.slots.iter().filter(|slot| slot.is_live(span, age)).fold(Slot::default(), |sum, slot| Slot {
            at: slot.at,
            used: sum.used.saturating_add(slot.used),
            held: sum.held.saturating_add(slot.held),
            overrun: sum.overrun.saturating_add(slot.overrun),
        })
    }

    /// The slots that count at `age`, oldest first.
    pub(crate) fn slots_at(&self, span: Span, age: u64) -> Vec<Slot> {
        self.slots.iter().filter(|slot| slot.is_live(span, age)).copied().collect()
    }

    /// What of each slot was used and counts at `age`, less what `other` has of it.
    pub(crate) fn used_since<'a>(
        &'a self,
        span: Span,
        age: u64,
        other: &'a Self,
    ) -> impl Iterator<Item = (u64, u64)> + 'a {
        let of_other = |at: u64| other.slots.iter().find(|slot| slot.at == at).map_or(0, |slot| slot.used);
        let live = self.slots.iter().filter(move |slot| slot.is_live(span, age));
        live.map(move |slot| (slot.at, slot.used.saturating_sub(of_other(slot.at)))).filter(|(_, used)| *used > 0)
    }

    /// How long it takes until `amount` of what counts is fresh, should nothing end before; none if there is not as much.
    pub(crate) fn wait_for(&self, span: Span, age: u64, amount: u128) -> Option<u64> {
        let mut missing = amount;
        for slot in self.slots.iter().filter(|slot| slot.is_live(span, age)) {
            missing = missing.saturating_sub(u128::from(slot.all()));
            if missing == 0 {
                return Some(slot.at.saturating_add(span.lasts) - age);
            }
        }
        None
    }

    /// When something of it is fresh next.
    pub(crate) fn next_fresh(&self, span: Span, age: u64) -> Option<u64> {
        let live = self.slots.iter().find(|slot| slot.is_live(span, age) && slot.all() > 0);
        live.map(|slot| slot.at.saturating_add(span.lasts))
    }

    /// When all of it is fresh.
    pub(crate) fn all_fresh(&self, span: Span, age: u64) -> Option<u64> {
        let live = self.slots.iter().rfind(|slot| slot.is_live(span, age) && slot.all() > 0);
        live.map(|slot| slot.at.saturating_add(span.lasts))
    }

    fn prune(&mut self, span: Span, age: u64) {
        let aged = self.slots.iter().take_while(|slot| !slot.is_live(span, age)).count();
        self.counted = self.counted.wrapping_sub(sum_of_ended(&self.slots[..aged]));
        self.slots.drain(..aged);
    }

    fn known(&mut self, label: u64) -> Option<&mut Slot> {
        let at = self.slots.binary_search_by_key(&label, |slot| slot.at).ok()?;
        self.slots.get_mut(at)
    }

    fn slot(&mut self, label: u64) -> &mut Slot {
        let at = match self.slots.binary_search_by_key(&label, |slot| slot.at) {
            Ok(at) => at,
            Err(at) => {
                self.slots.insert(at, Slot { at: label, ..Slot::default() });
                at
            }
        };
        &mut self.slots[at]
    }
}

fn sum_of_ended(slots: &[Slot]) -> u64 {
    slots.iter().fold(0, |sum, slot| sum.wrapping_add(slot.ended()))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_was_taken_is_fresh_again_a_window_later_and_at_most_a_slot_and_its_way_after_that() {
        for window in [Window::Second, Window::Minute, Window::Hour] {
            let (span, length, at) = (Span::of(window), window.longest_us(), 7_777 * SECOND + 123);
            let mut slide = Slide::default();
            slide.hold(span, at, 5);
            assert_eq!(slide.live(span, at + length).held, 5);
            let wait = slide.wait_for(span, at, 5).unwrap();
            assert!((length..=length + length / 50 + length / 240 + ON_ITS_WAY_US).contains(&wait), "{wait}");
            assert_eq!((slide.live(span, at + wait - 1).held, slide.live(span, at + wait).held), (5, 0));
        }
    }

    #[test]
    fn what_was_held_and_not_used_is_fresh_at_once_and_what_has_aged_is_left_alone() {
        let span = Span::of(Window::Minute);
        let mut slide = Slide::default();
        slide.hold(span, SECOND, 50);
        slide.settle(span, SECOND, 50, 20);
        assert_eq!((slide.live(span, SECOND).used, slide.live(span, SECOND).held), (20, 0));
        slide.hold(span, 200 * SECOND, 7);
        slide.settle(span, SECOND, 50, 20);
        assert_eq!(slide.live(span, 200 * SECOND).all(), 7);
        assert_eq!(slide.slots.len(), 1, "what has aged is let go");
    }

    #[test]
    fn the_wait_is_for_the_oldest_that_suffice() {
        let span = Span::of(Window::Minute);
        let mut slide = Slide::default();
        for second in [10, 20, 30] {
            slide.hold(span, second * SECOND, 5);
        }
        let wait = |amount| slide.wait_for(span, 40 * SECOND, amount);
        assert_eq!(wait(5), wait(1));
        assert_eq!(wait(6).unwrap() - wait(5).unwrap(), 10 * SECOND);
        assert_eq!((wait(15).is_some(), wait(16)), (true, None));
    }

    #[test]
    fn a_fast_clock_waits_long_enough() {
        for us in [1, 99, 100, SECOND, 3_600 * SECOND] {
            assert!(by_any_clock(us) * 100 >= us * 101, "{us}");
        }
    }

    proptest! {
        /// Against the plainest oracle: a list of what was admitted when, and what of it was used.
        #[test]
        fn any_window_holds_at_most_the_limit(
            steps in vec((0..3u8, 0..400_000u64, 1..60u64, any::<prop::sample::Index>()), 1..300)
        ) {
            let (span, length, limit) = (Span::of(Window::Second), SECOND, 100);
            let (mut slide, mut age) = (Slide::default(), 5 * SECOND);
            let mut taken: Vec<(u64, u64, bool)> = Vec::new();
            for (what, passes, amount, pick) in steps {
                age += passes / 4;
                if what < 2 {
                    if slide.live(span, age).all() + amount <= limit {
                        slide.hold(span, age, amount);
                        taken.push((age, amount, true));
                    }
                } else if !taken.is_empty() {
                    let nth = pick.index(taken.len());
                    let (at, held, open) = &mut taken[nth];
                    if std::mem::take(open) {
                        let used = amount.min(*held);
                        slide.settle(span, *at, *held, used);
                        *held = used;
                    }
                }
                for (begin, ..) in &taken {
                    let within = taken.iter().filter(|(at, ..)| (*begin..begin + length).contains(at));
                    prop_assert!(within.map(|(_, amount, _)| amount).sum::<u64>() <= limit);
                }
                prop_assert!(slide.slots.len() <= 60 && slide.adds_up());
                // Whatever is as old as a window, a slot and the way is usable again.
                let counts = taken.iter().filter(|(at, ..)| at + span.longest() > age);
                prop_assert!(slide.live(span, age).all() <= counts.map(|(_, amount, _)| amount).sum::<u64>());
            }
        }
    }
}
