//! Prices as somebody may write them: amounts, one price made of them, and files.
//!
//! Whatever is accepted must be exact: an amount is read back from how it is written, and what a request costs is the sum of its
//! lines, and no more than the most that was held for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate_billing::price::{Quantities, Tariff};
use tollgate_model::{Checked, Money, check, yaml};
use tollgate_proto::{
    state::v1::Usage,
    v1::{self, resource::Kind},
};

/// Of a request, so that sums of products with any rate that is allowed are exact.
const MOST_TOKENS: u64 = 1 << 32;

fuzz_target!(|data: &[u8]| {
    let (tokens, text) = data.split_at(data.len().min(20));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let used = usage(tokens);
    if let Ok(amount) = Money::parse(text) {
        assert_eq!(Money::parse(&amount.to_string()), Ok(amount));
    }
    costs(&written(text), &used);
    for parsed in yaml::parse_and_check("fuzz.yaml", text).0 {
        costs(&parsed.resource, &used);
    }
});

/// A price whose fields are lines of the text.
fn written(text: &str) -> v1::Resource {
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    let metadata = v1::Metadata { name: "fuzz".into(), resource_version: Some(1), ..v1::Metadata::default() };
    let tier = |mut next: Box<dyn FnMut() -> String + '_>| v1::PriceTier {
        above_input_tokens: next().parse().ok(),
        input: next(),
        output: next(),
        ..v1::PriceTier::default()
    };
    let spec = v1::PriceSpec {
        currency: next(),
        per: next().parse().ok(),
        input: next(),
        cached_input: next(),
        cache_write: next(),
        output: next(),
        reasoning: next(),
        audio_input: next(),
        audio_output: next(),
        request: next(),
        minimum: next(),
        effective_from: next(),
        table: next(),
        tiers: vec![tier(Box::new(&mut next))],
        ..v1::PriceSpec::default()
    };
    let price = v1::Price {
        api_version: "tollgate/v1".into(),
        kind: "Price".into(),
        metadata: Some(metadata),
        spec: Some(spec),
    };
    v1::Resource { kind: Some(Kind::Price(price)) }
}

fn usage(bytes: &[u8]) -> Usage {
    let mut numbers = bytes.chunks(4).map(|chunk| chunk.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let mut next = || numbers.next().unwrap_or(0) % MOST_TOKENS;
    Usage {
        input_tokens: next(),
        cached_input_tokens: next(),
        cache_write_tokens: next(),
        output_tokens: next(),
        reasoning_tokens: next(),
        audio_input_tokens: next(),
        audio_output_tokens: next(),
        ..Usage::default()
    }
}

fn costs(resource: &v1::Resource, used: &Usage) {
    let Ok(Checked::Price(price)) = check(resource) else { return };
    let tariff = Tariff::from(&*price);
    let quantities = Quantities::from(used);
    let amount = tariff.amount(quantities);
    assert_eq!(tariff.lines(quantities).map(|line| line.amount.0).sum::<i128>(), amount.0, "{price:?} {used:?}");
    assert!(amount <= tariff.most(used.input_tokens, used.output_tokens), "{price:?} {used:?}");
}
