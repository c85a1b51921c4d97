//! Driven by the log alone, as nodes are.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;
use tollgate_admin::backplane::Backplane;
use tollgate_billing::{
    export::{FocusVersion, Format, Query, Schema, Source},
    ledger::Keeper,
    statement::{PublicKey, Statement, StatementFile, line, verify},
};
use tollgate_consensus::{Applied, Changes, StateMachine};
use tollgate_model::{Month, Timestamp, secret::ClusterKey};
use tollgate_proto::state::v1::{
    Attribution, Command, ConfigChange, ConfigOutcome, CreditGrant, DeleteResource, Frame, NodeOpen, PutResource,
    QuotaBatch, Record, Settle, Usage, command, record,
};
use tollgate_quota::Outcome;

use crate::{
    backplane::NodeBackplane,
    state::{ReplicatedState, Shared},
};

const RESOURCES: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {timeZone: Europe/Berlin, billing: {mode: postpaid, currency: USD, grace: 2h}}
---
apiVersion: tollgate/v1
kind: Price
metadata: {name: mock}
spec: {currency: USD, match: {models: [mock-1]}, per: 1, input: "0.0017", output: "0.0003"}
"#;

fn at(text: &str) -> u64 {
    Timestamp::parse(text).unwrap().0
}

struct Node {
    state: ReplicatedState,
    shared: Arc<Shared>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (state, shared) = ReplicatedState::new(dir.path().to_owned());
        Self { state, shared, rows: BTreeMap::new(), _dir: dir }
    }

    /// The next process, from the rows that the one before has kept.
    fn restart(&mut self) {
        self.shared.books().sync().unwrap();
        let (state, shared) = ReplicatedState::new(self._dir.path().to_owned());
        (self.state, self.shared) = (state, shared);
        self.state.restore(&mut self.rows.clone().into_iter().map(Ok)).unwrap();
    }

    fn apply(&mut self, index: u64, now: u64, command: &[u8]) -> bytes::Bytes {
        let mut changes = Changes::default();
        let outcome = self.state.apply(Applied { index, time_us: now, age_us: index * 1_000 }, command, &mut changes);
        for (key, value) in changes.drain() {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        outcome
    }

    fn books(&self) -> &Arc<Keeper> {
        self.shared.books()
    }

    fn file(&self, month: &str, key: &ClusterKey) -> Vec<u8> {
        let month = Month::parse(month).unwrap();
        let statement = self.books().look(|state| {
            let period = state.periods().get("acme", month).unwrap();
            Statement::of("acme", period, state.chain()).unwrap()
        });
        let source: Arc<dyn Source> = Arc::clone(self.books()) as _;
        let file = StatementFile::open(source, &statement, line(&statement, key), "").unwrap();
        file.flat_map(|chunk| chunk.unwrap().data).collect()
    }

    /// FOCUS of what was admitted in that time.
    fn focus(&self, from: &str, to: &str) -> String {
        let schema = Schema::Focus(FocusVersion::V1_2);
        let (from, to) = (Timestamp(at(from)), Timestamp(at(to)));
        let (tenant, format, issuer) = (Some("acme".to_owned()), Format::Jsonl, "us".to_owned());
        let query = Query { tenant, from, to, schema, format, issuer, costs: true };
        let export = NodeBackplane::new(Arc::clone(&self.shared)).export(query, "").unwrap();
        String::from_utf8(export.flat_map(|chunk| chunk.unwrap().data).collect()).unwrap()
    }
}

/// Three nodes with one log.
struct Cluster {
    nodes: [Node; 3],
    index: u64,
    frames: u64,
    key: ClusterKey,
}

impl Cluster {
    fn new(now: &str) -> Self {
        let nodes = [(); 3].map(|()| Node::new());
        let mut cluster = Self { nodes, index: 0, frames: 0, key: ClusterKey::generate().0 };
        cluster.configure(at(now), RESOURCES);
        cluster.apply(at(now), command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
        cluster
    }

    fn apply(&mut self, now: u64, kind: command::Kind) -> bytes::Bytes {
        self.index += 1;
        let command = Command { kind: Some(kind), ..Command::default() }.encode_to_vec();
        let index = self.index;
        let [one, two, three] = self.nodes.each_mut().map(|node| node.apply(index, now, &command));
        assert!(one == two && two == three);
        one
    }

    fn configure(&mut self, now: u64, text: &str) {
        let outcome = self.try_configure(now, text);
        assert!(outcome.problems.is_empty(), "{outcome:?}");
    }

    fn try_configure(&mut self, now: u64, text: &str) -> ConfigOutcome {
        let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", text);
        assert!(problems.is_empty(), "{problems}");
        let puts = parsed.into_iter().map(|it| PutResource { resource: Some(it.resource), expected_version: None });
        let change = ConfigChange { puts: puts.collect(), ..ConfigChange::default() };
        ConfigOutcome::decode(self.apply(now, command::Kind::Config(change))).unwrap()
    }

    /// A call that was admitted and has ended then.
    fn settle(&mut self, admitted: &str, now: &str, tokens: u64) {
        self.settle_as(admitted, now, tokens, false);
    }

    fn settle_as(&mut self, admitted: &str, now: &str, tokens: u64, prepaid: bool) {
        self.settle_in(("USD", self.index), (admitted, now), tokens, prepaid);
    }

    /// As a configuration has its currency and its prices.
    fn settle_in(
        &mut self,
        (currency, config_index): (&str, u64),
        (admitted, now): (&str, &str),
        tokens: u64,
        prepaid: bool,
    ) {
        self.frames += 1;
        let attribution = Attribution {
            prepaid,
            request_id: format!("00000000-0000-7000-8000-{:012x}", self.frames),
            tenant: "acme".into(),
            model: "mock-1".into(),
            provider: "p".into(),
            provider_model: "mock-1".into(),
            currency: currency.into(),
            config_index,
            admitted_us: at(admitted),
            status: 200,
            ..Attribution::default()
        };
        let settle = Settle {
            request: (1 << 40) + self.frames,
            outcome: Outcome::Settled.into(),
            usage: Some(Usage { input_tokens: tokens, output_tokens: 2 * tokens, ..Usage::default() }),
            attribution: Some(attribution.into()),
            unheld: true,
            ..Settle::default()
        };
        let records = vec![Record { kind: Some(record::Kind::Settle(settle)) }];
        let frames = vec![Frame { node: 1, incarnation: 1, first_seq: self.frames, records, ..Frame::default() }];
        self.apply(at(now), command::Kind::Quota(QuotaBatch { frames }));
    }

    /// An entry that says nothing, as the leader of an idle cluster makes them.
    fn pass(&mut self, now: &str) {
        self.apply(at(now), command::Kind::Quota(QuotaBatch::default()));
    }

    /// The same from every node.
    fn focus(&self, from: &str, to: &str) -> String {
        let [one, two, three] = self.nodes.each_ref().map(|node| node.focus(from, to));
        assert!(one == two && two == three);
        one
    }

    fn files(&self, month: &str) -> [Vec<u8>; 3] {
        self.nodes.each_ref().map(|node| node.file(month, &self.key))
    }

    fn is_closed(&self, month: &str) -> bool {
        let month = Month::parse(month).unwrap();
        self.nodes[0].books().look(|state| state.periods().get("acme", month).unwrap().closed.is_some())
    }

    /// What was kept row by row is the image, and makes the same months.
    fn check_rows(&self) {
        for node in &self.nodes {
            let image: BTreeMap<_, _> = node.state.image().collect();
            assert!(image == node.rows);
        }
    }
}

#[test]
fn a_closed_month_is_the_same_bytes_on_every_node_and_at_any_time() {
    let mut cluster = Cluster::new("2026-11-01T00:00:00Z");
    for (n, day) in (3..28).enumerate() {
        let now = format!("2026-11-{day:02}T12:00:00Z");
        cluster.settle(&now, &now, n as u64 + 1);
    }
    cluster.nodes[1].restart();
    cluster.settle("2026-11-30T22:59:59Z", "2026-12-01T00:30:00Z", 7);
    cluster.pass("2026-12-01T00:59:59Z");
    assert!(!cluster.is_closed("2026-11"));
    // Midnight in Berlin, and two hours.
    cluster.pass("2026-12-01T01:00:00Z");
    assert!(cluster.is_closed("2026-11"));
    let [one, two, three] = cluster.files("2026-11");
    assert!(one == two && two == three);
    cluster.check_rows();

    let fingerprint = PublicKey(cluster.key.statement_key()).fingerprint();
    let checked = verify(&*one, Some(fingerprint)).unwrap();
    assert_eq!(checked.rows, 26);
    for node in &cluster.nodes {
        let found = node.books().reprice("acme", Month::parse("2026-11").unwrap()).unwrap().unwrap();
        assert_eq!((found.rows, found.problems), (26, Vec::<String>::new()));
        assert!(node.books().verify().unwrap().problems.is_empty());
    }

    // Late for November: it changes nothing there, and says so where it is.
    cluster.settle("2026-11-30T22:00:00Z", "2026-12-01T01:00:01Z", 9);
    cluster.settle("2026-12-01T08:00:00Z", "2026-12-01T08:00:01Z", 9);
    cluster.configure(at("2026-12-05T00:00:00Z"), &RESOURCES.replace("Europe/Berlin", "Asia/Kolkata"));
    cluster.nodes[2].restart();
    assert_eq!(cluster.files("2026-11"), [one.clone(), one.clone(), one]);
    // December had begun when the tenant moved, so it ends in Berlin.
    cluster.pass("2027-01-01T01:00:00Z");
    let december = cluster.files("2026-12");
    let checked = verify(&*december[1], Some(fingerprint)).unwrap();
    let (statement, _) = checked.statement.unwrap();
    assert_eq!((statement.rows, statement.corrections, &*statement.time_zone), (2, 1, "Europe/Berlin"));
    assert!(december[0] == december[1] && december[1] == december[2]);
    let text = String::from_utf8(december[0].clone()).unwrap();
    assert!(text.lines().nth(1).unwrap().ends_with("\"corrects\":\"2026-11\"}"), "{text}");
    cluster.check_rows();
}

#[test]
fn a_longer_grace_counts_from_the_entry_that_says_so() {
    let mut cluster = Cluster::new("2026-11-01T00:00:00Z");
    cluster.settle("2026-11-02T00:00:00Z", "2026-11-02T00:00:00Z", 1);
    cluster.configure(at("2026-11-30T23:30:00Z"), &RESOURCES.replace("grace: 2h", "grace: 3d"));
    cluster.nodes[0].restart();
    cluster.pass("2026-12-03T22:59:59Z");
    assert!(!cluster.is_closed("2026-11"));
    cluster.pass("2026-12-03T23:00:00Z");
    assert!(cluster.is_closed("2026-11"));
    cluster.check_rows();
}

/// Each charge: what these columns say.
fn said<const N: usize>(focus: &str, columns: [&str; N]) -> Vec<[String; N]> {
    let charges = focus.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("none").to_owned();
    charges.map(|charge| columns.map(|column| text(&charge[column]))).collect()
}

/// November in Berlin.
const NOVEMBER: [&str; 2] = ["2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"];

#[test]
fn an_edit_of_a_tenant_changes_no_byte_of_a_closed_month() {
    let labelled = |resources: &str, team: &str| {
        resources.replace("metadata: {name: acme}", &format!("metadata: {{name: acme, labels: {{team: {team}}}}}"))
    };
    let mut cluster = Cluster::new("2026-11-01T00:00:00Z");
    cluster.configure(at("2026-11-01T00:00:01Z"), &labelled(RESOURCES, "red"));
    let grant = CreditGrant {
        tenant: "acme".into(),
        key: "k".into(),
        amount: 1_000_000_000_i128.to_be_bytes().to_vec(),
        ..CreditGrant::default()
    };
    cluster.apply(at("2026-11-02T00:00:00Z"), command::Kind::CreditGrant(grant));
    // The first and the last minutes of the month in Berlin, which are of other months elsewhere.
    cluster.settle("2026-10-31T23:10:00Z", "2026-11-02T00:00:01Z", 3);
    cluster.settle("2026-11-30T22:50:00Z", "2026-11-30T22:50:01Z", 5);
    let [from, to] = NOVEMBER;
    let open = said(&cluster.focus(from, to), ["ChargeCategory", "InvoiceId", "Tags"]);
    assert_eq!(open.len(), 5, "two meters of two hours, and what was bought: {open:?}");
    let is = |charge: [&str; 3]| charge.map(str::to_owned);
    assert!(open[..4].iter().all(|it| *it == is(["Usage", "none", "{\"team\":\"red\"}"])), "{open:?}");

    cluster.pass("2026-12-01T01:00:00Z");
    assert!(cluster.is_closed("2026-11"));
    let closed = cluster.focus(from, to);
    let columns = ["InvoiceId", "BillingPeriodStart", "BillingPeriodEnd"];
    let [.., bought] = &said(&closed, columns)[..] else { panic!("{closed}") };
    assert_eq!(bought[1..], [from, to].map(str::to_owned));
    assert_eq!(
        said(&closed, columns)[..4],
        [
            is(["acme-2026-11", from, to]),
            is(["acme-2026-11", from, to]),
            is(["acme-2026-11", from, to]),
            is(["acme-2026-11", from, to])
        ]
    );

    let moved = RESOURCES.replace("Europe/Berlin", "Asia/Kolkata").replace("postpaid", "prepaid");
    cluster.configure(at("2026-12-05T00:00:00Z"), &labelled(&moved, "blue"));
    cluster.settle_as("2026-12-05T00:00:01Z", "2026-12-05T00:00:02Z", 7, true);
    assert_eq!(cluster.focus(from, to), closed);
    cluster.nodes[1].restart();
    assert_eq!(cluster.focus(from, to), closed);
    // What is not closed goes by what its tenant is now, and begins where November ended.
    let december = cluster.focus(to, "2027-02-01T00:00:00Z");
    let columns = ["InvoiceId", "BillingPeriodStart", "Tags"];
    assert_eq!(said(&december, columns)[0], is(["none", to, "{\"team\":\"blue\"}"]));
    let acme = DeleteResource { kind: "Tenant".into(), name: "acme".into(), ..DeleteResource::default() };
    let change = ConfigChange { deletes: vec![acme], ..ConfigChange::default() };
    let outcome = ConfigOutcome::decode(cluster.apply(at("2026-12-06T00:00:00Z"), command::Kind::Config(change)));
    assert!(outcome.unwrap().problems.is_empty());
    assert_eq!(cluster.focus(from, to), closed);
    cluster.check_rows();
}

#[test]
fn a_currency_can_change_while_nothing_is_billed_in_a_month_that_goes_on() {
    let in_euro = RESOURCES.replace("currency: USD", "currency: EUR");
    let mut cluster = Cluster::new("2026-11-01T00:00:00Z");
    let refused = |cluster: &mut Cluster, now: &str| {
        let outcome = cluster.try_configure(at(now), &in_euro);
        outcome.problems.into_iter().map(|it| (it.field, it.message)).collect::<Vec<_>>()
    };
    cluster.configure(at("2026-11-01T00:00:01Z"), &in_euro);
    cluster.configure(at("2026-11-01T00:00:02Z"), RESOURCES);
    cluster.settle("2026-11-02T00:00:00Z", "2026-11-02T00:00:01Z", 3);
    // Open, closing, and on the bill of nobody else.
    for now in ["2026-11-02T00:00:02Z", "2026-12-01T00:30:00Z"] {
        let [(field, message)] = &refused(&mut cluster, now)[..] else { panic!("it is refused once") };
        assert_eq!(field, "spec.billing.currency");
        assert!(message.starts_with("0.0069 USD is billed in 2026-11, which is not closed"), "{message}");
    }
    let unbilled = RESOURCES.replace("mode: postpaid, currency: USD", "mode: none, currency: EUR");
    cluster.configure(at("2026-12-01T00:40:00Z"), &unbilled);
    assert_eq!(refused(&mut cluster, "2026-12-01T00:50:00Z").len(), 1, "not by way of none either");
    cluster.pass("2026-12-01T01:00:00Z");
    assert!(cluster.is_closed("2026-11"));
    assert_eq!(refused(&mut cluster, "2026-12-01T01:00:01Z"), []);
    cluster.check_rows();
}

#[test]
fn a_call_in_flight_at_a_change_of_currency_stands_in_the_way_of_no_other_change() {
    let in_euro = RESOURCES.replace("currency: USD", "currency: EUR");
    let mut cluster = Cluster::new("2026-11-01T00:00:00Z");
    let before = cluster.index;
    cluster.configure(at("2026-11-02T00:00:01Z"), &in_euro);
    let after = cluster.index;
    cluster.settle_in(("USD", before), ("2026-11-02T00:00:00Z", "2026-11-02T00:00:02Z"), 3, false);
    cluster.settle_in(("EUR", after), ("2026-11-02T00:00:03Z", "2026-11-02T00:00:04Z"), 6, false);
    let november = Month::parse("2026-11").unwrap();
    let totals = |cluster: &Cluster| {
        cluster.nodes[0].books().look(|state| state.periods().get("acme", november).unwrap().totals().len())
    };
    assert_eq!(totals(&cluster), 2, "it has both");
    let labelled = in_euro.replace("metadata: {name: acme}", "metadata: {name: acme, labels: {team: blue}}");
    cluster.configure(at("2026-11-02T00:00:05Z"), &labelled);
    for (other, billed) in [("USD", "0.0138 EUR"), ("GBP", "0.0069 USD")] {
        let outcome = cluster.try_configure(at("2026-11-02T00:00:06Z"), &in_euro.replace("EUR", other));
        let messages: Vec<_> = outcome.problems.iter().map(|it| it.message.as_str()).collect();
        assert!(matches!(messages[..], [one] if one.starts_with(billed)), "{messages:?}");
    }
    cluster.check_rows();
}

#[test]
fn a_call_is_billed_as_it_was_admitted_however_its_tenant_pays_later() {
    let mut cluster = Cluster::new("2026-11-01T00:00:00Z");
    cluster.settle("2026-11-02T00:10:00Z", "2026-11-02T00:10:01Z", 3);
    cluster.configure(at("2026-11-02T00:20:00Z"), &RESOURCES.replace("postpaid", "prepaid"));
    cluster.settle_as("2026-11-02T00:30:00Z", "2026-11-02T00:30:01Z", 3, true);
    let [from, to] = NOVEMBER;
    let columns = ["SkuMeter", "BilledCost", "EffectiveCost"];
    let wanted = [
        ["input", "0.0051", "0.0051"],
        ["output", "0.0018", "0.0018"],
        ["input", "0", "0.0051"],
        ["output", "0", "0.0018"],
    ];
    let wanted = wanted.map(|charge| charge.map(str::to_owned));
    assert_eq!(said(&cluster.focus(from, to), columns), wanted);
    cluster.configure(at("2026-11-03T00:00:00Z"), RESOURCES);
    assert_eq!(said(&cluster.focus(from, to), columns), wanted);
}
