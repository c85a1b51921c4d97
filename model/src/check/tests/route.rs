use std::time::Duration;

use super::*;
use crate::{Failure, Hedge, HostPattern, PathMatch, RouteAction, UpstreamRef};

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
    assert_eq!(
        (&backends[1].upstream, backends[1].weight, backends[1].model.as_deref()),
        (&upstream, 1, Some("gpt/4"))
    );
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
fn a_request_may_be_hedged_without_being_retried() {
    let retries = route("{backends: [{service: a}], retries: {hedge: {after: 50ms}}}").retries.unwrap();
    let hedge = Hedge { after: Duration::from_millis(50), max: 1 };
    assert_eq!((retries.attempts, retries.hedge), (0, Some(hedge)));
    let both =
        route("{backends: [{service: a}], retries: {on: [reset], hedge: {after: 50ms, max: 3}}}").retries.unwrap();
    assert_eq!((both.attempts, both.hedge), (1, Some(Hedge { max: 3, ..hedge })));
    let with = |rest: &str| format!("{{backends: [{{service: a}}], {rest}}}");
    for (rest, expected) in [
        ("retries: {attempts: 2, hedge: {after: 1s}}", "spec.retries.on: is missing"),
        ("retries: {hedge: {}}", "spec.retries.hedge.after: is missing: how long no answer has begun"),
        ("retries: {hedge: {after: 2m}}", "spec.retries.hedge.after: is no shorter than an answer is waited for"),
        (
            "retries: {hedge: {after: 1s}}, timeouts: {firstByte: 1s}",
            "spec.retries.hedge.after: is no shorter than an answer is waited for",
        ),
        ("retries: {hedge: {after: 1s, max: 4}}", "spec.retries.hedge.max: must be 1 to 3; leave `hedge` out for none"),
        ("retries: {hedge: {after: 1s, max: 0}}", "spec.retries.hedge.max: must be 1 to 3"),
    ] {
        each_is_wrong("Route", &[(&with(rest), expected)]);
    }
}

#[test]
fn backends_of_one_service_differ_by_their_subsets() {
    let split = route(
        "{backends: [{service: a, subset: {v: '1'}, subsetFallback: any}, {service: a, subset: {v: '2'}}, {service: a}]}",
    );
    let RouteAction::Forward { backends, .. } = &split.action else { panic!("{split:?}") };
    let told: Vec<_> =
        backends.iter().map(|it| it.subset.as_ref().map(|it| (it.labels["v"].as_str(), it.or_any))).collect();
    assert_eq!(told, [Some(("1", true)), Some(("2", false)), None]);
    let twice = "{backends: [{service: a, subset: {v: '1'}}, {service: a, subset: {v: '1'}}]}";
    each_is_wrong("Route", &[(twice, "spec.backends[1]: is there twice: add the weights up")]);
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
        ("match: [{grpc: {}}]", "spec.match[0].grpc: must have `service`, `method` or both"),
        ("match: [{grpc: {service: /a}}]", "spec.match[0].grpc.service: `/a` is no service such as shop.v1.Orders"),
        ("match: [{grpc: {service: a..b}}]", "spec.match[0].grpc.service: `a..b` is no service"),
        ("match: [{grpc: {method: a.b}}]", "spec.match[0].grpc.method: `a.b` is no method such as GetOrder"),
        ("match: [{grpc: {method: a}, path: {exact: /a}}]", "spec.match[0].path: is told by `grpc` already"),
        ("match: [{grpc: {method: a}, methods: [GET]}]", "spec.match[0].methods: is told by `grpc` already"),
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
        (
            "fallbacks: [{provider: b, on: [reset], subset: {a: 'b c'}}]",
            "spec.fallbacks[0].subset[\"a\"]: name and value must be up to 63",
        ),
        (
            "fallbacks: [{provider: b, on: [reset], subset: {a: b}, subsetFallback: all}]",
            "spec.fallbacks[0].subsetFallback: `all` is unknown",
        ),
        (
            "fallbacks: [{provider: b, on: [reset], subsetFallback: any}]",
            "spec.fallbacks[0].subsetFallback: is given without `subset`: all endpoints are meant",
        ),
        ("timeouts: {request: 5}", "spec.timeouts.request: `5` is not a duration"),
        ("timeouts: {idle: 0s}", "spec.timeouts.idle: must be longer than zero"),
        (
            "timeouts: {request: 1s, firstByte: 2s}",
            "spec.timeouts.firstByte: is longer than `request`, so it could never fire",
        ),
        ("timeouts: {firstByte: 3m}", "spec.timeouts.firstByte: is longer than `request`"),
        ("retries: {attempts: 2}", "spec.retries.on: is missing"),
        ("retries: {hedge: {after: 1s}}", "spec.retries.hedge: is only for routes with services"),
        ("retries: {attempts: 0, on: [reset]}", "spec.retries.attempts: must be 1 to 10; leave `retries` out"),
        ("retries: {attempts: 11, on: [reset]}", "spec.retries.attempts: must be 1 to 10"),
        ("retries: {on: [rest]}", "spec.retries.on[0]: `rest` is unknown (did you mean `reset`?)"),
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
            (
                "{backends: [{service: a}], priority: high}",
                "spec.priority: `high` is unknown: critical | standard | sheddable",
            ),
            ("{backends: [{provider: a, service: b}]}", "spec.backends[0]: must have only one of"),
            ("{backends: [{provider: A}]}", "spec.backends[0].provider: must be 1 to 253"),
            ("{backends: [{service: A}]}", "spec.backends[0].service: must be 1 to 253"),
            ("{backends: [{service: a, weight: 0}]}", "spec.backends: every weight is 0"),
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
