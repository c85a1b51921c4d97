use num_bigint::BigInt;
use proptest::prelude::*;
use tollgate_model::{Checked, check, yaml};

use super::*;

/// A price as it is written.
pub(in crate::price) fn price(name: &str, spec: &str) -> (Price, tollgate_proto::v1::Price) {
    let text = format!("apiVersion: tollgate/v1\nkind: Price\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    let (mut parsed, problems) = yaml::parse("test", &text);
    assert!(problems.is_empty(), "{problems}\n{text}");
    let resource = parsed.remove(0).resource;
    let Ok(Checked::Price(checked)) = check(&resource) else { panic!("{:?}", check(&resource)) };
    let Some(tollgate_proto::v1::resource::Kind::Price(raw)) = resource.kind else { panic!("{text}") };
    (Price::clone(&checked), raw)
}

fn tariff(spec: &str) -> Tariff {
    Tariff::from(&price("p", spec).0)
}

fn usage(input: u64, cached: u64, output: u64, reasoning: u64) -> Usage {
    Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        output_tokens: output,
        reasoning_tokens: reasoning,
        ..Usage::default()
    }
}

fn costs(spec: &str, usage: &Usage) -> String {
    tariff(spec).amount(usage.into()).to_string()
}

#[test]
fn each_token_is_paid_for_once() {
    let spec = "{currency: USD, input: '2.50', cachedInput: '1.25', output: '10.00', reasoning: '20'}";
    assert_eq!(costs(spec, &usage(1_000_000, 0, 0, 0)), "2.5");
    assert_eq!(costs(spec, &usage(1_000_000, 400_000, 0, 0)), "2");
    assert_eq!(costs(spec, &usage(0, 0, 1_000_000, 500_000)), "15");
    assert_eq!(costs(spec, &usage(3, 1, 2, 0)), "0.00002625");
}

#[test]
fn what_has_no_figure_costs_what_it_is_a_part_of() {
    let spec = "{currency: USD, input: 1, output: 2}";
    assert_eq!(costs(spec, &usage(1_000_000, 500_000, 1_000_000, 1_000_000)), "3");
    let written = Usage { cache_write_tokens: 500_000, ..usage(1_000_000, 0, 0, 0) };
    assert_eq!(costs(spec, &written), "1");
    assert_eq!(costs("{currency: USD, input: 1, cacheWrite: 3}", &written), "2");
}

#[test]
fn sound_costs_what_it_has_a_figure_for_and_what_a_cache_had_is_no_sound() {
    let heard = |usage: Usage| Usage { audio_input_tokens: 600_000, audio_output_tokens: 900_000, ..usage };
    let spoken = heard(usage(1_000_000, 0, 1_000_000, 500_000));
    let spec =
        "{currency: USD, input: 1, cachedInput: '0.5', output: 2, reasoning: 4, audioInput: 40, audioOutput: 80}";
    assert_eq!(costs(spec, &spoken), "66.4", "0.4 and 24 in, 2 of thoughts and 40 of sound out");
    assert_eq!(costs(spec, &heard(usage(1_000_000, 800_000, 0, 0))), "8.4");
    assert_eq!(costs("{currency: USD, input: 1, output: 2}", &spoken), "3", "without a figure it is as any other");
    let tier = "{currency: USD, input: 1, output: 2, audioInput: 40, tiers: [{aboveInputTokens: 9, input: 5}]}";
    assert_eq!(costs(tier, &heard(usage(1_000_000, 0, 0, 0))), "26");
    let lines: Vec<_> = tariff(spec).lines((&spoken).into()).map(|line| line.meter.as_str()).collect();
    assert_eq!(lines, ["input", "reasoning", "audioInput", "audioOutput"]);
}

#[test]
fn a_tier_is_for_all_of_a_longer_request() {
    let spec = "{currency: USD, input: 1, output: 10, tiers: [{aboveInputTokens: 10, input: 2}, {aboveInputTokens: 20, output: 30}]}";
    assert_eq!(costs(spec, &usage(10, 0, 1, 0)), "0.00002");
    assert_eq!(costs(spec, &usage(11, 0, 1, 0)), "0.000032");
    // What the second tier leaves out is as it was before any.
    assert_eq!(costs(spec, &usage(21, 0, 1, 0)), "0.000051");
}

#[test]
fn a_request_costs_at_least_the_minimum() {
    let spec = "{currency: USD, input: 1, request: '0.01', minimum: '0.02'}";
    assert_eq!(costs(spec, &usage(1_000, 0, 0, 0)), "0.02");
    assert_eq!(costs(spec, &usage(50_000, 0, 0, 0)), "0.06");
    let lines: Vec<_> = tariff(spec).lines((&usage(1_000, 0, 0, 0)).into()).map(|it| (it.meter, it.quantity)).collect();
    assert_eq!(lines, [(Meter::Input, 1_000), (Meter::Request, 1), (Meter::Minimum, 1)]);
}

#[test]
fn a_part_that_is_more_than_its_whole_is_as_much() {
    assert_eq!(costs("{currency: USD, input: 1, cachedInput: 0}", &usage(5, u64::MAX, 0, 0)), "0");
}

#[test]
fn the_closer_match_is_more_specific() {
    let fits = |spec: &str| tariff(&format!("{{currency: USD, input: 1, {spec}}}")).fits("acme", "openai", "gpt-4o");
    let ranked = [
        fits("match: {}"),
        fits("match: {providers: [openai]}"),
        fits("match: {models: ['gpt-*']}"),
        fits("match: {models: ['gpt-4*']}"),
        fits("match: {models: ['gpt-*', 'gpt-4*'], providers: [openai]}"),
        fits("match: {models: [gpt-4o]}"),
        fits("match: {tenants: [acme]}, table: contract"),
        fits("match: {tenants: [acme], models: [gpt-4o]}, table: contract"),
    ];
    assert!(ranked.iter().all(Option::is_some) && ranked.is_sorted(), "{ranked:?}");
    for other in
        ["match: {providers: [azure]}", "match: {models: [gpt-4]}", "match: {tenants: [globex]}, table: contract"]
    {
        assert_eq!(fits(other), None, "{other}");
    }
}

proptest! {
    /// Against integers of any size, with nothing divided: nothing is rounded, nothing overflows.
    #[test]
    fn amounts_are_exact(
        per in prop_oneof![Just(1_u64), Just(1_000), Just(1_000_000)],
        rates in proptest::array::uniform7(0..=1_000_000_000_000_000_000_u64),
        request in 0..=1_000_000_000_000_000_000_u64,
        used in any::<[u64; 7]>(),
    ) {
        // Rates for one token, in pico-units, written for `per` of them.
        let written = rates.map(|rate| Money(i128::from(rate) * i128::from(per)).to_string());
        let [input, cached, write, output, reasoning, heard, said] = &written;
        let spec = format!(
            "{{currency: USD, per: {per}, input: '{input}', cachedInput: '{cached}', cacheWrite: '{write}', \
             output: '{output}', reasoning: '{reasoning}', audioInput: '{heard}', audioOutput: '{said}', \
             request: '{}'}}", Money(request.into())
        );
        let usage = Usage {
            input_tokens: used[0], cached_input_tokens: used[1], cache_write_tokens: used[2],
            output_tokens: used[3], reasoning_tokens: used[4], audio_input_tokens: used[5], audio_output_tokens: used[6],
            ..Usage::default()
        };
        let quantities = Quantities::from(&usage);
        let Quantities { input, cached_input, cache_write, output, reasoning, audio_input, audio_output } = quantities;
        let all = |parts: &[u64]| parts.iter().copied().map(u128::from).sum::<u128>();
        prop_assert_eq!(all(&[input, cached_input, cache_write, audio_input]), used[0].into());
        prop_assert_eq!(all(&[output, reasoning, audio_output]), used[3].into());
        // Pico-units, as many digits as they have.
        let pico = |text: &String| -> BigInt {
            let (units, fraction) = text.split_once('.').unwrap_or((text, ""));
            format!("{units}{fraction:0<12}").parse().unwrap()
        };
        let quantities = [input, cached_input, cache_write, output, reasoning, audio_input, audio_output];
        let metered: BigInt = written.iter().zip(quantities).map(|(text, quantity)| pico(text) * quantity).sum();
        let amount = tariff(&spec).amount((&usage).into());
        prop_assert_eq!(BigInt::from(amount.0) * per, metered + BigInt::from(request) * per);
        let lines: i128 = tariff(&spec).lines((&usage).into()).map(|line| line.amount.0).sum();
        prop_assert_eq!(lines, amount.0);
    }
}

/// A price with or without most of its figures, of any order, and up to three tiers.
fn any_price() -> impl Strategy<Value = String> {
    let rate = || prop_oneof![2 => Just(None), 1 => Just(Some(0)), 4 => (0..=200_u64).prop_map(Some)];
    let rates = || proptest::array::uniform5(rate());
    let sound = (rate(), rate());
    let tiers = prop::collection::btree_map(1..60_u64, rates(), 0..4);
    (rates(), sound, proptest::option::of(0..3_000_u64), proptest::option::of(0..9_000_u64), tiers).prop_map(
        |(base, (heard, said), request, minimum, tiers)| {
            let figures = |rates: &[Option<u64>; 5]| -> String {
                let names = ["input", "cachedInput", "cacheWrite", "output", "reasoning"];
                let pico = |pico: u64| Money(pico.into());
                names
                    .iter()
                    .zip(rates)
                    .filter_map(|(name, rate)| Some(format!(", {name}: '{}'", pico((*rate)?))))
                    .collect()
            };
            let one = |name: &str, pico: Option<u64>| {
                pico.map_or(String::new(), |it| format!(", {name}: '{}'", Money(it.into())))
            };
            let tiers: Vec<String> = tiers
                .iter()
                .filter(|(_, rates)| rates.iter().any(Option::is_some))
                .map(|(above, rates)| format!("{{aboveInputTokens: {above}{}}}", figures(rates)))
                .collect();
            // One figure is always there.
            format!(
                "{{currency: USD, per: 1, image: 0{}{}{}{}{}, tiers: [{}]}}",
                figures(&base),
                one("audioInput", heard),
                one("audioOutput", said),
                one("request", request),
                one("minimum", minimum),
                tiers.join(", ")
            )
        },
    )
}

proptest! {
    /// What is held for a request is enough, whatever it turns out to have used of what it may use.
    #[test]
    fn no_usage_costs_more_than_the_most(
        spec in any_price(),
        (input, output) in (0..80_u64, 0..80_u64),
        parts in proptest::collection::vec((any::<[prop::sample::Index; 2]>(), proptest::array::uniform5(0..90_u64)), 1..20),
    ) {
        let tariff = tariff(&spec);
        let most = tariff.most(input, output);
        for ([of_input, of_output], [cached, written, thought, heard, said]) in parts {
            let usage = Usage {
                input_tokens: of_input.index(usize::try_from(input + 1).unwrap()) as u64,
                output_tokens: of_output.index(usize::try_from(output + 1).unwrap()) as u64,
                cached_input_tokens: cached, cache_write_tokens: written, reasoning_tokens: thought,
                audio_input_tokens: heard, audio_output_tokens: said, ..Usage::default()
            };
            let amount = tariff.amount((&usage).into());
            prop_assert!(amount <= most, "{amount} of {most} for {usage:?}");
        }
    }

    /// And not more than enough: some usage within it costs as much.
    #[test]
    fn some_usage_costs_the_most(spec in any_price(), (input, output) in (0..80_u64, 0..80_u64)) {
        let tariff = tariff(&spec);
        let forms = (0..=input).flat_map(|all| [(all, 0, 0, 0), (all, all, 0, 0), (all, 0, all, 0), (all, 0, 0, all)]);
        let dearest = forms.flat_map(|(input_tokens, cached_input_tokens, cache_write_tokens, audio_input_tokens)| {
            [(0, 0), (output, 0), (0, output)].map(|(reasoning_tokens, audio_output_tokens)| {
                let usage = Usage {
                    input_tokens, cached_input_tokens, cache_write_tokens, audio_input_tokens,
                    output_tokens: output, reasoning_tokens, audio_output_tokens, ..Usage::default()
                };
                tariff.amount((&usage).into())
            })
        });
        prop_assert_eq!(dearest.max(), Some(tariff.most(input, output)));
    }

    /// The output that is left money for is all that there is money for.
    #[test]
    fn the_output_within_an_amount_is_the_most_that_fits(
        spec in any_price(), input in 0..80_u64, left in 0..20_000_u64, more in 0..80_u64
    ) {
        let (tariff, left) = (tariff(&spec), Money(left.into()));
        prop_assert!(tariff.most(input, more) <= tariff.most(input, more + 1) && tariff.most(input, more) <= tariff.most(input + 1, more));
        match tariff.output_within(input, left) {
            None => prop_assert!(tariff.most(input, 0) > left),
            Some(u64::MAX) => prop_assert!(tariff.most(input, u64::MAX) <= left),
            Some(output) => {
                prop_assert!(tariff.most(input, output) <= left);
                prop_assert!(tariff.most(input, output + 1) > left);
            }
        }
    }
}
