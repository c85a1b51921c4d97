//! The table against the contract's sentence, spelled out slowly.

mod gateway_api;

use std::{cmp::Reverse, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;
use tollgate_model::{Checked, HostPattern, PathMatch, RouteMatch, check};
use tollgate_proto::v1::{self, resource::Kind};

use super::{Facts, Found, Model, Plan, Table};

const HOSTS: [&str; 6] = ["", "a.example", "b.example", "*.example", "*.b.example", "*.a.b.example"];
const PATHS: [(&str, &str); 9] = [
    ("", ""),
    ("exact", "/v1/chat"),
    ("exact", "/"),
    ("prefix", "/"),
    ("prefix", "/v1"),
    ("prefix", "/v1/chat"),
    ("regex", "/v1/.*"),
    ("regex", "/v[0-9]+"),
    ("regex", ".*chat"),
];

/// One route as small numbers.
#[derive(Debug, Clone)]
struct Recipe {
    host: usize,
    matches: Vec<(usize, bool, u8, bool, bool)>,
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let one = (0..PATHS.len(), any::<bool>(), 0_u8..3, any::<bool>(), any::<bool>());
    (0..HOSTS.len(), proptest::collection::vec(one, 1..3)).prop_map(|(host, matches)| Recipe { host, matches })
}

fn build(name: &str, recipe: &Recipe) -> Arc<Plan> {
    let present = || v1::ValueMatch { present: Some(true), ..Default::default() };
    let matching = |&(path, method, headers, query, model): &(usize, bool, u8, bool, bool)| {
        let (kind, text) = PATHS[path];
        let mut wanted = v1::PathMatch::default();
        match kind {
            "exact" => wanted.exact = text.into(),
            "prefix" => wanted.prefix = text.into(),
            "regex" => wanted.regex = text.into(),
            _ => {}
        }
        v1::RouteMatch {
            path: (!kind.is_empty()).then_some(wanted),
            methods: if method { vec!["GET".into()] } else { Vec::new() },
            headers: (0..headers).map(|n| (format!("x-{n}"), present())).collect(),
            query: if query { [("q".to_owned(), present())].into() } else { Default::default() },
            models: if model { vec!["gpt*".into()] } else { Vec::new() },
            ..Default::default()
        }
    };
    let backend = v1::Backend { provider: "p".into(), ..Default::default() };
    let spec = v1::RouteSpec {
        hosts: if recipe.host == 0 { Vec::new() } else { vec![HOSTS[recipe.host].into()] },
        r#match: recipe.matches.iter().map(matching).collect(),
        backends: vec![backend],
        ..Default::default()
    };
    let route = v1::Route {
        api_version: "tollgate/v1".into(),
        kind: "Route".into(),
        metadata: Some(v1::Metadata { name: name.into(), ..Default::default() }),
        spec: Some(spec),
    };
    match check(&v1::Resource { kind: Some(Kind::Route(route)) }) {
        Ok(Checked::Route(route)) => Arc::new(Plan::new(route)),
        other => panic!("{other:?}"),
    }
}

/// Every match of every route that holds, the best by the contract's order.
fn slowly<'a>(plans: &'a [Arc<Plan>], facts: &Facts<'_>, model: Option<&str>) -> Option<&'a str> {
    let all = plans.iter().flat_map(|plan| {
        plan.route
            .hosts
            .iter()
            .flat_map(move |host| plan.route.matches.iter().enumerate().map(move |(n, it)| (plan, host, n, it)))
    });
    let best =
        all.filter(|(_, host, _, wanted)| holds(host, wanted, facts, model)).min_by_key(|(plan, host, n, wanted)| {
            let host = match host {
                HostPattern::Exact(_) => (0, Reverse(0)),
                HostPattern::Suffix(suffix) => (1, Reverse(suffix.len())),
                HostPattern::Any => (2, Reverse(0)),
            };
            let path = match &wanted.path {
                PathMatch::Exact(_) => (0, Reverse(0)),
                PathMatch::Prefix(prefix) => (1, Reverse(prefix.len())),
                PathMatch::Regex(_) => (2, Reverse(0)),
                PathMatch::Any => (3, Reverse(0)),
            };
            let rest = (wanted.methods.is_empty(), Reverse(wanted.headers.len()), Reverse(wanted.query.len()));
            (host, path, rest, wanted.models.is_empty(), plan.route.name.clone(), *n)
        });
    best.map(|(plan, ..)| &*plan.route.name)
}

fn holds(host: &HostPattern, wanted: &RouteMatch, facts: &Facts<'_>, model: Option<&str>) -> bool {
    let host = match host {
        HostPattern::Any => true,
        HostPattern::Exact(name) => facts.host == name,
        HostPattern::Suffix(suffix) => facts.host.len() > suffix.len() && facts.host.ends_with(suffix.as_str()),
    };
    host && wanted.path.matches(facts.path)
        && (wanted.methods.is_empty() || wanted.methods.contains(facts.method))
        && wanted.headers.iter().all(|(name, _)| facts.headers.contains_key(name))
        && (wanted.query.is_empty() || facts.query.is_some())
        && (wanted.models.is_empty() || model.is_some_and(|model| wanted.models.iter().any(|glob| glob.matches(model))))
}

proptest! {
    #[test]
    fn the_table_finds_what_the_contract_says(
        recipes in proptest::collection::vec(recipe(), 0..12),
        host in prop::sample::select(vec!["a.example", "b.example", "x.b.example", "y.a.b.example", "other", "example"]),
        path in prop::sample::select(vec!["/", "/v1", "/v1/chat", "/v1/chat/x", "/v10", "/v1x", "/x/chat"]),
        get in any::<bool>(),
        headers in 0_u8..3,
        query in any::<bool>(),
        model in prop::sample::select(vec![None, Some("gpt-4o"), Some("claude")]),
    ) {
        let plans: Vec<Arc<Plan>> = recipes.iter().enumerate().map(|(n, it)| build(&format!("r{n:02}"), it)).collect();
        let table = Table::new(&plans);
        let sent: HeaderMap =
            (0..headers).map(|n| (HeaderName::try_from(format!("x-{n}")).unwrap(), "1".parse().unwrap())).collect();
        let method = if get { Method::GET } else { Method::POST };
        let query = query.then_some("q=1");
        let facts = |model| Facts { host, path, method: &method, headers: &sent, query, model };
        let expected = slowly(&plans, &facts(Model::Unread), model);
        let found = match table.find(&facts(Model::Read(model))) {
            Found::Route(plan, _) => Some(&*plan.route.name),
            Found::Nothing => None,
            Found::NeedsModel(..) => panic!("the model is known"),
        };
        prop_assert_eq!(found, expected);
        // Without the model the answer is the same, or that it is needed.
        match table.find(&facts(Model::Unread)) {
            Found::Route(plan, _) => prop_assert_eq!(Some(&*plan.route.name), expected),
            Found::Nothing => prop_assert_eq!(None, expected),
            Found::NeedsModel(..) => {}
        }
    }
}

#[test]
fn among_ten_thousand_routes_a_lookup_is_a_few_hash_lookups() {
    let plans: Vec<Arc<Plan>> = (0..10_000)
        .map(|n| {
            let plan =
                build(&format!("r{n}"), &Recipe { host: n % HOSTS.len(), matches: vec![(4, false, 0, false, false)] });
            let mut route = (*plan.route).clone();
            route.matches[0].path = match n % 3 {
                0 => PathMatch::Exact(format!("/svc-{n}/v1/things")),
                _ => PathMatch::Prefix(format!("/svc-{n}/v1")),
            };
            Arc::new(Plan::new(Arc::new(route)))
        })
        .collect();
    let table = Table::new(&plans);
    let headers = HeaderMap::new();
    let paths: Vec<String> = (0..10_000).map(|n| format!("/svc-{n}/v1/things")).collect();
    let started = Instant::now();
    let rounds = 10;
    for _ in 0..rounds {
        for (n, path) in paths.iter().enumerate() {
            let host = HOSTS[n % HOSTS.len()].replace('*', "x");
            let host = if host.is_empty() { "any" } else { &host };
            let facts =
                Facts { host, path, method: &Method::GET, headers: &headers, query: None, model: Model::Unread };
            assert!(matches!(table.find(&facts), Found::Route(plan, _) if *plan.route.name == *format!("r{n}")));
        }
    }
    let each = started.elapsed() / (rounds * 10_000);
    println!("route lookup among 10,000: {each:?}");
    assert!(cfg!(debug_assertions) || each.as_nanos() < 2_000, "{each:?}");
}
