//! How long one change takes among many routes: `cargo run --release -p tollgate-model --example recompile [ROUTES]`.
#![allow(clippy::print_stdout, reason = "it prints figures")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tollgate_model::{Catalog, ConfigView, LogIndex, yaml};
use tollgate_proto::state::v1::{ConfigChange, PutResource};

const ROUNDS: u64 = 50;

fn main() {
    let routes: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let mut text = String::from(
        "apiVersion: tollgate/v1\nkind: Service\nmetadata: {name: s}\nspec: {endpoints: [{address: \"a:1\"}]}\n",
    );
    for n in 0..routes {
        text += &route(n, 1);
    }
    let mut catalog = Catalog::default();
    let change = timed("parse and check the file", || change(&text));
    timed("apply it to an empty catalog", || catalog.apply(LogIndex(1), &change));
    let (mut view, problems) =
        timed("compile the first view", || ConfigView::compile(LogIndex(1), &catalog, None, None));
    assert!(problems.is_empty(), "{problems}");

    let mut spent: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for at in 2..2 + ROUNDS {
        let change = self::change(&route(routes / 2, u32::try_from(at).expect("a few rounds")));
        let mut lap = |what, since: Instant| spent.entry(what).or_default().push(since.elapsed());
        let begin = Instant::now();
        let image = catalog.clone();
        lap("image", begin);
        let begin = Instant::now();
        catalog.apply(LogIndex(at), &change);
        lap("apply one change", begin);
        let begin = Instant::now();
        view = ConfigView::compile(LogIndex(at), &catalog, Some(&view), None).0;
        lap("compile the next view", begin);
        assert_eq!(image.len(), catalog.len());
    }
    for (what, mut spent) in spent {
        spent.sort();
        println!("{what}: p50 {:?}, max {:?}", spent[spent.len() / 2], spent[spent.len() - 1]);
    }
}

fn route(n: usize, weight: u32) -> String {
    format!(
        "---\napiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: r{n}}}\nspec:\n  hosts: [h{n}.example.com]\n  match: \
         [{{path: {{prefix: /v{n}}}, methods: [GET]}}]\n  backends: [{{service: s, weight: {weight}}}]\n"
    )
}

fn change(text: &str) -> ConfigChange {
    let (parsed, problems) = yaml::parse_and_check("bench.yaml", text);
    assert!(problems.is_empty(), "{problems}");
    let put = |parsed: yaml::Parsed| PutResource { resource: Some(parsed.resource), expected_version: None };
    ConfigChange { puts: parsed.into_iter().map(put).collect(), ..Default::default() }
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let value = work();
    println!("{what}: {:?}", begin.elapsed());
    value
}
