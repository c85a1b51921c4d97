use std::{collections::BTreeMap, convert::Infallible};

use proptest::{collection::vec, prelude::*};

use super::*;

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

fn at(time: u64) -> Came {
    Came { at: LogIndex(time), now: Timestamp(time) }
}

fn asked(key: &str, amount: i128, expires_us: u64) -> CreditGrant {
    CreditGrant {
        tenant: "acme".into(),
        key: key.into(),
        amount: bytes(amount),
        expires_us,
        reason: if amount < 0 { "a mistake".into() } else { String::new() },
        actor: "t1".into(),
    }
}

fn grant(book: &mut CreditBook, time: u64, key: &str, amount: i128, expires_us: u64) -> CreditGrantOutcome {
    book.grant(at(time), usd(), &asked(key, amount, expires_us), &mut Changes::new())
}

fn rests(book: &CreditBook) -> Vec<(String, i128)> {
    let view = book.view("acme").unwrap();
    view.grants.into_iter().map(|grant| (grant.event.key.clone(), grant.rest.0)).collect()
}

#[test]
fn a_key_grants_once_and_another_grant_is_shown_the_first() {
    let mut book = CreditBook::default();
    let first = grant(&mut book, 1, "po-1", 5 * Money::ONE.0, 0);
    assert_eq!((first.problem.as_str(), first.known), ("", false));
    let again = grant(&mut book, 2, "po-1", 5 * Money::ONE.0, 0);
    assert_eq!((again.problem.as_str(), again.known), ("", true));
    assert_eq!(again.event, first.event);
    let other = grant(&mut book, 3, "po-1", 6 * Money::ONE.0, 0);
    assert_eq!(
        other.problem,
        "key: `po-1` was used before, for 5 USD, at 1970-01-01T00:00:00.000001Z by token t1: take another key for another grant"
    );
    assert_eq!(other.event, first.event);
    let longer = grant(&mut book, 4, "po-1", 5 * Money::ONE.0, 1_000_000);
    assert!(longer.problem.starts_with("key: `po-1` was used before, for 5 USD, at"), "{}", longer.problem);
    assert_eq!(book.rest("acme"), Money(5 * Money::ONE.0));
}

#[test]
fn what_ends_first_is_spent_first_then_the_smallest_then_the_oldest() {
    let mut book = CreditBook::default();
    for (key, amount, end) in [("never", 1, 0), ("late", 9, 900), ("big", 8, 500), ("old", 4, 500), ("new", 4, 500)] {
        grant(&mut book, 1, key, amount, end);
    }
    let order: Vec<_> = rests(&book).into_iter().map(|(key, _)| key).collect();
    assert_eq!(order, ["old", "new", "big", "late", "never"]);
    assert_eq!(book.spend(at(2), "acme", (usd(), Money(10)), true, &mut Changes::new()), Money(10));
    assert_eq!(rests(&book)[0], ("big".to_owned(), 6));
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    let mut book = CreditBook::default();
    let refused = |book: &mut CreditBook, change: &dyn Fn(&mut CreditGrant)| {
        let mut grant = asked("k", 10, 0);
        change(&mut grant);
        book.grant(at(100), usd(), &grant, &mut Changes::new()).problem
    };
    let mut book_of = |change: &dyn Fn(&mut CreditGrant), says: &str| {
        let problem = refused(&mut book, change);
        assert!(problem.starts_with(says), "{problem:?} is not {says:?}");
    };
    book_of(&|it| it.amount = bytes(0), "amount: is 0");
    book_of(&|it| it.amount = vec![1], "amount: is no amount");
    book_of(&|it| it.key.clear(), "key: is missing");
    book_of(&|it| it.key = "k".repeat(201), "key: has more than 200 bytes");
    book_of(&|it| it.key = "a\nb".into(), "key: has characters");
    book_of(&|it| it.reason = "r".repeat(1_001), "reason: has more than");
    book_of(&|it| it.amount = bytes(-1), "reason: is missing");
    book_of(&|it| (it.amount, it.reason) = (bytes(-1), "so".into()), "amount: 0 USD are there");
    book_of(&|it| it.expires_us = 100, "expires: 1970-01-01T00:00:00.0001Z has passed");
    book_of(&|it| it.amount = bytes(MAX_BALANCE.0 + 1), "amount: with the 0 USD");
    let end = |it: &mut CreditGrant| (it.amount, it.reason, it.expires_us) = (bytes(-1), "so".into(), 900);
    book_of(&end, "expires: a correction");
    assert!(book.view("acme").is_none(), "nothing of that has left a trace");
}

#[test]
fn a_tenant_has_one_currency_while_it_has_anything() {
    let mut book = CreditBook::default();
    let eur = Currency::parse("EUR").unwrap();
    grant(&mut book, 1, "a", 10, 0);
    assert_eq!(book.bound_to("acme"), Some((usd(), Money(10))));
    let other = book.grant(at(2), eur, &asked("b", 10, 0), &mut Changes::new());
    assert!(other.problem.ends_with("and is billed in EUR"), "{}", other.problem);
    book.spend(at(3), "acme", (usd(), Money(10)), true, &mut Changes::new());
    assert_eq!(book.bound_to("acme"), None);
    assert_eq!(book.grant(at(4), eur, &asked("b", 10, 0), &mut Changes::new()).problem, "");
    let view = book.view("acme").unwrap();
    assert_eq!((view.currency, view.granted, view.spent), (eur, Money(10), Money(0)));
    assert_eq!(book.spend(at(5), "acme", (usd(), Money(1)), true, &mut Changes::new()), Money(0), "of before");
}

#[test]
fn what_comes_off_waits_until_it_is_free() {
    let mut book = CreditBook::default();
    let rows = &mut Changes::new();
    grant(&mut book, 1, "short", 10, 50);
    grant(&mut book, 1, "long", 10, 0);
    assert_eq!(book.due(Timestamp(49)), [""; 0]);
    assert_eq!(book.due(Timestamp(50)), ["acme"]);
    assert_eq!(book.take(at(49), "acme", Money(99), rows), Money(0), "it is not over yet");
    assert_eq!(book.take(at(50), "acme", Money(4), rows), Money(4), "the rest is held");
    assert_eq!(rests(&book), [("short".into(), 6), ("long".into(), 10)]);
    book.spend(at(51), "acme", (usd(), Money(5)), true, rows);
    assert_eq!(book.take(at(51), "acme", Money(99), rows), Money(1));
    assert_eq!((rests(&book), book.due(Timestamp(51)).len()), (vec![("long".into(), 10)], 0));

    grant(&mut book, 60, "fix", -7, 0);
    assert_eq!(book.view("acme").unwrap().pending, Money(7));
    assert!(grant(&mut book, 61, "fix-2", -4, 0).problem.starts_with("amount: 0.000000000003 USD are there"));
    assert_eq!(book.take(at(62), "acme", Money(2), rows), Money(2));
    assert_eq!(book.take(at(63), "acme", Money(99), rows), Money(5));
    let view = book.view("acme").unwrap();
    assert_eq!((view.granted, view.expired, view.pending, view.spent), (Money(8), Money(5), Money(0), Money(5)));
}

#[test]
fn what_is_owed_is_paid_by_the_next_grant() {
    let mut book = CreditBook::default();
    grant(&mut book, 1, "a", 10, 0);
    assert_eq!(book.spend(at(2), "acme", (usd(), Money(13)), true, &mut Changes::new()), Money(10));
    assert_eq!((book.owed("acme"), book.rest("acme")), (Money(3), Money(0)));
    grant(&mut book, 3, "b", 5, 0);
    assert_eq!((book.owed("acme"), book.rest("acme")), (Money(0), Money(2)));
    assert_eq!(
        book.spend(at(4), "acme", (usd(), Money(9)), false, &mut Changes::new()),
        Money(2),
        "the rest is billed"
    );
    assert_eq!((book.owed("acme"), book.view("acme").unwrap().spent), (Money(0), Money(15)));
}

#[test]
fn history_pages_from_the_newest_on_and_tells_days_of_spending() {
    let mut book = CreditBook::default();
    grant(&mut book, 1, "a", 100, 0);
    for time in [2, 3, DAY_US, DAY_US + 1] {
        book.spend(at(time), "acme", (usd(), Money(10)), true, &mut Changes::new());
    }
    let why = ("node 3 is lost".to_owned(), "operator-1".to_owned());
    let told = book.write_off(at(DAY_US + 2), "acme", Money(5), why.clone(), &mut Changes::new()).unwrap();
    assert_eq!((told.reason, told.actor, told.currency.as_str()), (why.0, why.1, "USD"));
    let nobody = (String::new(), String::new());
    assert_eq!(book.write_off(at(DAY_US + 2), "globex", Money(5), nobody, &mut Changes::new()), None);
    let told = |events: &[Arc<CreditEventRow>]| -> Vec<_> {
        events.iter().map(|it| (it.event, it.kind(), pico(&it.amount).unwrap())).collect()
    };
    let first = book.history("acme", None, 2);
    assert_eq!(told(&first), [(4, CreditEventKind::WrittenOff, 5), (3, CreditEventKind::Spent, -20)]);
    let rest = book.history("acme", Some(3), 9);
    assert_eq!(told(&rest), [(2, CreditEventKind::Spent, -20), (1, CreditEventKind::Granted, 100)]);
    assert!(book.history("globex", None, 9).is_empty());
}

/// What the book is to be, in the plainest words.
#[derive(Default)]
struct Model {
    /// End, amount, number, rest.
    grants: Vec<(u64, i128, u64, i128)>,
    granted: i128,
    spent: i128,
    pending: i128,
    owed: i128,
}

impl Model {
    /// One pico-unit after another, each of the grant whose turn it is.
    fn draw(&mut self, amount: i128) -> i128 {
        for drawn in 0..amount {
            let left = self.grants.iter_mut().filter(|grant| grant.3 > 0);
            let Some(first) = left.min_by_key(|grant| (grant.0, grant.1, grant.2)) else { return drawn };
            first.3 -= 1;
        }
        amount
    }

    fn rest(&self) -> i128 {
        self.grants.iter().map(|grant| grant.3).sum()
    }

    fn take(&mut self, now: u64, free: i128) -> i128 {
        let mut taken = 0;
        while taken < free {
            let ended = self.grants.iter_mut().filter(|grant| grant.0 <= now && grant.3 > 0);
            let Some(first) = ended.min_by_key(|grant| (grant.0, grant.1, grant.2)) else { break };
            first.3 -= 1;
            taken += 1;
        }
        let corrected = self.draw(self.pending.min(free - taken));
        self.pending -= corrected;
        self.granted -= taken + corrected;
        taken + corrected
    }
}

#[derive(Debug, Clone)]
enum Step {
    Grant(u8, i128, u64),
    Spend(i128, bool),
    Take(i128),
    Wait(u64),
    WriteOff,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..40u8, 1..30i128, 0..60u64).prop_map(|(key, amount, end)| Step::Grant(key, amount, end)),
        1 => (40..60u8, -30..0i128).prop_map(|(key, amount)| Step::Grant(key, amount, 0)),
        4 => (0..25i128, any::<bool>()).prop_map(|(amount, in_advance)| Step::Spend(amount, in_advance)),
        2 => (0..40i128).prop_map(Step::Take),
        2 => (0..20u64).prop_map(Step::Wait),
        1 => Just(Step::WriteOff),
    ];
    vec(step, 0..60)
}

proptest! {
    #[test]
    fn the_book_is_what_a_plain_model_says_and_its_rows_are_all_of_it(steps in steps()) {
        let (mut book, mut model, mut store) = (CreditBook::default(), Model::default(), BTreeMap::new());
        let mut now = 1;
        for step in steps {
            let mut changes = Changes::new();
            match step {
                Step::Grant(key, amount, end) => {
                    let end = if end == 0 { 0 } else { now + end };
                    let grant = asked(&format!("k{key}"), amount, end);
                    let told = book.grant(at(now), usd(), &grant, &mut changes);
                    if told.problem.is_empty() && !told.known {
                        let event = told.event.unwrap().event;
                        if amount > 0 {
                            model.grants.push((if end == 0 { u64::MAX } else { end }, amount, event, amount));
                            model.granted += amount;
                            model.owed -= model.draw(model.owed);
                        } else {
                            model.pending -= amount;
                        }
                    } else {
                        prop_assert!(changes.is_empty());
                        prop_assert!(amount < 0 || told.known, "{}", told.problem);
                    }
                }
                Step::Spend(amount, in_advance) => {
                    let had = book.view("acme").is_some();
                    let drawn = book.spend(at(now), "acme", (usd(), Money(amount)), in_advance, &mut changes);
                    let owed = if in_advance { amount - drawn.0 } else { 0 };
                    prop_assert_eq!(drawn.0, model.draw(amount));
                    prop_assert!(had || drawn.0 == 0);
                    (model.spent, model.owed) = (model.spent + drawn.0 + owed, model.owed + owed);
                }
                Step::Take(free) => {
                    let taken = book.take(at(now), "acme", Money(free), &mut changes);
                    prop_assert_eq!(taken.0, model.take(now, free));
                }
                Step::Wait(time) => now += time,
                Step::WriteOff => {
                    let why = ("lost".to_owned(), "operator-1".to_owned());
                    let told = book.write_off(at(now), "acme", Money(1), why, &mut changes);
                    prop_assert_eq!(told.is_some(), book.view("acme").is_some());
                }
            }
            for (key, value) in changes {
                match value {
                    Some(value) => drop(store.insert(key, value)),
                    None => drop(store.remove(&key)),
                }
            }
            let Some(view) = book.view("acme") else { continue };
            prop_assert_eq!(view.granted.0, model.granted);
            prop_assert_eq!((view.spent.0, view.owed.0, view.pending.0), (model.spent, model.owed, model.pending));
            prop_assert_eq!(view.granted.0, view.spent.0 - view.owed.0 + book.rest("acme").0);
            let told = |events: Vec<Arc<CreditEventRow>>| -> i128 {
                let moves = events.iter().filter(|it| it.kind() != CreditEventKind::WrittenOff);
                moves.map(|it| pico(&it.amount).unwrap()).sum()
            };
            prop_assert_eq!(told(book.history("acme", None, usize::MAX)), model.rest() - model.owed - model.pending);
            let rests: Vec<_> = view.grants.iter().map(|it| (it.event.event, it.rest.0)).collect();
            let mut open: Vec<_> = model.grants.iter().filter(|grant| grant.3 > 0).copied().collect();
            open.sort_unstable();
            prop_assert_eq!(rests, open.iter().map(|it| (it.2, it.3)).collect::<Vec<_>>());
            let due = view.pending.0 > 0 || open.iter().any(|it| it.0 <= now);
            prop_assert_eq!(book.due(Timestamp(now)).len(), usize::from(due));
        }
        let rows: Vec<_> = book.rows().collect();
        prop_assert!(rows.is_sorted());
        prop_assert_eq!(&rows, &store.into_iter().collect::<Vec<_>>());
        let mut restored = CreditBook::restore(rows.iter().cloned().map(Ok::<_, Infallible>)).unwrap();
        prop_assert_eq!(restored.view("acme"), book.view("acme"));
        prop_assert_eq!((&restored.ends, &restored.waiting), (&book.ends, &book.waiting));
        // It goes on as the one that it was taken from.
        let (mut one, mut other) = (Changes::new(), Changes::new());
        for (book, rows) in [(&mut book, &mut one), (&mut restored, &mut other)] {
            book.spend(at(now), "acme", (usd(), Money(3)), true, rows);
            book.take(at(now + 30), "acme", Money(9), rows);
        }
        prop_assert_eq!(one, other);
    }
}

#[test]
fn a_row_that_is_no_credit_is_refused() {
    for (key, value) in [(b"x".to_vec(), vec![]), (b"a".to_vec(), vec![0xff]), (b"g".to_vec(), vec![])] {
        let rows = [Ok::<_, Infallible>((key, value))];
        assert!(matches!(CreditBook::restore(rows), Err(RestoreError::Value { .. })));
    }
}
