//! Leaving a provider's key alone that is refused, and finding out when it is taken again: by itself, or by what another node says.

use std::time::Duration;

use tokio::time::Instant;
use tollgate_model::KeyFailover;

/// Whatever a provider asks for, a key is tried once in so long.
const LONGEST: Duration = Duration::from_hours(1);
/// The node that has rested a key tries it first; those who have heard of it only where it didn't.
const BEHIND: Duration = Duration::from_millis(250);
/// What another node says again and again is not new if it differs by less.
const SAME: Duration = Duration::from_millis(150);

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resting {
    rest: Option<Rest>,
    /// When it was last found to be well, here or elsewhere: what was met before then says nothing any more.
    well_at: Option<Instant>,
}

/// What came of a request with a key that rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probed {
    Taken,
    /// And how long the provider asks to be left alone.
    Refused(Duration),
    /// Nothing that would say anything of the key.
    Unknown,
}

/// What one node says of a key that it has rested by itself: how long it is left alone still, and how long ago it was refused last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) left: Duration,
    pub(crate) age: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    /// When a request is sent with it, to see.
    probe_at: Instant,
    is_probed: bool,
    /// Good answers in a row.
    successes: u32,
    /// When it was refused last.
    refused_at: Instant,
    /// When it would be tried by what this node has met itself, where it has met anything: that alone is told to others, or two nodes
    /// would put each other off for ever.
    own: Option<Instant>,
    /// Not before then, whatever others say: this node has tried it, and learned nothing or not enough.
    least: Option<Instant>,
    /// Whose word `probe_at` is, where it is another node's.
    peer: Option<u64>,
}

impl Resting {
    pub(crate) fn is_resting(&self) -> bool {
        self.rest.is_some()
    }

    /// From now on, for as long as the provider `asks` for where that is longer than usual.
    pub(crate) fn begin(&mut self, asks: Duration, terms: &KeyFailover, now: Instant) {
        let probe_at = now + pause(asks, terms);
        self.rest = Some(Rest {
            probe_at,
            is_probed: false,
            successes: 0,
            refused_at: now,
            own: Some(probe_at),
            least: None,
            peer: None,
        });
    }

    /// When it is to be tried. None while it is, and where it does not rest.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.rest.filter(|rest| !rest.is_probed).map(|rest| rest.probe_at)
    }

    /// Whether a request is to be sent with it to see: one at a time.
    pub(crate) fn probe(&mut self, now: Instant) -> bool {
        let due = |rest: &&mut Rest| !rest.is_probed && rest.probe_at <= now;
        let Some(rest) = self.rest.as_mut().filter(due) else { return false };
        rest.is_probed = true;
        true
    }

    /// What came of it. Where it rests no longer, as another node has found it well meanwhile, a refusal is for the caller to
    /// [`begin`](Self::begin) with: it came later.
    pub(crate) fn probed(&mut self, came: Probed, terms: &KeyFailover, now: Instant) {
        let Some(rest) = &mut self.rest else { return };
        rest.is_probed = false;
        let asks = if let Probed::Refused(asks) = came { asks } else { Duration::ZERO };
        rest.probe_at = now + pause(asks, terms);
        rest.least = Some(rest.probe_at);
        match came {
            Probed::Taken => rest.successes += 1,
            Probed::Refused(_) => (rest.successes, rest.refused_at) = (0, now),
            Probed::Unknown => {}
        }
        if rest.own.is_some() || matches!(came, Probed::Refused(_)) {
            (rest.own, rest.peer) = (Some(rest.probe_at), None);
        }
        if rest.successes >= terms.success_threshold {
            (self.rest, self.well_at) = (None, Some(now));
        }
    }

    /// What the others are told: only what was met here, or one node's word would never end.
    pub(crate) fn said(&self, now: Instant) -> Option<Said> {
        let rest = self.rest?;
        let left = rest.own?.saturating_duration_since(now);
        Some(Said { left, age: now.saturating_duration_since(rest.refused_at) })
    }

    /// How long ago it was found to be well, if it was.
    pub(crate) fn well_for(&self, now: Instant) -> Option<Duration> {
        self.well_at.map(|at| now.saturating_duration_since(at))
    }

    /// Another node has rested it. Whether that changes anything: not what this one knows better, or tries just now.
    pub(crate) fn hear(&mut self, peer: u64, said: Said, terms: &KeyFailover, now: Instant) -> bool {
        let refused_at = now.checked_sub(said.age).unwrap_or(now);
        if self.well_at.is_some_and(|well_at| well_at >= refused_at) {
            return false;
        }
        let probe_at = now + said.left.min(LONGEST.max(terms.probe_interval)) + BEHIND;
        let heard =
            Rest { probe_at, is_probed: false, successes: 0, refused_at, own: None, least: None, peer: Some(peer) };
        let Some(rest) = &mut self.rest else {
            self.rest = Some(heard);
            return true;
        };
        let is_its_own_word = rest.peer == Some(peer);
        if rest.is_probed || !is_its_own_word && probe_at <= rest.probe_at {
            return false;
        }
        rest.refused_at = rest.refused_at.max(refused_at);
        // It is due there, and nobody has tried it: that it still is puts nothing off.
        if said.left.is_zero() && probe_at >= rest.probe_at {
            return false;
        }
        let at = [rest.own, rest.least].into_iter().flatten().fold(probe_at, Instant::max);
        if at.max(rest.probe_at) - at.min(rest.probe_at) < SAME {
            return false;
        }
        (rest.probe_at, rest.peer) = (at, Some(peer));
        true
    }

    /// A node says no longer that it has rested this key. Whether that changes anything.
    pub(crate) fn unsaid(&mut self, peer: u64) -> bool {
        let Some(rest) = self.rest.as_mut().filter(|rest| rest.peer == Some(peer) && !rest.is_probed) else {
            return false;
        };
        match rest.own {
            Some(own) => (rest.probe_at, rest.peer) = (own, None),
            None => self.rest = None,
        }
        true
    }

    /// Another node has found it well so long ago. Whether that changes anything.
    pub(crate) fn is_well(&mut self, age: Duration, now: Instant) -> bool {
        let well_at = now.checked_sub(age).unwrap_or(now);
        if self.rest.is_some_and(|rest| rest.refused_at > well_at) {
            return false;
        }
        self.well_at = self.well_at.max(Some(well_at));
        self.rest.take().is_some()
    }
}

fn pause(asks: Duration, terms: &KeyFailover) -> Duration {
    asks.min(LONGEST).max(terms.probe_interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rests_is_tried_by_one_request_at_a_time_until_it_is_taken_as_often_as_was_said() {
        let (start, five) = (Instant::now(), Duration::from_secs(5));
        let terms = KeyFailover { failure_threshold: 3, success_threshold: 2, probe_interval: five };
        let mut key = Resting::default();
        assert!(!key.is_resting() && !key.probe(start) && key.probe_at().is_none());
        key.begin(Duration::ZERO, &terms, start);
        assert_eq!((key.is_resting(), key.probe(start), key.probe_at()), (true, false, Some(start + five)));
        let mut now = start;
        for (came, rests) in [
            (Probed::Refused(Duration::ZERO), true),
            (Probed::Taken, true),
            (Probed::Unknown, true),
            (Probed::Refused(Duration::ZERO), true),
            (Probed::Taken, true),
            (Probed::Taken, false),
        ] {
            now += five;
            assert!(key.probe(now) && !key.probe(now), "one at a time");
            assert_eq!(key.probe_at(), None);
            key.probed(came, &terms, now);
            assert_eq!(key.is_resting(), rests, "{came:?} at {now:?}");
            assert!(!key.probe(now), "not at once again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_rests_for_as_long_as_its_provider_asks_for_up_to_an_hour() {
        let (start, secs) = (Instant::now(), Duration::from_secs);
        let terms = KeyFailover { failure_threshold: 1, success_threshold: 1, probe_interval: secs(5) };
        for (asks, rests) in [(0, 5), (4, 5), (60, 60), (3_600, 3_600), (1_000_000, 3_600)] {
            let mut key = Resting::default();
            key.begin(secs(asks), &terms, start);
            assert_eq!(key.probe_at(), Some(start + secs(rests)), "{asks}");
            assert!(key.probe(start + secs(rests)));
            key.probed(Probed::Refused(secs(asks)), &terms, start);
            assert_eq!(key.probe_at(), Some(start + secs(rests)), "{asks}");
        }
        let seldom = KeyFailover { probe_interval: secs(7_200), ..terms };
        let mut key = Resting::default();
        key.begin(secs(1_000_000), &seldom, start);
        assert_eq!(key.probe_at(), Some(start + secs(7_200)), "as was said");
    }

    const TERMS: KeyFailover =
        KeyFailover { failure_threshold: 3, success_threshold: 1, probe_interval: Duration::from_secs(5) };
    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn what_another_node_says_rests_a_key_as_long_and_no_longer_than_it_says_so() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut key = Resting::default();
        let said = |left: u32, age: u32| Said { left: left * 1_000 * MS, age: age * 1_000 * MS };
        assert!(key.hear(2, said(30, 1), &TERMS, now) && key.is_resting());
        assert_eq!(key.probe_at(), Some(now + said(30, 0).left + BEHIND), "the other one tries it first");
        assert_eq!(key.said(now), None, "nobody says what he was told");
        assert!(!key.hear(2, said(29, 2), &TERMS, now + 1_000 * MS), "the same once more");
        assert!(key.hear(2, said(3, 2), &TERMS, now), "the node that met it may say that it is sooner");
        assert!(
            !key.hear(3, said(2, 2), &TERMS, now) && key.hear(3, said(40, 2), &TERMS, now),
            "others that it is later"
        );
        assert!(!key.unsaid(2) && key.unsaid(3) && !key.is_resting(), "whoever says so longest");
        assert!(key.hear(2, said(1_000_000, 0), &TERMS, now));
        assert_eq!(key.probe_at(), Some(now + LONGEST + BEHIND), "whatever is said");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_tried_a_key_later_knows_better() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut here = Resting::default();
        here.hear(2, Said { left: 1_000 * MS, age: MS }, &TERMS, now);
        let later = now + 2_000 * MS;
        assert!(here.probe(later));
        assert!(!here.hear(2, Said { left: Duration::ZERO, age: 2_000 * MS }, &TERMS, later), "it is tried");
        assert!(!here.unsaid(2) && here.is_resting(), "and the answer counts");
        here.probed(Probed::Taken, &TERMS, later);
        assert!(!here.is_resting());
        let again = later + 100 * MS;
        assert!(!here.hear(2, Said { left: 9_000 * MS, age: 2_101 * MS }, &TERMS, again), "it was met before");
        // The other one is told, and what it met meanwhile it knows better.
        let age = here.well_for(again).unwrap();
        let mut there = Resting::default();
        there.begin(Duration::ZERO, &TERMS, now);
        assert!(there.is_well(age, again) && !there.is_resting());
        there.begin(Duration::ZERO, &TERMS, again);
        assert!(!there.is_well(age, again + MS) && there.is_resting());
        assert!(here.hear(2, there.said(again).unwrap(), &TERMS, again + MS), "it was refused once more");
        // What is refused here is this node's own word.
        assert!(here.probe(again + 60_000 * MS));
        here.probed(Probed::Refused(Duration::ZERO), &TERMS, again + 60_000 * MS);
        assert_eq!(here.said(again + 60_000 * MS), Some(Said { left: TERMS.probe_interval, age: Duration::ZERO }));
        assert!(!here.unsaid(2) && here.is_resting());
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_says_nothing_is_not_made_again_before_its_time_though_it_is_due_elsewhere() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut key = Resting::default();
        assert!(key.hear(2, Said { left: 1_000 * MS, age: MS }, &TERMS, start));
        let mut tries = 0;
        // Nobody tries it there, so that it is due for as long as is looked; a word comes every half a second.
        for half in 1..=60_u32 {
            let now = start + half * 500 * MS;
            let said = Said { left: (1_000 * MS).saturating_sub(half * 500 * MS), age: half * 500 * MS };
            key.hear(2, said, &TERMS, now);
            if key.probe(now) {
                tries += 1;
                key.probed(Probed::Unknown, &TERMS, now);
                assert_eq!(key.probe_at(), Some(now + TERMS.probe_interval));
            }
        }
        assert_eq!(tries, 6, "in half a minute");
        assert!(key.unsaid(2) && !key.is_resting());
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_have_all_rested_a_key_do_not_put_each_other_off() {
        let start = Instant::now();
        let asks = |node: u32| Duration::from_secs(10) + node * 300 * MS;
        let mut nodes = [Resting::default(); 5];
        for (node, key) in (0..).zip(&mut nodes) {
            key.begin(asks(node), &TERMS, start);
        }
        let last = start + asks(4) + BEHIND;
        // Long after it was due everywhere, and a word comes every fifty milliseconds.
        for tick in 0..1_000_u32 {
            let now = start + tick * 50 * MS;
            let from = (tick % 5) as usize;
            let said = nodes[from].said(now).unwrap();
            for (to, key) in nodes.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                key.hear(from as u64, said, &TERMS, now);
                let probe_at = key.probe_at().unwrap();
                assert!(probe_at <= last + SAME, "{to} at {now:?} is to try it at {probe_at:?}, not {last:?}");
            }
        }
        assert!(nodes.iter_mut().all(|key| key.probe(last + SAME)));
        // What the other one has asked for ends with its word, what was met here stays.
        let mut key = Resting::default();
        key.begin(Duration::ZERO, &TERMS, start);
        assert!(key.hear(2, Said { left: 60_000 * MS, age: MS }, &TERMS, start) && key.unsaid(2));
        assert_eq!(key.probe_at(), Some(start + TERMS.probe_interval));
    }
}
