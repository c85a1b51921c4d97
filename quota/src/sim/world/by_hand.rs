//! Runs made by hand, so small that anyone can say what a perfect counter would have done.

use super::*;
use crate::sim::{Bug, Faults};

/// Some nodes and no trouble; nobody comes by himself. 100 units a minute for each key of the first limit.
fn world(nodes: u64, bug: Option<&str>) -> World {
    let bug = bug.map(|name| Bug::named(name).expect("it is listed"));
    let plan = Plan { nodes, faults: Faults::NONE, arrivals: 0, bug, ..Plan::chaos(1) };
    let mut world = World::new(plan, None);
    world.by_hand = true;
    (0..LIMITS.len()).for_each(|limit| world.set(limit, 100).unwrap());
    (1..=nodes).for_each(|node| world.spawn(node, 1, Disk::default()).unwrap());
    world.run_until(world.now + 100 * MS).unwrap();
    world
}

/// How long anything lasts: much longer than any answer takes.
const A_WHILE: u64 = 200 * MS;

/// A request of the first limit; what is known of it after a while.
fn ask(world: &mut World, process: usize, amount: u64) -> Option<bool> {
    let (admitted, refused) = (world.report.admissions, world.report.refusals);
    let request = world.reserve(process, &[0], "x", amount).unwrap().expect("it was asked");
    world.run_until(world.now + A_WHILE).unwrap();
    if world.processes[process].flights.contains_key(&request) {
        world.oracle.sent((process, request), A_WHILE);
    }
    let decided = (world.report.admissions - admitted, world.report.refusals - refused);
    [None, Some(true), Some(false)][usize::try_from(decided.0 + 2 * decided.1).unwrap()]
}

/// Units of ours, of the perfect counter, and refusals of ours that it would not have made.
fn compared(mut world: World) -> (u64, u64, u64) {
    world.run_until(world.now + 5 * SECOND).unwrap();
    world.compare();
    (world.report.admitted_units, world.report.oracle_units, world.report.false_refusals)
}

/// Ends everything that is in flight, having used so much.
fn end(world: &mut World, process: usize, used: u64) {
    let flights = std::mem::take(&mut world.processes[process].flights);
    for (request, labels) in flights {
        world.oracle.ended((process, request), Some(used));
        world.finish(process, request, &labels, used, Outcome::Settled);
    }
}

#[test]
fn alone_we_are_the_perfect_counter() {
    let mut world = world(1, None);
    assert_eq!(ask(&mut world, 0, 60), Some(true));
    end(&mut world, 0, 60);
    assert_eq!(ask(&mut world, 0, 41), Some(false), "40 are left");
    assert_eq!(ask(&mut world, 0, 40), Some(true));
    end(&mut world, 0, 40);
    assert_eq!(ask(&mut world, 0, 1), Some(false));
    assert_eq!(compared(world), (100, 100, 0));
}

#[test]
fn whoever_leaves_without_an_answer_is_missing_from_ours_and_was_not_refused() {
    let mut world = world(1, None);
    world.leaderless = true;
    let request = world.reserve(0, &[0], "x", 60).unwrap().expect("it was asked");
    world.run_until(world.now + 100 * MS).unwrap();
    assert!(world.give_up(0, request));
    assert_eq!(compared(world), (0, 60, 0));
}

/// One node has leases of what the other asks for.
fn most_of_it_elsewhere(bug: Option<&str>) -> (Option<bool>, (u64, u64, u64)) {
    let mut world = world(2, bug);
    for _ in 0..6 {
        assert_eq!(ask(&mut world, 0, 1), Some(true));
        end(&mut world, 0, 1);
    }
    let leased = world.truth.figures(world.truth.lease_of(0, 0, LIMITS[0], &["x".into()]).unwrap().account).0[2];
    assert!(leased > 4, "the first node has {leased} in hand");
    let decided = ask(&mut world, 1, 90);
    (decided, compared(world))
}

#[test]
fn what_is_in_other_hands_is_called_back_before_anyone_is_refused() {
    assert_eq!(most_of_it_elsewhere(None), (Some(true), (96, 96, 0)));
}

#[test]
fn a_variant_that_refuses_too_much_is_seen_beside_the_perfect_counter() {
    assert_eq!(most_of_it_elsewhere(Some("refuses-while-recalling")), (Some(false), (6, 96, 1)));
}
