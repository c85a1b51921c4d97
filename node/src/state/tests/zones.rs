//! Limits by the clocks of those whom they concern.

use tollgate_model::{TimeZone, Window};
use tollgate_proto::state::v1::DeleteResource;
use tollgate_quota::ledger::AccountView;

use super::*;

const HOMES: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: kiwi}
spec: {timeZone: Pacific/Auckland}
---
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: angel}
spec: {timeZone: America/Los_Angeles}
---
apiVersion: tollgate/v1
kind: Consumer
metadata: {name: kiri}
spec: {tenant: kiwi}
---
apiVersion: tollgate/v1
kind: Consumer
metadata: {name: lana}
spec: {tenant: angel}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: days}
spec: {per: [tenant], unit: tokens, limit: 1000, window: 1d, algorithm: fixed}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: months}
spec: {match: {tenants: [kiwi, angel]}, per: [consumer, model], unit: tokens, limit: 1000, window: month, algorithm: fixed}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: own}
spec: {match: {consumers: [kiri]}, unit: tokens, limit: 1000, window: 1d, algorithm: fixed}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: routes}
spec: {match: {tenants: [kiwi, angel]}, per: [route], unit: tokens, limit: 1000, window: 1d, algorithm: fixed}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: minutes}
spec: {per: [tenant], unit: tokens, limit: 1000, window: 1m, algorithm: fixed}
"#;

fn apply(driven: &mut Driven, yaml: &str) {
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", yaml);
    assert!(problems.is_empty(), "{problems}");
    let puts = parsed.into_iter().map(|it| PutResource { resource: Some(it.resource), expected_version: None });
    let change = ConfigChange { puts: puts.collect(), ..ConfigChange::default() };
    let outcome = ConfigOutcome::decode(driven.apply(command::Kind::Config(change))).unwrap();
    assert!(outcome.problems.is_empty(), "{outcome:?}");
    assert_eq!(driven.rows, driven.image());
}

fn lives(driven: &mut Driven, tenant: &str, zone: &str) {
    let spec = format!("spec: {{timeZone: {zone}}}\n");
    apply(driven, &format!("apiVersion: tollgate/v1\nkind: Tenant\nmetadata: {{name: {tenant}}}\n{spec}"));
}

fn account(driven: &Driven, limit: &str, key: &[&str]) -> AccountView {
    let key: Vec<String> = key.iter().map(|it| (*it).to_owned()).collect();
    driven.shared.ledger(|ledger| ledger.account(driven.shared.log_time(), limit, Some(&key))).unwrap()
}

/// The windows of these accounts are those of `zone`.
#[track_caller]
fn is_of(driven: &Driven, zone: &str, accounts: &[(&str, &[&str])]) {
    for (limit, key) in accounts {
        let view = account(driven, limit, key);
        let window = if *limit == "months" { Window::Month } else { Window::Day };
        let expected = window.bounds(driven.shared.log_time(), &TimeZone::parse(zone).unwrap());
        assert_eq!((view.window_start, view.window_end), expected, "{limit} {key:?}");
    }
}

fn apart(driven: &Driven) -> Vec<String> {
    let rules = driven.shared.ledger(Ledger::rules);
    rules.into_iter().filter(|rule| rule.apart).map(|rule| rule.limit.to_string()).collect()
}

fn take(driven: &mut Driven, request: u64, tenant: &str, amount: u64) -> bool {
    let limit_version = driven.shared.ledger(|ledger| ledger.rule("days").unwrap().version.0);
    let charge = Charge { limit: "days".to_owned(), key: vec![tenant.to_owned()], amount, limit_version };
    let hold = Hold { request, charges: vec![charge], hold_for_us: 60_000_000, ..Hold::default() };
    let outcome = QuotaOutcome::decode(driven.apply(frame(request, vec![record::Kind::Hold(hold)]))).unwrap();
    outcome.frames[0].holds[0].granted
}

#[test]
fn accounts_go_by_the_clock_of_the_tenant_that_their_key_tells() {
    let mut driven = Driven::new();
    apply(&mut driven, HOMES);
    driven.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    assert_eq!(apart(&driven), ["days", "months"]);
    is_of(&driven, "Pacific/Auckland", &[("days", &["kiwi"]), ("months", &["kiri", "m"]), ("own", &[])]);
    is_of(&driven, "America/Los_Angeles", &[("days", &["angel"]), ("months", &["lana", "m"])]);
    is_of(&driven, "UTC", &[("days", &["nobody"]), ("months", &["nobody", "m"]), ("routes", &["chat"])]);

    assert!(take(&mut driven, 1, "kiwi", 600) && take(&mut driven, 2, "angel", 600));
    lives(&mut driven, "kiwi", "Asia/Kathmandu");
    is_of(&driven, "Asia/Kathmandu", &[("days", &["kiwi"]), ("months", &["kiri", "m"]), ("own", &[])]);
    is_of(&driven, "America/Los_Angeles", &[("days", &["angel"]), ("months", &["lana", "m"])]);
    assert_eq!(account(&driven, "days", &["kiwi"]).held, 600);
    assert!(!take(&mut driven, 3, "kiwi", 600), "an edit gives nothing twice");

    apply(&mut driven, "apiVersion: tollgate/v1\nkind: Consumer\nmetadata: {name: kiri}\nspec: {tenant: angel}\n");
    is_of(&driven, "America/Los_Angeles", &[("months", &["kiri", "m"]), ("own", &[])]);
}

#[test]
fn a_limit_has_one_window_as_long_as_all_live_in_one_zone() {
    let mut driven = Driven::new();
    apply(&mut driven, HOMES);
    driven.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    assert!(take(&mut driven, 1, "kiwi", 600));
    lives(&mut driven, "kiwi", "America/Los_Angeles");
    assert_eq!(apart(&driven), [""; 0]);
    let limits: [(&str, &[&str]); 3] = [("days", &["kiwi"]), ("days", &["angel"]), ("routes", &["chat"])];
    is_of(&driven, "America/Los_Angeles", &limits);
    assert_eq!(account(&driven, "days", &["kiwi"]).held, 600);

    lives(&mut driven, "late", "UTC");
    assert_eq!(apart(&driven), ["days"], "the other one does not concern it");
    is_of(&driven, "America/Los_Angeles", &limits);
    is_of(&driven, "UTC", &[("days", &["late"])]);
    let delete = DeleteResource { kind: "Tenant".into(), name: "late".into(), expected_version: None };
    driven.apply(command::Kind::Config(ConfigChange { deletes: vec![delete], ..ConfigChange::default() }));
    assert_eq!(apart(&driven), [""; 0]);
    assert!(!take(&mut driven, 2, "kiwi", 600), "whatever was edited");
}

#[test]
fn a_restored_state_knows_where_its_tenants_live() {
    let mut original = Driven::new();
    apply(&mut original, HOMES);
    original.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    assert!(take(&mut original, 1, "kiwi", 600));
    let mut restored = Driven::new();
    let rows = original.image();
    restored.state.restore(&mut rows.clone().into_iter().map(Ok)).unwrap();
    (restored.rows, restored.index) = (rows, original.index);
    for driven in [&mut original, &mut restored] {
        assert!(take(driven, 2, "angel", 600) && !take(driven, 3, "kiwi", 600));
        is_of(driven, "Pacific/Auckland", &[("days", &["kiwi"]), ("months", &["kiri", "m"])]);
        is_of(driven, "America/Los_Angeles", &[("days", &["angel"])]);
        lives(driven, "angel", "UTC");
        is_of(driven, "UTC", &[("days", &["angel"])]);
    }
    assert_eq!(original.image(), restored.image());
}
