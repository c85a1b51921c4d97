use std::convert::Infallible;

use proptest::prelude::*;

use super::{super::tariff::tests::price, *};

impl From<Infallible> for BookError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

const DAY_US: u64 = 24 * 3_600 * 1_000_000;

/// A book, with the rows that it has handed out.
#[derive(Default)]
struct Kept {
    book: PriceBook,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Kept {
    /// At entry `at`, which is at the same log time in microseconds unless `now` says otherwise.
    fn put(&mut self, at: u64, now: u64, name: &str, spec: &str) {
        let (mut price, mut raw) = price(name, spec);
        price.version = LogIndex(at);
        raw.metadata.as_mut().unwrap().resource_version = Some(at);
        let mut changes = Changes::new();
        self.book.put(Timestamp(now), &price, &raw, &mut changes);
        self.keep(changes);
    }

    fn delete(&mut self, at: u64, now: u64, name: &str) {
        let mut changes = Changes::new();
        self.book.delete(LogIndex(at), Timestamp(now), &Name::new(name), &mut changes);
        self.keep(changes);
    }

    fn keep(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.rows.insert(key, value)),
                None => drop(self.rows.remove(&key)),
            }
        }
    }

    fn find(&mut self, pinned: u64, at: u64) -> Option<String> {
        self.book.find(&asked(pinned, at)).map(|tariff| tariff.id())
    }
}

fn asked(pinned: u64, at: u64) -> Asked<'static> {
    Asked {
        cost: false,
        currency: Currency::parse("USD").ok(),
        tenant: "acme",
        provider: "openai",
        model: "gpt-4o",
        pinned: LogIndex(pinned),
        at: Timestamp(at),
    }
}

#[test]
fn a_request_is_billed_by_the_version_that_it_was_admitted_under() {
    let mut kept = Kept::default();
    kept.put(10, 1, "p", "{currency: USD, input: 1}");
    kept.put(20, 2, "p", "{currency: USD, input: 2}");
    kept.delete(30, 3, "p");
    kept.put(40, 4, "p", "{currency: USD, input: 3}");
    for (pinned, id) in [(9, None), (10, Some("p@10")), (19, Some("p@10")), (20, Some("p@20")), (29, Some("p@20"))] {
        assert_eq!(kept.find(pinned, 100).as_deref(), id, "{pinned}");
    }
    for (pinned, id) in [(30, None), (39, None), (40, Some("p@40")), (99, Some("p@40"))] {
        assert_eq!(kept.find(pinned, 100).as_deref(), id, "{pinned}");
    }
}

#[test]
fn a_version_counts_from_its_time_on_and_the_one_before_it_until_then() {
    let mut kept = Kept::default();
    kept.put(10, 1, "p", "{currency: USD, input: 1}");
    kept.put(20, 2, "p", "{currency: USD, input: 2, effectiveFrom: '1970-01-01T00:00:10Z'}");
    assert_eq!(kept.find(20, 9_999_999).as_deref(), Some("p@10"));
    assert_eq!(kept.find(20, 10_000_000).as_deref(), Some("p@20"));
    assert_eq!(kept.find(19, 10_000_000).as_deref(), Some("p@10"));
}

#[test]
fn the_tenants_own_comes_before_the_list_and_costs_are_apart() {
    let mut kept = Kept::default();
    kept.put(1, 1, "list", "{currency: USD, input: 1, match: {models: [gpt-4o], providers: [openai]}}");
    kept.put(2, 2, "cost", "{currency: USD, input: 1, table: cost}");
    assert_eq!(kept.find(9, 9).as_deref(), Some("list@1"));
    kept.put(3, 3, "own", "{currency: USD, input: 1, table: contract, match: {tenants: [acme]}}");
    assert_eq!(kept.find(9, 9).as_deref(), Some("own@3"));
    let cost = Asked { cost: true, ..asked(9, 9) };
    assert_eq!(kept.book.find(&cost).map(|tariff| tariff.id()).as_deref(), Some("cost@2"));
    let others = Asked { tenant: "globex", ..asked(9, 9) };
    assert_eq!(kept.book.find(&others).map(|tariff| tariff.id()).as_deref(), Some("list@1"));
}

#[test]
fn a_price_in_another_currency_is_none() {
    let mut kept = Kept::default();
    kept.put(1, 1, "p", "{currency: EUR, input: 1}");
    assert_eq!(kept.find(9, 9), None);
}

#[test]
fn of_equals_the_newest_counts() {
    let mut kept = Kept::default();
    kept.put(1, 1, "a", "{currency: USD, input: 1}");
    kept.put(2, 2, "b", "{currency: USD, input: 1}");
    assert_eq!(kept.find(9, 9).as_deref(), Some("b@2"));
    kept.put(3, 3, "a", "{currency: USD, input: 2}");
    assert_eq!(kept.find(9, 9).as_deref(), Some("a@3"));
}

#[test]
fn versions_that_nobody_can_be_billed_by_are_forgotten() {
    let mut kept = Kept::default();
    kept.put(1, 1, "p", "{currency: USD, input: 1}");
    kept.put(2, DAY_US, "p", "{currency: USD, input: 2}");
    kept.put(3, 35 * DAY_US, "p", "{currency: USD, input: 3}");
    assert_eq!((kept.book.len(), kept.rows.len()), (3, 3));
    kept.put(4, 36 * DAY_US, "p", "{currency: USD, input: 4}");
    assert_eq!((kept.book.len(), kept.rows.len()), (3, 3));
    assert_eq!(kept.find(1, 1), None);
    assert_eq!(kept.find(2, 1).as_deref(), Some("p@2"));
}

#[test]
fn a_version_that_is_effective_later_keeps_the_one_before_it() {
    let mut kept = Kept::default();
    kept.put(1, 1, "p", "{currency: USD, input: 1}");
    kept.put(2, 1, "p", "{currency: USD, input: 2, effectiveFrom: '1970-04-01T00:00:00Z'}");
    kept.put(3, 80 * DAY_US, "p", "{currency: USD, input: 3, effectiveFrom: '1970-05-01T00:00:00Z'}");
    assert_eq!(kept.find(3, 85 * DAY_US).as_deref(), Some("p@1"));
}

#[test]
fn rows_that_are_no_prices_are_refused() {
    let rows = [Ok::<_, Infallible>((vec![1], vec![0xff]))];
    assert!(matches!(PriceBook::restore(rows), Err(BookError::Value { .. })));
}

proptest! {
    #[test]
    fn rows_restore_the_book_and_agree_with_what_was_reported(
        story in proptest::collection::vec((0..3_usize, 0..6_u64, any::<bool>()), 0..40)
    ) {
        let mut kept = Kept::default();
        let mut now = 0;
        for (at, (name, days, delete)) in (1..).zip(story) {
            now += days * DAY_US;
            let name = ["a", "b", "c"][name];
            match delete {
                true => kept.delete(at, now, name),
                false => kept.put(at, now, name, "{currency: USD, input: 1}"),
            }
        }
        let rows: Vec<_> = kept.book.rows().collect();
        prop_assert!(rows.is_sorted());
        prop_assert_eq!(&rows, &kept.rows.clone().into_iter().collect::<Vec<_>>());
        let mut restored = PriceBook::restore(rows.iter().cloned().map(Ok::<_, Infallible>)).unwrap();
        prop_assert_eq!(restored.rows().collect::<Vec<_>>(), rows);
        for pinned in 0..45 {
            let id = |book: &mut PriceBook| book.find(&asked(pinned, now)).map(|tariff| tariff.id());
            prop_assert_eq!(id(&mut restored), id(&mut kept.book));
        }
    }
}

/// What an upstream bills is no matter of what its caller pays in, or of who that is.
#[test]
fn a_cost_is_found_in_its_own_currency_by_provider_and_model_alone() {
    let mut kept = Kept::default();
    kept.put(1, 1, "any", "{currency: EUR, input: 1, table: cost}");
    kept.put(2, 2, "near", "{currency: CHF, input: 1, table: cost, match: {providers: [openai], models: ['gpt-4*']}}");
    kept.put(3, 3, "own", "{currency: USD, input: 1, table: contract, match: {tenants: [acme]}}");
    let attribution = Attribution {
        tenant: "acme".into(),
        currency: "USD".into(),
        config_index: 9,
        admitted_us: 9,
        ..Attribution::default()
    };
    for (provider, model, id) in
        [("openai", "gpt-4o", "near@2"), ("openai", "o1", "any@1"), ("azure", "gpt-4o", "any@1")]
    {
        let found = kept.book.find(&Asked::cost(&attribution, provider, model)).map(|tariff| tariff.id());
        assert_eq!(found.as_deref(), Some(id), "{provider} {model}");
    }
    kept.put(20, 20, "near", "{currency: CHF, input: 2, table: cost, match: {models: [gpt-4o]}}");
    let found = kept.book.find(&Asked::cost(&attribution, "openai", "gpt-4o")).map(|tariff| tariff.id());
    assert_eq!(found.as_deref(), Some("near@2"), "a later version is none of its prices");
}
