use super::*;
use crate::{Algorithm, KeyPart, Unit, Window};

#[test]
fn a_limit_means_what_the_contract_says() {
    let given = limit(
        "{match: {tenants: [acme], models: ['gpt-*']}, per: [consumer, model], unit: outputTokens, limit: 5, window: month, durability: memory}",
    );
    assert_eq!((given.unit, given.limit, given.window), (Unit::OutputTokens, 5, Window::Month));
    assert_eq!(given.per, [KeyPart::Consumer, KeyPart::Model]);
    let subject = crate::Subject {
        tenant: Some("acme"),
        consumer: Some("alice"),
        model: Some("gpt-4o"),
        ..crate::Subject::of_route("chat")
    };
    assert!(given.concerns(&subject));
    assert_eq!(given.key(&subject), ["alice", "gpt-4o"]);
    for other in [
        crate::Subject { tenant: Some("globex"), ..subject },
        crate::Subject { tenant: None, ..subject },
        crate::Subject { model: Some("claude"), ..subject },
        crate::Subject { model: None, ..subject },
    ] {
        assert!(!given.concerns(&other), "{other:?}");
    }
    let all = limit("{unit: requests, limit: 1, window: 1s, algorithm: fixed}");
    let most = limit("{unit: tokens, limit: 9223372036854775807, window: 1m, mode: shadow, reserve: prompt}");
    assert_eq!((most.limit, most.mode, most.reserve), (i64::MAX as u64, crate::Mode::Shadow, crate::Reserve::Prompt));
    assert_eq!((given.mode, given.reserve), (crate::Mode::Enforce, crate::Reserve::Full));
    let open = limit("{unit: tokens, limit: 1, window: 1m, whenUnavailable: allow}");
    let both = (given.when_unavailable, open.when_unavailable);
    assert_eq!(both, (crate::WhenUnavailable::Deny, crate::WhenUnavailable::Allow));
    let nobody = crate::Subject::of_route("r");
    assert!(all.concerns(&nobody) && all.key(&nobody).is_empty());
    let each = limit("{per: [consumer], unit: requests, limit: 1, window: 1s, algorithm: fixed}");
    assert!(each.concerns(&subject) && !each.concerns(&nobody), "nobody has an account of their own");
    assert_eq!(given.key(&nobody), ["", ""]);
}

#[test]
fn a_limit_of_networks_is_about_addresses_in_them_however_they_are_written() {
    let given = limit(
        "{match: {cidrs: ['::ffff:10.0.0.0/104', '2001:db8::/32', 192.0.2.7]}, per: [ip], unit: requests, limit: 1, window: 1s}",
    );
    let from = |ip: &str| crate::Subject { ip: Some(ip.parse().unwrap()), ..crate::Subject::of_route("r") };
    for (ip, meant) in [
        ("10.1.2.3", true),
        ("11.0.0.1", false),
        ("2001:db8::1", true),
        ("2001:db9::1", false),
        ("192.0.2.7", true),
        ("192.0.2.8", false),
    ] {
        assert_eq!(given.concerns(&from(ip)), meant, "{ip}");
    }
    assert_eq!(given.key(&from("10.1.2.3")), ["10.1.2.3"]);
    assert!(!given.concerns(&crate::Subject::of_route("r")), "an address that is not known is in no network");
    let all = limit("{match: {cidrs: ['0.0.0.0/0']}, unit: requests, limit: 1, window: 1s}");
    assert!(all.concerns(&from("10.1.2.3")) && !all.concerns(&from("2001:db8::1")));
}

#[test]
fn a_limit_per_provider_is_about_requests_that_have_one() {
    let given = limit("{per: [provider, 'header:x-team'], unit: requests, limit: 1, window: 1s}");
    let none = crate::Subject::of_route("r");
    assert!(!given.concerns(&none));
    let subject = crate::Subject { provider: Some("openai"), ..none };
    assert!(given.concerns(&subject));
    assert_eq!(given.key(&subject), ["openai", ""]);
}

#[test]
fn windows_slide_up_to_a_minute_and_are_fixed_from_an_hour_on_unless_it_is_said() {
    let algorithm = |rest: &str| limit(&format!("{{unit: tokens, limit: 1, {rest}}}")).algorithm;
    assert_eq!(["window: 1s", "window: 1m"].map(algorithm), [Algorithm::Sliding; 2]);
    assert_eq!(["window: 1h", "window: 1d", "window: month"].map(algorithm), [Algorithm::Fixed; 3]);
    assert_eq!(algorithm("window: 1h, algorithm: sliding"), Algorithm::Sliding);
    assert_eq!(algorithm("window: 1s, algorithm: fixed"), Algorithm::Fixed);
}

#[test]
fn concurrency_has_no_window_and_a_limit_may_be_nothing() {
    let given = limit("{per: [consumer], unit: concurrency, limit: 3}");
    assert_eq!((given.unit, given.limit), (Unit::Concurrency, 3));
    assert_eq!(limit("{unit: requests, limit: 0, window: 1m}").limit, 0);
}

#[test]
fn every_wrong_value_of_a_limit_is_told() {
    let with = |rest: &str| format!("{{unit: tokens, limit: 1, window: 1m, {rest}}}");
    for (rest, expected) in [
        ("per: [consumr]", "spec.per[0]: `consumr` is unknown (did you mean `consumer`?)"),
        ("per: ['header:']", "spec.per[0]: has no name after the colon"),
        ("per: ['header:a b']", "spec.per[0]: `a b` is no header's name"),
        ("per: ['cookie:a=b']", "spec.per[0]: `a=b` is no cookie's name"),
        ("per: ['header:x-a', 'header:X-A']", "spec.per[1]: `header:x-a` is there twice"),
        (
            "per: ['query:1', 'query:2', 'query:3', 'query:4', 'query:5', 'query:6', 'query:7', 'query:8', 'query:9']",
            "spec.per: must have at most 8",
        ),
        ("per: [route, route]", "spec.per[1]: `route` is there twice"),
        ("match: {cidrs: [10.0.0.0/33]}", "spec.match.cidrs[0]: `10.0.0.0/33` is no network"),
        ("match: {cidrs: [example.com]}", "spec.match.cidrs[0]: `example.com` is no network"),
        (
            "match: {cidrs: [203.0.113.5/24]}",
            "spec.match.cidrs[0]: `203.0.113.5/24` has bits set beyond its prefix: write 203.0.113.0/24",
        ),
        (
            "match: {cidrs: [10.0.0.0/8, 010.0.0.0/8]}",
            "spec.match.cidrs[1]: `010.0.0.0/8` has a number with a leading zero: write 10.0.0.0/8",
        ),
        ("match: {cidrs: [10.0.0.0/8, '::ffff:10.0.0.0/104']}", "spec.match.cidrs[1]: `10.0.0.0/8` is there twice"),
        ("match: {tenants: [A]}", "spec.match.tenants[0]: must be 1 to 253"),
        ("match: {models: ['']}", "spec.match.models[0]: must not be empty"),
        ("mode: enforced", "spec.mode: `enforced` is unknown (did you mean `enforce`?)"),
        ("algorithm: fix", "spec.algorithm: `fix` is unknown (did you mean `fixed`?)"),
        ("durability: disk", "spec.durability: `disk` is unknown"),
        ("reserve: prompts", "spec.reserve: `prompts` is unknown (did you mean `prompt`?)"),
        ("whenUnavailable: allowed", "spec.whenUnavailable: `allowed` is unknown (did you mean `allow`?)"),
    ] {
        let found = wrong("Limit", &with(rest));
        assert!(!found.is_empty() && found.iter().all(|it| it.contains(expected)), "{rest}: {found:?}");
    }
    each_is_wrong(
        "Limit",
        &[
            ("{limit: 1, window: 1m}", "spec.unit: is missing: tokens | inputTokens"),
            ("{unit: token, limit: 1, window: 1m}", "spec.unit: `token` is unknown (did you mean `tokens`?)"),
            ("{unit: cost, window: 1m}", "spec.limit: is missing"),
            ("{unit: cost, limit: 9223373, window: 1m}", "spec.limit: must be at most 9223372.036854775807"),
            (
                "{unit: cost, limit: '9223372.036854775808', window: 1m}",
                "spec.limit: must be at most 9223372.036854775807",
            ),
            ("{unit: cost, limit: '0.0000000000001', window: 1m}", "has more than 12 decimal places"),
            ("{unit: cost, limit: 1, currency: usd, window: 1m}", "spec.currency: `usd` is not a currency code"),
            ("{unit: tokens, limit: 1, currency: USD, window: 1m}", "spec.currency: is only for `unit: cost`"),
            (
                "{unit: tokens, limit: 12.50, window: 1m}",
                "spec.limit: must be a whole number, not `12.50`: only `unit: cost` is an amount of money",
            ),
            ("{unit: concurrency, limit: 1, window: 1m}", "spec.window: means nothing for concurrency"),
            ("{unit: concurrency, limit: 1, algorithm: fixed}", "spec.algorithm: means nothing for concurrency"),
            (
                "{unit: tokens, limit: 1, window: 1d, algorithm: sliding}",
                "spec.algorithm: `sliding` is for windows up to 1h; write `fixed` for 1d",
            ),
            (
                "{unit: tokens, limit: 1, window: month, algorithm: sliding}",
                "spec.algorithm: `sliding` is for windows up to 1h; write `fixed` for month",
            ),
            ("{unit: tokens, window: 1m}", "spec.limit: is missing"),
            (
                "{unit: requests, limit: 1, window: 1m, reserve: prompt}",
                "spec.reserve: `prompt` is for units that tokens",
            ),
            ("{unit: concurrency, limit: 1, reserve: prompt}", "spec.reserve: `prompt` is for units that tokens"),
            ("{unit: tokens, limit: 1}", "spec.window: is missing"),
            ("{unit: tokens, limit: 1, window: 60s}", "spec.window: `60s` is no window"),
        ],
    );
}

/// Files don't bring one, a client of the admin API may.
#[test]
fn a_limit_that_sums_could_overflow_is_refused() {
    for amount in [1 << 63, u64::MAX] {
        let mut resource = resource("kind: Limit\nmetadata: {name: x}\nspec: {unit: tokens, limit: 1, window: 1m}");
        let Some(v1::resource::Kind::Limit(limit)) = &mut resource.kind else { panic!("{resource:?}") };
        limit.spec.as_mut().unwrap().limit = Some(amount);
        let told = check(&resource).unwrap_err().to_string();
        assert!(told.contains("spec.limit: must be at most 9223372036854775807"), "{told}");
    }
}

#[test]
fn money_is_a_decimal_or_a_whole_number_and_counts_in_its_currency() {
    let usd = Unit::Cost(crate::Currency::parse("USD").unwrap());
    for (text, pico) in [
        ("50", 50_000_000_000_000),
        ("'50'", 50_000_000_000_000),
        ("12.50", 12_500_000_000_000),
        ("'12.50'", 12_500_000_000_000),
        ("0", 0),
        ("'0.000000000001'", 1),
        ("9223372.036854775807", u64::MAX / 2),
    ] {
        let given = limit(&format!("{{unit: cost, limit: {text}, currency: USD, window: month}}"));
        assert_eq!((given.unit, given.limit, given.durability), (usd, pico, crate::Durability::Journal), "{text}");
        let nobody = crate::Subject::of_route("chat");
        let billed = |code: &str| crate::Subject { currency: crate::Currency::parse(code).ok(), ..nobody };
        assert!(given.concerns(&billed("USD")));
        assert!(!given.concerns(&billed("EUR")) && !given.concerns(&nobody));
    }
}
