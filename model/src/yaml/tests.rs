use proptest::prelude::*;

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
fn an_unknown_field_names_its_place_and_the_nearest() {
    let found = problems("spec:\n  timeoutz: {request: 1s}\n  backends:\n    - {providr: openai}\n");
    assert!(
        found[0].starts_with("5:3 spec.timeoutz: unknown field `timeoutz` (did you mean `timeouts`?)"),
        "{found:?}"
    );
    assert!(found[1].starts_with("7:8 spec.backends[0].providr: unknown field `providr` (did you mean `provider`?)"));
    assert_eq!(found.len(), 2);
    let snake = problems("spec:\n  timeouts: {first_byte: 1s}\n");
    assert!(snake[0].contains("(did you mean `firstByte`?)"), "{snake:?}");
    assert!(problems("specs: {}\n")[0].contains("(did you mean `spec`?)"));
}

#[test]
fn a_key_that_is_there_twice_is_refused_everywhere() {
    let found = problems("spec:\n  bodyLimit: 1B\n  bodyLimit: 2B\n");
    assert_eq!(found, ["6:3 spec.bodyLimit: `bodyLimit` is there twice: first in line 5"]);
    let found = problems("spec:\n  match:\n    - headers:\n        x-a: {exact: a}\n        x-a: {exact: b}\n");
    assert_eq!(found, ["8:9 spec.match[0].headers[\"x-a\"]: `x-a` is there twice: first in line 7"]);
}

#[test]
fn a_wrong_type_says_what_would_be_right() {
    for (rest, expected) in [
        (
            "spec: []\n",
            "4:7 spec: must be a map, not a list: its fields are hosts, match, backends, fallbacks, timeouts, retries, auth, tokens, bodyLimit, redirect, response, onAbort",
        ),
        ("spec: {hosts: a.com}\n", "4:15 spec.hosts: must be a list, not text: put it into [ ]"),
        ("spec: {hosts: [[a]]}\n", "4:16 spec.hosts[0]: must be text, not a list"),
        ("spec: {hosts: [~]}\n", "4:16 spec.hosts[0]: must be text, not nothing"),
        (
            "spec: {backends: [{weight: -1}]}\n",
            "4:28 spec.backends[0].weight: must be a whole number, 0 or more, in digits, not `-1`",
        ),
        (
            "spec: {backends: [{weight: 1.5}]}\n",
            "4:28 spec.backends[0].weight: must be a whole number, 0 or more, in digits, not `1.5`",
        ),
        ("spec: {backends: [{weight: 4294967296}]}\n", "4:28 spec.backends[0].weight: must be at most 1000000"),
        ("spec: {tokens: {max: 18446744073709551616}}\n", "4:22 spec.tokens.max: must be at most 18446744073709551615"),
        (
            "spec: {tokens: {max: \"lots of them\"}}\n",
            "4:22 spec.tokens.max: must be a whole number, 0 or more, in digits, not `\"lots of them\"`",
        ),
        ("spec: {auth: {required: yes}}\n", "4:25 spec.auth.required: must be true or false, not `yes`"),
        ("spec: {auth: {required: \"true\"}}\n", "4:25 spec.auth.required: must be true or false, not `\"true\"`"),
        ("spec: {match: [{headers: []}]}\n", "4:26 spec.match[0].headers: must be a map, not a list"),
    ] {
        assert_eq!(problems(rest), [expected]);
    }
}

/// Whether 64 bits hold it or not.
#[test]
fn a_weight_that_is_too_great_gets_one_answer() {
    for weight in ["1000001", "4294967295", "4294967296", "18446744073709551616"] {
        let found = examined("Route", &format!("spec: {{backends: [{{service: a, weight: {weight}}}]}}\n"));
        assert_eq!(found, ["4 spec.backends[0].weight: must be at most 1000000"], "{weight}");
        for (kind, endpoint, rest) in [
            ("Service", "address: 'a:1'", ""),
            ("Provider", "url: 'http://a/v1'", "type: openai, keys: [{env: KEY}], "),
        ] {
            let found = examined(kind, &format!("spec: {{{rest}endpoints: [{{{endpoint}, weight: {weight}}}]}}\n"));
            assert_eq!(found, ["4 spec.endpoints[0].weight: must be at most 1000000"], "{kind} {weight}");
        }
    }
    let found = examined("Route", "spec: {backends: [{service: a, weight: 1000000}]}\n");
    assert!(found.is_empty(), "{found:?}");
}

/// Whether 64 bits hold it or not.
#[test]
fn a_limit_that_is_too_great_gets_one_answer() {
    for amount in ["9223372036854775808", "18446744073709551615", "18446744073709551616", "99999999999999999999999"] {
        let found = examined("Limit", &format!("spec: {{unit: tokens, limit: {amount}, window: 1m}}\n"));
        assert_eq!(found, ["4 spec.limit: must be at most 9223372036854775807"], "{amount}");
    }
    let found = examined("Limit", "spec: {unit: tokens, limit: 9223372036854775807, window: 1m}\n");
    assert!(found.is_empty(), "{found:?}");
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
fn everything_wrong_with_a_file_is_told_at_once() {
    let text = format!(
        "{HEAD}spec:\n  bodyLimit: 10\n  timeoutz: {{}}\n  backends: [{{provider: A, weight: x}}]\n---\n{HEAD}spec: {{}}\n---\n["
    );
    let (parsed, problems) = parse_and_check("f.yaml", &text);
    assert!(parsed.is_empty());
    let fields: Vec<_> =
        problems.iter().map(|problem| (problem.at.as_ref().unwrap().line, problem.field.as_str())).collect();
    let first =
        [(6, "spec.timeoutz"), (7, "spec.backends[0].weight"), (7, "spec.backends[0].provider"), (5, "spec.bodyLimit")];
    assert_eq!(fields[..4], first, "{problems}");
    assert_eq!(fields[4], (12, "spec"), "{problems}");
    assert_eq!(fields.len(), 6, "{problems}");
    let (parsed, problems) = parse_and_check("contract.yaml", CONTRACT);
    assert_eq!(problems.to_string(), "");
    assert_eq!(parsed.len(), 11);
}

/// Everything that is wrong with one document after [`HEAD`], as `line field: message`.
fn examined(kind: &str, rest: &str) -> Vec<String> {
    let text = format!("{}{rest}", HEAD.replace("Route", kind));
    let (examined, broken) = examine("f.yaml", &text);
    let all = examined.iter().flat_map(|it| &it.problems).chain(&broken);
    all.map(|problem| format!("{} {}: {}", problem.at.as_ref().unwrap().line, problem.field, problem.message)).collect()
}

#[test]
fn what_follows_from_an_unreadable_field_is_not_told_and_everything_else_is() {
    let fields = |found: &[String]| -> Vec<String> {
        found.iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect()
    };
    // Not read, so not missing; nothing else is wrong with the route.
    for spec in ["{backends: x}", "{backend: [{provider: a}]}", "{backends: [{providr: a}]}", "{fallbacks: [], xyz: 1}"]
    {
        assert_eq!(examined("Route", &format!("spec: {spec}\n")).len(), 1, "{:?}", examined("Route", spec));
    }
    assert_eq!(examined("Consumer", "spec: {tenat: acme}\n").len(), 1);
    assert_eq!(examined("Limit", "spec: {unit: tokens, limit: 100k, window: 1m}\n").len(), 1);
    let found = examined("Route", "spec: {backends: [{provider: a}], timeouts: {request: [1], firstByte: 500s}}\n");
    assert_eq!(fields(&found), ["4 spec.timeouts.request"]);
    // A field that is wrong hides none of the others.
    let found = examined("Limit", "spec:\n  xyzzy: 1\n  unit: dollars\n  window: 5 min\n  per: [{}, nobody]\n");
    let expected = ["5 spec.xyzzy", "8 spec.per[0]", "6 spec.unit", "4 spec.limit", "7 spec.window", "8 spec.per[1]"];
    assert_eq!(fields(&found), expected, "{found:#?}");
    let found = examined("Route", "spec:\n  timeoutz: {}\n  bodyLimit: 10\n");
    assert_eq!(fields(&found), ["5 spec.timeoutz", "4 spec", "6 spec.bodyLimit"], "{found:#?}");
    let found = examined("Consumer", "spec: {xyzzy: 1}\n");
    assert_eq!(fields(&found), ["4 spec.xyzzy", "4 spec.tenant"], "{found:#?}");
}

#[test]
fn a_field_that_is_empty_is_not_said_to_be_missing() {
    for (kind, spec, expected) in [
        ("Consumer", "{tenant: ''}", "4 spec.tenant: is empty"),
        ("Consumer", "{tenant: }", "4 spec.tenant: is empty"),
        ("Consumer", "{}", "4 spec.tenant: is missing"),
        ("Limit", "{unit: tokens, limit: 5, window: ''}", "4 spec.window: is empty: 1s | 1m | 1h | 1d | month"),
        ("Consumer", "{tenant: a, credentials: [{apiKey: ''}]}", "must have `apiKey`; `apiKey` is empty"),
        ("Route", "{backends: []}", "must have one of `backends`, `redirect` and `response`"),
    ] {
        let found = examined(kind, &format!("spec: {spec}\n"));
        assert!(found.len() == 1 && found[0].contains(expected), "{spec}: {found:?}");
    }
    let found = problems_of("apiVersion: ''\nkind: ''\nmetadata: {name: ''}\n");
    assert!(found[0].starts_with("2:7 kind: is empty: Service | "), "{found:?}");
    assert_eq!(found[1..], ["1:13 apiVersion: must be tollgate/v1", "3:18 metadata.name: is empty"]);
    assert_eq!(problems_of(&HEAD.replace("Route", "[Route]")), ["2:7 kind: must be text, not a list"]);
}

#[test]
fn what_people_write_by_mistake_has_one_message_with_its_cure() {
    let head = "apiVersion: tollgate/v1\nkind: Limit\nmetadata:\n  name: tpm\nspec:\n";
    for (spec, expected) in [
        ("\tunit: tokens\n", "a tab indents this line: use spaces"),
        ("  unit: tokens\n    limit: 5\n", "a `:` where no field can be"),
        ("  unit: tokens\n limit: 5\n", "this line begins under no field before it"),
        ("  unit:tokens\n  limit: 5\n", "the space after it missing there"),
        ("  unit: \"tokens\n  limit: 5\n", "a quote that was opened before is not closed"),
        ("  unit: tokens\n  per: [\"consumer\" \"route\"]\n", "is a `,` missing there"),
        ("  unit: tokens\n  per: ['consumer' 'route']\n", "is a `,` missing there"),
        ("  unit: tokens\n  per: [*consumer]\n", "put quotes around text that begins with `*`"),
        ("  unit: @tokens\n", "put quotes around text that does"),
        ("  limit: {{ .Values.limit }}\n", "put quotes around text that begins with `{`"),
        (
            "  unit: tokens\n  limit: \"100k\"\n  window: 1m\n",
            "spec.limit: must be a whole number, 0 or more, in digits, not `\"100k\"`",
        ),
        ("  unit: tokens\n  limit: 5\n  window: 5 min\n", "spec.window: `5 min` is no window"),
        (
            "  unit: tokens\n  limit: 5\n  window: 1m\n  per: consumer\n",
            "spec.per: must be a list, not text: put it into [ ]",
        ),
        ("  unit: tokens\n  limit: 5\n  limit: 6\n  window: 1m\n", "`limit` is there twice: first in line 7"),
        (
            "  unit: tokens\n  limit: 5\n  window: 1m\n  match:\n    - tenants: [a]\n",
            "must be a map, not a list: its fields are tenants",
        ),
    ] {
        for text in [format!("{head}{spec}"), format!("\u{feff}{head}{spec}").replace('\n', "\r\n")] {
            let (examined, broken) = examine("f.yaml", &text);
            let all: Vec<_> =
                examined.iter().flat_map(|it| &it.problems).chain(&broken).map(ToString::to_string).collect();
            assert!(all.len() == 1 && all[0].contains(expected), "{text}\nexpected {expected}\nfound {all:#?}");
        }
    }
    let good = "  unit: tokens\n  limit: 5\n  window: 1m\n";
    let flat = examined("Limit", &format!("spec:\n{}", good.replace("  ", "")));
    assert_eq!(flat.len(), 3, "{flat:?}");
    assert_eq!(flat[0], "5 unit: `unit` belongs into `spec`: indent it under that");
    let two = examined("Limit", &format!("spec:\n{good}{head}{good}"));
    assert_eq!(
        two,
        ["8 apiVersion: `apiVersion` is there twice: if a new resource begins here, put a line `---` before it"]
    );
}

#[test]
fn a_secret_in_the_place_of_a_field_is_never_shown() {
    let secret = "sk-hunter2";
    for (kind, list) in [("Consumer", "credentials"), ("Provider", "keys")] {
        for wrong in [
            "[{sk-hunter2}]",
            "[{sk-hunter2: x}]",
            "[sk-hunter2]",
            "sk-hunter2",
            "{sk-hunter2}",
            "{value: sk-hunter2}",
            "[[sk-hunter2]]",
            "[{value: [sk-hunter2], apiKey: [sk-hunter2]}]",
            "[{value: {sk-hunter2: x}, apiKey: {sk-hunter2: x}}]",
            "[{apiKey: x, value: x, sk-hunter2: a, sk-hunter2: b}]",
            "[{env: sk-hunter2}]",
            "[{file: sk-hunter2}]",
            "[{expiresAt: sk-hunter2}]",
            "[{hash: sk-hunter2}]",
            "[{sealed: sk-hunter2}]",
            "[!sk-hunter2 x]",
            "[*sk-hunter2]",
            "[{apiKey: !sk-hunter2 x}]",
        ] {
            let found = examined(kind, &format!("spec:\n  type: openai\n  {list}: {wrong}\n"));
            assert!(!found.is_empty() && !format!("{found:?}").contains(secret), "{wrong}: {found:?}");
        }
    }
    let found = examined("Consumer", "spec:\n  tenant: a\n  credentials:\n    - sk-hunter2: x\n");
    let expected = "7 spec.credentials[0]: there is a field that is unknown and not shown, as it may be a secret: the fields \
                    here are apiKey, hash, expiresAt";
    assert_eq!(found, [expected]);
}

fn resource() -> impl Strategy<Value = v1::Resource> {
    let word =
        || "\\PC{0,12}|[ \\t\\n:#\\-\"'\\\\{}\\[\\],&*!|>%@`~]{0,6}|true|null|~|1|0x1f|1e3|\u{85}|\u{2028}|\u{7f}";
    let metadata = (word(), prop::collection::btree_map(word(), word(), 0..3), any::<Option<u64>>()).prop_map(
        |(name, labels, resource_version)| v1::Metadata { name: format!("x{name}"), labels, resource_version },
    );
    let value = (any::<bool>(), word(), any::<Option<bool>>()).prop_map(|(exact, text, present)| v1::ValueMatch {
        exact: exact.then(|| text.clone()),
        regex: (!exact).then_some(text),
        present,
        ..Default::default()
    });
    let matches = (prop::collection::btree_map(word(), value, 0..3), prop::collection::vec(word(), 0..3))
        .prop_map(|(headers, methods)| v1::RouteMatch { headers, methods, ..Default::default() });
    let backend = (word(), prop::option::of(0..=crate::resource::MAX_WEIGHT))
        .prop_map(|(provider, weight)| v1::Backend { provider, weight, ..Default::default() });
    let tokens =
        (any::<Option<u64>>(), any::<Option<u64>>()).prop_map(|(default, max)| v1::TokenPolicy { default, max });
    let auth = any::<Option<bool>>().prop_map(|required| v1::Auth { required, allow: None });
    let spec = (
        prop::collection::vec(word(), 0..3),
        prop::collection::vec(matches, 0..3),
        prop::collection::vec(backend, 0..3),
        prop::option::of(tokens),
        prop::option::of(auth),
    );
    (metadata, spec).prop_map(|(metadata, (hosts, r#match, backends, tokens, auth))| {
        let spec = v1::RouteSpec { hosts, r#match, backends, tokens, auth, ..Default::default() };
        let (api_version, kind) = ("tollgate/v1".to_owned(), "Route".to_owned());
        let route = v1::Route { api_version, kind, metadata: Some(metadata), spec: Some(spec) };
        v1::Resource { kind: Some(v1::resource::Kind::Route(route)) }
    })
}

proptest! {
    #[test]
    fn every_resource_comes_back_from_yaml_and_json(resources in prop::collection::vec(resource(), 1..3)) {
        let text = to_yaml(&resources);
        let (parsed, problems) = parse("f", &text);
        prop_assert!(problems.is_empty(), "{}\n{}", problems, text);
        let again: Vec<_> = parsed.into_iter().map(|parsed| parsed.resource).collect();
        prop_assert_eq!(&again, &resources);
        for resource in &resources {
            // JSON lets control characters from U+007F on stand as they are, YAML does not.
            let escaped = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
            let json: String = to_json(resource).to_string().chars().map(escaped).collect();
            let (parsed, problems) = parse("f", &json);
            prop_assert!(problems.is_empty(), "{}", problems);
            prop_assert_eq!(&parsed[0].resource, resource);
        }
    }

    #[test]
    fn no_text_panics(text in "(apiVersion: tollgate/v1\nkind: Route\n)?[a-z0-9 :\\-{}\\[\\]&*!\"'\n]{0,80}|\\PC{0,60}") {
        let _ = parse_and_check("f", &text);
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
