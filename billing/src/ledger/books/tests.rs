use std::convert::Infallible;

use proptest::prelude::*;
use tollgate_proto::state::v1::{LedgerCost, LedgerLoss};

use super::*;

fn row(tenant: &str, currency: &str, pico: i128) -> LedgerRow {
    LedgerRow {
        seq: 1,
        tenant: tenant.to_owned(),
        currency: currency.to_owned(),
        amount: pico.to_be_bytes().to_vec(),
        ..LedgerRow::default()
    }
}

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

#[test]
fn what_a_row_moves_comes_from_somewhere() {
    let mut books = Books::default();
    books.post([&row("acme", "USD", 5)], &mut Changes::new());
    books.post([&row("acme", "USD", -2)], &mut Changes::new());
    books.post([&row("acme", "", 7)], &mut Changes::new());
    assert_eq!(books.balance(&Account::Consumed("acme".into()), usd()), Money(3));
    assert_eq!(books.balance(&Account::Revenue, usd()), Money(-3));
    assert_eq!(books.trial(), Ok(()));
}

fn loss(tenant: &str, currency: &str, pico: i128) -> LedgerLoss {
    let amount = pico.to_be_bytes().to_vec();
    LedgerLoss { tenant: tenant.to_owned(), currency: currency.to_owned(), amount, node: 3, ..LedgerLoss::default() }
}

#[test]
fn what_is_written_off_is_the_operators_loss_and_no_tenant_has_used_it() {
    let mut books = Books::default();
    books.post([&row("acme", "USD", 5)], &mut Changes::new());
    books.post_losses(&[loss("acme", "USD", 7)], &mut Changes::new());
    books.post_losses(&[loss("globex", "USD", 2)], &mut Changes::new());
    books.post_losses(&[loss("acme", "", 4)], &mut Changes::new());
    let has = |account: Account| books.balance(&account, usd());
    assert_eq!((has(Account::Consumed("acme".into())), has(Account::Revenue)), (Money(5), Money(-5)));
    assert_eq!(has(Account::Loss), Money(9));
    let forgiven = ["acme", "globex"].map(|tenant| has(Account::Forgiven(tenant.into())));
    assert_eq!((forgiven, books.trial()), ([Money(-7), Money(-2)], Ok(())));
    let names: Vec<_> = books.balances().map(|(account, ..)| account.to_string()).collect();
    let all =
        ["tenant:acme:consumed", "tenant:acme:forgiven", "tenant:globex:forgiven", "provider:loss", "provider:revenue"];
    assert_eq!(names, all);
    for name in names {
        assert_eq!(Account::parse(&name).map(|account| account.to_string()), Some(name));
    }
}

#[test]
fn an_account_that_has_what_came_from_nowhere_is_told() {
    let mut books = Books::default();
    books.post([&row("acme", "USD", 5)], &mut Changes::new());
    *books.balances.get_mut(&(Account::Revenue, usd())).unwrap() += 1;
    assert_eq!(books.trial(), Err((usd(), Money(1))));
}

/// Two attempts, of which the upstreams bill in currencies of their own.
fn with_costs(tenant: &str, currency: &str, pico: i128, costs: [(&str, &str, i128); 2]) -> LedgerRow {
    let cost = |(provider, currency, pico): (&str, &str, i128)| LedgerCost {
        provider: provider.to_owned(),
        price: "p".to_owned(),
        currency: currency.to_owned(),
        amount: pico.to_be_bytes().to_vec(),
        ..LedgerCost::default()
    };
    LedgerRow { provider: "own".to_owned(), costs: costs.map(cost).to_vec(), ..row(tenant, currency, pico) }
}

#[test]
fn what_upstreams_bill_is_spent_and_owed_to_each_in_its_own_currency() {
    let mut books = Books::default();
    let eur = Currency::parse("EUR").unwrap();
    books.post([&with_costs("acme", "USD", 5, [("first", "EUR", 2), ("", "USD", 3)])], &mut Changes::new());
    let owed = |provider: &str| Account::Owed(provider.to_owned());
    for (account, currency, pico) in [
        (Account::Consumed("acme".into()), usd(), 5),
        (Account::Revenue, usd(), -5),
        (Account::Cost, usd(), 3),
        (owed("own"), usd(), -3),
        (Account::Cost, eur, 2),
        (owed("first"), eur, -2),
        (owed("first"), usd(), 0),
    ] {
        assert_eq!(books.balance(&account, currency), Money(pico), "{account} {currency}");
    }
    assert_eq!(books.trial(), Ok(()));
    // What has no price moves nothing, whatever else it says.
    let mut unpriced = with_costs("acme", "USD", 0, [("first", "EUR", 2), ("", "USD", 3)]);
    unpriced.costs.iter_mut().for_each(|cost| cost.price.clear());
    assert_eq!(moves(&unpriced), []);
}

proptest! {
    #[test]
    fn rows_restore_the_books_and_agree_with_what_was_reported(
        posted in proptest::collection::vec(("[a-c]", prop_oneof!["USD", "EUR"], -1_000_000_i128..1_000_000, -9_i128..9), 0..40)
    ) {
        let mut books = Books::default();
        let mut kept = BTreeMap::new();
        for (tenant, currency, pico, cost) in &posted {
            let mut changes = Changes::new();
            let costs = [(tenant.as_str(), "EUR", *cost), ("", "USD", cost * 7)];
            books.post([&with_costs(tenant, currency, *pico, costs)], &mut changes);
            books.post_losses(&[loss(tenant, currency, cost.abs() + 1)], &mut changes);
            kept.extend(changes.into_iter().map(|(key, value)| (key, value.unwrap())));
        }
        prop_assert_eq!(books.trial(), Ok(()));
        for tenant in ["a", "b", "c"] {
            let sum: i128 = posted.iter().filter(|it| it.0 == tenant && it.1 == "USD").map(|it| it.2).sum();
            prop_assert_eq!(books.balance(&Account::Consumed(tenant.into()), usd()), Money(sum));
            let lost: i128 = posted.iter().filter(|it| it.0 == tenant && it.1 == "USD").map(|it| it.3.abs() + 1).sum();
            prop_assert_eq!(books.balance(&Account::Forgiven(tenant.into()), usd()), Money(-lost));
        }
        let rows: Vec<_> = books.rows().collect();
        prop_assert!(rows.is_sorted());
        prop_assert_eq!(&rows, &kept.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(Books::restore(rows.into_iter().map(Ok::<_, Infallible>)).unwrap(), books);
    }
}
