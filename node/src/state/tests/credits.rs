//! Credit through the log: what is granted is in the purse, what is billed is off both, and rows are all of it.

use tollgate_model::{Money, purse_of};
use tollgate_proto::state::v1::{
    CreditEventKind, CreditEventRow, CreditGrant, CreditGrantOutcome, LedgerOutcome, NodeLost, Orphan, Recover, Settle,
    WriteOff,
};

use super::*;

const TENANTS: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {billing: {mode: prepaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: globex}
spec: {billing: {mode: postpaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Price
metadata: {name: m}
spec: {currency: USD, per: 1, input: "1"}
"#;

const ONE: u64 = 1_000_000_000_000;

fn apply_yaml(driven: &mut Driven, text: &str) -> ConfigOutcome {
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", text);
    assert!(problems.is_empty(), "{problems}");
    let put = |resource| PutResource { resource: Some(resource), expected_version: None };
    let puts = parsed.into_iter().map(|parsed| put(parsed.resource)).collect();
    let change = ConfigChange { puts, ..ConfigChange::default() };
    ConfigOutcome::decode(driven.apply(command::Kind::Config(change))).unwrap()
}

fn started() -> Driven {
    let mut driven = Driven::new();
    let outcome = apply_yaml(&mut driven, TENANTS);
    assert!(outcome.problems.is_empty(), "{outcome:?}");
    driven.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    driven
}

fn grant(driven: &mut Driven, tenant: &str, key: &str, whole: i128, expires_us: u64) -> CreditGrantOutcome {
    let grant = CreditGrant {
        tenant: tenant.into(),
        key: key.into(),
        amount: (whole * Money::ONE.0).to_be_bytes().to_vec(),
        expires_us,
        reason: "so".into(),
        actor: "t1".into(),
    };
    CreditGrantOutcome::decode(driven.apply(command::Kind::CreditGrant(grant))).unwrap()
}

fn frame(driven: &mut Driven, seq: u64, kind: record::Kind) -> QuotaOutcome {
    let records = vec![Record { kind: Some(kind) }];
    let frames = vec![Frame { node: 1, incarnation: 1, first_seq: seq, records, ..Frame::default() }];
    QuotaOutcome::decode(driven.apply(command::Kind::Quota(QuotaBatch { frames }))).unwrap()
}

fn request(n: u64) -> u64 {
    (1 << 40) + n
}

fn hold(driven: &mut Driven, seq: u64, tenant: &str, whole: u64) -> bool {
    let charge = Charge { limit: purse_of(tenant).to_string(), amount: whole * ONE, ..Charge::default() };
    let hold = Hold { request: request(seq), charges: vec![charge], hold_for_us: 60_000_000, ..Hold::default() };
    frame(driven, seq, record::Kind::Hold(hold)).frames[0].holds[0].granted
}

/// A call of so many tokens ends: each is a dollar.
fn settle(driven: &mut Driven, seq: u64, of: Option<u64>, tenant: &str, tokens: u64) {
    let settled = settled(driven, seq, of, tenant, tokens);
    frame(driven, seq, record::Kind::Settle(settled));
}

fn settled(driven: &Driven, seq: u64, of: Option<u64>, tenant: &str, tokens: u64) -> Settle {
    Settle {
        request: of.map_or(request(seq), request),
        outcome: Outcome::Settled.into(),
        usage: Some(Usage { input_tokens: tokens, cost: tokens * ONE, ..Usage::default() }),
        attribution: Some(attribution(driven, tenant, of.is_some()).into()),
        unheld: of.is_none(),
        ..Settle::default()
    }
}

fn attribution(driven: &Driven, tenant: &str, prepaid: bool) -> Attribution {
    Attribution {
        request_id: "r".into(),
        tenant: tenant.into(),
        model: "m".into(),
        provider: "p".into(),
        currency: "USD".into(),
        config_index: driven.index,
        admitted_us: 1_800_000_000_000_000 + driven.index * 1_000,
        prepaid,
        ..Attribution::default()
    }
}

/// Granted, spent, rest, owed; and what the purse holds in all and has free.
fn figures(driven: &Driven, tenant: &str) -> ([i128; 4], u64, i128) {
    let view = driven.shared.credits(|book| book.view(tenant)).unwrap();
    let rest = driven.shared.credits(|book| book.rest(tenant));
    let purse = driven.shared.ledger(|ledger| ledger.purse(&purse_of(tenant))).unwrap();
    assert_eq!(i128::from(purse.capacity), rest.0, "the purse holds what is left");
    let whole = |money: Money| money.0 / Money::ONE.0;
    let one = Money::ONE.0;
    let granted = [whole(view.granted), whole(view.spent), whole(rest), whole(view.owed)];
    (granted, purse.capacity / ONE, purse.free / one)
}

fn sound(driven: &Driven) {
    assert_eq!(driven.image(), driven.rows, "rows are all of the state");
    driven.shared.ledger(|ledger| ledger.audit().unwrap());
    let (mut copy, _) = ReplicatedState::new("unused".into());
    copy.restore(&mut driven.image().into_iter().map(Ok)).unwrap();
    assert_eq!(copy.image().collect::<BTreeMap<_, _>>(), driven.rows);
}

#[test]
fn what_a_prepaid_tenant_holds_and_is_billed_is_off_its_grants_to_the_pico() {
    let mut driven = started();
    assert!(!hold(&mut driven, 1, "acme", 1), "there is a purse, with nothing in it");
    assert_eq!(grant(&mut driven, "acme", "a", 10, 0).problem, "");
    assert_eq!(figures(&driven, "acme"), ([10, 0, 10, 0], 10, 10));
    assert!(hold(&mut driven, 2, "acme", 7));
    assert!(!hold(&mut driven, 3, "acme", 4), "not one unit over");
    settle(&mut driven, 4, Some(2), "acme", 6);
    assert_eq!(figures(&driven, "acme"), ([10, 6, 4, 0], 4, 4));
    assert!(hold(&mut driven, 5, "acme", 4));
    settle(&mut driven, 6, Some(5), "acme", 4);
    assert_eq!(figures(&driven, "acme"), ([10, 10, 0, 0], 0, 0));
    assert!(!hold(&mut driven, 7, "acme", 1));
    assert!(grant(&mut driven, "acme", "a", 10, 0).known);
    assert_eq!(figures(&driven, "acme").1, 0, "the same key again gives nothing");
    sound(&driven);
}

#[test]
fn a_postpaid_tenant_burns_credit_first_and_is_never_refused() {
    let mut driven = started();
    settle(&mut driven, 1, None, "globex", 5);
    assert!(driven.shared.credits(|book| book.view("globex")).is_none(), "billed, as ever");
    grant(&mut driven, "globex", "a", 10, 0);
    settle(&mut driven, 2, None, "globex", 4);
    assert_eq!(figures(&driven, "globex"), ([10, 4, 6, 0], 6, 6));
    settle(&mut driven, 3, None, "globex", 40);
    assert_eq!(figures(&driven, "globex"), ([10, 10, 0, 0], 0, 0), "what is beyond is billed");
    sound(&driven);
}

#[test]
fn a_grant_ends_with_the_first_entry_after_it_as_far_as_nobody_holds_it() {
    let mut driven = started();
    let end = 1_800_000_000_000_000 + (driven.index + 5) * 1_000;
    grant(&mut driven, "acme", "short", 10, end);
    grant(&mut driven, "acme", "long", 3, 0);
    assert!(hold(&mut driven, 1, "acme", 6));
    while driven.index * 1_000 + 1_800_000_000_000_000 < end {
        assert_eq!(figures(&driven, "acme").1, 13);
        driven.apply(command::Kind::Quota(QuotaBatch::default()));
    }
    assert_eq!(figures(&driven, "acme"), ([6, 0, 6, 0], 6, 0), "seven are free, and go; six are held");
    assert!(!hold(&mut driven, 2, "acme", 1));
    settle(&mut driven, 3, Some(1), "acme", 4);
    // Three of what was spent were the last of the grant that had ended: nothing is left of it.
    assert_eq!(figures(&driven, "acme"), ([6, 4, 2, 0], 2, 2));
    sound(&driven);
}

#[test]
fn a_correction_waits_for_what_is_held_and_a_currency_for_what_is_there() {
    let mut driven = started();
    grant(&mut driven, "acme", "a", 10, 0);
    assert!(hold(&mut driven, 1, "acme", 8));
    assert_eq!(grant(&mut driven, "acme", "fix", -5, 0).problem, "");
    assert_eq!(figures(&driven, "acme"), ([8, 0, 8, 0], 8, 0), "accepted, and two of it are free");
    let euro = TENANTS.replace("mode: prepaid, currency: USD", "mode: prepaid, currency: EUR");
    let refused = apply_yaml(&mut driven, &euro);
    assert_eq!((refused.problems.len(), refused.problems[0].field.as_str()), (1, "spec.billing.currency"));
    assert!(refused.problems[0].message.starts_with("credit of 8 USD is there"), "{refused:?}");
    settle(&mut driven, 2, Some(1), "acme", 3);
    assert_eq!(figures(&driven, "acme"), ([5, 3, 2, 0], 2, 2), "effective");
    assert_eq!(grant(&mut driven, "acme", "fix-2", -2, 0).problem, "");
    // Credit holds it no more, and what was spent of it does: that is on the bill of this month.
    let refused = apply_yaml(&mut driven, &euro);
    assert_eq!((refused.problems.len(), refused.problems[0].field.as_str()), (1, "spec.billing.currency"));
    assert!(refused.problems[0].message.starts_with("3 USD is billed in 2027-01, which is not closed"), "{refused:?}");
    driven.index += 20 * 24 * 3_600 * 1_000;
    driven.apply(command::Kind::Quota(QuotaBatch::default()));
    let unbound = apply_yaml(&mut driven, &euro);
    assert!(unbound.problems.is_empty(), "{unbound:?}");
    assert!(!hold(&mut driven, 3, "acme", 1));
    assert!(grant(&mut driven, "nobody", "a", 1, 0).problem.contains("no tenant `nobody`"));
    sound(&driven);
}

#[test]
fn what_a_journal_tells_to_its_last_word_in_one_entry_is_billed_and_spent_once() {
    let mut driven = started();
    grant(&mut driven, "acme", "a", 10, 0);
    assert!(hold(&mut driven, 1, "acme", 3), "its end is in the journal");
    assert!(hold(&mut driven, 2, "acme", 4), "nobody knows its end");
    assert!(hold(&mut driven, 3, "acme", 1), "no upstream worked for it");
    let next = NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() };
    driven.apply(command::Kind::NodeOpen(next));
    assert_eq!(figures(&driven, "acme"), ([10, 0, 10, 0], 10, 2), "nothing is free before its journal has spoken");
    let ended = Settle { terminal: 1, ..settled(&driven, 1, Some(1), "acme", 2) };
    let voided =
        Settle { terminal: 2, outcome: Outcome::Voided.into(), usage: None, ..settled(&driven, 3, Some(3), "acme", 0) };
    let unknown =
        Orphan { request: request(2), attribution: Some(attribution(&driven, "acme", true).into()), in_log: false };
    let of = Recover { incarnation: 1, ..Recover::default() };
    let said = [
        Recover { settles: vec![ended, voided], ..of.clone() },
        Recover { orphans: vec![unknown], ..of.clone() },
        Recover { done: true, ..of },
    ];
    let records = said.map(|said| Record { kind: Some(record::Kind::Recover(said)) }).to_vec();
    let frames = vec![Frame { node: 1, incarnation: 2, first_seq: 1, records, ..Frame::default() }];
    driven.apply(command::Kind::Quota(QuotaBatch { frames }));
    assert_eq!(figures(&driven, "acme"), ([10, 2, 8, 0], 8, 8), "two are spent, and all the rest is there");
    let purse = driven.shared.ledger(|ledger| ledger.purse(&purse_of("acme"))).unwrap();
    assert_eq!((purse.held, purse.leased, purse.suspense, purse.billed), (0, 0, 0, 0));
    let written_off = |row: &CreditEventRow| row.kind() == CreditEventKind::WrittenOff;
    let history = driven.shared.credits(|book| book.history("acme", None, 10));
    let amounts: Vec<_> = history.iter().filter(|row| written_off(row)).map(|row| row.amount.to_vec()).collect();
    assert_eq!(amounts, [(4 * Money::ONE.0).to_be_bytes()], "what nobody knows, and nothing of what is billed");
    let records = driven.shared.books().look(|state| state.chain().records());
    assert_eq!(records, 5, "a row for each, the price, and what nobody knows");
    assert_eq!(lost(&driven), (4, -4, vec![(CreditEventKind::WrittenOff, 4, String::new())]));
    sound(&driven);
}

/// Who is asked for is in the log with what is held for it.
fn hold_for(driven: &mut Driven, seq: u64, whole: u64) {
    let charge = Charge { limit: purse_of("acme").to_string(), amount: whole * ONE, ..Charge::default() };
    let whose =
        Attribution { request_id: format!("r{seq}"), provider: String::new(), ..attribution(driven, "acme", false) };
    let hold = Hold {
        request: request(seq),
        charges: vec![charge],
        hold_for_us: 60_000_000,
        journaled: true,
        attribution: Some(whose.into()),
        ..Hold::default()
    };
    assert!(frame(driven, seq, record::Kind::Hold(hold)).frames[0].holds[0].granted);
}

/// Whole units that were lost, and forgiven to `acme`; and its history.
fn lost(driven: &Driven) -> (i128, i128, Vec<(CreditEventKind, i128, String)>) {
    let usd = tollgate_model::Currency::parse("USD").unwrap();
    let balance = |account| driven.shared.books().look(|state| state.books().balance(&account, usd)).0 / Money::ONE.0;
    let amount = |row: &CreditEventRow| i128::from_be_bytes((&*row.amount).try_into().unwrap()) / Money::ONE.0;
    let history = driven.shared.credits(|book| book.history("acme", None, 10));
    let written_off = history.iter().filter(|row| row.kind() == CreditEventKind::WrittenOff);
    let told = written_off.map(|row| (row.kind(), amount(row), row.actor.clone())).collect();
    (balance(ledger::Account::Loss), balance(ledger::Account::Forgiven("acme".into())), told)
}

#[test]
fn what_a_lost_node_had_in_flight_is_a_row_without_a_price_and_its_credit_is_the_operators_loss() {
    let mut driven = started();
    grant(&mut driven, "acme", "a", 10, 0);
    hold_for(&mut driven, 1, 3);
    hold_for(&mut driven, 2, 4);
    settle(&mut driven, 3, Some(1), "acme", 2);
    let actor = "operator-1".to_owned();
    let gone = NodeLost { node: 1, incarnation: 1, write_off: WriteOff::Consume.into(), actor };
    driven.apply(command::Kind::NodeLost(gone));
    assert_eq!(figures(&driven, "acme"), ([10, 2, 8, 0], 8, 4));
    let rows = |driven: &Driven| driven.shared.books().rows(0, 100).unwrap();
    assert_eq!(rows(&driven).len(), 1, "its journal may still speak");
    // Nobody writes anything but the leader, once a second.
    while driven.shared.ledger(Ledger::awaits_write_off) {
        driven.index += 1_000;
        driven.apply(command::Kind::Quota(QuotaBatch::default()));
    }
    assert_eq!(figures(&driven, "acme"), ([10, 2, 8, 0], 8, 8), "all of it is there again");
    let told = rows(&driven);
    assert_eq!(told.len(), 2);
    let row = &told[1];
    assert_eq!((row.outcome(), row.request_id.as_str(), row.node), (LedgerOutcome::Orphaned, "r2", 1));
    assert_eq!((row.tenant.as_str(), row.model.as_str(), row.amount.len(), row.corrects), ("acme", "m", 0, 0));
    assert_eq!(lost(&driven), (4, -4, vec![(CreditEventKind::WrittenOff, 4, "operator-1".to_owned())]));
    let verified = driven.shared.books().verify().unwrap();
    assert_eq!((verified.problems, verified.rows), (Vec::new(), 2));
    sound(&driven);

    // The disk comes back after all: what it tells corrects the row, and is billed.
    let next = NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() };
    driven.apply(command::Kind::NodeOpen(next));
    let ended = Settle { terminal: 1, ..settled(&driven, 2, Some(2), "acme", 1) };
    let of = Recover { incarnation: 1, ..Recover::default() };
    let said = [Recover { settles: vec![ended], ..of.clone() }, Recover { done: true, ..of }];
    let records = said.map(|said| Record { kind: Some(record::Kind::Recover(said)) }).to_vec();
    let frames = vec![Frame { node: 1, incarnation: 2, first_seq: 1, records, ..Frame::default() }];
    driven.apply(command::Kind::Quota(QuotaBatch { frames }));
    let told = rows(&driven);
    assert_eq!((told.len(), told[2].corrects, told[2].outcome()), (3, told[1].seq, LedgerOutcome::Settled));
    assert_eq!(figures(&driven, "acme"), ([10, 3, 7, 0], 7, 7));
    assert_eq!(driven.shared.books().verify().unwrap().problems, [] as [&str; 0]);
    sound(&driven);
}

#[test]
fn what_the_end_of_a_grant_writes_off_is_told_with_the_same_entry() {
    let mut driven = started();
    let end = 1_800_000_000_000_000 + (driven.index + 10_000) * 1_000;
    grant(&mut driven, "acme", "short", 10, end);
    hold_for(&mut driven, 1, 3);
    driven.apply(command::Kind::NodeLost(NodeLost { node: 1, incarnation: 1, ..NodeLost::default() }));
    // An entry that is not about quota, when both the grant and the lost node are over.
    driven.index += 40_000;
    let record = TokenRecord { id: "t2".into(), ..TokenRecord::default() };
    driven.apply(command::Kind::Token(TokenChange { kind: Some(token_change::Kind::Create(record)) }));
    assert!(!driven.shared.ledger(Ledger::has_written_off), "a node that starts anew here would not know of it");
    assert_eq!(lost(&driven), (3, -3, vec![(CreditEventKind::WrittenOff, 3, String::new())]));
    let mut restored = Driven::new();
    restored.state.restore(&mut driven.image().into_iter().map(Ok)).unwrap();
    restored.index = driven.index;
    for driven in [&mut driven, &mut restored] {
        driven.apply(command::Kind::Quota(QuotaBatch::default()));
    }
    assert_eq!(driven.image(), restored.image());
    sound(&driven);
}

#[test]
fn rows_and_losses_of_many_entries_are_each_told_once_and_in_order() {
    const ALL: u64 = 1_500;
    let mut driven = started();
    grant(&mut driven, "acme", "a", 2_000, 0);
    (1..=ALL).for_each(|seq| hold_for(&mut driven, seq, 1));
    let gone = NodeLost { node: 1, incarnation: 1, ..NodeLost::default() };
    driven.apply(command::Kind::NodeLost(gone));
    driven.index += 40_000;
    // Of whatever an entry is.
    grant(&mut driven, "acme", "b", 1, 0);
    assert_eq!(driven.shared.books().rows(0, 2_000).unwrap().len(), 1_024);
    sound(&driven);
    driven.apply(command::Kind::Quota(QuotaBatch::default()));
    let rows = driven.shared.books().rows(0, 2_000).unwrap();
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| row.request_id.clone()).collect();
    assert_eq!((rows.len() as u64, ids.len() as u64), (ALL, ALL));
    assert!(!driven.shared.ledger(Ledger::awaits_write_off));
    assert_eq!(lost(&driven).0, i128::from(ALL));
    assert_eq!(driven.shared.books().verify().unwrap().problems, [] as [&str; 0]);
    sound(&driven);
}
