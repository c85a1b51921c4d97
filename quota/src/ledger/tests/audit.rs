//! The audit that always runs sees each record that says something else, and a reset mends what it can.

use tollgate_proto::state::v1::LimitReset;

use super::*;
use crate::{
    ledger::{accounts::Account, holds::HoldState, leases::Lease},
    slide::Slot,
};

/// Alice holds 30 by requests, has used 20, and node 1 has a lease of 100 of which it has spent 10; bob has used 5. All of it in
/// a window of the clock, or in one that slides.
fn bench(algorithm: Algorithm) -> Bench {
    let mut bench = Bench::with(&[Rule { algorithm, ..rule("tpm", 1, 1_000) }]);
    bench.hold(vec![charge("tpm", 1, "alice", 20)]);
    bench.settle(1, 20, Outcome::Settled);
    bench.hold(vec![charge("tpm", 1, "alice", 30)]);
    bench.hold(vec![charge("tpm", 1, "bob", 5)]);
    bench.settle(3, 5, Outcome::Settled);
    let lease = bench.want("tpm", 1, "alice", 100, 1).unwrap();
    bench.report(lease, 10, 0, 0);
    bench
}

/// Who does not add up, and what is said of it.
fn unsound(ledger: &Ledger) -> Vec<(Vec<String>, &'static str)> {
    let audited = ledger.image().audit(0, u32::MAX);
    assert_eq!(audited.checked, 2);
    audited.unsound.into_iter().map(|it| (it.key.unwrap_or_default(), it.violation.invariant)).collect()
}

fn account(ledger: &mut Ledger) -> &mut Account {
    let id = ledger.accounts.find(0, "alice").expect("she came");
    ledger.accounts.slab.get_mut(id).expect("it was just found")
}

fn lease(ledger: &mut Ledger) -> &mut Lease {
    ledger.leases.slab.get_mut(0).expect("it was granted")
}

fn hold(ledger: &mut Ledger) -> &mut HoldState {
    let id = ledger.holds.find(1, 2).expect("it is open");
    ledger.holds.slab.get_mut(id).expect("it was just found")
}

/// One record says something else.
type Damage = (&'static str, fn(&mut Ledger));

const OF_ANY: [Damage; 9] = [
    ("an account's used", |it| account(it).used += 1),
    ("an account's held", |it| account(it).held -= 1),
    ("an account's leased", |it| account(it).leased += 1),
    ("an account's suspense", |it| account(it).rare_mut().suspense += 1),
    ("an account's own count", |it| account(it).taken -= 1),
    ("a lease's granted", |it| lease(it).granted += 1),
    ("a lease's returned", |it| lease(it).returned += 1),
    ("a lease's incarnation", |it| lease(it).incarnation = 7),
    ("a hold's amount", |it| hold(it).charges[0].amount += 1),
];

#[test]
fn each_record_that_says_something_else_is_seen_and_no_other_account_is() {
    for algorithm in [Algorithm::Fixed, Algorithm::Sliding] {
        for (name, damage) in OF_ANY {
            let mut bench = bench(algorithm);
            assert_eq!(unsound(&bench.ledger), [], "{name}: before");
            damage(&mut bench.ledger);
            assert_eq!(unsound(&bench.ledger), [(vec!["alice".to_owned()], "I1")], "{algorithm:?}: {name}");
        }
    }
}

#[test]
fn what_is_spent_of_a_lease_is_out_of_hand_where_a_window_turns() {
    let mut bench = bench(Algorithm::Fixed);
    lease(&mut bench.ledger).spent += 1;
    assert_eq!(unsound(&bench.ledger), [(vec!["alice".to_owned()], "I1")]);
}

#[test]
fn more_spent_than_granted_is_seen() {
    let mut bench = bench(Algorithm::Fixed);
    lease(&mut bench.ledger).spent = 101;
    assert_eq!(unsound(&bench.ledger), [(vec!["alice".to_owned()], "I2")]);
}

/// A slot holds by the requests that do.
#[test]
fn a_slot_that_holds_what_no_request_does_is_seen() {
    let mut bench = bench(Algorithm::Sliding);
    account(&mut bench.ledger).rare_mut().slide.slots.last_mut().expect("it is held").held += 1;
    assert_eq!(unsound(&bench.ledger), [(vec!["alice".to_owned()], "I1")]);
}

/// What was used of a slot no other record tells, but what was counted of all of them.
#[test]
fn a_slot_that_was_used_otherwise_than_counted_is_seen_and_a_reset_mends_it() {
    let used = |it: &Ledger| it.image().audit(0, u32::MAX).sums["tpm"].used;
    let damages: [Damage; 3] = [
        ("used more", |it| last_slot(it).used += 1),
        ("used less", |it| last_slot(it).used -= 1),
        ("overrun", |it| last_slot(it).overrun += 1),
    ];
    for (name, damage) in damages {
        let mut bench = bench(Algorithm::Sliding);
        assert_eq!(used(&bench.ledger), 25, "alice and bob");
        damage(&mut bench.ledger);
        assert_eq!(unsound(&bench.ledger), [(vec!["alice".to_owned()], "I1")], "{name}");
        assert!(bench.ledger.audit().is_err(), "{name}");
        let reset = LimitReset { limit: "tpm".into(), key: vec!["alice".into()], ..LimitReset::default() };
        bench.ledger.reset(Timestamp(bench.now), &reset, &mut Changes::new());
        assert_eq!(unsound(&bench.ledger), [], "{name}");
        bench.ledger.audit().unwrap();
    }
}

fn last_slot(ledger: &mut Ledger) -> &mut Slot {
    account(ledger).rare_mut().slide.slots.last_mut().expect("it is held")
}

/// Of an account's own record: what holds and leases say it is, is what it is.
#[test]
fn a_reset_makes_an_account_add_up_again() {
    for algorithm in [Algorithm::Fixed, Algorithm::Sliding] {
        for (name, damage) in OF_ANY.into_iter().take(5) {
            let (mut bench, mut sound) = (bench(algorithm), bench(algorithm));
            damage(&mut bench.ledger);
            let reset = LimitReset { limit: "tpm".into(), key: vec!["alice".into()], ..LimitReset::default() };
            let after = |it: &mut Bench| it.ledger.reset(Timestamp(it.now), &reset, &mut Changes::new()).after;
            assert_eq!(after(&mut bench), after(&mut sound), "{algorithm:?}: {name}");
            assert_eq!(unsound(&bench.ledger), [], "{algorithm:?}: {name}");
            bench.ledger.audit().unwrap();
            let rows = |it: &Bench| it.ledger.image().into_rows().collect::<Vec<_>>();
            assert_eq!(rows(&bench), rows(&sound), "every node has the same rows: {algorithm:?}: {name}");
        }
    }
}
