//! Shares follow weights, whoever leaves moves only what was its own, and every node says the same.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;
use tollgate_model::{Balancing, KeyPart, Policy};

use super::*;

/// Of one endpoint: its identity, its weight, and its tier.
type One = (u64, u32, usize);

fn balancing(policy: Policy) -> Balancing {
    Balancing { policy, ..Balancing::default() }
}

fn policies() -> [Policy; 5] {
    let [ring, maglev] = hashing();
    [Policy::RoundRobin, Policy::LeastRequest, Policy::Random, ring, maglev]
}

fn hashing() -> [Policy; 2] {
    [Policy::RingHash(KeyPart::Ip), Policy::Maglev(KeyPart::Ip)]
}

fn endpoints(weights: &[u32]) -> Vec<One> {
    weights.iter().enumerate().map(|(n, &weight)| (name(n), weight, 0)).collect()
}

fn name(n: usize) -> u64 {
    hash(format!("http://10.0.0.{n}:80").as_bytes())
}

fn members(endpoints: &[One], fitness: impl Fn(usize) -> Fitness) -> Vec<Member> {
    let member = |(n, &(_, weight, tier)): (usize, &One)| Member { weight, tier, fitness: fitness(n) };
    endpoints.iter().enumerate().map(member).collect()
}

fn lineup(balancing: &Balancing, endpoints: &[One], fitness: impl Fn(usize) -> Fitness) -> Lineup {
    at(balancing, endpoints, fitness, Instant::now())
}

fn at(balancing: &Balancing, endpoints: &[One], fitness: impl Fn(usize) -> Fitness, now: Instant) -> Lineup {
    let tables = Tables::new(&balancing.policy, endpoints);
    Lineup::new(&members(endpoints, fitness), Terms { balancing, tables: &tables, now }, None)
}

fn fit_but(unwell: &[usize]) -> impl Fn(usize) -> Fitness + use<'_> {
    |n| if unwell.contains(&n) { Fitness::Unwell } else { Fitness::Fit }
}

/// The `n`th request: what it says, and what is drawn for it.
fn draw(n: u64) -> Draw {
    Draw { hash: Some(hash(format!("user-{n}").as_bytes())), random: hash(&n.to_le_bytes()) }
}

fn select(lineup: &Lineup, n: u64) -> usize {
    lineup.select(&draw(n), &Tried::default(), |_| 0).expect("somebody is there")
}

/// How many of so many requests each endpoint has.
fn shares(lineup: &Lineup, count: usize, requests: u64) -> Vec<u64> {
    let mut shares = vec![0; count];
    (0..requests).for_each(|n| shares[select(lineup, n)] += 1);
    shares
}

const REQUESTS: u64 = 20_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn shares_follow_the_weights(weights in prop::collection::vec(0_u32..20, 1..12)) {
        prop_assume!(weights.iter().any(|&weight| weight > 0));
        let total: u32 = weights.iter().sum();
        for policy in policies() {
            let endpoints = endpoints(&weights);
            let lineup = lineup(&balancing(policy.clone()), &endpoints, |_| Fitness::Fit);
            let shares = shares(&lineup, weights.len(), REQUESTS);
            for (share, &weight) in shares.iter().zip(&weights) {
                let due = REQUESTS * u64::from(weight) / u64::from(total);
                // Exact in turn; else chance, and of a ring the chance of where its points are.
                let slack = match policy {
                    Policy::RoundRobin => u64::from(total),
                    Policy::RingHash(_) => due / 2 + REQUESTS / 40,
                    _ => due / 8 + REQUESTS / 60,
                };
                prop_assert!(share.abs_diff(due) <= slack, "{policy:?} {weights:?}: {share}, not {due}");
                prop_assert!(weight > 0 || *share == 0);
            }
        }
    }

    #[test]
    fn whoever_leaves_moves_what_was_its_own_and_hardly_more(
        weights in prop::collection::vec(1_u32..4, 2..12),
        leaves in any::<prop::sample::Index>(),
    ) {
        let leaves = leaves.index(weights.len());
        for policy in hashing() {
            let all = endpoints(&weights);
            let mut rest = all.clone();
            rest.remove(leaves);
            let before = lineup(&balancing(policy.clone()), &all, |_| Fitness::Fit);
            let after = lineup(&balancing(policy.clone()), &rest, |_| Fitness::Fit);
            let (mut others, mut moved) = (0_u64, 0_u64);
            for n in 0..4_000 {
                let (old, new) = (all[select(&before, n)].0, rest[select(&after, n)].0);
                if old != all[leaves].0 {
                    others += 1;
                    moved += u64::from(old != new);
                }
            }
            // A ring: none, unless the average weight passes a power of two, which may double its points.
            let average = |of: &[One]| (of.iter().map(|it| it.1).sum::<u32>() / u32::try_from(of.len()).unwrap()).ilog2();
            let most = match policy {
                Policy::RingHash(_) if average(&all) == average(&rest) => 0,
                Policy::RingHash(_) => others / 2,
                _ => others / 8 + 20,
            };
            prop_assert!(moved <= most, "{policy:?} {weights:?} without {leaves}: {moved} of {others}");
        }
    }

    #[test]
    fn whoever_is_not_well_moves_what_is_its_own_and_nothing_else(
        weights in prop::collection::vec(1_u32..4, 3..12),
        unwell in any::<prop::sample::Index>(),
    ) {
        let unwell = [unwell.index(weights.len())];
        for policy in hashing() {
            let terms = Balancing { panic_threshold: 0, ..balancing(policy) };
            let before = lineup(&terms, &endpoints(&weights), |_| Fitness::Fit);
            let after = lineup(&terms, &endpoints(&weights), fit_but(&unwell));
            for n in 0..1_000 {
                let (old, new) = (select(&before, n), select(&after, n));
                prop_assert_eq!(old != new, old == unwell[0]);
            }
        }
    }

    #[test]
    fn every_node_says_the_same_in_whatever_order_it_was_told(
        weights in prop::collection::vec(1_u32..9, 1..12),
        turned in any::<prop::sample::Index>(),
    ) {
        for policy in hashing() {
            let told = endpoints(&weights);
            let mut otherwise = told.clone();
            otherwise.rotate_left(turned.index(told.len()));
            otherwise.reverse();
            let one = lineup(&balancing(policy.clone()), &told, |_| Fitness::Fit);
            let other = lineup(&balancing(policy), &otherwise, |_| Fitness::Fit);
            for n in 0..500 {
                prop_assert_eq!(told[select(&one, n)].0, otherwise[select(&other, n)].0);
            }
        }
    }

    #[test]
    fn a_request_that_is_sent_again_goes_to_everybody_before_it_goes_anywhere_twice(
        weights in prop::collection::vec(1_u32..50, 1..12),
        first in 0_u64..1_000,
        near in prop::collection::vec(any::<bool>(), 12),
    ) {
        for policy in policies() {
            let mut endpoints = endpoints(&weights);
            endpoints.iter_mut().zip(&near).for_each(|(endpoint, &near)| endpoint.2 = usize::from(!near));
            let lineup = lineup(&balancing(policy), &endpoints, |_| Fitness::Fit);
            let mut tried = Tried::default();
            let mut seen = Vec::new();
            for n in 0..weights.len() {
                let index = lineup.select(&draw(first + n as u64), &tried, |_| 0).unwrap();
                prop_assert!(!seen.contains(&index));
                tried.note(index);
                seen.push(index);
            }
            prop_assert!(lineup.select(&draw(first), &tried, |_| 0).is_some(), "then anywhere");
        }
    }

    /// What goes far never jumps: one endpoint less that is fit moves about as much as it has.
    #[test]
    fn what_goes_far_rises_evenly(near in 1_usize..40, far in 1_usize..40) {
        let endpoints: Vec<One> = (0..near + far).map(|n| (name(n), 1, usize::from(n >= near))).collect();
        let terms = Balancing { panic_threshold: 0, ..Balancing::default() };
        let mut before = 0;
        for unwell in 0..=near {
            let spill = lineup(&terms, &endpoints, |n| if n < unwell { Fitness::Unwell } else { Fitness::Fit }).spill();
            let step = (65_536 * 10) / (near as u64 * 7) + 1;
            prop_assert!(spill >= before && spill - before <= step, "{unwell} of {near}: {before} to {spill}");
            prop_assert_eq!(spill == 0, (near - unwell) * 10 >= near * 7);
            before = spill;
        }
        prop_assert_eq!(before, 65_536);
    }

    /// Of zones in an order each has nothing before those in front of it lack something, and everybody is served.
    #[test]
    fn zones_have_what_those_before_them_can_not_take(sizes in prop::collection::vec(1_usize..8, 2..5), fit in prop::collection::vec(0_usize..8, 5)) {
        let tiers = || sizes.iter().enumerate();
        let endpoints: Vec<One> = tiers().flat_map(|(tier, &size)| std::iter::repeat_n(tier, size)).zip(0..).map(|(tier, n)| (name(n), 1, tier)).collect();
        let place = |n: usize| endpoints[..n].iter().filter(|it| it.2 == endpoints[n].2).count();
        let fitness = |n: usize| if place(n) < fit[endpoints[n].2] { Fitness::Fit } else { Fitness::Unwell };
        let fit_of = |tier: usize| fit[tier].min(sizes[tier]);
        prop_assume!(tiers().any(|(tier, _)| fit_of(tier) > 0));
        for policy in policies() {
            let terms = Balancing { panic_threshold: 0, ..balancing(policy) };
            let shares = shares(&lineup(&terms, &endpoints, fitness), endpoints.len(), REQUESTS);
            let share_of = |tier: usize| -> u64 { shares.iter().zip(&endpoints).filter(|it| it.1.2 == tier).map(|it| it.0).sum() };
            prop_assert_eq!(tiers().map(|(tier, _)| share_of(tier)).sum::<u64>(), REQUESTS);
            let mut left = REQUESTS as f64;
            for (tier, &size) in tiers() {
                let takes = (REQUESTS as f64 * fit_of(tier) as f64 / size as f64 / 0.7).min(left);
                let only = tiers().all(|(other, _)| other == tier || fit_of(other) == 0);
                prop_assert!(share_of(tier) as f64 >= takes - REQUESTS as f64 / 40.0, "{terms:?} {sizes:?} {fit:?}: {shares:?}");
                prop_assert!(!only || share_of(tier) == REQUESTS);
                if fit_of(tier) == 0 || left < 1.0 {
                    prop_assert_eq!(share_of(tier), 0);
                }
                left -= takes;
            }
        }
    }
}

#[test]
fn zones_that_have_just_enough_together_leave_nothing_to_the_next_one() {
    // 1/5 and 3/6 of their endpoints are fit, each good for 10/7 of its share: 2/7 and 5/7.
    let endpoints: Vec<One> = (0..12).map(|n| (name(n), 1, usize::from(n >= 5) + usize::from(n == 11))).collect();
    let unwell = [1, 2, 3, 4, 8, 9, 10];
    for policy in policies() {
        let terms = Balancing { panic_threshold: 0, ..balancing(policy) };
        assert_eq!(shares(&lineup(&terms, &endpoints, fit_but(&unwell)), 12, REQUESTS)[11], 0);
    }
}

#[test]
fn what_a_zone_can_not_take_goes_to_the_next_one_and_on_from_there() {
    // Four near, four in the next zone, four in all others.
    let endpoints: Vec<One> = (0..12).map(|n| (name(n), 1, n / 4)).collect();
    for policy in policies() {
        let terms = Balancing { panic_threshold: 0, ..balancing(policy.clone()) };
        for (unwell, expected) in [
            (&[0][..], [7, 0, 0]),
            (&[0, 1, 2, 3], [0, 7, 0]),
            (&[0, 1], [5, 2, 0]),
            (&[0, 1, 4, 5, 6], [10, 4, 0].map(|it| it / 2)),
            (&[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 7]),
        ] {
            let lineup = lineup(&terms, &endpoints, fit_but(unwell));
            let all = shares(&lineup, 12, REQUESTS);
            for (tier, &due) in expected.iter().enumerate() {
                let has: u64 = all[4 * tier..4 * tier + 4].iter().sum();
                assert!(has.abs_diff(REQUESTS * due / 7) < REQUESTS / 50, "{policy:?} without {unwell:?}: {all:?}");
            }
        }
        // One of four is fit in each of the first two: 2.5 and 2.5 of 7, and the rest goes on.
        let lineup = lineup(&terms, &endpoints, fit_but(&[0, 1, 2, 4, 5, 6]));
        let all = shares(&lineup, 12, REQUESTS);
        let has = [all[3], all[7], all[8..].iter().sum()];
        for (has, due) in has.into_iter().zip([5, 5, 4]) {
            assert!(has.abs_diff(REQUESTS * due / 14) < REQUESTS / 50, "{policy:?}: {all:?}");
        }
    }
}

#[test]
fn the_share_that_goes_far_is_the_share_of_requests_by_every_policy() {
    // Half of the near weight is fit: 5/7 stay.
    let endpoints: Vec<One> = (0..8).map(|n| (name(n), 1, usize::from(n >= 4))).collect();
    for policy in policies() {
        let lineup = lineup(&balancing(policy.clone()), &endpoints, fit_but(&[0, 1]));
        let shares = shares(&lineup, 8, REQUESTS);
        let (unwell, near, far): (u64, u64, u64) =
            (shares[..2].iter().sum(), shares[2..4].iter().sum(), shares[4..].iter().sum());
        assert_eq!((unwell, near + far), (0, REQUESTS), "{policy:?}");
        assert!(near.abs_diff(REQUESTS * 5 / 7) < REQUESTS / 50, "{policy:?}: {near}");
    }
}

#[test]
fn zones_are_passed_over_where_nothing_is_near_and_nothing_goes_where_nobody_is_fit() {
    let terms = balancing(Policy::RoundRobin);
    let far: Vec<One> = (0..2).map(|n| (name(n), 1, 1)).collect();
    assert_eq!(shares(&lineup(&terms, &far, |_| Fitness::Fit), 2, 10), [5, 5]);
    let both = [(name(0), 1, 0), (name(1), 1, 0), (name(2), 1, 1)];
    let nobody_far = lineup(&terms, &both, fit_but(&[0, 2]));
    assert_eq!((shares(&nobody_far, 3, 10), nobody_far.spill()), (vec![0, 10, 0], 0));
    let nobody_near = lineup(&terms, &both, fit_but(&[0, 1]));
    assert_eq!((shares(&nobody_near, 3, 10), nobody_near.is_panic()), (vec![0, 0, 10], false));
}

#[test]
fn when_too_few_are_fit_all_are_used_and_the_last_one_always_is() {
    for policy in policies() {
        let four = endpoints(&[1; 4]);
        let enough = lineup(&balancing(policy.clone()), &four, fit_but(&[1, 2]));
        assert!(!enough.is_panic() && shares(&enough, 4, 400)[1..3] == [0, 0], "{policy:?}");
        let too_few = lineup(&balancing(policy.clone()), &four, fit_but(&[1, 2, 3]));
        assert!(too_few.is_panic() && shares(&too_few, 4, 4_000).iter().all(|&share| share > 0), "{policy:?}");
        let never = Balancing { panic_threshold: 0, ..balancing(policy.clone()) };
        assert_eq!(shares(&lineup(&never, &four, fit_but(&[1, 2, 3])), 4, 10), [10, 0, 0, 0], "{policy:?}");
        let nobody = lineup(&never, &four, |_| Fitness::Unwell);
        assert!(nobody.is_panic() && shares(&nobody, 4, 4_000).iter().all(|&share| share > 0), "{policy:?}");
        let none = lineup(&never, &endpoints(&[0, 0]), |_| Fitness::Fit);
        assert_eq!(none.select(&draw(1), &Tried::default(), |_| 0), None);
        let unweighted = lineup(&never, &endpoints(&[0, 1]), fit_but(&[1]));
        assert_eq!(shares(&unweighted, 2, 10), [0, 10], "what has no weight has no requests, whatever happens");
    }
}

#[test]
fn of_two_that_are_drawn_the_one_with_less_to_do_for_its_weight_is_taken() {
    let terms = balancing(Policy::LeastRequest);
    let busy = |lineup: &Lineup, loads: [usize; 2]| -> u64 {
        let load = |index: usize| loads[index];
        (0..1_000).filter(|&n| lineup.select(&draw(n), &Tried::default(), load) == Some(0)).count() as u64
    };
    let even = lineup(&terms, &endpoints(&[1, 1]), |_| Fitness::Fit);
    // Both drawn are the busy one in a quarter of all cases.
    assert!((200..300).contains(&busy(&even, [5, 0])), "{}", busy(&even, [5, 0]));
    let uneven = lineup(&terms, &endpoints(&[3, 1]), |_| Fitness::Fit);
    assert!((850..1_000).contains(&busy(&uneven, [5, 2])), "five of three is less than two of one");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_gets_its_share_step_by_step() {
    let whole = Duration::from_secs(10);
    let terms = Balancing { slow_start: Some(whole), ..Balancing::default() };
    let (start, two) = (Instant::now(), endpoints(&[1, 1]));
    let back = |n| if n == 0 { Fitness::Since(start) } else { Fitness::Fit };
    for (after, first, of) in [(0, 1, 11), (1, 2, 12), (4, 5, 15), (9, 10, 20), (100, 10, 20)] {
        let now = start + Duration::from_secs(after);
        let lineup = at(&terms, &two, back, now);
        assert_eq!(shares(&lineup, 2, of)[0], first, "after {after} s");
        assert!(!lineup.is_stale(now), "after {after} s");
        assert_eq!(lineup.ages(), after < 9, "after {after} s");
        assert_eq!(lineup.is_stale(now + Duration::from_secs(1)), after < 9, "after {after} s");
    }
    // As gently a zone is taken back.
    let zones = [(name(0), 1, 0), (name(1), 1, 1)];
    let spills: Vec<u64> = (0..11).map(|s| at(&terms, &zones, back, start + Duration::from_secs(s)).spill()).collect();
    assert!(spills.windows(2).all(|pair| pair[1] <= pair[0]) && spills[0] > 50_000 && spills[10] == 0, "{spills:?}");
}

#[tokio::test(start_paused = true)]
async fn an_ejection_makes_a_lineup_stale_when_it_ends() {
    let now = Instant::now();
    let until = now + Duration::from_secs(30);
    let ejected = |n| if n == 0 { Fitness::Ejected(until) } else { Fitness::Fit };
    let lineup = at(&Balancing::default(), &endpoints(&[1, 1]), ejected, now);
    assert_eq!(shares(&lineup, 2, 10), [0, 10]);
    assert!(!lineup.is_stale(now) && lineup.is_stale(until));
}

#[test]
fn turns_go_on_where_they_were() {
    let (terms, two) = (balancing(Policy::RoundRobin), endpoints(&[1, 1]));
    let tables = Tables::new(&terms.policy, &two);
    let mut last = lineup(&terms, &two, |_| Fitness::Fit);
    let mut had = vec![0; 2];
    for n in 0..10 {
        had[select(&last, n)] += 1;
        let made = Terms { balancing: &terms, tables: &tables, now: Instant::now() };
        last = Lineup::new(&members(&two, |_| Fitness::Fit), made, Some(&last));
    }
    assert_eq!(had, [5, 5]);
}

/// az-a is near, az-b far.
#[test]
fn what_is_drained_has_none_even_when_nothing_else_is_well() {
    let half: Vec<One> = (0..4).map(|n| (name(n), 1, usize::from(n >= 2))).collect();
    for policy in policies() {
        let terms = balancing(policy.clone());
        let drained = |n| if n < 2 { Fitness::Drained } else { Fitness::Fit };
        let shares = shares(&lineup(&terms, &half, drained), 4, 1_000);
        assert_eq!(shares[..2], [0, 0], "{policy:?}");
        assert!(shares[2] > 200 && shares[3] > 200, "{policy:?}: {shares:?}");
        let unwell = |n| if n < 2 { Fitness::Drained } else { Fitness::Unwell };
        let panicking = lineup(&terms, &half, unwell);
        assert!(panicking.is_panic(), "{policy:?}");
        let shares = self::shares(&panicking, 4, 1_000);
        assert_eq!(shares[..2], [0, 0], "{policy:?}: whoever drained it may be about to switch it off");
        // A drained zone is none that fails: with what is left well there is no panic.
        let terms = Balancing { panic_threshold: 60, ..terms };
        assert!(!lineup(&terms, &half, drained).is_panic(), "{policy:?}");
    }
}

#[test]
fn what_is_taken_back_grows_to_its_share_also_where_nothing_is_said_of_it() {
    let (start, two) = (Instant::now(), [(name(0), 1, 0), (name(1), 1, 1)]);
    let back = |n| if n == 0 { Fitness::TakenBack(start) } else { Fitness::Fit };
    let terms = balancing(Policy::RoundRobin);
    let mut last = 0;
    for tenths in 0..=10 {
        let now = start + Duration::from_secs(tenths);
        let lineup = at(&terms, &two, back, now);
        let near = shares(&lineup, 2, 1_000)[0];
        assert!(near >= last && (tenths > 0 || near < 200), "{tenths}: {near} after {last}");
        assert_eq!(lineup.ages(), tenths < 9, "{tenths}");
        last = near;
    }
    assert_eq!(last, 1_000);
}
