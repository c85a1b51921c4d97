//! What people get wrong, and what they are told.

use super::*;

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
fn a_wrong_type_says_what_would_be_right() {
    for (rest, expected) in [
        (
            "spec: []\n",
            "4:7 spec: must be a map, not a list: its fields are hosts, match, backends, fallbacks, timeouts, retries, auth, tokens, bodyLimit, redirect, response, onAbort, rewrite, requestHeaders, responseHeaders, ips, cors, faults, sticky, mirror, priority",
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

#[test]
fn an_amount_without_a_digit_is_none_and_one_that_is_left_out_is_not_there() {
    let price = |spec: &str| examined("Price", &format!("spec: {{currency: USD, output: '1', {spec}}}\n"));
    for (spec, field) in [
        ("input: ''", "spec.input"),
        ("cachedInput: \"\"", "spec.cachedInput"),
        ("minimum: ''", "spec.minimum"),
        ("tiers: [{aboveInputTokens: 5, input: '1', output: ''}]", "spec.tiers[0].output"),
    ] {
        assert_eq!(price(spec), [format!("4 {field}: must be a decimal such as 2.50, not `\"\"`")]);
    }
    assert_eq!(price("input: [1]"), ["4 spec.input: must be a decimal such as 2.50, not a list"]);
    assert_eq!(price("input: two"), ["4 spec.input: `two` is not a decimal such as 2.50"]);
    assert_eq!(price("input:"), [] as [&str; 0], "as if it were left out");
    assert_eq!(price("input: 2.5"), [] as [&str; 0]);
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
