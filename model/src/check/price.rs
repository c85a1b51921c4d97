//! Prices.

use std::sync::Arc;

use tollgate_proto::v1;

use super::{
    context::{Context, Value::Is},
    upstream::globs,
};
use crate::{Checked, Currency, Field, Kind, Price, PriceTable, PriceTier, Problems, Rates};

/// The contract's default: figures are for a million tokens.
const DEFAULT_PER: u64 = 1_000_000;

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
    let rates = rates(&mut context, &spec, given);
    let image = context.money(&spec.field("image"), &given.image);
    let request = context.money(&spec.field("request"), &given.request);
    let minimum = context.money(&spec.field("minimum"), &given.minimum);
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
        tiers: tiers(&mut context, &spec.field("tiers"), &given.tiers),
    };
    context.finish(Checked::Price(Arc::new(price)))
}

fn rates(context: &mut Context, at: &Field<'_>, given: &v1::PriceSpec) -> Rates {
    Rates {
        input: context.money(&at.field("input"), &given.input),
        cached_input: context.money(&at.field("cachedInput"), &given.cached_input),
        cache_write: context.money(&at.field("cacheWrite"), &given.cache_write),
        output: context.money(&at.field("output"), &given.output),
        reasoning: context.money(&at.field("reasoning"), &given.reasoning),
        audio_input: context.money(&at.field("audioInput"), &given.audio_input),
        audio_output: context.money(&at.field("audioOutput"), &given.audio_output),
    }
}

fn tiers(context: &mut Context, at: &Field<'_>, given: &[v1::PriceTier]) -> Vec<PriceTier> {
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
        let rates = Rates {
            input: context.money(&at.field("input"), &raw.input),
            cached_input: context.money(&at.field("cachedInput"), &raw.cached_input),
            cache_write: context.money(&at.field("cacheWrite"), &raw.cache_write),
            output: context.money(&at.field("output"), &raw.output),
            reasoning: context.money(&at.field("reasoning"), &raw.reasoning),
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
