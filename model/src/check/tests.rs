mod certificate;
mod limit;
mod route;
mod traffic;
mod upstream;

use super::*;
use crate::{Limit, Provider, Route, yaml};

/// The only resource of a text without `apiVersion`.
pub(crate) fn resource(text: &str) -> v1::Resource {
    let text = format!("apiVersion: tollgate/v1\n{text}");
    let (mut parsed, problems) = yaml::parse("test", &text);
    assert!(problems.is_empty(), "{problems}\n{text}");
    assert_eq!(parsed.len(), 1);
    parsed.remove(0).resource
}

fn checked(kind: &str, spec: &str) -> Result<Checked, Problems> {
    check(&resource(&format!("kind: {kind}\nmetadata: {{name: x}}\nspec: {spec}")))
}

/// What is wrong, as `field: message`.
fn wrong(kind: &str, spec: &str) -> Vec<String> {
    let problems = checked(kind, spec).map(|_| Problems::default()).unwrap_or_else(|problems| problems);
    problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
}

/// Each spec has exactly this problem.
fn each_is_wrong(kind: &str, cases: &[(&str, &str)]) {
    for (spec, expected) in cases {
        let found = wrong(kind, spec);
        assert!(found.len() == 1 && found[0].contains(expected), "{spec}\nexpected {expected}\nfound {found:#?}");
    }
}

fn route(spec: &str) -> Route {
    match checked("Route", spec) {
        Ok(Checked::Route(route)) => (*route).clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

fn provider(spec: &str) -> Provider {
    match checked("Provider", spec) {
        Ok(Checked::Provider(provider)) => (*provider).clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

fn limit(spec: &str) -> Limit {
    match checked("Limit", spec) {
        Ok(Checked::Limit(limit)) => (*limit).clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

#[test]
fn metadata_is_checked_for_every_kind() {
    for kind in Kind::ALL {
        let text = format!("kind: {kind}\nmetadata: {{name: -x, labels: {{\"a b\": c, ok: \"ä\"}}}}\n");
        let problems = check(&resource(&text)).unwrap_err();
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).take(3).collect();
        assert_eq!(fields, ["metadata.name", "metadata.labels[\"a b\"]", "metadata.labels[\"ok\"]"]);
        assert!(problems.iter().all(|problem| problem.kind == Some(kind) && problem.name == "-x"));
    }
    let raw = v1::Resource { kind: Some(Raw::Tenant(v1::Tenant::default())) };
    let fields: Vec<_> = check(&raw).unwrap_err().into_iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["apiVersion", "kind", "metadata.name"]);
    assert!(check(&v1::Resource::default()).is_err());
}

#[test]
fn everything_wrong_is_told_at_once() {
    let found = wrong(
        "Route",
        "{hosts: ['*'], match: [{path: {exact: a}}, {methods: [get]}], backends: [{}], timeouts: {idle: x}, retries: {}}",
    );
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn every_wrong_value_of_a_tenant_or_a_consumer_is_told() {
    each_is_wrong(
        "Tenant",
        &[
            (
                "{billing: {mode: prepayed, currency: USD}}",
                "spec.billing.mode: `prepayed` is unknown (did you mean `prepaid`?)",
            ),
            ("{billing: {mode: prepaid}}", "spec.billing.currency: is missing"),
            ("{billing: {currency: usd}}", "spec.billing.currency: `usd` is not a currency code"),
            ("{billing: {durability: memory}}", "spec.billing.durability: `memory` is unknown"),
            ("{billing: {grace: 15d}}", "spec.billing.grace: `15d` is more than 14d"),
            ("{billing: {grace: soon}}", "spec.billing.grace: `soon` is not a duration"),
            (
                "{timeZone: Europe/Berln}",
                "spec.timeZone: `Europe/Berln` is no IANA time zone (did you mean `Europe/Berlin`?)",
            ),
        ],
    );
    each_is_wrong(
        "Consumer",
        &[
            ("{}", "spec.tenant: is missing"),
            ("{tenant: A}", "spec.tenant: must be 1 to 253"),
            (
                "{tenant: a, priority: crtical}",
                "spec.priority: `crtical` is unknown (did you mean `critical`?): critical | standard | sheddable",
            ),
            ("{tenant: a, credentials: [{}]}", "spec.credentials[0]: must have `apiKey`"),
            ("{tenant: a, credentials: [{apiKey: 'a b'}]}", "spec.credentials[0].apiKey: holds a space"),
            ("{tenant: a, credentials: [{apiKey: x}]}", "spec.credentials[0].apiKey: is shorter than 8 characters"),
            (
                "{tenant: a, credentials: [{apiKey: sk-bobb}]}",
                "spec.credentials[0].apiKey: is shorter than 8 characters",
            ),
            ("{tenant: a, credentials: [{apiKey: a, hash: b}]}", "spec.credentials[0]: must have only one of"),
            ("{tenant: a, credentials: [{hash: b}]}", "spec.credentials[0].hash: is damaged"),
            (
                "{tenant: a, credentials: [{apiKey: sk-twice}, {apiKey: sk-twice}]}",
                "spec.credentials[1]: is there twice",
            ),
            (
                "{tenant: a, credentials: [{apiKey: sk-alice, expiresAt: tomorrow}]}",
                "spec.credentials[0].expiresAt: is not an RFC 3339 time",
            ),
        ],
    );
}

#[test]
fn every_wrong_value_of_a_price_is_told() {
    each_is_wrong(
        "Price",
        &[
            ("{input: 1}", "spec.currency: is missing"),
            ("{currency: dollar, input: 1}", "spec.currency: `dollar` is not a currency code"),
            ("{currency: USD}", "spec: has no figure"),
            ("{currency: USD, input: 1, per: 0}", "spec.per: must be greater than 0"),
            ("{currency: USD, input: 1e3}", "spec.input: `1e3` is not a decimal"),
            ("{currency: USD, input: -1}", "spec.input: must not be negative"),
            ("{currency: USD, input: 1, table: lst}", "spec.table: `lst` is unknown (did you mean `list`?)"),
            ("{currency: USD, input: 1, table: contract}", "spec.match.tenants: is missing"),
            ("{currency: USD, input: 1, match: {tenants: [a]}}", "spec.match.tenants: is only for `table: contract`"),
            ("{currency: USD, input: 1, match: {providers: [A]}}", "spec.match.providers[0]: must be 1 to 253"),
            ("{currency: USD, input: 1, effectiveFrom: now}", "spec.effectiveFrom: `now` is not an RFC 3339 time"),
            ("{currency: USD, input: 1, tiers: [{input: 2}]}", "spec.tiers[0].aboveInputTokens: must be given"),
            ("{currency: USD, input: 1, tiers: [{aboveInputTokens: 5}]}", "spec.tiers[0]: has no figure"),
            (
                "{currency: USD, input: 1, tiers: [{aboveInputTokens: 5, input: 1}, {aboveInputTokens: 5, input: 2}]}",
                "spec.tiers[1].aboveInputTokens: must be greater than in the tier before",
            ),
        ],
    );
    let Ok(Checked::Price(price)) = checked("Price", "{currency: EUR, cachedInput: 0.5, output: 10}") else { panic!() };
    assert_eq!((price.per, price.rates.output), (1_000_000, Some(crate::Money(10 * crate::Money::ONE.0))));
}

#[test]
fn nothing_in_a_problem_is_a_secret() {
    for problems in [
        checked("Provider", "{type: x, endpoints: [{url: 'http://u:hunter2@a:x/'}], keys: [{value: 'hunter2 x'}]}")
            .unwrap_err(),
        checked("Consumer", "{credentials: [{apiKey: 'hunter2 x'}, {apiKey: 'hunter2 x'}]}").unwrap_err(),
    ] {
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    }
}
