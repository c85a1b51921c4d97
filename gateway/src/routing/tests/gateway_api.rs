//! What the Kubernetes Gateway API says of HTTPRoute and GRPCRoute (v1), as far as our routes mean the same, row by row. Each
//! names the field whose documentation it is from and says it in our words.
//!
//! Where we differ on purpose: of equal routes the one whose name comes first wins, as ours have no time of creation; a route
//! that names a header twice is refused, rather than its second condition dropped; a regular expression is for the whole path.

use http::Request;
use tollgate_model::yaml;

use super::*;
use crate::normalize::Target;

/// Routes by the name of each.
fn table(routes: &[(&str, &str)]) -> Table {
    let plan = |(name, spec): &(&str, &str)| {
        let yaml = format!(
            "apiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{response: {{}}, {spec}}}\n"
        );
        let (mut parsed, problems) = yaml::parse_and_check("f", &yaml);
        assert!(problems.is_empty(), "{problems}");
        match check(&parsed.remove(0).resource) {
            Ok(Checked::Route(route)) => Arc::new(Plan::new(route)),
            other => panic!("{other:?}"),
        }
    };
    let plans: Vec<_> = routes.iter().map(plan).collect();
    Table::new(&plans)
}

/// The route of a request such as `GET a.example/x?y`, with headers.
fn ask(table: &Table, request: &str, headers: &[(&str, &str)]) -> String {
    let (method, target) = request.split_once(' ').unwrap();
    let (host, _) = target.split_once('/').unwrap();
    let mut builder = Request::builder().method(method).uri(&target[host.len()..]).header("host", host);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let (head, ()) = builder.body(()).unwrap().into_parts();
    let target = Target::read(&head, &http::uri::Scheme::HTTP).unwrap();
    let facts = Facts {
        host: target.host.name(),
        path: &target.path,
        method: &head.method,
        headers: &head.headers,
        query: target.query.as_deref(),
        model: Model::Unread,
    };
    match table.find(&facts) {
        Found::Route(plan, _) => plan.route.name.to_string(),
        Found::Nothing => "-".to_owned(),
        Found::NeedsModel(..) => panic!("nothing here asks for a model"),
    }
}

/// The field, what it says, routes, and requests with the route each belongs to.
type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a [(&'a str, &'a str)], &'a str)]);

fn all_hold(rows: &[Row<'_>]) {
    for (field, says, routes, requests) in rows {
        let table = table(routes);
        for (request, headers, expected) in *requests {
            assert_eq!(ask(&table, request, headers), *expected, "{field}: {says}: {request} {headers:?}");
        }
    }
}

#[test]
fn hostnames() {
    all_hold(&[
        (
            "HTTPRouteSpec.hostnames",
            "without any, a route is for all",
            &[("r", "hosts: []")],
            &[("GET a.example/", &[], "r"), ("GET 10.0.0.1/", &[], "r")],
        ),
        (
            "HTTPRouteSpec.hostnames",
            "port and case make no difference",
            &[("r", "hosts: [a.example]")],
            &[
                ("GET a.example/", &[], "r"),
                ("GET A.Example:8080/", &[], "r"),
                ("GET b.example/", &[], "-"),
                ("GET x.a.example/", &[], "-"),
            ],
        ),
        (
            "HTTPRouteSpec.hostnames",
            "a wildcard is for one label or more, not for none",
            &[("r", "hosts: ['*.example.com']")],
            &[
                ("GET test.example.com/", &[], "r"),
                ("GET foo.test.example.com/", &[], "r"),
                ("GET example.com/", &[], "-"),
                ("GET testexample.com/", &[], "-"),
            ],
        ),
        (
            "HTTPRouteSpec.hostnames",
            "a whole name goes before a wildcard, the wildcard with more characters before another, all before none",
            &[
                ("any", "hosts: []"),
                ("wide", "hosts: ['*.example.com']"),
                ("narrow", "hosts: ['*.test.example.com']"),
                ("exact", "hosts: [foo.test.example.com]"),
            ],
            &[
                ("GET foo.test.example.com/", &[], "exact"),
                ("GET bar.test.example.com/", &[], "narrow"),
                ("GET bar.example.com/", &[], "wide"),
                ("GET example.com/", &[], "any"),
            ],
        ),
        (
            "HTTPRouteSpec.hostnames",
            "the host decides before anything else",
            &[
                ("exact-path", "hosts: ['*.example.com'], match: [{path: {exact: /a}, methods: [GET]}]"),
                ("host", "hosts: [a.example.com], match: [{path: {prefix: /}}]"),
            ],
            &[("GET a.example.com/a", &[], "host"), ("GET b.example.com/a", &[], "exact-path")],
        ),
        (
            "HTTPRouteSpec.hostnames",
            "any of several",
            &[("r", "hosts: [a.example, b.example]")],
            &[("GET a.example/", &[], "r"), ("GET b.example/", &[], "r"), ("GET c.example/", &[], "-")],
        ),
    ]);
}

#[test]
fn paths() {
    all_hold(&[
        (
            "HTTPRouteRule.matches",
            "without a path everything under / is meant",
            &[("r", "match: [{}]")],
            &[("GET a/", &[], "r"), ("GET a/x/y", &[], "r")],
        ),
        (
            "HTTPPathMatch Exact",
            "the path as it is, in its letters",
            &[("r", "match: [{path: {exact: /abc}}]")],
            &[
                ("GET a/abc", &[], "r"),
                ("GET a/abc?q", &[], "r"),
                ("GET a/abc/", &[], "-"),
                ("GET a/Abc", &[], "-"),
                ("GET a/abc/d", &[], "-"),
            ],
        ),
        (
            "HTTPPathMatch PathPrefix",
            "whole elements of the path",
            &[("r", "match: [{path: {prefix: /abc}}]")],
            &[
                ("GET a/abc", &[], "r"),
                ("GET a/abc/", &[], "r"),
                ("GET a/abc/def", &[], "r"),
                ("GET a/abcd", &[], "-"),
                ("GET a/ABC", &[], "-"),
                ("GET a/", &[], "-"),
            ],
        ),
        (
            "HTTPPathMatch PathPrefix",
            "a slash at its end makes no difference",
            &[("r", "match: [{path: {prefix: /abc/}}]")],
            &[("GET a/abc", &[], "r"), ("GET a/abc/def", &[], "r"), ("GET a/abcd", &[], "-")],
        ),
        (
            "HTTPPathMatch RegularExpression",
            "of the whole path",
            &[("r", "match: [{path: {regex: '/v[0-9]+/.*'}}]")],
            &[("GET a/v1/x", &[], "r"), ("GET a/v1", &[], "-"), ("GET a/x/v1/x", &[], "-")],
        ),
        (
            "HTTPRouteRule.matches, precedence",
            "an exact path goes before a prefix, a longer prefix before a shorter one",
            &[
                ("root", "match: [{path: {prefix: /}}]"),
                ("short", "match: [{path: {prefix: /a}, methods: [GET], headers: {x: {present: true}}}]"),
                ("long", "match: [{path: {prefix: /a/b}}]"),
                ("exact", "match: [{path: {exact: /a/b}}]"),
            ],
            &[
                ("GET h/a/b", &[("x", "1")], "exact"),
                ("GET h/a/b/", &[("x", "1")], "long"),
                ("GET h/a/c", &[("x", "1")], "short"),
                ("GET h/a/c", &[], "root"),
            ],
        ),
    ]);
}

#[test]
fn methods_headers_and_query() {
    all_hold(&[
        (
            "HTTPRouteMatch.method",
            "one of them",
            &[("r", "match: [{methods: [GET, PUT]}]")],
            &[("GET a/", &[], "r"), ("PUT a/", &[], "r"), ("POST a/", &[], "-")],
        ),
        (
            "HTTPHeaderMatch.name",
            "in any letters",
            &[("r", "match: [{headers: {X-Version: {exact: two}}}]")],
            &[
                ("GET a/", &[("x-version", "two")], "r"),
                ("GET a/", &[("X-VERSION", "two")], "r"),
                ("GET a/", &[("x-version", "Two")], "-"),
                ("GET a/", &[], "-"),
            ],
        ),
        (
            "HTTPHeaderMatch.type",
            "by pattern, too",
            &[("r", "match: [{headers: {x: {regex: 'v[0-9]'}}}]")],
            &[("GET a/", &[("x", "v1")], "r"), ("GET a/", &[("x", "v10")], "-")],
        ),
        (
            "HTTPRouteMatch.headers",
            "all of them",
            &[("r", "match: [{headers: {a: {exact: '1'}, b: {exact: '2'}}}]")],
            &[("GET a/", &[("a", "1"), ("b", "2")], "r"), ("GET a/", &[("a", "1")], "-")],
        ),
        (
            "HTTPQueryParamMatch",
            "by name and value, the first of several",
            &[("r", "match: [{query: {animal: {exact: whale}}}]")],
            &[
                ("GET a/?animal=whale", &[], "r"),
                ("GET a/?x=y&animal=whale&animal=dog", &[], "r"),
                ("GET a/?animal=dog&animal=whale", &[], "-"),
                ("GET a/?Animal=whale", &[], "-"),
                ("GET a/", &[], "-"),
            ],
        ),
        (
            "HTTPRouteRule.matches",
            "conditions of one match hold together, of several matches one",
            &[("r", "match: [{path: {prefix: /foo}, headers: {version: {exact: '2'}}}, {path: {prefix: /v2/foo}}]")],
            &[
                ("GET a/foo", &[("version", "2")], "r"),
                ("GET a/foo", &[], "-"),
                ("GET a/v2/foo", &[], "r"),
                ("GET a/bar", &[("version", "2")], "-"),
            ],
        ),
    ]);
}

#[test]
fn precedence_behind_the_path() {
    all_hold(&[
        (
            "HTTPRouteRule.matches, precedence",
            "a method goes before any number of headers",
            &[
                (
                    "headers",
                    "match: [{headers: {a: {present: true}, b: {present: true}}, query: {q: {present: true}}}]",
                ),
                ("method", "match: [{methods: [GET]}]"),
            ],
            &[("GET a/?q", &[("a", ""), ("b", "")], "method"), ("PUT a/?q", &[("a", ""), ("b", "")], "headers")],
        ),
        (
            "HTTPRouteRule.matches, precedence",
            "more headers go before fewer, and before any number of parameters",
            &[
                ("query", "match: [{query: {q: {present: true}, r: {present: true}}}]"),
                ("one", "match: [{headers: {a: {present: true}}}]"),
                ("two", "match: [{headers: {a: {present: true}, b: {present: true}}}]"),
            ],
            &[
                ("GET a/?q&r", &[("a", ""), ("b", "")], "two"),
                ("GET a/?q&r", &[("a", "")], "one"),
                ("GET a/?q&r", &[], "query"),
            ],
        ),
        (
            "HTTPRouteRule.matches, precedence",
            "more parameters go before fewer",
            &[
                ("one", "match: [{query: {q: {present: true}}}]"),
                ("two", "match: [{query: {q: {present: true}, r: {present: true}}}]"),
            ],
            &[("GET a/?q&r", &[], "two"), ("GET a/?q", &[], "one")],
        ),
        (
            "HTTPRouteRule.matches, ties",
            "then the first by name",
            &[("b", "match: [{path: {prefix: /x}}]"), ("a", "match: [{path: {prefix: /x}}]")],
            &[("GET h/x", &[], "a")],
        ),
        (
            "HTTPRouteRule.matches, ties",
            "what is more specific wins across routes, whichever has the name before",
            &[
                ("a", "match: [{path: {prefix: /}}, {path: {prefix: /x}, methods: [GET]}]"),
                ("b", "match: [{path: {prefix: /x/y}}, {path: {prefix: /x}}]"),
            ],
            &[("GET h/x", &[], "a"), ("PUT h/x", &[], "b"), ("GET h/x/y", &[], "b"), ("GET h/z", &[], "a")],
        ),
    ]);
}

#[test]
fn methods_of_grpc() {
    const ROUTES: &[(&str, &str)] = &[
        ("all", "match: [{}]"),
        ("any-login", "match: [{grpc: {method: Login}}]"),
        ("service", "match: [{grpc: {service: com.example.User}}]"),
        ("login", "match: [{grpc: {service: com.example.User, method: Login}}]"),
        ("login-v2", "match: [{grpc: {service: com.example.User, method: Login}, headers: {version: {exact: '2'}}}]"),
        ("host", "hosts: [b.example], match: [{grpc: {service: com.example.User}}]"),
    ];
    all_hold(&[
        (
            "GRPCMethodMatch",
            "service and method, in their letters",
            ROUTES,
            &[
                ("POST a.example/com.example.User/Login", &[], "login"),
                ("POST a.example/com.example.user/Login", &[], "any-login"),
                ("POST a.example/com.example.User/login", &[], "service"),
            ],
        ),
        (
            "GRPCMethodMatch.service",
            "alone every method of it, and of no other",
            ROUTES,
            &[
                ("POST a.example/com.example.User/Logout", &[], "service"),
                ("POST a.example/com.example.UserAdmin/Logout", &[], "all"),
            ],
        ),
        (
            "GRPCMethodMatch.method",
            "alone that method of every service",
            ROUTES,
            &[
                ("POST a.example/com.example.Other/Login", &[], "any-login"),
                ("POST a.example/com.example.Other/LoginAll", &[], "all"),
                ("POST a.example/com/example/Login", &[], "all"),
            ],
        ),
        (
            "GRPCRouteMatch.headers",
            "more of them go first",
            ROUTES,
            &[("POST a.example/com.example.User/Login", &[("version", "2")], "login-v2")],
        ),
        (
            "GRPCRouteSpec.hostnames",
            "the host decides before service and method",
            ROUTES,
            &[("POST b.example/com.example.User/Login", &[], "host")],
        ),
        ("gRPC over HTTP/2", "a call is a POST", ROUTES, &[("GET a.example/com.example.User/Login", &[], "all")]),
    ]);
}

/// HTTPPathModifier.replacePrefixMatch: the table of its documentation.
#[test]
fn prefixes_that_are_replaced() {
    for (path, matched, to, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
    ] {
        let yaml = format!(
            "apiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: r}}\nspec: {{backends: [{{service: s}}], match: \
             [{{path: {{prefix: {matched}}}}}], rewrite: {{prefix: {to}}}}}\n"
        );
        let (mut parsed, problems) = yaml::parse_and_check("f", &yaml);
        assert!(problems.is_empty(), "{problems}");
        let Ok(Checked::Route(route)) = check(&parsed.remove(0).resource) else { panic!("{yaml}") };
        let rewrite = route.traffic.as_ref().and_then(|traffic| traffic.rewrite.as_ref()?.path.as_ref()).unwrap();
        let rewritten = rewrite.rewrite(path, &route.matches[0].path);
        assert_eq!(rewritten.as_deref(), Some(expected), "{path} {matched} {to}");
    }
}

/// HTTPBackendRef.weight: a share of all weights, one where none is given, and nothing of 0.
#[test]
fn weights_of_backends() {
    for (backends, expected) in [
        ("{service: a, weight: 9}, {service: b}", [90, 10, 0]),
        ("{service: a}, {service: b}", [50, 50, 0]),
        ("{service: a, weight: 0}, {service: b}", [0, 100, 0]),
        ("{service: a, weight: 2}, {service: b, weight: 1}, {service: c, weight: 1}", [50, 25, 25]),
    ] {
        let yaml =
            format!("apiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: r}}\nspec: {{backends: [{backends}]}}\n");
        let (mut parsed, _) = yaml::parse_and_check("f", &yaml);
        let Ok(Checked::Route(route)) = check(&parsed.remove(0).resource) else { panic!("{yaml}") };
        let plan = Plan::new(route);
        let mut counts = [0; 3];
        for _ in 0..100 {
            let (backend, _) = plan.select(|| panic!("turns ask nobody"), || 0).unwrap();
            counts[["a", "b", "c"].iter().position(|name| backend.upstream.name() == name).unwrap()] += 1;
        }
        assert_eq!(counts, expected, "{backends}");
    }
}
