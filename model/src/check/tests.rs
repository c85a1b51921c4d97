use std::time::Duration;

use super::*;
use crate::{
    Algorithm, Backend, Failure, HostPattern, KeyPart, Limit, PathMatch, Provider, ProviderKey, Route, RouteAction,
    Unit, UpstreamRef, Window, yaml,
};

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
fn a_route_means_what_the_contract_says() {
    let chat = route(
        "{hosts: [API.Example.com, '*.Example.org'], match: [{path: {prefix: /v1/}, methods: [POST], models: ['gpt-4*']}],
          backends: [{provider: a, weight: 80}, {provider: b, model: gpt/4}],
          fallbacks: [{provider: c, on: [connectFailure, 5xx, 429]}], bodyLimit: 64KiB,
          timeouts: {firstByte: 10s}, tokens: {max: 100}}",
    );
    assert_eq!(chat.hosts, [HostPattern::Exact("api.example.com".into()), HostPattern::Suffix(".example.org".into())]);
    assert!(chat.matches[0].path.matches("/v1") && chat.matches[0].path.matches("/v1/x"));
    assert!(!chat.matches[0].path.matches("/v10") && !chat.matches[0].path.matches("/"));
    let RouteAction::Forward { backends, fallbacks } = &chat.action else { panic!("{chat:?}") };
    let upstream = UpstreamRef::Provider("b".into());
    assert_eq!(backends[1], Backend { upstream, weight: 1, model: Some("gpt/4".into()) });
    let on = &fallbacks[0].on;
    assert!(on.contains(Failure::Connect) && on.contains(Failure::Status(503)) && on.contains(Failure::Status(429)));
    assert!(!on.contains(Failure::Timeout) && !on.contains(Failure::Reset) && !on.contains(Failure::Status(404)));
    assert_eq!((chat.timeouts.request, chat.timeouts.idle), (Duration::from_secs(120), Duration::from_secs(60)));
    assert_eq!(chat.timeouts.first_byte, Some(Duration::from_secs(10)));
    assert_eq!(chat.timeouts.stream, None, "a stream is bounded only where the route says so");
    let bounded = route("{backends: [{provider: a}], timeouts: {request: 5m}}").timeouts;
    assert_eq!((bounded.request, bounded.stream), (Duration::from_secs(300), Some(Duration::from_secs(300))));
    assert_eq!((chat.tokens.default, chat.tokens.max, chat.body_limit_bytes), (100, Some(100), 65_536));
    assert!(chat.auth.required && chat.auth.allows("any", "one") && chat.is_ai());
}

#[test]
fn what_a_route_leaves_out_has_the_contracts_default() {
    let plain = route("{backends: [{service: a}]}");
    assert_eq!(plain.hosts, [HostPattern::Any]);
    assert!(plain.matches.len() == 1 && matches!(plain.matches[0].path, PathMatch::Any));
    assert!(!plain.auth.required && !plain.is_ai());
    assert_eq!((plain.tokens.default, plain.body_limit_bytes), (4096, 10 << 20));
    assert!(
        matches!(route("{match: [{path: {prefix: /}}], backends: [{service: a}]}").matches[0].path, PathMatch::Prefix(ref p) if p.is_empty())
    );
    let RouteAction::Redirect { status, .. } = route("{redirect: {location: /x}}").action else { panic!() };
    assert_eq!(status, 302);
    let open = route("{backends: [{provider: a}], auth: {required: false}}");
    assert!(!open.auth.required);
    let some = route("{backends: [{provider: a}], auth: {allow: {tenants: [acme], consumers: [bob]}}}");
    assert!(some.auth.allows("acme", "x") && some.auth.allows("x", "bob") && !some.auth.allows("x", "x"));
}

#[test]
fn every_wrong_value_of_a_route_is_told() {
    let with = |rest: &str| format!("{{backends: [{{provider: a}}], {rest}}}");
    let cases = [
        ("onAbort: drain", "spec.onAbort: `drain` is not supported yet"),
        ("onAbort: Cut", "spec.onAbort: `Cut` is unknown (did you mean `cut`?): cut | drain"),
        ("hosts: ['*']", "spec.hosts[0]: `*`: leave `hosts` empty"),
        ("hosts: ['a.*.com']", "spec.hosts[0]: `a.*.com`: `*` can only stand for the first"),
        ("hosts: ['a.com:80']", "has a port"),
        ("hosts: ['http://a.com']", "is no host name"),
        ("hosts: [a.com, A.com]", "spec.hosts[1]: `A.com` is there twice"),
        ("match: [{path: {}}]", "spec.match[0].path: must have exactly one of"),
        ("match: [{path: {exact: /a, prefix: /b}}]", "spec.match[0].path: must have exactly one of"),
        ("match: [{path: {exact: a}}]", "spec.match[0].path.exact: must begin with `/`"),
        ("match: [{path: {prefix: /a//b}}]", "spec.match[0].path.prefix: has an empty segment"),
        ("match: [{path: {regex: '('}}]", "spec.match[0].path.regex: is no regular expression"),
        ("match: [{path: {regex: '(a{1000}){1000}'}}]", "is too large once compiled"),
        (
            "match: [{methods: [post]}]",
            "spec.match[0].methods[0]: `post`: methods are in capitals (did you mean `POST`?)",
        ),
        ("match: [{methods: ['PO ST']}]", "is no method"),
        ("match: [{methods: [CONNECT]}]", "`CONNECT` is not supported yet"),
        ("match: [{methods: [GET, GET]}]", "spec.match[0].methods[1]: `GET` is there twice"),
        ("match: [{headers: {'a b': {exact: x}}}]", "spec.match[0].headers[\"a b\"]: is no header name"),
        ("match: [{headers: {A: {exact: x}, a: {exact: y}}}]", "is there twice, in other letters"),
        ("match: [{headers: {a: {}}}]", "spec.match[0].headers[\"a\"]: must have exactly one of `exact`"),
        ("match: [{query: {a: {exact: x, present: true}}}]", "spec.match[0].query[\"a\"]: must have exactly one of"),
        ("match: [{query: {'': {exact: x}}}]", "spec.match[0].query[\"\"]: is no such name"),
        ("match: [{cookies: {'a;b': {regex: x}}}]", "spec.match[0].cookies[\"a;b\"]: is no such name"),
        ("match: [{cookies: {a: {regex: '['}}}]", "spec.match[0].cookies[\"a\"].regex: is no regular expression"),
        ("match: [{models: ['a b']}]", "spec.match[0].models[0]: holds a space"),
        ("fallbacks: [{provider: b}]", "spec.fallbacks[0].on: is missing"),
        (
            "fallbacks: [{provider: b, on: [conectFailure]}]",
            "spec.fallbacks[0].on[0]: `conectFailure` is unknown (did you mean `connectFailure`?)",
        ),
        ("fallbacks: [{provider: b, on: ['200']}]", "`200` is no failure: a status is 400 to 599"),
        ("fallbacks: [{provider: b, on: ['0500']}]", "`0500` is no failure"),
        ("fallbacks: [{on: [reset]}]", "spec.fallbacks[0]: must have `provider` or `service`"),
        ("fallbacks: [{service: b, on: [reset]}]", "providers and services in one route are not supported yet"),
        ("timeouts: {request: 5}", "spec.timeouts.request: `5` is not a duration"),
        ("timeouts: {idle: 0s}", "spec.timeouts.idle: must be longer than zero"),
        (
            "timeouts: {request: 1s, firstByte: 2s}",
            "spec.timeouts.firstByte: is longer than `request`, so it could never fire",
        ),
        ("timeouts: {firstByte: 3m}", "spec.timeouts.firstByte: is longer than `request`"),
        ("retries: {attempts: 2}", "spec.retries: not supported yet"),
        ("retries: {}", "spec.retries: not supported yet"),
        ("auth: {required: false, allow: {tenants: [a]}}", "spec.auth.allow: means nothing"),
        ("auth: {allow: {tenants: [A]}}", "spec.auth.allow.tenants[0]: must be 1 to 253"),
        ("auth: {allow: {consumers: [a, a]}}", "spec.auth.allow.consumers[1]: `a` is there twice"),
        ("tokens: {default: 0}", "spec.tokens.default: must be greater than 0"),
        ("tokens: {max: 0}", "spec.tokens.max: must be greater than 0"),
        ("tokens: {default: 2, max: 1}", "spec.tokens.default: is more than `max`"),
        ("bodyLimit: 10", "spec.bodyLimit: `10` is not a size"),
        ("redirect: {location: /x}", "spec: must have only one of `backends`, `redirect` and `response`"),
    ];
    for (rest, expected) in cases {
        each_is_wrong("Route", &[(&with(rest), expected)]);
    }
}

#[test]
fn every_wrong_action_of_a_route_is_told() {
    each_is_wrong(
        "Route",
        &[
            ("{}", "spec: must have one of `backends`, `redirect` and `response`"),
            ("{backends: [{}]}", "spec.backends[0]: must have `provider` or `service`"),
            ("{backends: [{provider: a, service: b}]}", "spec.backends[0]: must have only one of"),
            ("{backends: [{provider: A}]}", "spec.backends[0].provider: must be 1 to 253"),
            ("{backends: [{service: A}]}", "spec.backends[0].service: must be 1 to 253"),
            ("{backends: [{service: a, weight: 0}]}", "spec.backends: every weight is 0"),
            ("{backends: [{service: a, weight: 1000001}]}", "spec.backends[0].weight: must be at most 1000000"),
            ("{backends: [{service: a}, {service: a}]}", "spec.backends[1]: is there twice"),
            ("{backends: [{service: a, model: m}]}", "spec.backends[0].model: is only for providers"),
            ("{backends: [{provider: a, model: 'm n'}]}", "spec.backends[0].model: holds a space"),
            (
                "{backends: [{service: a}, {provider: a}]}",
                "spec.backends: providers and services in one route are not supported yet",
            ),
            (
                "{backends: [{service: a}], match: [{models: [m]}]}",
                "spec.match[0].models: is only for routes with a provider",
            ),
            ("{backends: [{service: a}], tokens: {max: 1}}", "spec.tokens: is only for routes with a provider"),
            ("{backends: [{service: a}], auth: {allow: {tenants: [a]}}}", "spec.auth.allow: means nothing"),
            ("{redirect: {}}", "spec.redirect.location: is missing"),
            ("{redirect: {location: x}}", "spec.redirect.location: must be a URL"),
            ("{redirect: {location: 'javascript:x'}}", "spec.redirect.location: must be a URL"),
            ("{redirect: {location: \"/a\\r\\nx: y\"}}", "spec.redirect.location: must be a URL"),
            ("{redirect: {location: /x, status: 200}}", "spec.redirect.status: 200 is no redirect"),
            ("{response: {status: 100}}", "spec.response.status: 100 is no final status"),
            ("{response: {status: 66000}}", "spec.response.status: 66000 is no final status"),
            ("{response: {status: 204, body: x}}", "spec.response.body: an answer with status 204 has no body"),
            ("{response: {headers: {'a b': x}}}", "spec.response.headers[\"a b\"]: is no header name"),
            ("{response: {headers: {a: \"x\\ny\"}}}", "spec.response.headers[\"a\"]: is no header value"),
            ("{response: {headers: {Content-Length: '1'}}}", "is set by the server itself"),
            ("{response: {headers: {A: x, a: y}}}", "is there twice, in other letters"),
        ],
    );
    let found = wrong("Route", "{fallbacks: [{provider: a, on: [reset]}]}");
    assert!(found[0].starts_with("spec.fallbacks: need `backends`"), "{found:?}");
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
fn every_wrong_value_of_a_service_is_told() {
    each_is_wrong(
        "Service",
        &[
            ("{}", "spec.endpoints: is missing"),
            ("{endpoints: [{}]}", "spec.endpoints[0].address: is missing"),
            ("{endpoints: [{address: a}]}", "spec.endpoints[0].address: `a` has no port"),
            ("{endpoints: [{address: 'a:0'}]}", "`0` is no port"),
            ("{endpoints: [{address: 'http://a:80'}]}", "`http://a:80` is a URL"),
            ("{endpoints: [{address: 'u:p@a:80'}]}", "has a user name"),
            ("{endpoints: [{address: 'a:1', zone: A}]}", "spec.endpoints[0].zone: must be 1 to 253"),
            ("{endpoints: [{address: 'a:1'}, {address: 'A:1'}]}", "spec.endpoints[1]: `http://a:1/` is there twice"),
            ("{endpoints: [{address: 'a:1', weight: 0}]}", "spec.endpoints: every weight is 0"),
            ("{endpoints: [{address: 'a:1', weight: 4000000}]}", "spec.endpoints[0].weight: must be at most"),
            (
                "{protocol: htp, endpoints: [{address: 'a:1'}]}",
                "spec.protocol: `htp` is unknown (did you mean `http`?)",
            ),
            ("{protocol: grpc, endpoints: [{address: 'a:1'}]}", "spec.protocol: `grpc` is not supported yet"),
            ("{protocol: h2, endpoints: [{address: 'a:1'}]}", "spec.protocol: `h2` is not supported yet"),
            ("{endpoints: [{address: 'a:1'}], healthCheck: {}}", "spec.healthCheck: not supported yet"),
            ("{endpoints: [{address: 'a:1'}], outlierDetection: {}}", "spec.outlierDetection: not supported yet"),
            ("{endpoints: [{address: 'a:1'}], circuitBreaker: {}}", "spec.circuitBreaker: not supported yet"),
            (
                "{endpoints: [{address: 'a:1'}], loadBalancing: {policy: maglev}}",
                "spec.loadBalancing.policy: `maglev` is not supported yet",
            ),
            ("{endpoints: [{address: 'a:1'}], loadBalancing: {policy: roundrobin}}", "(did you mean `roundRobin`?)"),
            (
                "{endpoints: [{address: 'a:1'}], loadBalancing: {zones: any}}",
                "spec.loadBalancing.zones: `any` is unknown",
            ),
        ],
    );
    let Ok(Checked::Service(service)) =
        checked("Service", "{protocol: https, endpoints: [{address: 'A.b:1', zone: az-a}]}")
    else {
        panic!()
    };
    assert_eq!(service.endpoints[0].url, "https://a.b:1/");
    assert_eq!((service.endpoints[0].zone.as_deref(), service.endpoints[0].weight), (Some("az-a"), 1));
}

#[test]
fn every_wrong_value_of_a_provider_is_told() {
    let with = |rest: &str| format!("{{type: openai, endpoints: [{{url: 'http://a/v1'}}], {rest}}}");
    for (rest, expected) in [
        ("keys: [{}]", "spec.keys[0]: must have exactly one of"),
        ("keys: [{value: a, env: B}]", "spec.keys[0]: must have exactly one of"),
        ("keys: [{value: 'a b'}]", "spec.keys[0].value: holds a space"),
        ("keys: [{env: 1A}]", "spec.keys[0].env: is no name of an environment variable such as"),
        ("keys: [{env: A-B}]", "spec.keys[0].env: is no name"),
        ("keys: [{file: key.txt}]", "spec.keys[0].file: must be an absolute path"),
        ("keys: [{sealed: x}]", "spec.keys[0].sealed: is damaged"),
        ("models: {'a b': c}", "spec.models[\"a b\"]: the model asked for holds a space"),
        ("models: {a: 'b*'}", "spec.models[\"a\"]: `*` stands for something only in what is asked for"),
        ("models: {a: ''}", "spec.models[\"a\"]: the provider's own name must not be empty"),
        ("keyFailover: {}", "spec.keyFailover: not supported yet"),
        ("healthCheck: {}", "spec.healthCheck: not supported yet"),
        ("outlierDetection: {}", "spec.outlierDetection: not supported yet"),
        ("circuitBreaker: {}", "spec.circuitBreaker: not supported yet"),
        ("loadBalancing: {policy: leastRequest}", "spec.loadBalancing.policy: `leastRequest` is not supported yet"),
    ] {
        each_is_wrong("Provider", &[(&with(rest), expected)]);
    }
    each_is_wrong(
        "Provider",
        &[
            ("{endpoints: [{url: 'http://a'}]}", "spec.type: is missing"),
            ("{type: gemini, endpoints: [{url: 'http://a'}]}", "spec.type: `gemini` is not supported yet"),
            (
                "{type: opanai, endpoints: [{url: 'http://a'}]}",
                "spec.type: `opanai` is unknown (did you mean `openai`?)",
            ),
            ("{type: openai}", "spec.endpoints: is missing"),
            ("{type: openai, endpoints: [{}]}", "spec.endpoints[0].url: is missing"),
            ("{type: openai, endpoints: [{url: a}]}", "spec.endpoints[0].url: `a` is no URL"),
            ("{type: openai, endpoints: [{url: 'ftp://a'}]}", "spec.endpoints[0].url: `ftp` is no scheme"),
            ("{type: openai, endpoints: [{url: 'http://u:p@a'}]}", "spec.endpoints[0].url: has a user name"),
            ("{type: openai, endpoints: [{url: 'http://a/v1/chat/completions'}]}", "ends in `/chat/completions`"),
            (
                "{type: openai, endpoints: [{url: 'http://a'}, {url: 'http://a/'}]}",
                "spec.endpoints[1]: `http://a/` is there twice",
            ),
        ],
    );
}

#[test]
fn a_provider_keeps_its_keys_in_order_and_never_a_plain_one() {
    let (key, _) = crate::secret::ClusterKey::generate();
    let sealed = key.seal("x");
    let keys = format!("keys: [{{env: A}}, {{sealed: '{sealed}'}}, {{file: /k}}]");
    let provider = provider(&format!("{{type: anthropic, endpoints: [{{url: 'http://a/v1/'}}], {keys}}}"));
    assert_eq!(
        provider.keys,
        [ProviderKey::Env("A".into()), ProviderKey::Sealed(sealed), ProviderKey::File("/k".into())]
    );
    assert_eq!(provider.endpoints[0].url, "http://a/v1");
    let plain = self::provider("{type: openai, endpoints: [{url: 'http://a'}], keys: [{value: sk-secret}]}");
    assert!(!format!("{plain:?}").contains("sk-secret"));
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
fn a_limit_means_what_the_contract_says() {
    let given = limit(
        "{match: {tenants: [acme], models: ['gpt-*']}, per: [consumer, model], unit: outputTokens, limit: 5, window: month, durability: memory}",
    );
    assert_eq!((given.unit, given.limit, given.window), (Unit::OutputTokens, 5, Window::Month));
    assert_eq!(given.per, [KeyPart::Consumer, KeyPart::Model]);
    let subject = crate::Subject {
        tenant: Some("acme"),
        consumer: Some("alice"),
        model: Some("gpt-4o"),
        ..crate::Subject::of_route("chat")
    };
    assert!(given.concerns(&subject));
    assert_eq!(given.key(&subject), ["alice", "gpt-4o"]);
    for other in [
        crate::Subject { tenant: Some("globex"), ..subject },
        crate::Subject { tenant: None, ..subject },
        crate::Subject { model: Some("claude"), ..subject },
        crate::Subject { model: None, ..subject },
    ] {
        assert!(!given.concerns(&other), "{other:?}");
    }
    let all = limit("{unit: requests, limit: 1, window: 1s, algorithm: fixed}");
    let most = limit("{unit: tokens, limit: 9223372036854775807, window: 1m, mode: shadow, reserve: prompt}");
    assert_eq!((most.limit, most.mode, most.reserve), (i64::MAX as u64, crate::Mode::Shadow, crate::Reserve::Prompt));
    assert_eq!((given.mode, given.reserve), (crate::Mode::Enforce, crate::Reserve::Full));
    let open = limit("{unit: tokens, limit: 1, window: 1m, whenUnavailable: allow}");
    let both = (given.when_unavailable, open.when_unavailable);
    assert_eq!(both, (crate::WhenUnavailable::Deny, crate::WhenUnavailable::Allow));
    let nobody = crate::Subject::of_route("r");
    assert!(all.concerns(&nobody) && all.key(&nobody).is_empty());
    let each = limit("{per: [consumer], unit: requests, limit: 1, window: 1s, algorithm: fixed}");
    assert!(each.concerns(&subject) && !each.concerns(&nobody), "nobody has an account of their own");
    assert_eq!(given.key(&nobody), ["", ""]);
}

#[test]
fn a_limit_of_networks_is_about_addresses_in_them_however_they_are_written() {
    let given = limit(
        "{match: {cidrs: ['::ffff:10.0.0.0/104', '2001:db8::/32', 192.0.2.7]}, per: [ip], unit: requests, limit: 1, window: 1s}",
    );
    let from = |ip: &str| crate::Subject { ip: Some(ip.parse().unwrap()), ..crate::Subject::of_route("r") };
    for (ip, meant) in [
        ("10.1.2.3", true),
        ("11.0.0.1", false),
        ("2001:db8::1", true),
        ("2001:db9::1", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
    ] {
        assert_eq!(given.concerns(&from(ip)), meant, "{ip}");
    }
    assert_eq!(given.key(&from("10.1.2.3")), ["10.1.2.3"]);
    assert!(!given.concerns(&crate::Subject::of_route("r")), "an address that is not known is in no network");
    let all = limit("{match: {cidrs: ['0.0.0.0/0']}, unit: requests, limit: 1, window: 1s}");
    assert!(all.concerns(&from("10.1.2.3")) && !all.concerns(&from("2001:db8::1")));
}

#[test]
fn a_limit_per_provider_is_about_requests_that_have_one() {
    let given = limit("{per: [provider, 'header:x-team'], unit: requests, limit: 1, window: 1s}");
    let none = crate::Subject::of_route("r");
    assert!(!given.concerns(&none));
    let subject = crate::Subject { provider: Some("openai"), ..none };
    assert!(given.concerns(&subject));
    assert_eq!(given.key(&subject), ["openai", ""]);
}

#[test]
fn windows_slide_up_to_a_minute_and_are_fixed_from_an_hour_on_unless_it_is_said() {
    let algorithm = |rest: &str| limit(&format!("{{unit: tokens, limit: 1, {rest}}}")).algorithm;
    assert_eq!(["window: 1s", "window: 1m"].map(algorithm), [Algorithm::Sliding; 2]);
    assert_eq!(["window: 1h", "window: 1d", "window: month"].map(algorithm), [Algorithm::Fixed; 3]);
    assert_eq!(algorithm("window: 1h, algorithm: sliding"), Algorithm::Sliding);
    assert_eq!(algorithm("window: 1s, algorithm: fixed"), Algorithm::Fixed);
}

#[test]
fn concurrency_has_no_window_and_a_limit_may_be_nothing() {
    let given = limit("{per: [consumer], unit: concurrency, limit: 3}");
    assert_eq!((given.unit, given.limit), (Unit::Concurrency, 3));
    assert_eq!(limit("{unit: requests, limit: 0, window: 1m}").limit, 0);
}

#[test]
fn every_wrong_value_of_a_limit_is_told() {
    let with = |rest: &str| format!("{{unit: tokens, limit: 1, window: 1m, {rest}}}");
    for (rest, expected) in [
        ("per: [consumr]", "spec.per[0]: `consumr` is unknown (did you mean `consumer`?)"),
        ("per: ['header:']", "spec.per[0]: has no name after the colon"),
        ("per: ['header:a b']", "spec.per[0]: `a b` is no header's name"),
        ("per: ['cookie:a=b']", "spec.per[0]: `a=b` is no cookie's name"),
        ("per: ['header:x-a', 'header:X-A']", "spec.per[1]: `header:x-a` is there twice"),
        (
            "per: ['query:1', 'query:2', 'query:3', 'query:4', 'query:5', 'query:6', 'query:7', 'query:8', 'query:9']",
            "spec.per: must have at most 8",
        ),
        ("per: [route, route]", "spec.per[1]: `route` is there twice"),
        ("match: {cidrs: [10.0.0.0/33]}", "spec.match.cidrs[0]: `10.0.0.0/33` is no network"),
        ("match: {cidrs: [example.com]}", "spec.match.cidrs[0]: `example.com` is no network"),
        ("match: {cidrs: [10.0.0.0/8, '::ffff:10.1.2.3/104']}", "spec.match.cidrs[1]: `10.0.0.0/8` is there twice"),
        ("match: {tenants: [A]}", "spec.match.tenants[0]: must be 1 to 253"),
        ("match: {models: ['']}", "spec.match.models[0]: must not be empty"),
        ("mode: enforced", "spec.mode: `enforced` is unknown (did you mean `enforce`?)"),
        ("algorithm: fix", "spec.algorithm: `fix` is unknown (did you mean `fixed`?)"),
        ("durability: disk", "spec.durability: `disk` is unknown"),
        ("reserve: prompts", "spec.reserve: `prompts` is unknown (did you mean `prompt`?)"),
        ("whenUnavailable: allowed", "spec.whenUnavailable: `allowed` is unknown (did you mean `allow`?)"),
    ] {
        let found = wrong("Limit", &with(rest));
        assert!(!found.is_empty() && found.iter().all(|it| it.contains(expected)), "{rest}: {found:?}");
    }
    each_is_wrong(
        "Limit",
        &[
            ("{limit: 1, window: 1m}", "spec.unit: is missing: tokens | inputTokens"),
            ("{unit: token, limit: 1, window: 1m}", "spec.unit: `token` is unknown (did you mean `tokens`?)"),
            ("{unit: cost, limit: 1, window: 1m}", "spec.unit: `cost` is not supported yet"),
            ("{unit: concurrency, limit: 1, window: 1m}", "spec.window: means nothing for concurrency"),
            ("{unit: concurrency, limit: 1, mode: shadow}", "spec.mode: `shadow` is not supported yet for concurrency"),
            ("{unit: concurrency, limit: 1, algorithm: fixed}", "spec.algorithm: means nothing for concurrency"),
            (
                "{unit: tokens, limit: 1, window: 1d, algorithm: sliding}",
                "spec.algorithm: `sliding` is for windows up to 1h; write `fixed` for 1d",
            ),
            (
                "{unit: tokens, limit: 1, window: month, algorithm: sliding}",
                "spec.algorithm: `sliding` is for windows up to 1h; write `fixed` for month",
            ),
            ("{unit: tokens, window: 1m}", "spec.limit: is missing"),
            ("{unit: tokens, limit: 18446744073709551615, window: 1m}", "spec.limit: must be at most"),
            (
                "{unit: tokens, limit: 9223372036854775808, window: 1m}",
                "spec.limit: must be at most 9223372036854775807",
            ),
            (
                "{unit: requests, limit: 1, window: 1m, reserve: prompt}",
                "spec.reserve: `prompt` is for units that tokens",
            ),
            ("{unit: tokens, limit: 1}", "spec.window: is missing"),
            ("{unit: tokens, limit: 1, window: 60s}", "spec.window: `60s` is no window"),
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
