//! How long a request's route is looked for among many:
//! `cargo run --release -p tollgate-gateway --example matching [ROUTES]`.
//!
//! Each eighth of the routes is of another kind: hosts, wildcards, exact paths, prefixes, prefixes that headers tell apart,
//! parameters, patterns of one host, patterns of any host. Every request is one that a route is for, and what is found is
//! compared with it. Ends with code 1 when a kind takes more than a microsecond in the middle, patterns aside: a thousand of
//! them, each tried once after all others, are a thousand programs that no cache holds.
#![allow(clippy::print_stdout, reason = "it prints figures")]

use std::{
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use http::Request;
use tollgate_gateway::{Asked, Matcher};
use tollgate_model::{Catalog, ConfigView, LogIndex, yaml};
use tollgate_proto::state::v1::{ConfigChange, PutResource};

/// Of each kind in a round.
const ROUNDS: usize = 200;
/// For the kinds before [`PATTERNS`].
const TARGET: Duration = Duration::from_micros(1);
/// Where among the kinds they begin.
const PATTERNS: usize = 6;

const KINDS: [&str; 8] =
    ["host", "wildcard host", "exact path", "prefix", "header", "parameter", "pattern of a host", "pattern"];

/// The route of a number: its `spec`, and a request that it is for.
fn route(n: usize) -> (String, String, String, Option<(&'static str, String)>) {
    let kind = n % KINDS.len();
    let group = n / KINDS.len();
    let plain = |spec: String, host: String, path: String| (spec, host, path, None);
    match kind {
        0 => plain(format!("hosts: [h{group}.example.com]"), format!("h{group}.example.com"), "/any".into()),
        1 => plain(format!("hosts: ['*.w{group}.example.com']"), format!("a.b.w{group}.example.com"), "/any".into()),
        2 => plain(format!("match: [{{path: {{exact: /exact/{group}/x}}}}]"), "a".into(), format!("/exact/{group}/x")),
        3 => {
            let path = format!("/prefix/{group}/v1/things/17");
            plain(format!("match: [{{path: {{prefix: /prefix/{group}}}, methods: [GET]}}]"), "a".into(), path)
        }
        4 => {
            // Four share a prefix, and a header tells them apart.
            let (shared, value) = (group / 4, format!("v{}", group % 4));
            let spec =
                format!("match: [{{path: {{prefix: /header/{shared}}}, headers: {{x-env: {{exact: {value}}}}}}}]");
            (spec, "a".into(), format!("/header/{shared}/x"), Some(("x-env", value)))
        }
        5 => {
            let (shared, value) = (group / 4, group % 4);
            let spec = format!("match: [{{path: {{prefix: /query/{shared}}}, query: {{v: {{exact: '{value}'}}}}}}]");
            plain(spec, "a".into(), format!("/query/{shared}/x?a=b&v={value}"))
        }
        6 => {
            // On hosts of the first kind.
            let host = format!("h{group}.example.com");
            let spec = format!("hosts: [{host}], match: [{{path: {{regex: '/v[0-9]+/things/.*'}}, methods: [GET]}}]");
            plain(spec, host, "/v1/things/17".into())
        }
        _ => plain(
            format!("match: [{{path: {{regex: '/team-{group}/v[0-9]+/(things|others)/[^/]*'}}}}]"),
            "a".into(),
            format!("/team-{group}/v12/things/17"),
        ),
    }
}

fn main() -> ExitCode {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let mut text = String::new();
    for n in 0..count {
        let (spec, ..) = route(n);
        text += &format!(
            "---\napiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: r{n}}}\nspec: {{{spec}, response: {{}}}}\n"
        );
    }
    let view = view(&text);
    let begin = Instant::now();
    let matcher = Matcher::new(&view);
    println!("{count} routes, table made in {:?}", begin.elapsed());
    let mut slow = false;
    for (kind, name) in KINDS.iter().enumerate() {
        let asked: Vec<(usize, Asked)> = (kind..count).step_by(KINDS.len()).map(|n| (n, asked(n))).collect();
        let mut each = Vec::new();
        for round in 0..ROUNDS {
            let begin = Instant::now();
            for (n, asked) in &asked {
                let found = black_box(matcher.find(black_box(asked)));
                assert!(round > 0 || found.is_some_and(|found| **found == *format!("r{n}")), "r{n} is {found:?}");
            }
            each.push(begin.elapsed() / u32::try_from(asked.len().max(1)).unwrap_or(u32::MAX));
        }
        each.sort_unstable();
        let (middle, best) = (each[each.len() / 2], each[0]);
        println!("{name}: {middle:?} (best {best:?})");
        slow |= kind < PATTERNS && middle > TARGET;
    }
    if slow { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn asked(n: usize) -> Asked {
    let (_, host, path, header) = route(n);
    let mut request = Request::builder().uri(path).header("host", host).header("user-agent", "bench");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).expect("it is a request").into_parts();
    Asked::read(head).expect("it can be read")
}

fn view(text: &str) -> ConfigView {
    let (parsed, problems) = yaml::parse_and_check("bench.yaml", text);
    assert!(problems.is_empty(), "{problems}");
    let put = |parsed: yaml::Parsed| PutResource { resource: Some(parsed.resource), expected_version: None };
    let change = ConfigChange { puts: parsed.into_iter().map(put).collect(), ..Default::default() };
    let mut catalog = Catalog::default();
    assert_eq!(catalog.apply(LogIndex(1), &change).outcome.problems, []);
    let (view, problems) = ConfigView::compile(LogIndex(1), &catalog, None, None);
    assert!(problems.is_empty(), "{problems}");
    view
}
