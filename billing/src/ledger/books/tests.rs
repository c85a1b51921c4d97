use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

fn row(tenant: &str, currency: &str, pico: i128) -> LedgerRow {
    LedgerRow {
        seq: 1,
        tenant: tenant.to_owned(),
        currency: currency.to_owned(),
        amount: pico.to_be_bytes().to_vec().into(),
        ..LedgerRow::default()
    }
}

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

#[test]
fn what_a_row_moves_comes_from_somewhere() {
    let mut books = Books::default();
    books.post(&row("acme", "USD", 5), &mut Changes::new());
    books.post(&row("acme", "USD", -2), &mut Changes::new());
    books.post(&row("acme", "", 7), &mut Changes::new());
    assert_eq!(books.balance(&Account::Consumed("acme".into()), usd()), Money(3));
    assert_eq!(books.balance(&Account::Revenue, usd()), Money(-3));
    assert_eq!(books.trial(), Ok(()));
}

#[test]
fn an_account_that_has_what_came_from_nowhere_is_told() {
    let mut books = Books::default();
    books.post(&row("acme", "USD", 5), &mut Changes::new());
    *books.balances.get_mut(&(Account::Revenue, usd())).unwrap() += 1;
    assert_eq!(books.trial(), Err((usd(), Money(1))));
}

proptest! {
    #[test]
    fn rows_restore_the_books_and_agree_with_what_was_reported(
        posted in proptest::collection::vec(("[a-c]", prop_oneof!["USD", "EUR"], -1_000_000_i128..1_000_000), 0..40)
    ) {
        let mut books = Books::default();
        let mut kept = BTreeMap::new();
        for (tenant, currency, pico) in &posted {
            let mut changes = Changes::new();
            books.post(&row(tenant, currency, *pico), &mut changes);
            kept.extend(changes.into_iter().map(|(key, value)| (key, value.unwrap())));
        }
        prop_assert_eq!(books.trial(), Ok(()));
        for tenant in ["a", "b", "c"] {
            let sum: i128 = posted.iter().filter(|it| it.0 == tenant && it.1 == "USD").map(|it| it.2).sum();
            prop_assert_eq!(books.balance(&Account::Consumed(tenant.into()), usd()), Money(sum));
        }
        let rows: Vec<_> = books.rows().collect();
        prop_assert!(rows.is_sorted());
        prop_assert_eq!(&rows, &kept.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(Books::restore(rows.into_iter().map(Ok::<_, Infallible>)).unwrap(), books);
    }
}
