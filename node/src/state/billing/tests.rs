//! Driven by the log alone, as a node is.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use prost::Message;
use tollgate_billing::{export::Source, ledger::Account};
use tollgate_consensus::{Applied, Changes, StateMachine};
use tollgate_proto::state::v1::{
    Attribution, Command, ConfigChange, Frame, NodeOpen, Orphan, PutResource, QuotaBatch, Record, Recover, Settle,
    Usage, command, record,
};

use super::*;
use crate::state::{ReplicatedState, Shared};

const RESOURCES: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {billing: {mode: postpaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Price
metadata: {name: mock}
spec: {currency: USD, match: {models: [mock-1]}, per: 1, input: "1", output: "10"}
---
apiVersion: tollgate/v1
kind: Price
metadata: {name: upstream}
spec: {table: cost, currency: EUR, match: {models: [dear-1]}, per: 1, input: "3", output: "30"}
"#;

/// Of another tenant's; its list price is the one above.
const CONTRACT: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: globex}
spec: {billing: {mode: postpaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Price
metadata: {name: for-globex}
spec: {table: contract, currency: USD, match: {models: [mock-1], tenants: [globex]}, per: 1, input: "0.5", output: "4"}
"#;

struct Driven {
    state: ReplicatedState,
    shared: std::sync::Arc<Shared>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
}

impl Driven {
    fn new(dir: &Path) -> Self {
        let (state, shared) = ReplicatedState::new(dir.to_owned());
        let mut driven = Self { state, shared, rows: BTreeMap::new(), index: 0 };
        driven.put(RESOURCES);
        driven.open(1, 1);
        driven
    }

    fn put(&mut self, resources: &str) {
        let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", resources);
        assert!(problems.is_empty(), "{problems}");
        let puts = parsed.into_iter().map(|it| PutResource { resource: Some(it.resource), expected_version: None });
        self.apply(command::Kind::Config(ConfigChange { puts: puts.collect(), ..ConfigChange::default() }));
    }

    fn apply(&mut self, kind: command::Kind) -> Bytes {
        self.index += 1;
        let time_us = 1_800_000_000_000_000 + self.index * 1_000;
        let at = Applied { index: self.index, time_us, age_us: self.index * 1_000 };
        let mut changes = Changes::default();
        let command = Command { kind: Some(kind), ..Command::default() }.encode_to_vec();
        let outcome = self.state.apply(at, &command, &mut changes);
        for (key, value) in changes.drain() {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        outcome
    }

    fn open(&mut self, node: u64, incarnation: u64) {
        let zone = "az-a".to_owned();
        let open = NodeOpen { node, incarnation, predecessor_is_dead: true, zone, ..NodeOpen::default() };
        self.apply(command::Kind::NodeOpen(open));
    }

    fn say(&mut self, incarnation: u64, first_seq: u64, kinds: Vec<record::Kind>) {
        let records = kinds.into_iter().map(|kind| Record { kind: Some(kind) }).collect();
        let frames = vec![Frame { node: 1, incarnation, first_seq, records, ..Frame::default() }];
        self.apply(command::Kind::Quota(QuotaBatch { frames }));
    }

    fn ledger(&self) -> Vec<LedgerRow> {
        self.shared.books().rows(0, 1_000).unwrap()
    }

    /// What each row says: the request, the outcome, whose figures, tokens, and millionths of a dollar.
    fn told(&self) -> Vec<(String, LedgerOutcome, UsageSource, u64, i128)> {
        let told = |row: LedgerRow| {
            let amount = tollgate_billing::ledger::amount_of(&row).unwrap().0 / 1_000_000_000_000;
            let tokens = row.input_tokens + row.output_tokens;
            (row.request_id.clone(), row.outcome(), row.usage_source(), tokens, amount)
        };
        self.ledger().into_iter().map(told).collect()
    }
}

fn attribution(request: u64) -> Attribution {
    Attribution {
        request_id: format!("request-{request}"),
        tenant: "acme".into(),
        route: "chat".into(),
        provider: "mock".into(),
        model: "mock-1".into(),
        provider_model: "mock-1".into(),
        status: 200,
        admitted_us: 1_800_000_000_000_500,
        config_index: 1,
        currency: "USD".into(),
        ..Attribution::default()
    }
}

fn settle(request: u64, outcome: Outcome, tokens: (u64, u64)) -> Settle {
    Settle {
        request,
        outcome: outcome.into(),
        usage: Some(Usage { input_tokens: tokens.0, output_tokens: tokens.1, ..Usage::default() }),
        attribution: Some(attribution(request).into()),
        unheld: true,
        terminal: request,
        ..Settle::default()
    }
}

fn row(
    request: u64,
    outcome: LedgerOutcome,
    source: UsageSource,
    tokens: u64,
    amount: i128,
) -> (String, LedgerOutcome, UsageSource, u64, i128) {
    (format!("request-{request}"), outcome, source, tokens, amount)
}

#[test]
fn each_end_makes_one_row_and_who_found_nobody_to_ask_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut driven = Driven::new(dir.path());
    let plain = Attribution { provider: String::new(), model: String::new(), ..attribution(9) };
    let counted = Usage { input_tokens: 3, counted: true, ..Usage::default() };
    let said = vec![
        record::Kind::Settle(settle(1, Outcome::Settled, (5, 2))),
        record::Kind::Settle(Settle { usage: Some(counted), ..settle(2, Outcome::Partial, (0, 0)) }),
        record::Kind::Settle(settle(3, Outcome::Voided, (7, 7))),
        record::Kind::Settle(Settle { attribution: None, ..settle(4, Outcome::Voided, (0, 0)) }),
        record::Kind::Settle(Settle { attribution: Some(plain.into()), ..settle(9, Outcome::Settled, (0, 0)) }),
    ];
    driven.say(1, 1, said.clone());
    driven.say(1, 1, said); // sent again after a lost answer
    let expected = [
        row(1, LedgerOutcome::Settled, UsageSource::Provider, 7, 25),
        row(2, LedgerOutcome::Partial, UsageSource::Counted, 3, 3),
        row(3, LedgerOutcome::Voided, UsageSource::Counted, 0, 0),
    ];
    assert_eq!(driven.told(), expected);
    let rows = driven.ledger();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [3 << 16, (3 << 16) + 1, (3 << 16) + 2]);
    assert_eq!((rows[0].node, rows[0].zone.as_str(), rows[0].status), (1, "az-a", 200));
    assert_eq!((rows[0].price.as_str(), rows[0].price_version), ("mock", 1));
    assert_eq!(driven.shared.books().look(|state| state.chain().records()), 4, "and the price, once");
    assert_eq!(driven.rows, driven.state.image().collect(), "what was written adds up to what there is");
    let verified = driven.shared.books().verify().unwrap();
    assert_eq!((verified.rows, verified.problems), (3, Vec::new()));
}

/// What each attempt of a row costs: who bills it, whose figures, tokens with their bound, and millionths, in what.
fn costs(row: &LedgerRow) -> Vec<(u32, String, UsageSource, u64, u64, String)> {
    let of = |it: tollgate_billing::ledger::Attempt<'_>| {
        let tokens = it.usage.input_tokens + it.usage.output_tokens;
        let bound = it.usage.input_at_most + it.usage.output_at_most;
        let amount = it.amount().map_or("-".to_owned(), |amount| format!("{amount} {}", it.cost.currency));
        (it.number, it.provider.to_owned(), it.source, tokens, bound, amount)
    };
    tollgate_billing::ledger::attempts(row).map(of).collect()
}

#[test]
fn each_attempt_that_an_upstream_bills_has_a_cost_in_that_ones_currency() {
    let dir = tempfile::tempdir().unwrap();
    let mut driven = Driven::new(dir.path());
    let counted = Usage { input_tokens: 2, counted: true, input_at_most: 4, output_at_most: 50, ..Usage::default() };
    let earlier = Attempt {
        provider: "dear".into(),
        provider_model: "dear-1".into(),
        usage: Some(counted),
        upstream_request_id: "req_1".into(),
    };
    let again = Attribution { earlier: vec![earlier.clone(), earlier], ..attribution(1) };
    let dear = Attribution { provider: "dear".into(), provider_model: "dear-1".into(), ..attribution(2) };
    let said = vec![
        record::Kind::Settle(Settle { attribution: Some(again.into()), ..settle(1, Outcome::Settled, (5, 2)) }),
        record::Kind::Settle(Settle {
            attribution: Some(dear.into()),
            usage: Some(counted),
            ..settle(2, Outcome::Partial, (0, 0))
        }),
        record::Kind::Settle(settle(3, Outcome::Voided, (7, 7))),
    ];
    driven.say(1, 1, said.clone());
    driven.say(1, 1, said); // sent again after a lost answer
    let rows = driven.ledger();
    let (eur, dear) = ("6 EUR".to_owned(), "dear".to_owned());
    let expected = [
        vec![
            (1, dear.clone(), UsageSource::Counted, 2, 54, eur.clone()),
            (2, dear.clone(), UsageSource::Counted, 2, 54, eur.clone()),
            (3, "mock".to_owned(), UsageSource::Provider, 7, 0, "-".to_owned()),
        ],
        vec![(1, dear, UsageSource::Counted, 2, 54, eur)],
        vec![],
    ];
    assert_eq!(rows.iter().map(costs).collect::<Vec<_>>(), expected);
    assert_eq!(rows[0].costs[0].upstream_request_id, "req_1");
    assert_eq!(tollgate_billing::ledger::amount_of(&rows[0]).unwrap().0, 25_000_000_000_000, "one bill for its tenant");
    let eur = tollgate_model::Currency::parse("EUR").unwrap();
    let balance = driven.shared.books().look(|it| it.books().balance(&Account::Owed("dear".into()), eur));
    assert_eq!(balance.to_string(), "-18");
    assert_eq!(driven.rows, driven.state.image().collect(), "what was written adds up to what there is");
    let verified = driven.shared.books().verify().unwrap();
    assert_eq!((verified.rows, verified.records, verified.problems), (3, 5, Vec::new()), "and two prices, once each");
}

/// What the list said when it was admitted, not what it says by now; and nothing where the list is what counts.
#[test]
fn beside_a_contract_stands_the_list_price_of_its_admission() {
    let dir = tempfile::tempdir().unwrap();
    let mut driven = Driven::new(dir.path());
    driven.put(CONTRACT);
    let pinned = driven.index;
    driven.put(RESOURCES.replace("input: \"1\"", "input: \"2\"").as_str());
    let of = |request, tenant: &str, config_index| {
        let attribution = Attribution { tenant: tenant.to_owned(), config_index, ..attribution(request) };
        let settle = settle(request, Outcome::Settled, (3, 1));
        record::Kind::Settle(Settle { attribution: Some(attribution.into()), ..settle })
    };
    driven.say(1, 1, vec![of(1, "globex", pinned), of(2, "globex", pinned + 2), of(3, "acme", pinned)]);
    let named = |row: &LedgerRow| (row.price.clone(), row.list_price.clone(), row.list_price_version);
    let rows = driven.ledger();
    let contract = |version| ("for-globex".to_owned(), "mock".to_owned(), version);
    let expected = [contract(1), contract(pinned + 1), ("mock".to_owned(), String::new(), 0)];
    assert_eq!(rows.iter().map(named).collect::<Vec<_>>(), expected);
    let verified = driven.shared.books().verify().unwrap();
    assert_eq!(
        (verified.rows, verified.records, verified.problems),
        (3, 6, Vec::new()),
        "and three versions, once each"
    );
    assert_eq!(driven.rows, driven.state.image().collect());
}

/// A process that dies while it recovers another one is followed by one that begins anew.
#[test]
fn what_a_journal_tells_of_a_dead_process_makes_each_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut driven = Driven::new(dir.path());
    driven.say(1, 1, vec![record::Kind::Settle(settle(1, Outcome::Settled, (1, 0)))]);
    let settles = vec![settle(1, Outcome::Settled, (1, 0)), settle(2, Outcome::Settled, (2, 0))];
    let orphan = |request| Orphan {
        request,
        attribution: Some(Attribution { provider: String::new(), ..attribution(request) }.into()),
        in_log: false,
    };
    let recover = |done| {
        vec![
            record::Kind::Recover(Recover { incarnation: 1, settles: settles.clone(), ..Recover::default() }),
            record::Kind::Recover(Recover {
                incarnation: 1,
                orphans: vec![orphan(3), orphan(5)],
                ..Recover::default()
            }),
            record::Kind::Recover(Recover { incarnation: 1, done, ..Recover::default() }),
        ]
    };
    driven.open(1, 2);
    driven.say(2, 1, recover(false));
    driven.open(1, 3);
    let image: Vec<_> = driven.state.image().collect();
    driven.state.restore(&mut image.into_iter().map(Ok)).unwrap();
    driven.say(3, 1, recover(true));
    driven.say(3, 4, recover(true));
    let expected = [
        row(1, LedgerOutcome::Settled, UsageSource::Provider, 1, 1),
        row(2, LedgerOutcome::Settled, UsageSource::Recovered, 2, 2),
        row(3, LedgerOutcome::Orphaned, UsageSource::Recovered, 0, 0),
        row(5, LedgerOutcome::Orphaned, UsageSource::Recovered, 0, 0),
    ];
    assert_eq!(driven.told(), expected);
    assert_eq!(driven.rows, driven.state.image().collect());
}

#[test]
fn a_node_that_starts_from_an_older_state_has_the_same_files_in_the_end() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (mut first, mut second) = (Driven::new(one.path()), Driven::new(two.path()));
    let settles =
        |from: u64| (from..from + 20).map(|n| record::Kind::Settle(settle(n, Outcome::Settled, (n, 1)))).collect();
    for driven in [&mut first, &mut second] {
        driven.say(1, 1, settles(1));
    }
    let older: Vec<_> = second.state.image().collect();
    second.shared.books().sync().unwrap();
    let (index, rows) = (second.index, second.rows.clone());
    second.say(1, 21, settles(21));
    second.shared.books().write().unwrap();
    drop(second);
    // It dies before its store had heard of the last entry.
    let (state, shared) = ReplicatedState::new(two.path().to_owned());
    let mut second = Driven { state, shared, rows, index };
    second.state.restore(&mut older.into_iter().map(Ok)).unwrap();
    for driven in [&mut first, &mut second] {
        driven.say(1, 21, settles(21));
        driven.shared.books().sync().unwrap();
    }
    let files = [&one, &two].map(|dir| std::fs::read(dir.path().join("000000000001.seg")).unwrap());
    assert_eq!(files[0], files[1]);
    assert_eq!(second.shared.books().verify().unwrap().problems, [] as [&str; 0]);
}

/// What settling costs the log: the frame of a busy node, for each request.
#[test]
fn a_settlement_is_small_beside_the_names_in_it() {
    let names = |it: &Attribution| {
        [&it.request_id, &it.tenant, &it.consumer, &it.route, &it.provider, &it.model, &it.provider_model]
            .iter()
            .map(|name| name.len())
            .sum::<usize>()
    };
    let settle = settle(1 << 41, Outcome::Settled, (1_200, 300));
    assert!(
        settle.attribution.as_ref().unwrap().earlier.is_empty(),
        "what the one attempt costs is known from the rest"
    );
    let bytes = settle.encoded_len() - names(settle.attribution.as_ref().unwrap());
    assert!(bytes <= 64, "{bytes}");
}
