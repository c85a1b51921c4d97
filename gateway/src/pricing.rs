//! What a call can cost its tenant at most, and what it has cost: in pico-units of what the tenant is billed in.
//!
//! By the very prices that its bill is made by: those in force when it was admitted, of whichever provider serves it.

use std::sync::Arc;

use tollgate_billing::{
    PriceBook,
    price::{Asked, Tariff},
};
use tollgate_model::{Money, Name};
use tollgate_quota::{Attribution, Usage};

/// The prices of one call. Where nothing is billed there are none, and it costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Pricing(Vec<Priced>);

/// What one provider's answer is billed by. Without a price it costs nothing, and its bill says so.
#[derive(Debug)]
struct Priced {
    provider: Name,
    model: String,
    tariff: Option<Arc<Tariff>>,
}

impl Pricing {
    /// Of a call for which any of these may be asked, each under the name of the model that it serves.
    pub(crate) fn of(
        book: &PriceBook,
        attribution: &Attribution,
        served: impl IntoIterator<Item = (Name, String)>,
    ) -> Self {
        let Some(asked) = Asked::by(attribution) else { return Self::default() };
        let priced = |(provider, model): (Name, String)| {
            let tariff = book.find(&Asked { provider: &provider, model: &model, ..asked }).cloned();
            Priced { provider, model, tariff }
        };
        Self(served.into_iter().map(priced).collect())
    }

    /// The most that it can cost with so much input and so much output, whoever serves it.
    pub(crate) fn most(&self, input: u64, output: u64) -> u64 {
        self.tariffs().map(|tariff| pico(tariff.most(input, output))).max().unwrap_or(0)
    }

    /// The most output with which it can't cost more than `left`, whoever serves it. None where it can without any.
    pub(crate) fn output_within(&self, input: u64, left: u64) -> Option<u64> {
        let within = |tariff: &Tariff| tariff.output_within(input, Money(left.into()));
        self.tariffs().map(within).try_fold(u64::MAX, |least, output| Some(least.min(output?)))
    }

    /// Whether what this provider's model uses has a price.
    pub(crate) fn has_price(&self, provider: &Name, model: &str) -> bool {
        self.0.iter().any(|it| it.provider == *provider && it.model == model && it.tariff.is_some())
    }

    /// What its bill will say.
    pub(crate) fn cost(&self, attribution: &Attribution, usage: &Usage) -> u64 {
        let is_of = |it: &&Priced| it.provider == *attribution.provider && it.model == attribution.provider_model;
        let tariff = self.0.iter().find(is_of).and_then(|priced| priced.tariff.as_ref());
        tariff.map_or(0, |tariff| pico(tariff.amount(usage.into())))
    }

    fn tariffs(&self) -> impl Iterator<Item = &Tariff> {
        self.0.iter().filter_map(|priced| priced.tariff.as_deref())
    }
}

/// More than 64 bits hold is more than any limit holds.
fn pico(money: Money) -> u64 {
    u64::try_from(money.0).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tollgate_billing::Changes;
    use tollgate_model::{Checked, Timestamp, check, yaml};
    use tollgate_proto::v1::resource::Kind;

    use super::*;

    fn book(prices: &[(&str, &str)]) -> PriceBook {
        let mut book = PriceBook::default();
        for (name, spec) in prices {
            let text = format!("apiVersion: tollgate/v1\nkind: Price\nmetadata: {{name: {name}}}\nspec: {spec}\n");
            let resource = yaml::parse("test", &text).0.remove(0).resource;
            let Ok(Checked::Price(price)) = check(&resource) else { panic!("{:?}", check(&resource)) };
            let Some(Kind::Price(raw)) = &resource.kind else { panic!("{resource:?}") };
            book.put(Timestamp(1), &price, raw, &mut Changes::new());
        }
        book
    }

    fn by(currency: &str) -> Attribution {
        Attribution { tenant: "acme".into(), currency: currency.into(), admitted_us: 1, ..Attribution::default() }
    }

    fn served(all: [(&str, &str); 2]) -> impl IntoIterator<Item = (Name, String)> {
        all.map(|(provider, model)| (Name::new(provider), model.to_owned()))
    }

    #[test]
    fn a_call_can_cost_what_the_dearest_that_may_serve_it_asks_for() {
        let book = book(&[
            ("one", "{currency: USD, per: 1, match: {providers: [a]}, input: 1, output: 2}"),
            ("two", "{currency: USD, per: 1, match: {providers: [b]}, input: 0, output: 3, minimum: 10}"),
        ]);
        let one = u64::try_from(Money::ONE.0).unwrap();
        let pricing = Pricing::of(&book, &by("USD"), served([("a", "m"), ("b", "m")]));
        assert_eq!([(0, 0), (20, 1), (1, 30)].map(|(i, o)| pricing.most(i, o)), [10 * one, 22 * one, 90 * one]);
        assert_eq!(pricing.output_within(20, 26 * one), Some(3));
        assert_eq!(pricing.output_within(1, 90 * one), Some(30));
        assert_eq!(pricing.output_within(0, 10 * one - 1), None, "the minimum");
        assert_eq!(pricing.most(u64::MAX, u64::MAX), u64::MAX);

        // The bill is that of whoever served.
        let usage = Usage { input_tokens: 20, output_tokens: 1, ..Usage::default() };
        let of = |provider: &str| Attribution { provider: provider.into(), provider_model: "m".into(), ..by("USD") };
        assert_eq!(["a", "b", "c"].map(|it| pricing.cost(&of(it), &usage)), [22 * one, 10 * one, 0]);
    }

    #[test]
    fn what_is_not_billed_or_has_no_price_costs_nothing() {
        let book = book(&[("one", "{currency: USD, per: 1, input: 1}")]);
        for currency in ["", "EUR"] {
            let pricing = Pricing::of(&book, &by(currency), served([("a", "m"), ("b", "m")]));
            assert_eq!((pricing.most(5, 5), pricing.output_within(5, 0)), (0, Some(u64::MAX)), "{currency}");
        }
    }
}
