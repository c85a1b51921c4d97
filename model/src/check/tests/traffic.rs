use super::*;
use crate::{PathRewrite, RedirectTo, RouteAction, Sticky, Traffic};

fn traffic(spec: &str) -> Traffic {
    *route(spec).traffic.unwrap_or_else(|| panic!("{spec}: nothing is done"))
}

/// Each is a field of a route with a service.
fn each_field_is_wrong(cases: &[(&str, &str)]) {
    for (field, expected) in cases {
        each_is_wrong("Route", &[(&format!("{{backends: [{{service: a}}], {field}}}"), expected)]);
    }
}

#[test]
fn a_route_that_does_nothing_else_has_none_of_it() {
    assert!(route("{backends: [{service: a}]}").traffic.is_none());
}

#[test]
fn a_rewrite_means_what_it_says() {
    let given = traffic("{backends: [{service: a}], rewrite: {host: 'A.b:81', prefix: /x/}}").rewrite.unwrap();
    assert_eq!(given.host.as_deref(), Some("a.b:81"));
    assert!(matches!(given.path, Some(PathRewrite::Prefix(prefix)) if prefix == "/x"));
    let root = traffic("{backends: [{service: a}], match: [{path: {prefix: /a}}], rewrite: {prefix: /}}").rewrite;
    assert!(matches!(root.unwrap().path, Some(PathRewrite::Prefix(prefix)) if prefix.is_empty()));
    for to in ["/.well-known/$1", "/..$1", "/$1..", "/...", "/.$1./x"] {
        let regex = format!("{{backends: [{{service: a}}], rewrite: {{regex: {{pattern: '/(.*)', to: '{to}'}}}}}}");
        assert!(matches!(traffic(&regex).rewrite.unwrap().path, Some(PathRewrite::Regex { .. })), "{to}");
    }
}

#[test]
fn every_wrong_rewrite_is_told() {
    each_field_is_wrong(&[
        ("rewrite: {}", "spec.rewrite: must have `host` or one of"),
        ("rewrite: {prefix: /a, path: /b}", "spec.rewrite: must have only one of `prefix`, `path` and `regex`"),
        ("rewrite: {host: 'http://a'}", "spec.rewrite.host: `http://a` is a URL: give the host alone"),
        ("rewrite: {host: 'a b'}", "spec.rewrite.host: `a b` is no host name"),
        ("rewrite: {host: 'a:0'}", "spec.rewrite.host: `0` is no port"),
        ("rewrite: {prefix: a}", "spec.rewrite.prefix: must begin with `/`"),
        ("rewrite: {path: '/a?b'}", "spec.rewrite.path: holds '?'"),
        ("rewrite: {path: /a/../b}", "spec.rewrite.path: has an empty segment, `.` or `..`"),
        (
            "match: [{path: {prefix: /a}}, {path: {exact: /b}}], rewrite: {prefix: /x}",
            "spec.rewrite.prefix: takes the place of the matched prefix, and spec.match[1] matches none: use `path`",
        ),
        ("rewrite: {regex: {to: /a}}", "spec.rewrite.regex.pattern: is missing"),
        ("rewrite: {regex: {pattern: /a}}", "spec.rewrite.regex.to: is missing"),
        ("rewrite: {regex: {pattern: '(', to: /a}}", "spec.rewrite.regex.pattern: is no regular expression"),
        ("rewrite: {regex: {pattern: '(a{1000}){1000}', to: /a}}", "is too large once compiled"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/$2'}}", "spec.rewrite.regex.to: `$2` is no group of the pattern"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/$'}}", "spec.rewrite.regex.to: has a `$` without a group"),
        ("rewrite: {regex: {pattern: '/(.*)', to: 'x$1'}}", "spec.rewrite.regex.to: must begin with `/`"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/a b$1'}}", "spec.rewrite.regex.to: holds ' '"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/<$1>'}}", "spec.rewrite.regex.to: holds '<'"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/$1>'}}", "spec.rewrite.regex.to: holds '>'"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/`$1'}}", "spec.rewrite.regex.to: holds '`'"),
        (r#"rewrite: {regex: {pattern: '/(.*)', to: "/\u0001$1"}}"#, r"spec.rewrite.regex.to: holds '\u{1}'"),
        (r#"rewrite: {regex: {pattern: '/(.*)', to: "/\x7f$1"}}"#, r"spec.rewrite.regex.to: holds '\u{7f}'"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/a/../$1'}}", "spec.rewrite.regex.to: has `.` or `..` as a segment"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/./$1'}}", "spec.rewrite.regex.to: has `.` or `..` as a segment"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/$1/..'}}", "spec.rewrite.regex.to: has `.` or `..` as a segment"),
        ("rewrite: {regex: {pattern: '(.*)', to: '$1/.'}}", "spec.rewrite.regex.to: has `.` or `..` as a segment"),
        ("rewrite: {regex: {pattern: '/(.*)', to: '/%2E./$1'}}", "spec.rewrite.regex.to: has `.` or `..` as a segment"),
    ]);
    each_is_wrong(
        "Route",
        &[
            ("{backends: [{provider: a}], rewrite: {path: /x}}", "spec.rewrite: is only for routes with services"),
            ("{response: {}, rewrite: {path: /x}}", "spec.rewrite: is only for routes with services"),
        ],
    );
}

#[test]
fn a_redirect_is_fixed_or_built() {
    let to = |spec: &str| match route(spec).action {
        RouteAction::Redirect { to, status } => (to, status),
        other => panic!("{other:?}"),
    };
    let (built, status) =
        to("{match: [{path: {prefix: /a}}], redirect: {scheme: https, host: B, prefix: /c, status: 301}}");
    let RedirectTo::Built { scheme: Some("https"), host: Some(host), path: Some(PathRewrite::Prefix(prefix)) } = built
    else {
        panic!("{built:?}")
    };
    assert_eq!((host.as_str(), prefix.as_str(), status), ("b", "/c", 301));
    assert!(matches!(to("{redirect: {location: /x}}"), (RedirectTo::Fixed(at), 302) if at == "/x"));
    each_is_wrong(
        "Route",
        &[
            ("{redirect: {location: /x, host: a}}", "spec.redirect.location: says where to already"),
            ("{redirect: {scheme: ftp}}", "spec.redirect.scheme: `ftp` is unknown: http | https"),
            ("{redirect: {host: 'https://a'}}", "spec.redirect.host: `https://a` is a URL"),
            ("{redirect: {path: /a, prefix: /b}}", "spec.redirect: must have only one of `prefix` and `path`"),
            ("{redirect: {path: a}}", "spec.redirect.path: must begin with `/`"),
            (
                "{match: [{path: {regex: /a}}], redirect: {prefix: /b}}",
                "spec.redirect.prefix: takes the place of the matched prefix, and spec.match[0] matches none",
            ),
        ],
    );
}

#[test]
fn headers_that_are_the_gateways_own_are_not_edited() {
    let edits = traffic("{backends: [{service: a}], requestHeaders: {set: {X-A: '1'}, remove: [cookie]}}");
    assert_eq!((edits.request_headers.set.len(), edits.request_headers.remove.len()), (1, 1));
    each_field_is_wrong(&[
        ("requestHeaders: {}", "spec.requestHeaders: must have `set`, `add` or `remove`"),
        ("requestHeaders: {set: {'a b': x}}", "spec.requestHeaders.set[\"a b\"]: `a b` is no header name"),
        ("requestHeaders: {set: {a: \"x\\r\\ny: z\"}}", "spec.requestHeaders.set[\"a\"]: is no header value"),
        ("requestHeaders: {set: {a: ' x'}}", "spec.requestHeaders.set[\"a\"]: begins or ends with a space"),
        ("requestHeaders: {add: {A: x, a: y}}", "is there twice, in other letters"),
        ("requestHeaders: {remove: [a, A]}", "spec.requestHeaders.remove[1]: `a` is there twice"),
        (
            "requestHeaders: {set: {Host: x}}",
            "spec.requestHeaders.set[\"Host\"]: is not edited as a header: use `rewrite",
        ),
        ("responseHeaders: {set: {x-ratelimit-limit-tokens: x}}", "tells how limits stand"),
    ]);
    for name in
        ["connection", "content-length", "Transfer-Encoding", "te", "upgrade", "trailer", "expect", "keep-alive"]
    {
        let wrong = "belongs to the connection or frames the message";
        each_field_is_wrong(&[
            (&format!("requestHeaders: {{set: {{{name}: x}}}}"), wrong),
            (&format!("responseHeaders: {{add: {{{name}: x}}}}"), wrong),
            (&format!("requestHeaders: {{remove: [{name}]}}"), wrong),
        ]);
    }
    for name in ["x-tollgate-max-tokens", "x_tollgate_provider", "x-request-id"] {
        each_field_is_wrong(&[
            (&format!("requestHeaders: {{set: {{{name}: x}}}}"), "is the gateway's own word"),
            (&format!("responseHeaders: {{remove: [{name}]}}"), "is the gateway's own word"),
        ]);
    }
    for (name, wrong) in [
        ("x-consumer", "says who calls"),
        ("x_tenant", "says who calls"),
        ("x-forwarded-for", "says where a request came from"),
        ("forwarded", "says where a request came from"),
        ("x-real-ip", "says where a request came from"),
        ("authorization", "holds credentials"),
        ("x-api-key", "holds credentials"),
        ("api_key", "holds credentials"),
    ] {
        each_field_is_wrong(&[(&format!("requestHeaders: {{set: {{{name}: x}}}}"), wrong)]);
        assert!(
            route(&format!("{{backends: [{{service: a}}], responseHeaders: {{set: {{{name}: x}}}}}}"))
                .traffic
                .is_some()
        );
    }
    each_is_wrong(
        "Route",
        &[
            (
                "{backends: [{provider: a}], requestHeaders: {set: {content-type: x}}}",
                "is set by the gateway on its way to a provider",
            ),
            ("{response: {}, requestHeaders: {remove: [a]}}", "spec.requestHeaders: needs `backends`"),
        ],
    );
}

#[test]
fn networks_are_let_in_or_kept_out() {
    let ips =
        traffic("{backends: [{service: a}], ips: {allow: [10.0.0.0/8], deny: ['::ffff:10.1.0.0/112']}}").ips.unwrap();
    assert!(ips.allows("10.2.0.1".parse().unwrap()) && !ips.allows("10.1.0.1".parse().unwrap()));
    each_field_is_wrong(&[
        ("ips: {}", "spec.ips: must have `allow` or `deny`"),
        ("ips: {allow: [x]}", "spec.ips.allow[0]: `x` is no network"),
        ("ips: {deny: [10.0.0.1/8]}", "spec.ips.deny[0]: `10.0.0.1/8` has bits set beyond its prefix"),
        ("ips: {deny: [10.0.0.1, 10.0.0.1]}", "spec.ips.deny[1]: `10.0.0.1/32` is there twice"),
    ]);
    let many = (0..1_001).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect::<Vec<_>>().join(", ");
    each_field_is_wrong(&[(
        &format!("ips: {{allow: [{many}]}}"),
        "spec.ips.allow: has 1001 networks: 1000 are the most",
    )]);
}

#[test]
fn scripts_of_other_origins_are_let_in_by_name() {
    let cors = traffic(
        "{response: {}, cors: {origins: ['https://App.example.com:443', 'https://*.example.org'], headers: [X-A], maxAge: 1h, credentials: true}}",
    )
    .cors
    .unwrap();
    assert!(cors.allows("https://app.example.com") && cors.allows("https://x.example.org"));
    assert!(!cors.allows("http://app.example.com") && !cors.allows("https://example.org") && !cors.is_for_all());
    assert!(
        traffic("{response: {}, cors: {origins: ['*'], methods: ['*'], headers: ['*']}}").cors.unwrap().is_for_all()
    );
    each_field_is_wrong(&[
        ("cors: {}", "spec.cors.origins: is missing"),
        ("cors: {origins: [example.com]}", "spec.cors.origins[0]: `example.com` is no origin such as"),
        ("cors: {origins: ['null']}", "spec.cors.origins[0]: `null` is no origin such as"),
        ("cors: {origins: ['https://a/']}", "spec.cors.origins[0]: `https://a/` has a path"),
        ("cors: {origins: ['ftp://a']}", "spec.cors.origins[0]: `ftp://a` has no scheme that a page comes by"),
        ("cors: {origins: ['https://*']}", "spec.cors.origins[0]: `https://*` is no origin"),
        ("cors: {origins: ['https://a.*.b']}", "spec.cors.origins[0]: `https://a.*.b` is no origin"),
        ("cors: {origins: ['https://a', 'https://A:443']}", "spec.cors.origins[1]: `https://A:443` is there twice"),
        ("cors: {origins: ['*', 'https://a']}", "spec.cors.origins: has `*` beside others"),
        (
            "cors: {origins: ['*'], credentials: true}",
            "spec.cors.origins: `*` would let every site act as its visitors",
        ),
        ("cors: {origins: ['https://a'], methods: [get]}", "spec.cors.methods[0]: `get`: methods are in capitals"),
        ("cors: {origins: ['https://a'], methods: ['*', GET]}", "spec.cors.methods[0]: `*` stands alone"),
        ("cors: {origins: ['https://a'], headers: ['a b']}", "spec.cors.headers[0]: `a b` is no header name"),
        ("cors: {origins: ['https://a'], headers: [a, '*']}", "spec.cors.headers[1]: `*` is no header name"),
        ("cors: {origins: ['https://a'], exposeHeaders: [a, A]}", "spec.cors.exposeHeaders[1]: `a` is there twice"),
        (
            "cors: {origins: ['https://a'], exposeHeaders: ['*'], credentials: true}",
            "spec.cors.exposeHeaders: `*` means nothing to browsers",
        ),
        ("cors: {origins: ['https://a'], maxAge: 1500ms}", "spec.cors.maxAge: must be whole seconds"),
        ("cors: {origins: ['https://a'], maxAge: 2d}", "spec.cors.maxAge: is longer than browsers keep it"),
    ]);
}

#[test]
fn failures_on_purpose_are_bounded() {
    let faults = traffic(
        "{backends: [{service: a}], faults: {delay: {percent: 12.5, for: 2s}, abort: {percent: 100, status: 503}}}",
    );
    let faults = faults.faults.unwrap();
    assert_eq!(faults.delay, Some((crate::Percent::parse("12.5").unwrap(), std::time::Duration::from_secs(2))));
    assert_eq!(faults.abort, Some((crate::Percent::ALL, 503)));
    each_field_is_wrong(&[
        ("faults: {}", "spec.faults: must have `delay` or `abort`"),
        ("faults: {delay: {for: 1s}}", "spec.faults.delay.percent: is missing"),
        ("faults: {delay: {percent: 101, for: 1s}}", "spec.faults.delay.percent: `101` is no percentage"),
        ("faults: {delay: {percent: 1}}", "spec.faults.delay.for: is missing"),
        ("faults: {delay: {percent: 1, for: 61s}}", "spec.faults.delay.for: must be at most 1m"),
        ("timeouts: {request: 5s}, faults: {delay: {percent: 1, for: 5s}}", "spec.faults.delay.for: must be less than"),
        ("faults: {abort: {percent: 1}}", "spec.faults.abort.status: is missing: 400 to 599"),
        ("faults: {abort: {percent: 1, status: 200}}", "spec.faults.abort.status: 200 is no failure: 400 to 599"),
        ("faults: {abort: {percent: 1.234, status: 500}}", "spec.faults.abort.percent: `1.234` is no percentage"),
    ]);
}

#[test]
fn backends_are_chosen_by_what_they_are_for_or_by_weight() {
    let RouteAction::Forward { backends, .. } = route(
        "{backends: [{service: b, when: {headers: {x-canary: {exact: 'yes'}}, consumers: [c]}}, {service: a, weight: 95}, {service: b, weight: 5}]}",
    )
    .action
    else {
        panic!()
    };
    assert_eq!(backends.iter().map(|it| it.weight).collect::<Vec<_>>(), [0, 95, 5]);
    assert!(backends[0].when.as_ref().is_some_and(|when| when.headers.len() == 1 && when.consumers.len() == 1));
    each_is_wrong(
        "Route",
        &[
            ("{backends: [{service: a}, {service: b, when: {}}]}", "spec.backends[1].when: must have `headers`"),
            (
                "{backends: [{service: a}, {service: b, weight: 1, when: {consumers: [c]}}]}",
                "spec.backends[1].weight: is for backends without `when`",
            ),
            ("{backends: [{service: b, when: {consumers: [c]}}]}", "spec.backends: every one has `when`"),
            (
                "{backends: [{service: a, weight: 0}, {service: b, when: {consumers: [c]}}]}",
                "spec.backends: every weight is 0",
            ),
            (
                "{backends: [{service: a}, {service: b, when: {consumers: [C]}}]}",
                "spec.backends[1].when.consumers[0]: must be",
            ),
            (
                "{backends: [{service: a}, {service: b, when: {cookies: {x: {}}}}]}",
                "spec.backends[1].when.cookies[\"x\"]: must have exactly one of",
            ),
        ],
    );
}

#[test]
fn a_caller_stays_by_one_thing() {
    let sticky =
        |by: &str| traffic(&format!("{{backends: [{{service: a}}, {{service: b}}], sticky: {{{by}}}}}")).sticky;
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(sticky("cookie: tg, maxAge: 1h"), Some(Sticky::Cookie { name: "tg".into(), max_age: Some(hour) }));
    assert_eq!(sticky("header: X-User"), Some(Sticky::Header(http::HeaderName::from_static("x-user"))));
    assert_eq!((sticky("consumer: true"), sticky("ip: true")), (Some(Sticky::Consumer), Some(Sticky::Ip)));
    let cases = [
        ("", "spec.sticky: must have exactly one of"),
        ("cookie: a, ip: true", "spec.sticky: must have exactly one of"),
        ("ip: false", "spec.sticky.ip: means something only as `true`"),
        ("cookie: 'a b'", "spec.sticky.cookie: `a b` is no cookie's name"),
        ("cookie: __Host-a", "spec.sticky.cookie: `__Host-a`: browsers take names"),
        ("cookie: a, maxAge: 401d", "spec.sticky.maxAge: is longer than browsers keep it: at most 400d"),
        ("header: a, maxAge: 1h", "spec.sticky.maxAge: is only for `cookie`"),
        ("header: 'a b'", "spec.sticky.header: `a b` is no header name"),
        ("header: Authorization", "spec.sticky.header: holds credentials: use `consumer: true`"),
        ("header: cookie", "spec.sticky.header: holds many cookies"),
    ];
    for (by, expected) in cases {
        each_is_wrong(
            "Route",
            &[(&format!("{{backends: [{{service: a}}, {{service: b}}], sticky: {{{by}}}}}"), expected)],
        );
    }
    each_field_is_wrong(&[("sticky: {ip: true}", "spec.sticky: needs two `backends` with a share")]);
}

#[test]
fn copies_go_to_a_service() {
    let mirror = traffic("{backends: [{service: a}], mirror: {service: b}}").mirror.unwrap();
    assert_eq!((mirror.service.as_str(), mirror.percent), ("b", crate::Percent::ALL));
    each_field_is_wrong(&[
        ("mirror: {}", "spec.mirror.service: is missing"),
        ("mirror: {service: B}", "spec.mirror.service: must be"),
        ("mirror: {service: b, percent: 200}", "spec.mirror.percent: `200` is no percentage"),
    ]);
    each_is_wrong(
        "Route",
        &[
            ("{backends: [{provider: a}], mirror: {service: b}}", "spec.mirror: is only for routes with services"),
            ("{response: {}, mirror: {service: b}}", "spec.mirror: is only for routes with services"),
        ],
    );
}
