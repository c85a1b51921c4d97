//! Accounts that have windows of their own, in the zones of their tenants.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*};
use tollgate_proto::state::v1::{Refusal, Report, Touch, Want};

use super::*;
use crate::ledger::{Shares, Zones, show::AccountView};

const AUCKLAND: &str = "Pacific/Auckland";
const ANGELES: &str = "America/Los_Angeles";
const DAY: u64 = 24 * HOUR;
const SHARES: Shares = Shares { short: (4, 5), long: (1, 2), least: (1, 1) };

/// Zones by the first value of a key.
#[derive(Debug, Clone, Default)]
struct Homes(BTreeMap<&'static str, &'static str>);

impl Zones for Homes {
    fn zone(&self, _: &[KeyPart], key: &[&str]) -> Option<TimeZone> {
        self.0.get(key.first()?).map(|zone| TimeZone::parse(zone).unwrap())
    }

    fn all(&self) -> Vec<TimeZone> {
        self.0.values().map(|zone| TimeZone::parse(zone).unwrap()).collect()
    }
}

fn daily(version: u64, apart: bool) -> Rule {
    Rule { window: Window::Day, apart, ..rule("tpm", version, 1_000) }
}

fn day_of(zone: &str, at: u64) -> (u64, u64) {
    let (start, end) = Window::Day.bounds(Timestamp(at), &TimeZone::parse(zone).unwrap());
    (start.0, end.0)
}

/// Three tenants: one of Auckland, one of Los Angeles, one of UTC.
fn homes() -> Homes {
    Homes([("kiwi", AUCKLAND), ("angel", ANGELES)].into())
}

fn bench() -> Bench {
    let mut bench = Bench::with(&[]);
    bench.live(homes(), &[]);
    bench.set(daily(1, true));
    bench
}

impl Bench {
    fn live(&mut self, homes: Homes, moved: &[&str]) {
        let moved = |_: &[KeyPart], key: &[&str]| key.first().is_some_and(|first| moved.contains(first));
        self.ledger.live_in(Arc::new(homes));
        self.ledger.move_accounts(Timestamp(self.now), &moved, &mut Changes::new());
        self.ledger.audit().unwrap();
    }

    fn look(&self, key: &str) -> AccountView {
        let view = self.ledger.account(Timestamp(self.now), "tpm", Some(&[key.to_owned()])).unwrap();
        let parts = i128::from(view.used + view.held + view.leased + view.suspense + view.lost) + view.free;
        assert_eq!(parts, i128::from(view.capacity), "{view:?}");
        view
    }

    /// Used, or held: requests of long ago count as used.
    fn taken(&self, key: &str) -> u64 {
        self.look(key).used + self.look(key).held
    }

    fn window(&self, key: &str) -> (u64, u64) {
        let view = self.look(key);
        (view.window_start.0, view.window_end.0)
    }

    fn take(&mut self, key: &str, amount: u64) -> bool {
        let version = self.ledger.rule("tpm").unwrap().version.0;
        self.hold(vec![charge("tpm", version, key, amount)]).granted
    }

    /// The ledger that its rows are of.
    fn again(&self, homes: Homes) -> Ledger {
        let rows = self.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
        let mut ledger = Ledger::restore_with(self.ledger.bounds, rows).unwrap();
        ledger.live_in(Arc::new(homes));
        ledger
    }
}

#[test]
fn each_account_has_the_days_of_its_tenant() {
    let mut bench = bench();
    for (key, zone) in [("kiwi", AUCKLAND), ("angel", ANGELES), ("any", "UTC")] {
        assert_eq!(bench.window(key), day_of(zone, NOON), "{key}, before there is a record");
        let outcome = bench.hold(vec![charge("tpm", 1, key, 600)]);
        assert!(outcome.granted);
        assert_eq!(outcome.standings[0].window_end_us, day_of(zone, NOON).1);
        assert_eq!(bench.window(key), day_of(zone, NOON), "{key}");
    }
    let shown = bench.ledger.accounts(Timestamp(bench.now), &show::Query::default()).accounts;
    let ends: Vec<_> = shown.iter().map(|it| (it.account.as_str(), it.window_end.0)).collect();
    let end = |zone| day_of(zone, NOON).1;
    assert_eq!(ends, [("angel", end(ANGELES)), ("any", end("UTC")), ("kiwi", end(AUCKLAND))]);

    bench.now = end(AUCKLAND) - 1;
    let refused = bench.hold(vec![charge("tpm", 1, "kiwi", 600)]);
    assert_eq!((refused.refusal(), refused.standings[0].resets_in_us), (Refusal::Exhausted, 1));
    bench.now += 1;
    let kiwi = ["kiwi".to_owned()];
    let seen = bench.ledger.peek(Timestamp(bench.now), "tpm", &kiwi).unwrap();
    assert_eq!((seen.remaining, seen.window_end.0), (1_000, day_of(AUCKLAND, bench.now).1), "as it will be");
    assert!(bench.take("kiwi", 600) && !bench.take("angel", 600) && !bench.take("any", 600));
    assert_eq!(bench.window("kiwi"), day_of(AUCKLAND, bench.now));
    bench.settle(1, 600, Outcome::Settled);
    assert_eq!((bench.look("kiwi").used, bench.look("kiwi").held), (0, 600), "that was of the day before");
    bench.now = end(ANGELES);
    assert!(bench.take("angel", 600) && bench.take("any", 600) && !bench.take("kiwi", 600));
}

#[test]
fn a_day_is_as_long_as_its_zone_makes_it() {
    let mut bench = bench();
    // Noon in Los Angeles on 14 March 2027: the clock went forward that morning.
    bench.now = 1_805_050_800 * SECOND;
    assert!(bench.take("angel", 700) && bench.take("any", 700));
    let (start, end) = bench.window("angel");
    assert_eq!((start, end), day_of(ANGELES, bench.now));
    assert_eq!(end - start, 23 * HOUR);
    bench.now = end - 1;
    assert!(!bench.take("angel", 700));
    bench.now = end;
    assert!(bench.take("angel", 700));
    assert_eq!(bench.window("angel").1 - end, DAY);
}

#[test]
fn an_edit_of_the_zone_moves_the_window_and_keeps_all_that_is_in_it() {
    let mut bench = bench();
    bench.open(2, 1);
    assert!(bench.take("kiwi", 30) && bench.take("angel", 30));
    bench.settle(1, 25, Outcome::Settled);
    let want = Want { limit: "tpm".into(), limit_version: 1, key: vec!["kiwi".into()], target: 200, need: 10 };
    let frame = bench.frame(Kind::Want(want));
    bench.apply(&frame);
    assert!(bench.take("kiwi", 100));
    let before = bench.look("kiwi");
    let lease = bench.ledger.lease_of(1, 1, "tpm", &["kiwi".into()]).unwrap();
    assert!(lease.granted > 0 && lease.window_end.0 == day_of(AUCKLAND, NOON).1);

    let mut edited = homes();
    edited.0.insert("kiwi", ANGELES);
    bench.live(edited.clone(), &["kiwi"]);
    let after = bench.look("kiwi");
    assert_eq!((after.window_start.0, after.window_end.0), day_of(ANGELES, NOON));
    assert_eq!((after.used, after.held, after.leased), (before.used, before.held, before.leased));
    assert_eq!(bench.window("angel"), day_of(ANGELES, NOON), "nobody else has moved");
    let told = bench.ledger.lease_of(1, 1, "tpm", &["kiwi".into()]).unwrap();
    assert_eq!((told.epoch, told.granted, told.window_end.0), (lease.epoch, lease.granted, day_of(ANGELES, NOON).1));
    let report = Report { account: told.account, epoch: told.epoch, spent: 30, ..Report::default() };
    let frame = bench.frame(Kind::Report(report));
    bench.apply(&frame);
    assert_eq!(bench.look("kiwi").used, 55, "what was leased before is spent in the same window");
    assert!(bench.again(edited.clone()).image().into_rows().eq(bench.ledger.image().into_rows()), "rows say all of it");

    // The old edge turns nothing any more; the new one does.
    bench.now = day_of(AUCKLAND, NOON).1;
    assert!(!bench.take("kiwi", 900));
    bench.now = day_of(ANGELES, NOON).1;
    assert!(bench.take("kiwi", 900));
}

#[test]
fn a_limit_that_parts_keeps_what_is_in_hand_by_name_out_of_every_account() {
    let bounds = Bounds { standing: Some(SHARES), ..Bounds::default() };
    let mut bench = Bench::bounded(bounds, &[]);
    bench.open(2, 1);
    bench.set(daily(1, false));
    let epoch = bench.ledger.shares_of(1, 1)[0].epoch;
    assert!(bench.take("any", 400));
    assert_eq!((bench.look("any").leased, bench.look("any").free), (500, 100));
    let touch = |bench: &mut Bench, key: &str, spent, returned| {
        let report = Some(Report { epoch, spent, returned, ..Report::default() });
        let frame = bench.frame(Kind::Touch(Touch { limit: "tpm".into(), key: vec![key.into()], report }));
        bench.apply(&frame);
    };
    touch(&mut bench, "angel", 200, 0);

    bench.live(homes(), &["kiwi", "angel"]);
    bench.set(daily(1, true));
    assert!(bench.ledger.shares_of(1, 1).iter().all(|share| share.shut), "nobody draws on them any more");
    assert_eq!((bench.window("any"), bench.window("angel")), (day_of("UTC", NOON), day_of(ANGELES, NOON)));
    assert_eq!((bench.look("angel").used, bench.look("any").held), (200, 400));
    for (key, used) in [("any", 0), ("angel", 200), ("kiwi", 0)] {
        let view = bench.look(key);
        assert_eq!((view.used, view.leased), (used, 500 - used), "{key}");
    }
    // Who did not know has drawn on its share of an account without a record, and says so later.
    touch(&mut bench, "kiwi", 250, 0);
    assert_eq!((bench.look("kiwi").used, bench.look("kiwi").leased), (250, 250));
    assert!(bench.take("kiwi", 500) && !bench.take("kiwi", 1), "the rest is with node 2, or free");
    assert!(bench.again(homes()).image().into_rows().eq(bench.ledger.image().into_rows()));

    // Its own day is over, and shares of that one are of nothing any more, though days of others go on.
    bench.now = day_of(AUCKLAND, NOON).1;
    assert_eq!((bench.look("kiwi").leased, bench.look("kiwi").free), (0, 1_000));
    touch(&mut bench, "kiwi", 250, 0);
    assert!(bench.take("kiwi", 1_000));
    touch(&mut bench, "kiwi", 250, 0);
    assert_eq!((bench.look("kiwi").used, bench.look("kiwi").held), (0, 1_000));
    assert_eq!(bench.look("angel").leased, 300);
    bench.now = day_of(ANGELES, NOON).1;
    assert_eq!((bench.look("angel").leased, bench.look("angel").free), (0, 1_000));
    assert!(bench.take("angel", 1_000));
    assert!(bench.ledger.shares_of(1, 1).is_empty());
}

#[test]
fn a_limit_whose_tenants_live_in_one_zone_again_has_one_window_and_forgets_nothing() {
    let mut bench = bench();
    assert!(bench.take("kiwi", 700) && bench.take("angel", 300));
    bench.now = day_of(AUCKLAND, NOON).1;
    bench.live(Homes::default(), &["kiwi", "angel"]);
    bench.set(daily(1, false));
    assert_eq!(bench.taken("kiwi"), 0, "what is of a day that has passed is not carried over");
    assert_eq!(bench.taken("angel"), 300);
    assert_eq!((bench.window("kiwi"), bench.window("angel")), (day_of("UTC", bench.now), day_of("UTC", bench.now)));
    assert!(!bench.take("angel", 701) && bench.take("angel", 700) && bench.take("kiwi", 1_000));
    bench.now = day_of("UTC", bench.now).1;
    assert!(bench.take("angel", 1_000) && bench.take("kiwi", 1_000));
}

/// A label must never fit twice: of the window that was open when the limit parted some node may still say what it drew.
#[test]
fn a_limit_that_comes_together_takes_in_nothing_of_a_day_that_was_over_before() {
    let bounds = Bounds { standing: Some(SHARES), ..Bounds::default() };
    let mut bench = Bench::bounded(bounds, &[]);
    bench.open(2, 1);
    bench.set(daily(1, false));
    let epoch = bench.ledger.shares_of(1, 1)[0].epoch;
    let touch = |bench: &mut Bench, key: &str| {
        let report = Some(Report { epoch, spent: 250, ..Report::default() });
        let frame = bench.frame(Kind::Touch(Touch { limit: "tpm".into(), key: vec![key.into()], report }));
        bench.apply(&frame);
    };
    bench.live(homes(), &["kiwi", "angel"]);
    bench.set(daily(1, true));
    let long = bench.hold(vec![charge("tpm", 1, "kiwi", 300)]);
    assert!(long.granted);
    bench.now = day_of(AUCKLAND, NOON).1;
    assert!(bench.take("kiwi", 1_000), "its next day");

    bench.live(Homes::default(), &["kiwi", "angel"]);
    bench.set(daily(1, false));
    touch(&mut bench, "kiwi");
    assert_eq!((bench.look("kiwi").used, bench.look("kiwi").held), (0, 1_000), "that was drawn of the day before");
    touch(&mut bench, "angel");
    assert_eq!((bench.look("angel").used, bench.look("angel").leased), (250, 250), "and this of the day that goes on");
    assert!(!bench.take("kiwi", 1) && !bench.take("angel", 501) && bench.take("angel", 500));
    assert!(bench.again(Homes::default()).image().into_rows().eq(bench.ledger.image().into_rows()));

    // The day of Los Angeles was the last one of before: at the next turn one window is everybody's, and shares are given again.
    for (day, free) in [(1, 600), (2, 100)] {
        bench.now = day_of("UTC", bench.now).1 - SECOND;
        assert!(bench.take("any", 1), "the node is heard of");
        bench.now += SECOND;
        assert!(bench.take("kiwi", 400) && bench.take("angel", 400), "day {day}");
        assert_eq!((bench.look("kiwi").free, bench.look("angel").free), (free, free), "day {day}");
    }
    let [share] = &bench.ledger.shares_of(1, 1)[..] else { panic!("one share of one window") };
    assert!(share.epoch > epoch && !share.shut, "{share:?}");
    touch(&mut bench, "kiwi");
    bench.settle(long.request, 300, Outcome::Settled);
    assert_eq!((bench.taken("kiwi"), bench.taken("angel")), (400, 400), "all of that was of days that have passed");
}

#[test]
fn a_limit_made_again_finds_each_account_in_its_own_day_and_is_forgotten_with_the_last() {
    let mut bench = bench();
    assert!(bench.take("kiwi", 700) && bench.take("angel", 700));
    bench.remove("tpm", 50);
    bench.now += HOUR;
    bench.set(daily(60, true));
    assert!(!bench.take("kiwi", 700) && !bench.take("angel", 700));
    bench.remove("tpm", 70);
    bench.now = day_of(AUCKLAND, NOON).1;
    bench.set(daily(80, true));
    assert!(bench.take("kiwi", 1_000) && !bench.take("angel", 700));
    bench.remove("tpm", 90);
    bench.now += 2 * DAY;
    bench.open(1, 2);
    assert_eq!((bench.ledger.accounts.slab.len(), bench.ledger.rules.slab.len()), (0, 0));
}

#[test]
fn a_limit_that_slides_from_then_on_or_no_longer_gives_nothing_twice() {
    let mut bench = bench();
    assert!(bench.take("kiwi", 700) && bench.take("any", 100));
    bench.now = day_of(AUCKLAND, NOON).1;
    let sliding = Rule { window: Window::Hour, algorithm: Algorithm::Sliding, ..daily(2, false) };
    bench.set(sliding);
    assert!(bench.take("kiwi", 1_000), "that was of a day that has passed");
    assert!(!bench.take("any", 901) && bench.take("any", 900));
    bench.set(daily(3, true));
    assert!(!bench.take("any", 1) && !bench.take("kiwi", 1));
    assert_eq!(bench.window("kiwi").1, day_of(AUCKLAND, bench.now + MINUTE).1);
    bench.now = day_of("UTC", bench.now).1;
    assert!(bench.take("any", 1_000) && !bench.take("kiwi", 1));
}

#[test]
fn keys_that_share_an_account_have_the_days_of_utc() {
    let mut bench = Bench::bounded(Bounds { accounts: 2, ..Bounds::default() }, &[]);
    bench.live(homes(), &[]);
    bench.set(daily(1, true));
    assert!(bench.take("any", 10) && bench.take("angel", 10));
    assert!(bench.take("kiwi", 600) && !bench.take("kiwi", 600));
    assert_eq!(bench.window("kiwi"), day_of("UTC", NOON));
    bench.now = day_of(AUCKLAND, NOON).1;
    assert!(!bench.take("kiwi", 600));
    bench.now = day_of("UTC", NOON).1;
    assert!(bench.take("kiwi", 600));
}

/// What happens in a test of many steps.
#[derive(Debug, Clone)]
enum Step {
    Take(&'static str, u64),
    Move(&'static str, &'static str),
    Part(bool),
    Wait(u64),
    Remake,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::sample::select(vec!["kiwi", "angel", "any"]);
    let zone = prop::sample::select(vec![AUCKLAND, ANGELES, "UTC", "Asia/Kathmandu", "America/Sao_Paulo"]);
    prop_oneof![
        6 => (key(), 1..500u64).prop_map(|(key, amount)| Step::Take(key, amount)),
        2 => (key(), zone).prop_map(|(key, zone)| Step::Move(key, zone)),
        1 => any::<bool>().prop_map(Step::Part),
        3 => (1..10 * HOUR).prop_map(Step::Wait),
        1 => Just(Step::Remake),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    /// A counter for each key, with nothing but the end of its window beside it, says the same to every request.
    #[test]
    fn whatever_is_edited_each_key_has_its_capacity_once_in_each_window(steps in vec(step(), 1..80), apart in any::<bool>()) {
        let mut bench = Bench::with(&[]);
        let (mut homes, mut apart, mut version) = (homes(), apart, 1);
        bench.live(homes.clone(), &[]);
        bench.set(daily(version, apart));
        let mut counters: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let end_of = |homes: &Homes, apart: bool, key: &str, now: u64| {
            let zone = if apart { homes.0.get(key).copied().unwrap_or("UTC") } else { "UTC" };
            day_of(zone, now).1
        };
        for step in steps {
            let now = bench.now;
            let mut edited = Vec::new();
            match step {
                Step::Take(key, amount) => {
                    let counter = counters.entry(key).or_default();
                    if now >= counter.0 {
                        *counter = (end_of(&homes, apart, key, now), 0);
                    }
                    let fits = counter.1 + amount <= 1_000;
                    counter.1 += if fits { amount } else { 0 };
                    prop_assert_eq!(bench.take(key, amount), fits, "{} at {}", key, now);
                    prop_assert_eq!((bench.taken(key), bench.window(key).1), (counter.1, counter.0));
                    continue;
                }
                Step::Wait(time) => bench.now += time,
                Step::Restore => bench.ledger = bench.again(homes.clone()),
                Step::Remake => {
                    bench.remove("tpm", version + 1);
                    version += 2;
                    bench.set(daily(version, apart));
                }
                Step::Move(key, zone) => {
                    homes.0.insert(key, zone);
                    bench.live(homes.clone(), &[key]);
                    edited.push(key);
                }
                Step::Part(now_apart) => {
                    if now_apart != apart {
                        edited.extend(["kiwi", "angel", "any"]);
                    }
                    apart = now_apart;
                    bench.set(daily(version, apart));
                }
            }
            for key in edited {
                if let Some(counter) = counters.get_mut(key).filter(|it| now < it.0) {
                    counter.0 = end_of(&homes, apart, key, now);
                }
            }
            bench.ledger.audit().unwrap();
        }
    }
}
