//! Prices.

use std::sync::Arc;

use tollgate_proto::v1;

use super::{
    context::{Context, Value::Is},
    upstream::globs,
};
use crate::{Checked, Currency, Field, Kind, Money, Price, PriceTable, PriceTier, Problems, Rates};

/// The contract's default: figures are for a million tokens.
const DEFAULT_PER: u64 = 1_000_000;

/// The most that one token may cost, and one request besides its tokens. With it the price of any number of tokens that
/// there can be fits into 128 bits: it is exact without a thought.
const MOST: Money = Money(1_000_000 * Money::ONE.0);

pub(super) fn price(raw: &v1::Price) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Price, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::PriceSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let currency = match given.currency.as_str() {
        "" => {
            context.add(&spec.field("currency"), "is missing");
            None
        }
        code => context.keep(&spec.field("currency"), Currency::parse(code)),
    };
    let per = given.per.unwrap_or(DEFAULT_PER);
    if per == 0 {
        context.add(&spec.field("per"), "must be greater than 0");
    }
    let rates = rates(&mut context, &spec, given, per);
    let image = at_most(&mut context, &spec.field("image"), &given.image);
    let request = at_most(&mut context, &spec.field("request"), &given.request);
    let minimum = at_most(&mut context, &spec.field("minimum"), &given.minimum);
    let figures = [&given.input, &given.output, &given.image, &given.request, &given.minimum];
    if figures.iter().all(|figure| figure.is_empty()) {
        context.add(&spec, "has no figure: give at least one of `input`, `output`, `image`, `request` and `minimum`");
    }
    let tables =
        [("list", Is(PriceTable::List)), ("contract", Is(PriceTable::Contract)), ("cost", Is(PriceTable::Cost))];
    let table = context.word(&spec.field("table"), &given.table, &tables).unwrap_or(PriceTable::List);
    let (at, none) = (spec.field("match"), v1::PriceMatch::default());
    let matched = given.r#match.as_ref().unwrap_or(&none);
    match (table, matched.tenants.is_empty()) {
        (PriceTable::Contract, true) => context.add(&at.field("tenants"), "is missing: a contract is with somebody"),
        (PriceTable::List | PriceTable::Cost, false) => {
            context.add(&at.field("tenants"), "is only for `table: contract`");
        }
        _ => {}
    }
    let price = Price {
        name: context.name.clone(),
        version: context.version,
        providers: context.names(&at.field("providers"), &matched.providers),
        models: globs(&mut context, &at.field("models"), &matched.models),
        tenants: context.names(&at.field("tenants"), &matched.tenants),
        currency: currency.unwrap_or(Currency::parse("XXX").expect("ISO 4217's code for no currency")),
        per,
        rates,
        image,
        request,
        minimum,
        table,
        effective_from: context.timestamp(&spec.field("effectiveFrom"), &given.effective_from),
        tiers: tiers(&mut context, &spec.field("tiers"), &given.tiers, per),
    };
    context.finish(Checked::Price(Arc::new(price)))
}

fn rates(context: &mut Context, at: &Field<'_>, given: &v1::PriceSpec, per: u64) -> Rates {
    let mut rate = |field: &str, text: &str| rate(context, &at.field(field), text, per);
    Rates {
        input: rate("input", &given.input),
        cached_input: rate("cachedInput", &given.cached_input),
        cache_write: rate("cacheWrite", &given.cache_write),
        output: rate("output", &given.output),
        reasoning: rate("reasoning", &given.reasoning),
        audio_input: rate("audioInput", &given.audio_input),
        audio_output: rate("audioOutput", &given.audio_output),
    }
}

/// An amount for `per` tokens, of which one is a whole number of pico-units: so no bill is ever rounded before its last line.
fn rate(context: &mut Context, at: &Field<'_>, text: &str, per: u64) -> Option<Money> {
    let amount = context.money(at, text)?;
    let per = i128::from(per.max(1));
    if amount.0 % per != 0 {
        context.add(at, format!("`{text}` for {per} tokens is no whole number of 0.000000000001 for one of them"));
    }
    if amount.0 / per > MOST.0 {
        context.add(at, format!("must not be more than {MOST} for one token"));
    }
    Some(amount)
}

fn at_most(context: &mut Context, at: &Field<'_>, text: &str) -> Option<Money> {
    let amount = context.money(at, text)?;
    if amount > MOST {
        context.add(at, format!("must not be more than {MOST}"));
    }
    Some(amount)
}

fn tiers(context: &mut Context, at: &Field<'_>, given: &[v1::PriceTier], per: u64) -> Vec<PriceTier> {
    let mut tiers: Vec<PriceTier> = Vec::new();
    for (n, raw) in given.iter().enumerate() {
        let at = at.index(n);
        let above = match raw.above_input_tokens {
            None | Some(0) => {
                context.add(&at.field("aboveInputTokens"), "must be given, and greater than 0");
                0
            }
            Some(above) => above,
        };
        if above != 0 && tiers.last().is_some_and(|last| last.above_input_tokens >= above) {
            context.add(&at.field("aboveInputTokens"), "must be greater than in the tier before");
        }
        let mut rate = |field: &str, text: &str| rate(context, &at.field(field), text, per);
        let rates = Rates {
            input: rate("input", &raw.input),
            cached_input: rate("cachedInput", &raw.cached_input),
            cache_write: rate("cacheWrite", &raw.cache_write),
            output: rate("output", &raw.output),
            reasoning: rate("reasoning", &raw.reasoning),
            audio_input: None,
            audio_output: None,
        };
        if rates == Rates::default() {
            context.add(&at, "has no figure");
        }
        tiers.push(PriceTier { above_input_tokens: above, rates });
    }
    tiers
}

#[cfg(test)]
mod tests {
    use crate::check::{check, tests::resource};

    fn wrong(spec: &str) -> Vec<String> {
        let text = format!("kind: Price\nmetadata: {{name: x}}\nspec: {{currency: USD, {spec}}}");
        let problems = check(&resource(&text)).map(|_| Vec::new()).unwrap_or_else(|problems| problems.0);
        problems.into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
    }

    #[test]
    fn one_token_costs_a_whole_number_of_pico_units() {
        assert_eq!(wrong("input: 0.075"), [] as [&str; 0]);
        assert_eq!(wrong("input: 0.000001"), [] as [&str; 0]);
        assert_eq!(
            wrong("input: 0.0000015"),
            ["spec.input: `0.0000015` for 1000000 tokens is no whole number of 0.000000000001 for one of them"]
        );
        assert_eq!(wrong("input: 1, per: 3").len(), 1);
        let tier = wrong("input: 1, tiers: [{aboveInputTokens: 5, output: 0.0000001}]");
        assert!(tier.len() == 1 && tier[0].starts_with("spec.tiers[0].output: "), "{tier:?}");
    }

    #[test]
    fn no_price_is_too_great_to_reckon_with() {
        assert_eq!(wrong("input: 1000000, per: 1"), [] as [&str; 0]);
        assert_eq!(wrong("input: 1000001, per: 1"), ["spec.input: must not be more than 1000000 for one token"]);
        assert_eq!(wrong("minimum: 1000001"), ["spec.minimum: must not be more than 1000000"]);
        let forty = "1".repeat(40);
        assert!(wrong(&format!("input: '{forty}'"))[0].contains("more than 15 digits"));
    }
}
