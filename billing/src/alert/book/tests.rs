use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use tollgate_model::{LogIndex, Timestamp};
use tollgate_proto::state::v1::BudgetAlertTried;

use super::*;
use crate::alert::next_try;

const MONTH: u32 = 24_322;
const HOUR_US: u64 = 3_600_000_000;

fn eur() -> Currency {
    Currency::parse("EUR").unwrap()
}

fn terms(monthly: i128, thresholds: &[u32]) -> BudgetTerms {
    BudgetTerms { currency: eur(), monthly: Money(monthly), thresholds: thresholds.to_vec(), webhook: true }
}

/// A book, and beside it the rows that its changes add up to.
#[derive(Default)]
struct Kept {
    book: AlertBook,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
}

impl Kept {
    fn change<T>(&mut self, change: impl FnOnce(&mut AlertBook, Came, &mut Changes) -> T) -> T {
        self.index += 1;
        let mut changes = Changes::new();
        let came = Came { at: LogIndex(self.index), now: Timestamp(self.index * 1_000) };
        let changed = change(&mut self.book, came, &mut changes);
        self.write(changes);
        changed
    }

    fn write(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    fn bill(&mut self, tenant: &str, month: u32, amount: i128) {
        self.change(|book, came, changes| book.bill(came, [((tenant, month, eur()), Money(amount))].into(), changes));
    }

    fn budget(&mut self, tenant: &str, terms: Option<BudgetTerms>) {
        self.change(|book, came, changes| book.follow(came, (tenant, MONTH), terms, changes));
    }

    fn tried(&mut self, at: Timestamp, tried: BudgetAlertTried) -> bool {
        let mut changes = Changes::new();
        let came = Came { at: LogIndex(self.index), now: at };
        let taken = self.book.outbox_mut().tried(came, &tried, &mut changes);
        self.write(changes);
        taken
    }

    fn raised(&self, tenant: &str) -> Vec<(u32, u32, i128)> {
        let mut all: Vec<_> = self.alerts(tenant).iter().map(|it| (it.month, it.percent, pico(&it.budget))).collect();
        all.reverse();
        all
    }

    fn alerts(&self, tenant: &str) -> Vec<Arc<BudgetAlertRow>> {
        self.book.outbox().list(Some(tenant), None, usize::MAX)
    }

    /// What a node that starts again has.
    fn restart(&mut self, terms: impl IntoIterator<Item = (String, BudgetTerms)>) {
        let rows = std::mem::take(&mut self.rows);
        self.book =
            AlertBook::restore(rows.iter().map(|(key, value)| Ok::<_, Infallible>((key.clone(), value.clone()))))
                .unwrap();
        terms.into_iter().for_each(|(tenant, terms)| self.book.set(&tenant, Some(terms)));
        self.rows = rows;
    }
}

fn pico(bytes: &[u8]) -> i128 {
    crate::amount::pico(bytes).unwrap()
}

#[test]
fn each_threshold_is_raised_by_the_bill_that_reaches_it_and_never_again() {
    let mut kept = Kept::default();
    kept.budget("acme", Some(terms(100, &[50, 80, 100])));
    kept.bill("acme", MONTH, 49);
    assert!(kept.raised("acme").is_empty());
    kept.bill("acme", MONTH, 1);
    assert_eq!(kept.raised("acme"), [(MONTH, 50, 100)], "at exactly a half");
    kept.bill("acme", MONTH, 70);
    assert_eq!(kept.raised("acme")[1..], [(MONTH, 80, 100), (MONTH, 100, 100)]);
    kept.bill("acme", MONTH, 1_000);
    assert_eq!(kept.raised("acme").len(), 3);
    kept.bill("acme", MONTH + 1, 50);
    assert_eq!(kept.raised("acme")[3..], [(MONTH + 1, 50, 100)], "the next month begins anew");
    kept.bill("acme", MONTH, 1_000);
    assert_eq!(kept.raised("acme").len(), 4, "what comes late is of the month before");
}

#[test]
fn a_budget_lowered_below_the_bill_is_told_of_at_once_and_a_raised_one_when_the_bill_comes_up_to_it() {
    let mut kept = Kept::default();
    kept.bill("acme", MONTH, 100);
    kept.budget("acme", Some(terms(1_000, &[50, 100])));
    assert!(kept.raised("acme").is_empty());
    kept.budget("acme", Some(terms(200, &[50, 100])));
    assert_eq!(kept.raised("acme"), [(MONTH, 50, 200)]);
    kept.budget("acme", Some(terms(100, &[50, 100])));
    assert_eq!(kept.raised("acme")[1..], [(MONTH, 100, 100)], "half of less has been told of");
    for monthly in [1_000, 100, 1_000] {
        kept.budget("acme", Some(terms(monthly, &[50, 100])));
    }
    assert_eq!(kept.raised("acme").len(), 2, "up and down tells nothing twice");
    kept.bill("acme", MONTH, 400);
    assert_eq!(kept.raised("acme")[2..], [(MONTH, 50, 1_000)]);
    kept.budget("acme", None);
    kept.budget("acme", Some(terms(1_000, &[50])));
    assert_eq!(kept.raised("acme").len(), 3, "a budget that was away is the same one");
}

#[test]
fn bills_of_another_currency_do_not_count() {
    let mut kept = Kept::default();
    let usd = Currency::parse("USD").unwrap();
    kept.budget("acme", Some(terms(100, &[50])));
    kept.change(|book, came, changes| book.bill(came, [(("acme", MONTH, usd), Money(99))].into(), changes));
    assert!(kept.raised("acme").is_empty());
    kept.budget("acme", Some(BudgetTerms { currency: usd, ..terms(100, &[50]) }));
    assert_eq!(kept.raised("acme"), [(MONTH, 50, 100)]);
}

#[test]
fn what_is_older_than_two_months_is_forgotten_and_raises_nothing() {
    let mut kept = Kept::default();
    kept.budget("acme", Some(terms(100, &[50])));
    kept.bill("acme", MONTH, 40);
    kept.bill("acme", MONTH + 2, 1);
    kept.bill("acme", MONTH, 10);
    assert_eq!(kept.raised("acme"), [(MONTH, 50, 100)]);
    kept.bill("acme", MONTH + 3, 1);
    kept.bill("acme", MONTH, 1_000);
    assert_eq!(kept.raised("acme").len(), 1);
    let months = kept.rows.keys().filter(|key| key[0] == b'm').count();
    assert_eq!(months, 2);
    kept.restart([]);
    kept.bill("acme", MONTH, 1_000);
    assert_eq!(kept.rows.keys().filter(|key| key[0] == b'm').count(), 2, "a restart remembers which months are over");
}

#[test]
fn an_alert_waits_for_its_pauses_and_is_given_up_after_three_days() {
    let mut kept = Kept::default();
    kept.budget("acme", Some(terms(100, &[50])));
    kept.bill("acme", MONTH, 50);
    let none = BTreeSet::new();
    let raised = Timestamp(kept.index * 1_000);
    let (mut now, mut pauses) = (raised, Vec::new());
    loop {
        let alert = Arc::clone(&kept.alerts("acme")[0]);
        if alert.state() != BudgetAlertState::Pending {
            break;
        }
        let next = next_try(&alert);
        pauses.push(next.saturating_since(now));
        assert!(kept.book.outbox().due(Timestamp(next.0 - 1), &none, 9).is_empty());
        assert_eq!(kept.book.outbox().due(next, &none, 9), [Arc::clone(&alert)]);
        assert!(kept.book.outbox().due(next, &["acme".to_owned()].into(), 9).is_empty());
        now = next;
        let tried =
            BudgetAlertTried { seq: alert.seq, number: alert.tries + 1, problem: "503".into(), ..Default::default() };
        assert!(kept.tried(now, tried.clone()) && !kept.tried(now, tried), "a try counts once");
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1..].is_sorted() && pauses[1] >= Duration::from_secs(1), "{pauses:?}");
    assert!(*pauses.last().unwrap() < Duration::from_secs(4_500));
    let waited = now.saturating_since(raised).as_secs() / 3_600;
    assert!((72..=73).contains(&waited), "{waited} h");
    assert_eq!(kept.book.outbox().counts().failed, 1);
    let alert = &kept.alerts("acme")[0];
    assert_eq!(alert.problem, "503");
    let late = BudgetAlertTried { seq: alert.seq, number: alert.tries + 1, delivered: true, ..Default::default() };
    assert!(!kept.tried(now, late), "what is over stays over");
}

#[test]
fn what_was_delivered_is_over_and_what_is_wanted_no_more_too() {
    let mut kept = Kept::default();
    kept.budget("acme", Some(terms(100, &[50, 80])));
    kept.bill("acme", MONTH, 90);
    assert_eq!(kept.book.outbox().due(Timestamp::MAX, &BTreeSet::new(), 9).len(), 1, "one at a time for each tenant");
    let seqs: Vec<u64> = kept.alerts("acme").iter().map(|alert| alert.seq).collect();
    let at = Timestamp(HOUR_US);
    assert!(!kept.tried(at, BudgetAlertTried { seq: seqs[0], number: 2, delivered: true, ..Default::default() }));
    assert!(kept.tried(at, BudgetAlertTried { seq: seqs[0], number: 1, delivered: true, ..Default::default() }));
    assert!(kept.tried(at, BudgetAlertTried { seq: seqs[1], number: 1, gone: true, ..Default::default() }));
    let counts = kept.book.outbox().counts();
    assert_eq!((counts.pending, counts.delivered, counts.failed), (0, 1, 1));
    assert!(kept.book.outbox().due(Timestamp::MAX, &BTreeSet::new(), 9).is_empty());
}

#[test]
fn a_webhook_that_is_taken_out_leaves_nothing_waiting() {
    let mut kept = Kept::default();
    kept.budget("acme", Some(terms(100, &[50, 80])));
    kept.bill("acme", MONTH, 60);
    kept.budget("acme", Some(BudgetTerms { webhook: false, ..terms(100, &[50, 80]) }));
    assert_eq!(kept.book.outbox().counts().failed, 1);
    kept.bill("acme", MONTH, 60);
    let counts = kept.book.outbox().counts();
    assert_eq!((counts.pending, counts.failed, counts.listed), (0, 1, 1));
}

#[test]
fn however_often_a_budget_is_edited_what_waits_and_what_is_kept_is_bounded() {
    let mut kept = Kept::default();
    kept.bill("acme", MONTH, 1_000_000);
    for monthly in 1..400 {
        kept.budget("acme", Some(terms(monthly, &[100])));
    }
    let counts = kept.book.outbox().counts();
    assert_eq!((counts.pending, counts.pending + counts.failed), (32, 128));
    assert_eq!(kept.rows.keys().filter(|key| key[0] == b'a').count(), 128);
    let failed = kept.alerts("acme").into_iter().find(|it| it.state() == BudgetAlertState::Failed).unwrap();
    assert!(failed.problem.contains("newer ones took its place"), "given up, and says why");
}

#[derive(Debug, Clone)]
enum Step {
    Bill { tenant: usize, back: u32, amount: i128 },
    Budget { tenant: usize, terms: Option<(i128, Vec<u32>)> },
    Month,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let percents = proptest::sample::subsequence(vec![10, 50, 80, 100, 150], 1..4);
    let terms = proptest::option::weighted(0.8, (1..400_i128, percents));
    let step = prop_oneof![
        6 => (0..2_usize, 0..2_u32, 1..60_i128).prop_map(|(tenant, back, amount)| Step::Bill { tenant, back, amount }),
        2 => (0..2_usize, terms).prop_map(|(tenant, terms)| Step::Budget { tenant, terms }),
        1 => Just(Step::Month),
        1 => Just(Step::Restart),
    ];
    vec(step, 0..80)
}

proptest! {
    /// Beside a model that adds up all bills anew and knows nothing of rows.
    #[test]
    fn each_threshold_comes_once_whatever_happens_in_between(steps in steps()) {
        const TENANTS: [&str; 2] = ["acme", "globex"];
        let mut kept = Kept::default();
        let mut month = MONTH;
        let mut bills: Vec<(usize, u32, i128)> = Vec::new();
        let mut budgets: [Option<(i128, Vec<u32>)>; 2] = [None, None];
        let mut told: Vec<(usize, u32, u32, i128)> = Vec::new();
        for step in steps {
            let touched = match step {
                Step::Bill { tenant, back, amount } => {
                    kept.bill(TENANTS[tenant], month - back, amount);
                    bills.push((tenant, month - back, amount));
                    Some((tenant, month - back))
                }
                Step::Budget { tenant, terms: asked } => {
                    let given = asked.as_ref().map(|(monthly, percents)| terms(*monthly, percents));
                    kept.change(|book, came, changes| book.follow(came, (TENANTS[tenant], month), given, changes));
                    budgets[tenant] = asked;
                    Some((tenant, month))
                }
                Step::Month => {
                    month = (month + 1).min(MONTH + 10); // no alert is forgotten yet
                    None
                }
                Step::Restart => {
                    let all = TENANTS.iter().zip(&budgets).filter_map(|(name, budget)| {
                        let (monthly, percents) = budget.as_ref()?;
                        Some(((*name).to_owned(), terms(*monthly, percents)))
                    });
                    kept.restart(all.collect::<Vec<_>>());
                    None
                }
            };
            if let Some((tenant, month)) = touched
                && let Some((monthly, percents)) = &budgets[tenant]
            {
                let billed: i128 = bills.iter().filter(|it| (it.0, it.1) == (tenant, month)).map(|it| it.2).sum();
                for percent in percents {
                    let before = told.iter().any(|it| (it.0, it.1, it.2) == (tenant, month, *percent) && it.3 >= *monthly);
                    if billed * 100 >= monthly * i128::from(*percent) && !before {
                        told.push((tenant, month, *percent, *monthly));
                    }
                }
            }
            let rows: Vec<_> = kept.book.rows().collect();
            prop_assert!(rows.is_sorted());
            prop_assert_eq!(&rows, &kept.rows.clone().into_iter().collect::<Vec<_>>());
        }
        for (n, tenant) in TENANTS.iter().enumerate() {
            let expected: Vec<_> = told.iter().filter(|it| it.0 == n).map(|it| (it.1, it.2, it.3)).collect();
            prop_assert_eq!(kept.raised(tenant), expected);
        }
        let ids: BTreeSet<String> = kept.book.outbox().list(None, None, usize::MAX).iter().map(|it| it.id.clone()).collect();
        prop_assert_eq!(ids.len(), told.len());
    }
}
