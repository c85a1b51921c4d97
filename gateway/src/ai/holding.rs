//! A hold that grows with its stream: when to ask for more, when to wait for it, and when to cut. Pure.
//!
//! What always holds: the stream goes on only while what has gone by is at least a margin below what is held, or all is
//! held that the provider may write. The margin is what the provider may write before it is stopped.

use super::pace::Slow;

/// Output tokens that are held at first where nothing better is known, and asked for at a time.
const STEP: u64 = 512;
/// More is asked for this many margins ahead of the end: a margin is what comes in about a second at the most, and a leader
/// that died is replaced in two.
const AHEAD: u64 = 3;
/// Once less than so many times the whole bound is free, holds grow with their streams.
const PLENTY: u64 = 8;

/// What to do with a stream, given what has gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    GoOn,
    /// Ask for so much more; go on meanwhile.
    Ask(u64),
    /// Pass nothing on before the answer has come.
    Wait,
    /// No more can be had: end it here.
    Cut,
}

/// The output that is held for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    /// The most that the provider may write.
    bound: u64,
    held: u64,
    margin: u64,
    asking: bool,
    /// The last answer was no.
    refused: bool,
    /// It was no when nothing else was left to do than to ask again.
    exhausted: bool,
}

/// How what goes by is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// By the model's vocabulary.
    Tokens,
    /// By its bytes, several times what it comes to: as no vocabulary is known.
    Bytes,
}

/// What to hold at first of `bound`, where that is less: `free` output is left. Where two steps cover the provider's answers
/// of late, as much as covers them, so that as many as fit go on side by side to their ends.
///
/// Of what is counted by its bytes always as much: a stream that has to be cut is charged several times what it has written,
/// and one that is held whole instead, or fitted, ends by itself and is charged what its provider says.
pub(super) fn first(bound: u64, free: u64, slow: Slow, count: Count) -> Option<u64> {
    let Slow { margin, most, has_ended } = slow;
    let whole = most.saturating_add(margin.saturating_mul(2));
    let covers = whole.max(margin.saturating_mul(AHEAD + 1));
    let first = match count {
        Count::Tokens if whole <= 2 * STEP => covers,
        Count::Tokens => size(margin),
        Count::Bytes if has_ended && covers <= free => covers,
        Count::Bytes => return None,
    };
    (first.max(STEP) < bound && free < bound.saturating_mul(PLENTY)).then_some(first)
}

fn size(margin: u64) -> u64 {
    STEP.max(margin.saturating_mul(4))
}

impl Holding {
    pub(super) fn new(bound: u64, held: u64, margin: u64) -> Self {
        Self { bound, held, margin, asking: false, refused: false, exhausted: false }
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// `most` output tokens can have gone by.
    pub(super) fn step(&mut self, most: u64) -> Step {
        if self.held >= self.bound {
            return Step::GoOn;
        }
        let left = self.held.saturating_sub(most);
        match (left < self.margin, self.asking) {
            (true, true) => Step::Wait,
            (true, false) if self.exhausted => Step::Cut,
            (true, false) => self.ask(),
            (false, false) if !self.refused && left < self.margin.saturating_mul(AHEAD) => self.ask(),
            (false, _) => Step::GoOn,
        }
    }

    fn ask(&mut self) -> Step {
        self.asking = true;
        // The second time in a row is the last.
        self.exhausted = self.refused;
        Step::Ask(size(self.margin).min(self.bound - self.held))
    }

    /// All that is not held yet, for a stream whose provider can't be kept waiting otherwise; none once that was refused.
    pub(super) fn ask_for_all(&mut self) -> Option<u64> {
        let rest = self.bound.saturating_sub(self.held);
        (rest > 0 && !self.asking && !self.exhausted).then(|| {
            (self.asking, self.exhausted) = (true, true);
            rest
        })
    }

    /// So much more is held.
    pub(super) fn granted(&mut self, amount: u64) {
        self.held = self.held.saturating_add(amount);
        (self.asking, self.refused, self.exhausted) = (false, false, false);
    }

    pub(super) fn refused(&mut self) {
        (self.asking, self.refused) = (false, true);
    }

    /// Some time has passed, and others may have given back meanwhile: what was refused may be asked for once more.
    pub(super) fn try_again(&mut self) {
        if !self.asking {
            (self.refused, self.exhausted) = (false, false);
        }
    }

    /// Whether the hold is so far from being used up that a rough count will do.
    pub(super) fn is_far(&self, most: u64) -> bool {
        self.has_all() || self.held.saturating_sub(most) > self.margin.saturating_mul(AHEAD)
    }

    pub(super) fn has_all(&self) -> bool {
        self.held >= self.bound
    }
}

/// What each part of a hold used of `total`: what it held, in their order, and the last all the rest.
pub(super) fn distribute(mut total: u64, parts: &[u64]) -> Vec<u64> {
    let last = parts.len().saturating_sub(1);
    let mut share = |(at, held): (usize, &u64)| {
        let share = if at == last { total } else { total.min(*held) };
        total -= share;
        share
    };
    parts.iter().enumerate().map(&mut share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_asks_at_low_water_waits_and_goes_on() {
        let mut hold = Holding::new(4_000, 512, 64);
        assert_eq!((hold.step(0), hold.step(320)), (Step::GoOn, Step::GoOn));
        assert_eq!(hold.step(321), Step::Ask(512));
        assert_eq!((hold.step(400), hold.step(448)), (Step::GoOn, Step::GoOn));
        assert_eq!(hold.step(449), Step::Wait);
        hold.granted(512);
        assert_eq!(hold.step(449), Step::GoOn);
    }

    #[test]
    fn a_stream_is_cut_once_it_was_refused_twice_in_a_row_and_at_its_margin() {
        let mut hold = Holding::new(4_000, 512, 64);
        assert_eq!(hold.step(400), Step::Ask(512));
        hold.refused();
        assert_eq!(hold.step(448), Step::GoOn);
        assert_eq!(hold.step(450), Step::Ask(512));
        assert_eq!(hold.step(450), Step::Wait);
        hold.refused();
        assert_eq!(hold.step(450), Step::Cut);
    }

    #[test]
    fn what_is_given_after_a_refusal_counts_as_any() {
        let mut hold = Holding::new(4_000, 512, 64);
        hold.step(400);
        hold.refused();
        assert_eq!(hold.step(450), Step::Ask(512));
        hold.granted(30);
        assert_eq!((hold.step(450), hold.step(479)), (Step::Ask(512), Step::Wait), "low water again");
        hold.refused();
        assert_eq!(hold.step(479), Step::Ask(512));
        hold.refused();
        assert_eq!(hold.step(479), Step::Cut);
    }

    #[test]
    fn never_more_is_asked_for_than_the_provider_may_write() {
        let mut hold = Holding::new(600, 512, 64);
        assert_eq!(hold.step(500), Step::Ask(88));
        hold.granted(88);
        assert!(hold.has_all());
        assert_eq!((hold.step(600), hold.step(700)), (Step::GoOn, Step::GoOn));
        assert_eq!(hold.ask_for_all(), None);
        let mut hold = Holding::new(4_000, 512, 64);
        assert_eq!((hold.ask_for_all(), hold.ask_for_all()), (Some(3_488), None));
        hold.refused();
        assert_eq!(hold.ask_for_all(), None, "it has been refused");
    }

    #[test]
    fn holds_grow_only_where_little_is_left() {
        let long = |margin| Slow { margin, most: 3_000, has_ended: true };
        let first = |bound, free, slow| first(bound, free, slow, Count::Tokens);
        assert_eq!(first(4_000, 31_999, long(64)), Some(512));
        assert_eq!(first(4_000, 32_000, long(64)), None);
        assert_eq!(first(512, 100, long(64)), None, "nothing to save");
        assert_eq!(first(4_000, 100, long(256)), Some(1_024));
    }

    #[test]
    fn answers_of_a_step_or_two_are_held_whole() {
        for (margin, most, held) in
            [(64, 101, 256), (64, 490, 618), (64, 896, 1_024), (64, 897, 512), (256, 100, 1_024)]
        {
            let slow = Slow { margin, most, has_ended: true };
            let first = first(2_500, 3_000, slow, Count::Tokens);
            assert_eq!(first, Some(held), "{margin} {most}");
            let mut hold = Holding::new(2_500, held, margin);
            assert_eq!(hold.step(0), Step::GoOn, "{margin} {most}");
        }
        let nothing = |bound, free, most| first(bound, free, Slow { margin: 64, most, has_ended: true }, Count::Tokens);
        assert_eq!(nothing(600, 3_000, 800), None, "nothing to save");
        assert_eq!(nothing(512, 100, 101), None, "nor here");
    }

    #[test]
    fn what_counts_by_its_bytes_is_held_as_answers_were_or_does_not_grow() {
        let first =
            |bound, free, most, has_ended| first(bound, free, Slow { margin: 64, most, has_ended }, Count::Bytes);
        assert_eq!(first(1_800, 2_000, 600, true), Some(728));
        assert_eq!(first(4_000, 2_000, 1_200, true), Some(1_328), "however many steps that is");
        assert_eq!(first(4_000, 1_328, 1_200, true), Some(1_328));
        assert_eq!(first(4_000, 1_327, 1_200, true), None, "it would have to be cut");
        assert_eq!(first(4_000, 3_000, 600, false), None, "nobody has seen a whole answer");
        assert_eq!(first(1_300, 2_000, 1_200, true), None, "nothing to save");
    }

    #[test]
    fn who_waits_for_others_asks_again_and_is_cut_by_time_alone() {
        let mut hold = Holding::new(4_000, 512, 64);
        assert_eq!(hold.step(400), Step::Ask(512));
        hold.try_again();
        assert_eq!(hold.step(400), Step::GoOn, "it has not been answered");
        hold.refused();
        assert_eq!(hold.step(410), Step::GoOn);
        hold.try_again();
        assert_eq!(hold.step(420), Step::Ask(512));
        hold.refused();
        assert_eq!(hold.step(450), Step::Ask(512));
        hold.refused();
        assert_eq!(hold.step(450), Step::Cut, "unless it waits");
        hold.try_again();
        assert_eq!(hold.step(450), Step::Ask(512));
        hold.granted(512);
        assert_eq!(hold.step(450), Step::GoOn);
    }

    proptest! {
        #[test]
        fn every_token_is_used_of_one_part_and_none_takes_more_than_it_held_but_the_last(
            total in 0u64..10_000, parts in prop::collection::vec(0u64..1_000, 1..12)
        ) {
            let shares = distribute(total, &parts);
            prop_assert_eq!(shares.len(), parts.len());
            prop_assert_eq!(shares.iter().sum::<u64>(), total);
            for (at, (share, held)) in shares.iter().zip(&parts).enumerate() {
                prop_assert!(share <= held || at + 1 == parts.len());
                let later: u64 = shares[at + 1..].iter().sum();
                prop_assert!(share == held || later == 0, "a later part was drawn on before this one was used up");
            }
        }

        /// A provider that writes no more than the margin between two looks is never over, whatever the log answers.
        #[test]
        fn what_goes_by_stays_within_what_is_held(
            bound in 513u64..8_000,
            steps in prop::collection::vec((1u64..=64, 0u8..3), 1..400)
        ) {
            let mut hold = Holding::new(bound, 512, 64);
            let (mut most, mut pending) = (0u64, None);
            for (burst, answer) in steps {
                match hold.step(most) {
                    Step::Cut => break,
                    Step::Ask(amount) => {
                        prop_assert!(pending.is_none() && amount > 0 && hold.held + amount <= bound);
                        pending = Some(amount);
                    }
                    Step::Wait => prop_assert!(pending.is_some(), "nobody will ever answer"),
                    Step::GoOn => {}
                }
                match (pending, answer) {
                    (Some(amount), 1) => { hold.granted(amount); pending = None; }
                    (Some(_), 2) => { hold.refused(); pending = None; }
                    _ => {}
                }
                // At the margin nothing is read before there is an answer.
                if most + hold.margin <= hold.held || hold.has_all() {
                    most = (most + burst).min(bound);
                }
                prop_assert!(most <= hold.held, "{most} of {}", hold.held);
            }
        }
    }
}
