use std::time::Duration;

use super::*;
use crate::{ErrorRate, KeyFailover, KeyPart, OutlierDetection, Policy, ProviderKey, Question, SlowAnswers, Spread};

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
            (
                "{endpoints: [{address: 'a:1', labels: {'a b': c}}]}",
                "spec.endpoints[0].labels[\"a b\"]: name and value must be up to 63",
            ),
            (
                "{endpoints: [{address: 'a:1', labels: {l0: v, l1: v, l2: v, l3: v, l4: v, l5: v, l6: v, l7: v, l8: v, l9: v, l10: v, l11: v, l12: v, l13: v, l14: v, l15: v, l16: v}}]}",
                "spec.endpoints[0].labels: has 17 labels, more than 16",
            ),
            (
                "{protocol: htp, endpoints: [{address: 'a:1'}]}",
                "spec.protocol: `htp` is unknown (did you mean `http`?)",
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
        ("keys: [{env: A, weight: 0}, {env: B, weight: 0}]", "spec.keys: every weight is 0"),
        ("keyFailover: {failureThreshold: 0}", "spec.keyFailover.failureThreshold: must be 1 to 1000"),
        ("keyFailover: {successThreshold: 0}", "spec.keyFailover.successThreshold: must be 1 to 1000"),
        ("keyFailover: {probeInterval: 0s}", "spec.keyFailover.probeInterval: must be longer than zero"),
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
fn every_wrong_value_of_what_an_upstream_says_of_its_endpoints_is_told() {
    for (rest, expected) in [
        ("loadBalancing: {policy: roundrobin}", "spec.loadBalancing.policy: `roundrobin` is unknown (did you mean"),
        ("loadBalancing: {zones: all}", "spec.loadBalancing.zones: `all` is unknown: preferLocal | any"),
        ("loadBalancing: {policy: maglev}", "spec.loadBalancing.hashOn: is missing: what requests are told apart by"),
        ("loadBalancing: {policy: ringHash, hashOn: 'header:a b'}", "spec.loadBalancing.hashOn: `a b` is no header's"),
        ("loadBalancing: {policy: ringHash, hashOn: route}", "spec.loadBalancing.hashOn: `route` tells too few"),
        ("loadBalancing: {policy: ringHash, hashOn: 'header:X-Api-Key'}", "hashOn: may hold a credential"),
        ("loadBalancing: {policy: random, hashOn: ip}", "spec.loadBalancing.hashOn: is only for the policies"),
        ("loadBalancing: {panicThreshold: 101}", "spec.loadBalancing.panicThreshold: is a percentage: 0 to 100"),
        ("loadBalancing: {slowStart: 2h}", "spec.loadBalancing.slowStart: must be an hour at most"),
        ("loadBalancing: {policy: maglev, hashOn: ip, slowStart: 1s}", "spec.loadBalancing.slowStart: is not for"),
        ("healthCheck: {}", "spec.healthCheck.path: is missing: a path from the origin, such as /healthz"),
        ("healthCheck: {path: healthz}", "spec.healthCheck.path: is no path: it begins with `/`"),
        ("healthCheck: {path: '/a b'}", "spec.healthCheck.path: is no path"),
        ("healthCheck: {path: /, type: tcp}", "spec.healthCheck.path: is only for `type: http`"),
        (
            "healthCheck: {type: grpc}",
            "spec.healthCheck.type: is spoken over HTTP/2: `grpc` needs `protocol: grpc`, h2c or https",
        ),
        ("healthCheck: {type: udp}", "spec.healthCheck.type: `udp` is unknown"),
        ("healthCheck: {path: /, interval: 99ms}", "spec.healthCheck.interval: must be 100ms at least"),
        ("healthCheck: {path: /, interval: 1s, timeout: 2s}", "spec.healthCheck.timeout: is longer than `interval`"),
        ("healthCheck: {path: /, unhealthyAfter: 0}", "spec.healthCheck.unhealthyAfter: must be 1 to 1000"),
        ("healthCheck: {path: /, healthyAfter: 1001}", "spec.healthCheck.healthyAfter: must be 1 to 1000"),
        ("outlierDetection: {consecutiveErrors: 0}", "spec.outlierDetection.consecutiveErrors: must be 1 to 1000"),
        ("outlierDetection: {ejectFor: 0s}", "spec.outlierDetection.ejectFor: must be longer than zero"),
        ("outlierDetection: {maxEjectedPercent: 0}", "spec.outlierDetection.maxEjectedPercent: must be 1 to 100"),
        ("outlierDetection: {consecutiveErrors: 0}", "1000, or 0 where `errorRate` or `latency` is there"),
        ("outlierDetection: {errorRate: {percent: 0}}", "spec.outlierDetection.errorRate.percent: must be 1 to 100"),
        ("outlierDetection: {errorRate: {percent: 101}}", "spec.outlierDetection.errorRate.percent: must be 1 to 100"),
        (
            "outlierDetection: {errorRate: {interval: 999ms}}",
            "spec.outlierDetection.errorRate.interval: must be 1s to 10m",
        ),
        (
            "outlierDetection: {errorRate: {interval: 11m}}",
            "spec.outlierDetection.errorRate.interval: must be 1s to 10m",
        ),
        (
            "outlierDetection: {errorRate: {minRequests: 0}}",
            "spec.outlierDetection.errorRate.minRequests: must be 1 to 1000000",
        ),
        (
            "outlierDetection: {latency: {factor: 1}}",
            "spec.outlierDetection.latency.factor: `1` is no factor: greater than 1",
        ),
        (
            "outlierDetection: {latency: {factor: 100.01}}",
            "spec.outlierDetection.latency.factor: `100.01` is no factor",
        ),
        ("outlierDetection: {latency: {factor: 3x}}", "spec.outlierDetection.latency.factor: `3x` is no factor"),
        ("outlierDetection: {latency: {percentile: 0}}", "spec.outlierDetection.latency.percentile: must be 1 to 100"),
        (
            "outlierDetection: {latency: {interval: 0s}}",
            "spec.outlierDetection.latency.interval: must be longer than zero",
        ),
        ("outlierDetection: {latency: {interval: 1h}}", "spec.outlierDetection.latency.interval: must be 1s to 10m"),
        (
            "outlierDetection: {latency: {minRequests: 1000001}}",
            "spec.outlierDetection.latency.minRequests: must be 1 to",
        ),
        ("outlierDetection: {latency: {minPeers: 0}}", "spec.outlierDetection.latency.minPeers: must be 1 to 1000"),
        (
            "outlierDetection: {latency: {minLatency: 2h}}",
            "spec.outlierDetection.latency.minLatency: must be an hour at most",
        ),
        ("circuitBreaker: {maxRequests: 0}", "spec.circuitBreaker.maxRequests: must be greater than 0"),
        ("circuitBreaker: {maxConnections: 0}", "spec.circuitBreaker.maxConnections: must be greater than 0"),
        ("circuitBreaker: {maxPending: 1}", "spec.circuitBreaker.maxPending: needs `maxConnections`"),
    ] {
        each_is_wrong("Service", &[(&format!("{{endpoints: [{{address: 'a:1'}}], {rest}}}"), expected)]);
        let provider = format!("{{type: openai, endpoints: [{{url: 'http://a/v1'}}], {rest}}}");
        each_is_wrong("Provider", &[(&provider, expected)]);
    }
    let many: Vec<String> = (0..1_001).map(|n| format!("{{address: 'a{n}:1'}}")).collect();
    let many = format!("{{endpoints: [{}]}}", many.join(", "));
    each_is_wrong("Service", &[(&many, "spec.endpoints: has 1001 endpoints, more than 1000")]);
}

#[test]
fn what_an_upstream_says_of_its_endpoints_means_what_the_contract_says() {
    let with = |rest: &str| provider(&format!("{{type: openai, endpoints: [{{url: 'http://a/v1'}}], {rest}}}")).spread;
    let none = with("keys: []");
    assert_eq!(none, Spread::default());
    assert_eq!((&none.balancing.policy, none.balancing.prefer_local), (&Policy::RoundRobin, true));
    assert_eq!((none.outliers, none.breaker.max_requests, none.health_check), (None, None, None));
    let all = with(
        "loadBalancing: {policy: maglev, zones: any, hashOn: 'header:X-User', panicThreshold: 0}, healthCheck: {path: '/up?x=1'},
         outlierDetection: {ejectFor: 10s}, circuitBreaker: {maxRequests: 7, maxConnections: 3, maxPending: 0}",
    );
    assert_eq!(all.balancing.policy, Policy::Maglev(KeyPart::Header("x-user".into())));
    assert_eq!((all.balancing.prefer_local, all.balancing.panic_threshold), (false, 0));
    let check = all.health_check.unwrap();
    assert_eq!(check.question, Question::Http("/up?x=1".parse().unwrap()));
    assert_eq!((check.interval, check.timeout), (ms(2_000), ms(500)));
    assert_eq!((check.unhealthy_after, check.healthy_after), (3, 2));
    let outliers = OutlierDetection {
        consecutive_errors: Some(5),
        error_rate: None,
        latency: None,
        eject_for: ms(10_000),
        max_ejected_percent: 50,
    };
    assert_eq!((all.outliers, all.breaker.max_requests), (Some(outliers), Some(7)));
    assert_eq!((all.breaker.max_connections, all.breaker.max_pending), (Some(3), Some(0)));
    assert_eq!(with("healthCheck: {type: tcp}").health_check.map(|check| check.question), Some(Question::Tcp));
    let grpc = "{protocol: h2c, endpoints: [{address: 'a:1'}], healthCheck: {type: grpc}}";
    for grpc in [grpc.to_owned(), grpc.replace("h2c", "grpc")] {
        let Ok(Checked::Service(grpc)) = checked("Service", &grpc) else { panic!() };
        assert_eq!(grpc.spread.health_check.as_ref().map(|check| &check.question), Some(&Question::Grpc));
    }
    assert_eq!(with("loadBalancing: {slowStart: 30s}").balancing.slow_start, Some(ms(30_000)));
}

#[test]
fn every_wrong_order_of_zones_is_told() {
    for (rest, expected) in [
        ("zones: any, failover: [{to: [x]}]", "failover: is only for `zones: preferLocal`"),
        ("failover: [{from: x}]", "failover[0].to: is missing: the zones that come after a node's own"),
        ("failover: [{to: [x, z]}]", "failover[0].to[1]: no endpoint is in `z`"),
        ("failover: [{from: x, to: [y, x]}]", "failover[0].to[1]: is the zone that requests come from"),
        ("failover: [{from: a, to: [x]}, {from: a, to: [x]}]", "failover[1].from: `a` is there twice"),
        ("failover: [{to: [x]}, {to: [x]}]", "failover[1].from: one without `from` is there twice"),
        ("failover: [{from: A B, to: [x]}]", "failover[0].from: must be 1 to 253"),
        ("failover: [{to: [x, y, x]}]", "failover[0].to[2]: `x` is there twice"),
    ] {
        let endpoints = "endpoints: [{address: 'a:1', zone: x}, {address: 'b:1', zone: y}]";
        let spec = format!("{{{endpoints}, loadBalancing: {{{rest}}}}}");
        each_is_wrong("Service", &[(&spec, &format!("spec.loadBalancing.{expected}"))]);
    }
    let froms: Vec<String> = (0..33).map(|n| format!("{{from: z{n}, to: [x]}}")).collect();
    let spec =
        format!("{{endpoints: [{{address: 'a:1', zone: x}}], loadBalancing: {{failover: [{}]}}}}", froms.join(", "));
    each_is_wrong("Service", &[(&spec, "spec.loadBalancing.failover: has 33 items, more than 32")]);
    let zones: Vec<String> = (0..33).map(|n| format!("z{n}")).collect();
    let endpoints: Vec<String> = zones.iter().map(|zone| format!("{{address: '{zone}:1', zone: {zone}}}")).collect();
    let failover = format!("failover: [{{to: [{}]}}]", zones.join(", "));
    let spec = format!("{{endpoints: [{}], loadBalancing: {{{failover}}}}}", endpoints.join(", "));
    each_is_wrong("Service", &[(&spec, "spec.loadBalancing.failover[0].to: has 33 zones, more than 32")]);
}

#[test]
fn every_zone_has_its_own_order_or_the_one_of_all() {
    let endpoints =
        ["az-a", "az-b", "az-c"].map(|zone| format!("{{url: 'http://{zone}/v1', zone: {zone}}}")).join(", ");
    let failover = "failover: [{to: [az-a, az-c]}, {from: az-a, to: [az-c]}]";
    let spec = format!("{{type: openai, endpoints: [{endpoints}], loadBalancing: {{{failover}}}}}");
    let balancing = provider(&spec).spread.balancing;
    assert_eq!(balancing.zones_after("az-a"), ["az-c"]);
    assert_eq!(balancing.zones_after("az-b"), ["az-a", "az-c"]);
    assert!(Spread::default().balancing.zones_after("az-a").is_empty());
}

#[test]
fn outliers_are_told_by_their_share_of_errors_and_by_their_time_where_that_is_asked_for() {
    let with = |rest: &str| {
        let outliers = format!("outlierDetection: {{{rest}}}");
        let spec = format!("{{type: openai, endpoints: [{{url: 'http://a/v1'}}], {outliers}}}");
        provider(&spec).spread.outliers.unwrap()
    };
    let rate = ErrorRate { percent: 50, interval: ms(10_000), min_requests: 20 };
    let latency = SlowAnswers {
        factor_percent: 300,
        percentile: 50,
        interval: ms(10_000),
        min_requests: 20,
        min_peers: 2,
        min_latency: ms(10),
    };
    let defaults = with("consecutiveErrors: 0, errorRate: {}, latency: {}");
    assert_eq!((defaults.consecutive_errors, defaults.error_rate, defaults.latency), (None, Some(rate), Some(latency)));
    let own = with("errorRate: {percent: 5, interval: 1m, minRequests: 100}");
    let rate = ErrorRate { percent: 5, interval: ms(60_000), min_requests: 100 };
    assert_eq!((own.consecutive_errors, own.error_rate, own.latency), (Some(5), Some(rate), None));
    let own = with("latency: {factor: 2.5, percentile: 90, interval: 1s, minRequests: 1, minPeers: 1, minLatency: 1s}");
    let latency = SlowAnswers {
        factor_percent: 250,
        percentile: 90,
        interval: ms(1_000),
        min_requests: 1,
        min_peers: 1,
        min_latency: ms(1_000),
    };
    assert_eq!((own.error_rate, own.latency), (None, Some(latency)));
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_providers_keys_have_weights_and_may_be_rested() {
    let some = provider(
        "{type: openai, endpoints: [{url: 'http://a'}], keys: [{env: A}, {env: B, weight: 3}], keyFailover: {}}",
    );
    assert_eq!(some.key_weights, [1, 3]);
    let KeyFailover { failure_threshold, success_threshold, probe_interval } = some.key_failover.unwrap();
    assert_eq!((failure_threshold, success_threshold, probe_interval), (3, 1, ms(5_000)));
    assert_eq!(provider("{type: openai, endpoints: [{url: 'http://a'}]}").key_failover, None);
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
    let plain = super::provider("{type: openai, endpoints: [{url: 'http://a'}], keys: [{value: sk-secret}]}");
    assert!(!format!("{plain:?}").contains("sk-secret"));
}

/// As a call of the admin API may say it, that no text was read for.
#[test]
fn a_weight_that_is_too_great_is_told_wherever_it_is() {
    let told = |resource: &v1::Resource| {
        let problems = check(resource).unwrap_err();
        problems.iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect::<Vec<_>>()
    };
    for weight in [1_000_001, u32::MAX] {
        let mut route = resource("kind: Route\nmetadata: {name: x}\nspec: {backends: [{service: a}]}");
        let Some(Raw::Route(v1::Route { spec: Some(spec), .. })) = &mut route.kind else { panic!("{route:?}") };
        spec.backends[0].weight = Some(weight);
        assert_eq!(told(&route), ["spec.backends[0].weight: must be at most 1000000"]);
        let mut service = resource("kind: Service\nmetadata: {name: x}\nspec: {endpoints: [{address: 'a:1'}]}");
        let Some(Raw::Service(v1::Service { spec: Some(spec), .. })) = &mut service.kind else { panic!("{service:?}") };
        spec.endpoints[0].weight = Some(weight);
        assert_eq!(told(&service), ["spec.endpoints[0].weight: must be at most 1000000"]);
    }
}
