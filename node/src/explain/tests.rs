use prost::Message;
use tollgate_consensus::{Applied, Changes, StateMachine};
use tollgate_proto::admin::v1::LimitAccount;
use tollgate_proto::state::v1::{
    Charge, Command, ConfigChange, Frame, Hold, NodeOpen, PutResource, QuotaBatch, Record, command, record,
};

use super::*;
use crate::state::ReplicatedState;

const RESOURCES: &str = r#"
{kind: Tenant, metadata: {name: acme}}
---
{kind: Consumer, metadata: {name: alice}, spec: {tenant: acme}}
---
{kind: Consumer, metadata: {name: bob}, spec: {tenant: acme}}
---
{kind: Provider, metadata: {name: openai}, spec: {type: openai, endpoints: [{url: "http://127.0.0.1:1/v1"}]}}
---
{kind: Route, metadata: {name: chat}, spec: {match: [{path: {prefix: /v1}}], backends: [{provider: openai}]}}
---
{kind: Route, metadata: {name: fixed}, spec: {match: [{path: {exact: /a}}], response: {body: a}}}
---
{kind: Route, metadata: {name: bobs}, spec: {match: [{path: {exact: /b}}], response: {body: b}, auth: {required: true, allow: {consumers: [bob]}}}}
---
{kind: Consumer, metadata: {name: carol}, spec: {tenant: acme}}
---
{kind: Tenant, metadata: {name: payer}, spec: {billing: {mode: postpaid, currency: USD}}}
---
{kind: Consumer, metadata: {name: penny}, spec: {tenant: payer}}
---
{kind: Limit, metadata: {name: dollars}, spec: {per: [consumer], unit: cost, limit: 12.50, window: 1d}}
---
{kind: Limit, metadata: {name: euros}, spec: {per: [consumer], unit: cost, currency: EUR, limit: 5, window: 1d}}
---
{kind: Limit, metadata: {name: slides}, spec: {match: {consumers: [carol]}, unit: requests, limit: 1, window: 1m}}
---
{kind: Limit, metadata: {name: a-shadow}, spec: {unit: requests, limit: 1, window: 1d, mode: shadow}}
---
{kind: Limit, metadata: {name: each}, spec: {per: [consumer], unit: tokens, limit: 100, window: 1d}}
---
{kind: Limit, metadata: {name: model}, spec: {match: {models: ["gpt-*"]}, per: [model], unit: tokens, limit: 100, window: 1d}}
---
{kind: Limit, metadata: {name: net}, spec: {match: {cidrs: [10.0.0.0/8]}, per: [consumer, "header:x-team"], unit: requests, limit: 5, window: 1d}}
---
{kind: Limit, metadata: {name: of-bob}, spec: {match: {consumers: [bob]}, unit: requests, limit: 5, window: 1d}}
---
{kind: Limit, metadata: {name: provider}, spec: {per: [provider], unit: requests, limit: 5, window: 1d}}
---
{kind: Limit, metadata: {name: route}, spec: {per: [route], unit: requests, limit: 5, window: 1d}}
"#;
const NOW: u64 = 1_800_000_000_000_000;

fn apply(state: &mut ReplicatedState, index: u64, kind: command::Kind) {
    let command = Command { kind: Some(kind), ..Command::default() };
    state.apply(Applied { index, time_us: NOW, age_us: 0 }, &command.encode_to_vec(), &mut Changes::default());
}

fn state() -> Arc<Shared> {
    let text = RESOURCES.replace("{kind:", "{apiVersion: tollgate/v1, kind:");
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", &text);
    assert!(problems.is_empty(), "{problems}");
    let put = |it: tollgate_model::yaml::Parsed| PutResource { resource: Some(it.resource), expected_version: None };
    let change = ConfigChange { puts: parsed.into_iter().map(put).collect(), ..ConfigChange::default() };
    let (mut state, shared) = ReplicatedState::new("unused".into());
    apply(&mut state, 1, command::Kind::Config(change));
    apply(&mut state, 2, command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    let each = Charge { limit: "each".into(), key: vec!["alice".into()], amount: 100, limit_version: 1 };
    let slides = Charge { limit: "slides".into(), amount: 1, limit_version: 1, ..Charge::default() };
    let hold = |(request, charge)| {
        let hold = Hold { request, charges: vec![charge], hold_for_us: 60_000_000, ..Hold::default() };
        Record { kind: Some(record::Kind::Hold(hold)) }
    };
    let records = (1..).zip([each, slides]).map(hold).collect();
    let frames = vec![Frame { node: 1, incarnation: 1, first_seq: 1, records, ..Frame::default() }];
    apply(&mut state, 3, command::Kind::Quota(QuotaBatch { frames }));
    shared
}

fn told(query: &ExplainQuery) -> Result<Vec<String>, String> {
    let verdicts = explain(&state(), Timestamp(NOW), query)?;
    let line = |it: &LimitVerdict| {
        let account = it.account.as_ref().unwrap();
        let [name, of] = [&account.limit, &account.account];
        format!("{name} {of} [{}] {} ({})", it.route, it.verdict, it.depends_on.join(", "))
    };
    Ok(verdicts.iter().map(line).collect())
}

#[test]
fn every_limit_that_a_call_could_meet_is_told_with_what_it_would_say() {
    let query = ExplainQuery { consumer: "alice".into(), ..ExplainQuery::default() };
    assert_eq!(
        told(&query).unwrap(),
        [
            "a-shadow * [] admits ()",
            "each alice [] refuses ()",
            "model ? [chat] unknown (model: gpt-*, model)",
            "net alice/? [] unknown (cidr: 10.0.0.0/8, header:x-team)",
            "provider openai [chat] admits ()",
            "route chat [chat] admits ()",
            "route fixed [fixed] admits ()",
        ]
    );
}

#[test]
fn money_is_met_where_calls_are_billed_in_it() {
    let of = |consumer: &str| {
        let query = ExplainQuery { consumer: consumer.into(), ..ExplainQuery::default() };
        explain(&state(), Timestamp(NOW), &query)
            .unwrap()
            .into_iter()
            .filter_map(|it| it.account.map(|of| (of, it.route)))
    };
    let is_money = |(account, _): &(LimitAccount, String)| account.unit == "cost";
    assert_eq!(of("alice").filter(is_money).count(), 0, "nobody bills her");
    let met: Vec<_> = of("penny").filter(is_money).collect();
    let [(account, route)] = met.as_slice() else { panic!("{met:?}") };
    assert_eq!((account.limit.as_str(), route.as_str()), ("dollars", "chat"), "where models are asked");
    assert_eq!((account.capacity, account.currency.as_str()), (12_500_000_000_000, "USD"));
}

#[test]
fn a_model_and_a_route_narrow_it_down() {
    let query = ExplainQuery { consumer: "bob".into(), model: Some("gpt-4o".into()), route: Some("chat".into()) };
    assert_eq!(
        told(&query).unwrap(),
        [
            "a-shadow * [] admits ()",
            "each bob [] admits ()",
            "model gpt-4o [] admits ()",
            "net bob/? [] unknown (cidr: 10.0.0.0/8, header:x-team)",
            "of-bob * [] admits ()",
            "provider openai [] admits ()",
            "route chat [] admits ()",
        ]
    );
    let other = ExplainQuery { model: Some("claude".into()), ..query };
    assert!(told(&other).unwrap().iter().all(|line| !line.starts_with("model")));
}

#[test]
fn what_there_is_not_is_told() {
    let query = |consumer: &str, route: Option<&str>| {
        told(&ExplainQuery { consumer: consumer.into(), model: None, route: route.map(str::to_owned) }).unwrap_err()
    };
    assert_eq!(query("alicia", None), "there is no consumer `alicia` (did you mean `alice`?)");
    assert_eq!(query("alice", Some("chta")), "there is no route `chta` (did you mean `chat`?)");
}

#[test]
fn who_is_refused_hears_how_long() {
    let query = ExplainQuery { consumer: "alice".into(), ..ExplainQuery::default() };
    let verdicts = explain(&state(), Timestamp(NOW), &query).unwrap();
    let refused = verdicts.iter().find(|it| it.verdict == "refuses").unwrap();
    let left = Timestamp::parse(&refused.account.as_ref().unwrap().window_end).unwrap().0 - NOW;
    assert_eq!(refused.retry_after_ms, Some(left / 1_000));
}

#[test]
fn a_sliding_limit_says_when_what_was_used_has_aged() {
    let query = ExplainQuery { consumer: "carol".into(), ..ExplainQuery::default() };
    let verdicts = explain(&state(), Timestamp(NOW), &query).unwrap();
    let refused = verdicts.iter().find(|it| it.verdict == "refuses").unwrap();
    assert_eq!(refused.account.as_ref().unwrap().limit, "slides");
    assert!(refused.retry_after_ms.is_some_and(|wait| (60_000..70_000).contains(&wait)), "{refused:?}");
}
