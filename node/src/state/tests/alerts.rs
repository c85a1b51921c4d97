//! Budgets through the log: the entry that bills past a threshold raises its alert, in the month of the tenant's zone.

use tollgate_proto::state::v1::{BudgetAlertOutcome, BudgetAlertRow, BudgetAlertState, BudgetAlertTried};

use super::*;

fn tenant(zone: &str, monthly: u32) -> String {
    let webhook = "{url: 'https://example.com/hook', secret: {env: HOOK}}";
    let budget = format!("{{monthly: '{monthly}', webhook: {webhook}}}");
    let spec = format!("{{timeZone: {zone}, billing: {{mode: postpaid, currency: USD}}, budget: {budget}}}");
    format!("apiVersion: tollgate/v1\nkind: Tenant\nmetadata: {{name: acme}}\nspec: {spec}\n")
}

const PRICE: &str =
    "apiVersion: tollgate/v1\nkind: Price\nmetadata: {name: m}\nspec: {currency: USD, per: 1, input: '1'}\n";

fn apply_yaml(driven: &mut Driven, text: &str) {
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", text);
    assert!(problems.is_empty(), "{problems}");
    let put = |resource| PutResource { resource: Some(resource), expected_version: None };
    let puts = parsed.into_iter().map(|parsed| put(parsed.resource)).collect();
    let change = ConfigChange { puts, ..ConfigChange::default() };
    let outcome = ConfigOutcome::decode(driven.apply(command::Kind::Config(change))).unwrap();
    assert!(outcome.problems.is_empty(), "{outcome:?}");
}

fn started(zone: &str) -> Driven {
    let mut driven = Driven::new();
    apply_yaml(&mut driven, &format!("{}---\n{PRICE}", tenant(zone, 10)));
    driven.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    driven
}

/// A call of so many tokens, each a dollar, that was admitted then.
fn bill(driven: &mut Driven, seq: u64, at: &str, tokens: u64) {
    let attribution = Attribution {
        tenant: "acme".into(),
        model: "m".into(),
        provider: "p".into(),
        currency: "USD".into(),
        config_index: driven.index,
        admitted_us: Timestamp::parse(at).unwrap().0,
        ..Attribution::default()
    };
    let settle = Settle {
        request: (1 << 40) + seq,
        outcome: Outcome::Settled.into(),
        usage: Some(Usage { input_tokens: tokens, ..Usage::default() }),
        attribution: Some(attribution.into()),
        unheld: true,
        ..Settle::default()
    };
    let records = vec![Record { kind: Some(record::Kind::Settle(settle)) }];
    let frames = vec![Frame { node: 1, incarnation: 1, first_seq: seq, records, ..Frame::default() }];
    driven.apply(command::Kind::Quota(QuotaBatch { frames }));
    assert_eq!(driven.rows, driven.image(), "what was written adds up to what there is");
}

fn alerts(driven: &Driven) -> Vec<Arc<BudgetAlertRow>> {
    let mut alerts = driven.shared.alerts(|book| book.outbox().list(None, None, 100));
    alerts.reverse();
    alerts
}

fn raised(driven: &Driven) -> Vec<(String, u32)> {
    alerts(driven).iter().map(|it| (tollgate_model::month_name(it.month), it.percent)).collect()
}

fn said(all: &[(&str, u32)]) -> Vec<(String, u32)> {
    all.iter().map(|(month, percent)| ((*month).to_owned(), *percent)).collect()
}

/// The clock of the test is in January 2027; by then prices are a moment old, so calls before them are billed at nothing.
#[test]
fn a_bill_counts_in_the_month_in_which_its_call_was_admitted_where_the_tenant_lives() {
    let old = PRICE.replace("per: 1,", "per: 1, effectiveFrom: '2026-12-01T00:00:00Z',");
    for (zone, months) in [("UTC", ["2026-12", "2026-12"]), ("Europe/Berlin", ["2026-12", "2027-01"])] {
        let mut driven = started(zone);
        apply_yaml(&mut driven, &old);
        bill(&mut driven, 1, "2026-12-31T22:59:59Z", 5);
        bill(&mut driven, 2, "2026-12-31T23:00:00Z", 5);
        let [first, second] = months;
        let expected = if first == second {
            said(&[(first, 50), (first, 80), (first, 100)])
        } else {
            said(&[(first, 50), (second, 50)])
        };
        assert_eq!(raised(&driven), expected, "{zone}");
    }
}

#[test]
fn a_zone_that_changes_takes_no_bill_along_and_raises_nothing_twice() {
    let mut driven = started("UTC");
    let now = |driven: &Driven| Timestamp(1_800_000_000_000_000 + driven.index * 1_000).to_string();
    let at = now(&driven);
    bill(&mut driven, 1, &at, 8);
    assert_eq!(raised(&driven), said(&[("2027-01", 50), ("2027-01", 80)]));
    for (n, zone) in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"].into_iter().enumerate() {
        apply_yaml(&mut driven, &tenant(zone, 10));
        let at = now(&driven);
        bill(&mut driven, 2 + n as u64, &at, 1);
    }
    assert_eq!(raised(&driven), said(&[("2027-01", 50), ("2027-01", 80), ("2027-01", 100)]));
}

#[test]
fn a_budget_has_the_months_that_the_bill_has() {
    let mut driven = started("UTC");
    apply_yaml(&mut driven, &PRICE.replace("per: 1,", "per: 1, effectiveFrom: '2026-12-01T00:00:00Z',"));
    bill(&mut driven, 1, "2027-01-10T00:00:00Z", 4);
    apply_yaml(&mut driven, &tenant("Pacific/Pago_Pago", 10));
    // There it was the last evening of December; the bill of January has it.
    bill(&mut driven, 2, "2027-01-01T05:00:00Z", 4);
    let january = driven.shared.books().look(|state| {
        let months: Vec<_> = state.periods().list(Some("acme"), None).map(|(_, it)| it.tree.leaves()).collect();
        months
    });
    assert_eq!(january, [2]);
    assert_eq!(raised(&driven), said(&[("2027-01", 50), ("2027-01", 80)]));
}

#[test]
fn a_node_that_starts_again_knows_what_was_raised_and_what_waits() {
    let mut original = started("Europe/Berlin");
    let now = |driven: &Driven| Timestamp(1_800_000_000_000_000 + driven.index * 1_000).to_string();
    let at = now(&original);
    bill(&mut original, 1, &at, 9);
    let seq = alerts(&original)[0].seq;
    let tried = |number, delivered| {
        let tried = BudgetAlertTried { seq, number, delivered, problem: "no".into(), ..BudgetAlertTried::default() };
        command::Kind::BudgetAlertTried(tried)
    };
    let taken = |outcome: Bytes| BudgetAlertOutcome::decode(outcome).unwrap().taken;
    assert!(taken(original.apply(tried(1, false))) && !taken(original.apply(tried(1, false))));

    let mut restored = Driven::new();
    let rows = original.image();
    restored.state.restore(&mut rows.clone().into_iter().map(Ok)).unwrap();
    (restored.rows, restored.index) = (rows, original.index);
    assert_eq!(alerts(&restored), alerts(&original));
    for driven in [&mut original, &mut restored] {
        let at = now(driven);
        bill(driven, 2, &at, 1);
        assert!(taken(driven.apply(tried(2, true))));
        assert_eq!(raised(driven), said(&[("2027-01", 50), ("2027-01", 80), ("2027-01", 100)]));
        assert_eq!(alerts(driven)[0].state(), BudgetAlertState::Delivered);
    }
    assert_eq!(original.image(), restored.image());
    assert_eq!(restored.rows, restored.image());
}

#[test]
fn a_budget_that_is_lowered_below_the_bill_is_told_of_in_that_very_entry() {
    let mut driven = started("UTC");
    let at = Timestamp(1_800_000_000_000_000 + driven.index * 1_000).to_string();
    bill(&mut driven, 1, &at, 4);
    assert!(raised(&driven).is_empty());
    apply_yaml(&mut driven, &tenant("UTC", 5));
    assert_eq!(raised(&driven), said(&[("2027-01", 50), ("2027-01", 80)]));
    assert_eq!(driven.rows, driven.image());
    let waiting = |driven: &Driven| alerts(driven).iter().filter(|it| it.state() == BudgetAlertState::Pending).count();
    assert_eq!(waiting(&driven), 2);
    let delete = tollgate_proto::state::v1::DeleteResource {
        kind: "Tenant".into(),
        name: "acme".into(),
        expected_version: None,
    };
    driven.apply(command::Kind::Config(ConfigChange { deletes: vec![delete], ..ConfigChange::default() }));
    assert_eq!(waiting(&driven), 0, "nobody is left to be told");
    assert_eq!(driven.rows, driven.image());
}
