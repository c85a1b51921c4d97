//! Keeps the price book equal to the prices in the catalog, and prices what requests used: in the very log entries that say so.

use std::sync::Arc;

use tollgate_billing::{
    Bill, Changes, PriceBook,
    price::{Asked, Tariff},
};
use tollgate_model::{Checked, Kind, LogIndex, Money, Name, Timestamp, catalog::Change};
use tollgate_proto::v1::resource::Kind as Raw;
use tollgate_quota::{Outcome, Told, Used};

/// Puts prices into force and takes them out, as `changed` says.
///
/// # Panics
/// When a committed price does not check: the node that took it ran a version that this one can't follow.
pub(super) fn follow(book: &mut PriceBook, changed: &[Change], at: LogIndex, now: Timestamp, rows: &mut Changes) {
    for change in changed.iter().filter(|change| change.kind == Kind::Price) {
        let Some(after) = &change.after else {
            book.delete(at, now, &change.name, rows);
            continue;
        };
        match (tollgate_model::check(&after.resource), &after.resource.kind) {
            (Ok(Checked::Price(price)), Some(Raw::Price(raw))) => book.put(now, &price, raw, rows),
            (Err(problems), _) => panic!(
                "price {} was committed by a version that allows more than this one does: {problems}",
                change.name
            ),
            _ => {}
        }
    }
}

/// When a request was admitted: what its node said, at the latest now.
pub(super) fn admitted_at(used: &Used<'_>, now: Timestamp) -> Timestamp {
    match used.attribution.admitted_us {
        0 => now,
        admitted => Timestamp(admitted).min(now),
    }
}

/// What a request is billed at, and by which version of which price.
pub(super) struct Billed {
    pub(super) bill: Bill,
    pub(super) price: Option<(Name, LogIndex)>,
}

/// What a request is billed at, as its tenant and its prices were when it was admitted. None where nothing is billed. What no
/// upstream worked for, and what nobody can say the end of, costs nothing.
///
/// Its node found the same price then, and held what the request could cost by it, so no clock of this entry may have a say: the
/// node told by log time when it was.
pub(super) fn bill(book: &PriceBook, used: &Used<'_>, at: LogIndex, now: Timestamp) -> Option<Billed> {
    let asked = Asked::by(used.attribution)?;
    let currency = asked.currency?;
    if used.outcome == Outcome::Voided || used.told == Told::Nobody {
        return Some(Billed { bill: Bill { currency, amount: Some(Money(0)) }, price: None });
    }
    let tariff = book.find(&asked_by(asked, at, now));
    let amount = tariff.map(|tariff| tariff.amount(used.usage.into()));
    let price = tariff.map(|tariff| (tariff.name.clone(), tariff.version));
    Some(Billed { bill: Bill { currency, amount }, price })
}

/// What was on the list for a request when it was admitted, where something else counts for it.
pub(super) fn on_list(
    book: &PriceBook,
    used: &Used<'_>,
    billed: &Billed,
    at: LogIndex,
    now: Timestamp,
) -> Option<(Name, LogIndex)> {
    let counts = billed.price.as_ref()?;
    let list = book.find_on_list(&asked_by(Asked::by(used.attribution)?, at, now))?;
    let list = (list.name.clone(), list.version);
    (list != *counts).then_some(list)
}

/// What the upstream that was asked for this model bills for it. None where nobody knows.
pub(super) fn cost<'b>(
    book: &'b PriceBook,
    used: &Used<'_>,
    (provider, model): (&str, &str),
    at: LogIndex,
    now: Timestamp,
) -> Option<&'b Arc<Tariff>> {
    book.find(&asked_by(Asked::cost(used.attribution, provider, model), at, now))
}

/// As of the entry at the latest, and of its time where a node said none.
fn asked_by(asked: Asked<'_>, at: LogIndex, now: Timestamp) -> Asked<'_> {
    Asked { pinned: asked.pinned.min(at), at: if asked.at.0 == 0 { now } else { asked.at }, ..asked }
}

#[cfg(test)]
mod tests {
    use tollgate_model::{Money, yaml};
    use tollgate_quota::{Attribution, Outcome, Usage};

    use super::*;

    const EFFECTIVE_US: u64 = 1_800_000_000_000_000;

    fn put(book: &mut PriceBook, at: u64, spec: &str) {
        let head = format!("{{name: p, resourceVersion: {at}}}");
        let text = format!("apiVersion: tollgate/v1\nkind: Price\nmetadata: {head}\nspec: {spec}\n");
        let resource = yaml::parse("test", &text).0.remove(0).resource;
        let Ok(Checked::Price(price)) = tollgate_model::check(&resource) else { panic!("{resource:?}") };
        let Some(Raw::Price(raw)) = &resource.kind else { panic!("{resource:?}") };
        book.put(Timestamp(at), &price, raw, &mut Changes::new());
    }

    /// The gateway holds and charges by what it found then: whatever an entry's clock says, the bill is the same.
    #[test]
    fn a_bill_is_what_was_found_at_admission_whatever_came_since() {
        let mut book = PriceBook::default();
        put(&mut book, 10, "{currency: USD, per: 1, output: 1}");
        let effective = Timestamp(EFFECTIVE_US);
        put(&mut book, 20, &format!("{{currency: USD, per: 1, output: 2, effectiveFrom: '{effective}'}}"));
        for (config_index, admitted_us, rate) in
            [(19, EFFECTIVE_US, 1), (20, EFFECTIVE_US - 1, 1), (20, EFFECTIVE_US, 2), (25, EFFECTIVE_US + 9, 2)]
        {
            let attribution =
                Attribution { config_index, admitted_us, currency: "USD".into(), ..Attribution::default() };
            let usage = Usage { output_tokens: 3, ..Usage::default() };
            let found = Asked::by(&attribution).and_then(|asked| book.find(&asked).cloned());
            let charged = found.map(|tariff| tariff.amount((&usage).into()));
            assert_eq!(charged, Some(Money(3 * rate * Money::ONE.0)), "{config_index} {admitted_us}");

            let mut later = book.clone();
            put(&mut later, 30, "{currency: USD, per: 1, output: 7}");
            let used = Used {
                node: 1,
                incarnation: 1,
                attribution: &attribution,
                usage: &usage,
                outcome: Outcome::Settled,
                told: Told::Itself,
                corrects: 0,
            };
            // Also of an entry that is stamped before the node believed to admit it.
            for now in [EFFECTIVE_US - 5_000_000, EFFECTIVE_US + 5_000_000] {
                let bill = bill(&later, &used, LogIndex(40), Timestamp(now)).unwrap();
                assert_eq!(bill.bill.amount, charged, "{config_index} {admitted_us} {now}");
            }
        }
    }

    /// A price for each request, or a least amount, is for those that an upstream worked for.
    #[test]
    fn what_no_upstream_worked_for_or_nobody_knows_the_end_of_costs_nothing() {
        let mut book = PriceBook::default();
        put(&mut book, 10, "{currency: USD, per: 1, output: 1, request: 2, minimum: 5}");
        let attribution =
            Attribution { config_index: 10, admitted_us: 1, currency: "USD".into(), ..Attribution::default() };
        let usage = Usage::default();
        for (outcome, told, units) in [
            (Outcome::Partial, Told::Journal, 5),
            (Outcome::Partial, Told::Nobody, 0),
            (Outcome::Voided, Told::Itself, 0),
        ] {
            let used =
                Used { node: 1, incarnation: 1, attribution: &attribution, usage: &usage, outcome, told, corrects: 0 };
            let bill = bill(&book, &used, LogIndex(40), Timestamp(2)).unwrap().bill;
            assert_eq!(bill.amount, Some(Money(units * Money::ONE.0)), "{outcome:?} {told:?}");
        }
    }
}
