//! Resources as text, and back.

mod mistakes;
mod random;
mod readme;

use super::*;
use crate::Kind;

const CONTRACT: &str = include_str!("../../testdata/contract.yaml");

const HEAD: &str = "apiVersion: tollgate/v1\nkind: Route\nmetadata: {name: chat}\n";

/// The problems of one document after [`HEAD`], as `line:column field: message`.
fn problems(rest: &str) -> Vec<String> {
    problems_of(&format!("{HEAD}{rest}"))
}

fn problems_of(text: &str) -> Vec<String> {
    let (_, problems) = parse("f.yaml", text);
    let line = |problem: &Problem| {
        let at = problem.at.as_ref().expect("a problem of a file has a place");
        format!("{}:{} {}: {}", at.line, at.column, problem.field, problem.message)
    };
    problems.iter().map(line).collect()
}

#[test]
fn the_contracts_examples_are_read_and_come_back_the_same() {
    let (parsed, problems) = parse("contract.yaml", CONTRACT);
    assert_eq!(problems.to_string(), "");
    assert_eq!(parsed.len(), 11);
    let resources: Vec<_> = parsed.into_iter().map(|parsed| parsed.resource).collect();
    let text = to_yaml(&resources);
    let again: Vec<_> = parse("again.yaml", &text).0.into_iter().map(|parsed| parsed.resource).collect();
    assert_eq!(again, resources, "{text}");
    assert_eq!(to_yaml(&again), text);
    let json = serde_json::to_string(&resources.iter().map(to_json).collect::<Vec<_>>()).unwrap();
    let again: Vec<_> = parse("again.json", &json).0.into_iter().map(|parsed| parsed.resource).collect();
    assert_eq!(again, resources);
}

#[test]
fn what_is_written_is_clean() {
    let (parsed, _) = parse("contract.yaml", CONTRACT);
    let limit = parsed.iter().find(|parsed| crate::kind_and_name(&parsed.resource).unwrap().0 == Kind::Limit).unwrap();
    let text = to_yaml(std::slice::from_ref(&limit.resource));
    let expected = "apiVersion: tollgate/v1\nkind: Limit\nmetadata:\n  name: per-consumer-tpm\nspec:\n  match:\n    \
                    tenants:\n      - acme\n    routes:\n      - chat\n  per:\n    - consumer\n  unit: tokens\n  mode: \
                    enforce\n  limit: 100000\n  window: \"1m\"\n  durability: journal\n  reserve: full\n  \
                    whenUnavailable: deny\n";
    assert_eq!(text, expected);
    assert_eq!(to_json(&limit.resource)["spec"]["limit"], serde_json::json!(100_000));
    assert_eq!(to_json(&v1::Resource::default()), serde_json::Value::Null);
}

#[test]
fn a_key_that_is_there_twice_is_refused_everywhere() {
    let found = problems("spec:\n  bodyLimit: 1B\n  bodyLimit: 2B\n");
    assert_eq!(found, ["6:3 spec.bodyLimit: `bodyLimit` is there twice: first in line 5"]);
    let found = problems("spec:\n  match:\n    - headers:\n        x-a: {exact: a}\n        x-a: {exact: b}\n");
    assert_eq!(found, ["8:9 spec.match[0].headers[\"x-a\"]: `x-a` is there twice: first in line 7"]);
}

#[test]
fn text_is_text_however_it_is_written() {
    let (parsed, problems) = parse("f", &format!("{HEAD}spec: {{hosts: [no, 1.50, 2026-01-01, 'x', on]}}\n"));
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(
        to_json(&parsed[0].resource)["spec"]["hosts"],
        serde_json::json!(["no", "1.50", "2026-01-01", "x", "on"])
    );
}

#[test]
fn what_every_resource_has_is_asked_for() {
    let found = problems_of("spec: {}\n");
    assert_eq!(found.len(), 3);
    assert!(found[0].starts_with("1:1 kind: is missing: Service | "), "{found:?}");
    assert_eq!(found[1], "1:1 apiVersion: is missing: it must be tollgate/v1");
    assert_eq!(found[2], "1:1 metadata.name: is missing");
    let found = problems_of("apiVersion: v2\nkind: Rout\nmetadata:\n  labels: {}\n");
    assert!(found[0].starts_with("2:7 kind: unknown kind `Rout` (did you mean `Route`?)"), "{found:?}");
    assert_eq!(found[1], "1:13 apiVersion: `v2` is unknown: it must be tollgate/v1");
    assert_eq!(found[2], "3:1 metadata.name: is missing");
    assert_eq!(problems_of("hello\n"), ["1:1 : must be a resource, not a single value"]);
}

#[test]
fn broken_syntax_is_located_and_what_came_before_is_kept() {
    let (parsed, problems) = parse("f", &format!("{HEAD}---\na: [1,\nb: }}\n"));
    assert_eq!(parsed.len(), 1);
    assert_eq!(problems.len(), 1);
    let at = problems.0[0].at.clone().unwrap();
    assert!(at.line == 5 || at.line == 6, "{problems}");
    assert!(problems.0[0].message.starts_with("cannot be read: "));
    for text in [
        "\"",
        "{",
        "[",
        "a: b: c",
        "\tx: 1",
        "&a *a",
        "*a",
        "%",
        "? {a: b}\n: c",
        "!!binary x",
        "!x y",
        "{a: 1, <<: {b: 2}}",
    ] {
        assert!(!problems_of(text).is_empty(), "{text}");
    }
}

#[test]
fn a_broken_document_hides_none_of_the_others() {
    for broken in [
        "a: [1,\nb: }\n",
        "a: \"x\n\nb: y\n",
        "x:\n\ty: 1\n",
        "a: b: c\n",
        "x: *y\n",
        "{a: 1\n",
        "%\n",
        "a: |\n x\n  - y\n b\n\tc\n",
    ] {
        let good = format!("{HEAD}spec: {{x: 1}}\n");
        let text = format!("{broken}---\n{good}--- # two\n{broken}---\n{good}").replace('\n', "\r\n");
        let (examined, found) = examine("f", &text);
        assert_eq!((examined.len(), found.len()), (2, 2), "{text}{found}");
        let lines = u32::try_from(broken.lines().count()).unwrap();
        let at = |problems: &Problems| problems.0[0].at.as_ref().unwrap().line;
        assert_eq!(
            examined.iter().map(|it| at(&it.problems)).collect::<Vec<_>>(),
            [lines + 5, 2 * lines + 11],
            "{text}"
        );
        let second = found.0[1].at.as_ref().unwrap().line;
        assert!((lines + 6..=2 * lines + 7).contains(&second), "{second}: {text}");
    }
    let many = "---\na: [\n".repeat(1_000);
    assert_eq!(examine("f", &many).1.len(), 20);
}

#[test]
fn bombs_are_bounded() {
    let laughs = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let last = vec![format!("*a{}", n - 1); 10].join(", ");
        format!("{text}a{n}: &a{n} [{last}]\n")
    });
    assert!(problems_of(&laughs)[0].contains("holds more than"), "{:?}", problems_of(&laughs)[0]);
    let deep = "[".repeat(100_000);
    assert!(!problems_of(&deep).is_empty());
    let deep = format!("{}x{}", "{a: ".repeat(40), "}".repeat(40));
    assert!(problems_of(&deep)[0].contains("nested deeper than 32"), "{:?}", problems_of(&deep));
    let block = (0..200).fold(String::new(), |text, n| format!("{text}{}a:\n", " ".repeat(n)));
    assert!(!problems_of(&block).is_empty());
    let unknown = (0..5_000).fold("spec:\n".to_owned(), |text, n| format!("{text}  x{n}: 1\n"));
    assert_eq!(problems(&unknown).len(), 101);
    let large = "#".repeat((64 << 20) + 1);
    assert_eq!(problems_of(&large), ["1:1 : the file is larger than 64 MiB"]);
}

#[test]
fn aliases_are_followed() {
    let text = format!("{HEAD}spec:\n  hosts: &hosts [a.com]\n  match: [{{methods: *hosts}}]\n");
    let (parsed, problems) = parse("f", &text);
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(to_json(&parsed[0].resource)["spec"]["match"][0]["methods"], serde_json::json!(["a.com"]));
}

#[test]
fn a_document_may_be_empty_or_a_list_and_a_file_may_begin_with_a_byte_order_mark() {
    let one = "{\"apiVersion\": \"tollgate/v1\", \"kind\": \"Tenant\", \"metadata\": {\"name\": \"a\"}}";
    let two = one.replace("\"a\"", "\"\\ud83d\\ude00\"");
    let (parsed, problems) = parse("f", &format!("\u{feff}---\n---\n# nothing\n---\n[{one},\n\t{two}]\n---\n"));
    assert!(problems.is_empty(), "{problems}");
    let names: Vec<_> = parsed.iter().map(|parsed| crate::kind_and_name(&parsed.resource).unwrap().1).collect();
    assert_eq!(names, ["a", "😀"]);
    let (parsed, problems) = parse("f", "");
    assert!(parsed.is_empty() && problems.is_empty());
}

#[test]
fn a_field_is_located_or_the_nearest_around_it() {
    let text = format!(
        "{HEAD}spec:\n  match:\n    - headers:\n        x.env: {{exact: a}}\n      path:\n        prefix: /v1\n"
    );
    let (parsed, problems) = parse("f.yaml", &text);
    assert!(problems.is_empty(), "{problems}");
    for (field, at) in [
        ("spec.match[0].path.prefix", "f.yaml:9:17"),
        ("spec.match[0].path", "f.yaml:8:7"),
        ("spec.match[0].headers[\"x.env\"].exact", "f.yaml:7:24"),
        ("spec.match[0].headers[\"x.env\"]", "f.yaml:7:9"),
        ("spec.match[0].methods[3]", "f.yaml:6:7"),
        ("spec.match[7]", "f.yaml:5:3"),
        ("spec.backends[0].provider", "f.yaml:4:1"),
        ("metadata.name", "f.yaml:3:18"),
        ("metadata.resourceVersion", "f.yaml:3:1"),
        ("", "f.yaml:1:1"),
    ] {
        assert_eq!(parsed[0].index.locate(field).to_string(), at, "{field}");
    }
}

#[test]
fn an_amount_of_money_is_written_under_one_name_whatever_its_form() {
    let head = "apiVersion: tollgate/v1\nkind: Limit\nmetadata: {name: x}\nspec: ";
    for (given, whole, decimal, written) in [
        ("12.50", None, "12.50", "limit: \"12.50\""),
        ("'12.50'", None, "12.50", "limit: \"12.50\""),
        ("50", Some(50), "", "limit: 50"),
    ] {
        let (parsed, problems) = parse("f", &format!("{head}{{unit: cost, limit: {given}, window: 1d}}\n"));
        assert!(problems.is_empty(), "{problems}");
        let Some(v1::resource::Kind::Limit(limit)) = &parsed[0].resource.kind else { panic!("{parsed:?}") };
        let spec = limit.spec.as_ref().unwrap();
        assert_eq!((spec.limit, spec.limit_decimal.as_str()), (whole, decimal), "{given}");
        let text = to_yaml(&[parsed[0].resource.clone()]);
        assert!(text.contains(written) && !text.contains("limitDecimal"), "{text}");
        assert_eq!(parse("f", &text).0[0].resource, parsed[0].resource, "{text}");
    }
    for (given, said) in [
        ("limitDecimal: '1.5'", "unknown field `limitDecimal`"),
        ("limit: 1.", "spec.limit: must be a whole number"),
        ("limit: .5", "spec.limit: must be a whole number"),
        ("limit: -1.5", "spec.limit: must be a whole number"),
        ("limit: 1.5, limit: 2", "`limit` is there twice"),
    ] {
        let (_, problems) = parse("f", &format!("{head}{{unit: cost, window: 1d, {given}}}\n"));
        assert!(problems.to_string().contains(said), "{given}: {problems}");
    }
}
