//! Pages of accounts: whole, ordered, bounded.

use super::{
    show::{Position, Query, Sort},
    *,
};

fn many() -> Bench {
    let two = Rule { per: vec![KeyPart::Consumer, KeyPart::Model], ..rule("two", 1, 100) };
    let mut bench = Bench::with(&[rule("tpm", 1, 100), two]);
    for (n, (limit, key)) in
        [("tpm", vec!["a"]), ("tpm", vec!["b"]), ("two", vec!["a/b", "c"]), ("two", vec!["a", "b/c"])]
            .into_iter()
            .enumerate()
    {
        let key = key.into_iter().map(str::to_owned).collect();
        bench.hold(vec![Charge { limit: limit.into(), key, amount: 20 * (n as u64 + 1), limit_version: 1 }]);
    }
    bench
}

fn walk(bench: &Bench, sort: Sort, min: u32) -> Vec<(String, String, u64)> {
    let mut all = Vec::new();
    let mut after: Option<Position> = None;
    loop {
        let query = Query { sort, min_utilisation_percent: min, after, max: 1, ..Query::default() };
        let page = bench.ledger.accounts(Timestamp(bench.now), &query);
        assert!(page.accounts.len() <= 1);
        all.extend(page.accounts.into_iter().map(|it| (it.limit.to_string(), it.account, it.held)));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[test]
fn two_accounts_that_look_alike_are_both_listed() {
    let all = walk(&many(), Sort::Name, 0);
    let alike: Vec<u64> = all.iter().filter(|it| it.1 == "a/b/c").map(|it| it.2).collect();
    assert_eq!((all.len(), alike), (4, vec![80, 60]));
}

#[test]
fn the_fullest_come_first_and_those_that_are_not_are_left_out() {
    let bench = many();
    let held = |min| walk(&bench, Sort::Utilisation, min).into_iter().map(|it| it.2).collect::<Vec<_>>();
    assert_eq!(held(0), [80, 60, 40, 20]);
    assert_eq!(held(60), [80, 60]);
    assert_eq!(held(81), [0; 0]);
}

#[test]
fn of_a_limit_of_nothing_all_is_taken() {
    let mut bench = many();
    bench.set(rule("tpm", 9, 0));
    assert_eq!(walk(&bench, Sort::Utilisation, 100).len(), 2);
}

#[test]
fn what_each_node_has_in_hand_is_told() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    bench.open(2, 1);
    for node in [1, 2] {
        let want = tollgate_proto::state::v1::Want {
            limit: "tpm".into(),
            key: vec!["a".into()],
            limit_version: 1,
            target: 100 * node,
            need: 1,
        };
        let records = vec![Record { kind: Some(Kind::Want(want)) }];
        bench.apply(&Frame { node, incarnation: 1, first_seq: 1, records, ..Frame::default() });
    }
    let shown = |bench: &Bench| bench.ledger.accounts(Timestamp(bench.now), &Query::default()).accounts.remove(0);
    assert_eq!((shown(&bench).leased, shown(&bench).leased_by_node), (300, vec![(1, 100), (2, 200)]));
    bench.open(2, 2);
    let account = shown(&bench);
    assert_eq!((account.leased, account.suspense, account.leased_by_node), (100, 200, vec![(1, 100)]));
    assert_eq!(account.free, 700);
}

#[test]
fn the_audit_of_an_image_goes_through_all_accounts_and_names_those_that_do_not_add_up() {
    let mut bench = many();
    let mut at = 0;
    let (mut checked, mut held) = (0, 0);
    loop {
        let audited = bench.ledger.image().audit(at, 3);
        assert!(audited.unsound.is_empty(), "{audited:?}");
        checked += audited.checked;
        held += audited.sums.values().map(|sums| sums.held).sum::<u128>();
        let Some(next) = audited.next else { break };
        at = next;
    }
    assert_eq!((checked, held), (4, 200));
    let wrong = bench.ledger.accounts.find(0, "a").unwrap();
    bench.ledger.accounts.slab.get_mut(wrong).unwrap().leased += 1;
    let audited = bench.ledger.image().audit(0, 10);
    let found = &audited.unsound[0];
    assert_eq!((audited.unsound.len(), &*found.limit, &found.key), (1, "tpm", &Some(vec!["a".to_owned()])));
    assert_eq!((found.violation.invariant, found.window_left_us), ("I1", MINUTE));
}

#[test]
fn what_nodes_have_in_hand_is_not_utilised() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    bench.hold(vec![charge("tpm", 1, "busy", 100)]);
    let want = tollgate_proto::state::v1::Want {
        limit: "tpm".into(),
        key: vec!["idle".into()],
        limit_version: 1,
        target: 400,
        need: 1,
    };
    let frame = bench.frame(Kind::Want(want));
    bench.apply(&frame);
    let order = |min| walk(&bench, Sort::Utilisation, min).into_iter().map(|it| it.1).collect::<Vec<_>>();
    let idle = bench.ledger.account(Timestamp(bench.now), "tpm", Some(&["idle".to_owned()])).unwrap();
    assert!(idle.leased >= 100, "{idle:?}");
    assert_eq!(order(0), ["busy", "idle"]);
    assert_eq!(order(10), ["busy"]);
}
