use proptest::prelude::*;
use tollgate_model::{LogIndex, TimeZone};

use super::*;
use crate::{
    ledger::{Chain, ROWS_PER_ENTRY},
    period::Standing,
};

const DAY: u64 = 24 * 3_600 * 1_000_000;
const HOUR: u64 = DAY / 24;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn month(text: &str) -> Month {
    Month::parse(text).unwrap()
}

fn terms(zone: &str, hours: u64) -> Terms {
    Terms { zone: TimeZone::parse(zone).unwrap(), grace: Duration::from_hours(hours), ..Terms::default() }
}

/// Months as the log drives them, and their rows of the state.
struct World {
    periods: Periods,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
}

impl World {
    fn new(zone: &str) -> Self {
        let mut periods = Periods::default();
        periods.set_terms([("acme".to_owned(), terms(zone, 24))].into());
        Self { periods, rows: BTreeMap::new(), index: 0 }
    }

    fn placed(&mut self, now: Timestamp) -> Placed {
        self.index += 1;
        Placed { came: Came { at: LogIndex(self.index), now }, open: *Chain::default().open() }
    }

    fn keep(&mut self, touched: Touched) {
        let mut changes = Changes::new();
        self.periods.changed(touched, &mut changes);
        self.rows.extend(changes.into_iter().map(|(key, value)| (key, value.unwrap())));
    }

    /// A row that was admitted and settled then: the month whose bill it is on, and which it was late for.
    fn settle(&mut self, tenant: &str, admitted: Timestamp, now: Timestamp, pico: i128) -> (Month, Option<Month>) {
        let placed = self.placed(now);
        let mut row = LedgerRow {
            seq: self.index * ROWS_PER_ENTRY,
            admitted_us: admitted.0,
            settled_us: now.0,
            tenant: tenant.into(),
            price: "p".into(),
            price_version: 1,
            currency: "USD".into(),
            amount: pico.to_be_bytes().to_vec(),
            ..LedgerRow::default()
        };
        let mut touched = Touched::default();
        self.periods.take(&mut row, &placed, &mut touched);
        self.keep(touched);
        (Month::from_number(row.month).unwrap(), Month::from_number(row.late_for))
    }

    fn acme(&mut self, admitted: &str, now: &str) -> (String, Option<String>) {
        let (on, late) = self.settle("acme", at(admitted), at(now), 1);
        (on.to_string(), late.map(|month| month.to_string()))
    }

    fn pass(&mut self, now: Timestamp) {
        let (placed, mut touched) = (self.placed(now), Touched::default());
        self.periods.close_due(&placed, &mut touched);
        self.keep(touched);
    }

    fn standing(&self, of: &str, now: &str) -> Standing {
        self.periods.get("acme", month(of)).unwrap().standing(at(now))
    }

    fn check_rows(&self) {
        let image: Vec<_> = self.periods.rows().collect();
        assert_eq!(image, self.rows.clone().into_iter().collect::<Vec<_>>(), "what changed is the image, in order");
        assert_eq!(Periods::restore(image).unwrap(), self.periods);
    }
}

fn on(month: &str) -> (String, Option<String>) {
    (month.to_owned(), None)
}

fn late(month: &str, of: &str) -> (String, Option<String>) {
    (month.to_owned(), Some(of.to_owned()))
}

#[test]
fn a_month_is_open_then_closing_then_closed_by_log_time() {
    let mut world = World::new("Europe/Berlin");
    assert_eq!(world.acme("2026-11-30T22:59:59.999999Z", "2026-11-30T22:59:59.999999Z"), on("2026-11"));
    assert_eq!(world.standing("2026-11", "2026-11-30T22:59:59.999999Z"), Standing::Open);
    assert_eq!(world.standing("2026-11", "2026-11-30T23:00:00Z"), Standing::Closing);
    assert_eq!(world.periods.next_close(), Some(at("2026-12-01T23:00:00Z")));
    assert_eq!(world.acme("2026-11-30T23:00:00Z", "2026-11-30T23:00:00Z"), on("2026-12"));
    world.pass(at("2026-12-01T22:59:59.999999Z"));
    assert_eq!(world.standing("2026-11", "2026-12-01T22:59:59.999999Z"), Standing::Closing);
    world.pass(at("2026-12-01T23:00:00Z"));
    assert_eq!(world.standing("2026-11", "2026-12-01T23:00:00Z"), Standing::Closed);
    assert_eq!(world.periods.next_close(), Some(at("2027-01-01T23:00:00Z")));
    world.check_rows();
}

#[test]
fn what_comes_while_a_month_is_closing_is_on_it_and_later_it_is_a_correction_of_the_next() {
    let mut world = World::new("UTC");
    assert_eq!(world.acme("2026-11-30T23:00:00Z", "2026-11-30T23:00:01Z"), on("2026-11"));
    assert_eq!(world.acme("2026-11-30T23:00:00Z", "2026-12-01T23:59:59Z"), on("2026-11"));
    let before = world.periods.get("acme", month("2026-11")).cloned();
    // Nothing was in December yet, and no entry has closed November: the row's own does.
    assert_eq!(world.acme("2026-11-30T23:00:00Z", "2026-12-02T00:00:00Z"), late("2026-12", "2026-11"));
    let closed = world.periods.get("acme", month("2026-11")).unwrap();
    assert_eq!((closed.tree.leaves(), &closed.lines), (2, &before.unwrap().lines));
    let december = world.periods.get("acme", month("2026-12")).unwrap();
    assert_eq!((december.tree.leaves(), december.corrections), (1, 1));
    // Of two that are not closed it is the first, unless it was admitted later.
    assert_eq!(world.acme("2026-11-30T23:00:00Z", "2027-01-01T10:00:00Z"), late("2026-12", "2026-11"));
    assert_eq!(world.acme("2027-01-01T09:00:00Z", "2027-01-01T10:00:00Z"), on("2027-01"));
    world.check_rows();
}

#[test]
fn who_was_away_for_months_comes_back_to_the_present_one() {
    let mut world = World::new("UTC");
    assert_eq!(world.acme("2026-01-05T00:00:00Z", "2026-01-05T00:00:00Z"), on("2026-01"));
    assert_eq!(world.acme("2026-01-05T00:00:00Z", "2026-04-20T00:00:00Z"), late("2026-04", "2026-01"));
    let months: Vec<_> =
        world.periods.list(Some("acme"), None).map(|(_, it)| (it.month, it.closed.is_some())).collect();
    let wanted = [("2026-01", true), ("2026-02", true), ("2026-03", true), ("2026-04", false)];
    assert_eq!(months, wanted.map(|(name, closed)| (month(name), closed)));
    world.check_rows();
}

#[test]
fn the_month_before_the_first_is_begun_for_what_is_still_in_time_for_it() {
    let mut world = World::new("UTC");
    assert_eq!(world.acme("2026-12-01T00:00:01Z", "2026-12-01T00:00:02Z"), on("2026-12"));
    assert_eq!(world.acme("2026-11-30T23:59:59Z", "2026-12-01T00:00:03Z"), on("2026-11"));
    assert_eq!(world.acme("2026-10-31T23:59:59Z", "2026-12-01T00:00:04Z"), late("2026-11", "2026-10"));
    world.check_rows();

    let mut world = World::new("UTC");
    assert_eq!(world.acme("2026-12-02T00:00:01Z", "2026-12-02T00:00:02Z"), on("2026-12"));
    assert_eq!(world.acme("2026-11-30T23:59:59Z", "2026-12-02T00:00:03Z"), late("2026-12", "2026-11"));
    // The first of all, and long ago.
    let mut world = World::new("UTC");
    assert_eq!(world.acme("1970-01-01T00:00:00Z", "2026-12-02T00:00:03Z"), late("2026-12", "1970-01"));
    assert!(world.periods.list(None, None).count() <= 4);
}

#[test]
fn a_tenant_that_moves_has_each_instant_in_one_month() {
    let mut world = World::new("Europe/Berlin");
    world.acme("2026-11-10T00:00:00Z", "2026-11-10T00:00:00Z");
    world.periods.change_terms("acme", Some(terms("America/New_York", 24)));
    // November still ends in Berlin, and December begins there and then, six hours before New York's.
    assert_eq!(world.acme("2026-11-30T22:59:59Z", "2026-11-30T23:00:00Z"), on("2026-11"));
    assert_eq!(world.acme("2026-11-30T23:00:00Z", "2026-11-30T23:00:01Z"), on("2026-12"));
    assert_eq!(world.acme("2026-12-01T04:59:59Z", "2026-12-01T05:00:00Z"), on("2026-12"));
    assert_eq!(world.acme("2027-01-01T04:59:59Z", "2027-01-01T05:00:00Z"), on("2026-12"));
    assert_eq!(world.acme("2027-01-01T05:00:00Z", "2027-01-01T05:00:00Z"), on("2027-01"));
    // And to the east: February, which begins as January ends in New York, ends early.
    world.periods.change_terms("acme", Some(terms("Pacific/Kiritimati", 24)));
    assert_eq!(world.acme("2027-02-01T04:59:59Z", "2027-02-01T05:00:00Z"), on("2027-01"));
    assert_eq!(world.acme("2027-02-01T05:00:00Z", "2027-02-01T05:00:00Z"), on("2027-02"));
    assert_eq!(world.acme("2027-02-28T10:00:00Z", "2027-02-28T10:00:00Z"), on("2027-03"));
    world.check_rows();
}

#[test]
fn an_instant_is_in_the_month_that_was_begun_for_it_wherever_its_tenant_lives_now() {
    let mut world = World::new("Europe/Berlin");
    let span = |world: &World, of: &str| {
        let span = world.periods.month_at("acme", at(of));
        (span.month.to_string(), span.start.to_string(), span.end.to_string())
    };
    let is = |month: &str, start: &str, end: &str| (month.to_owned(), start.to_owned(), end.to_owned());
    let november = is("2026-11", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z");
    assert_eq!(span(&world, "2026-11-10T00:00:00Z"), november, "nothing is begun: by the calendar");
    world.acme("2026-11-10T00:00:00Z", "2026-11-10T00:00:00Z");
    world.periods.change_terms("acme", Some(terms("Asia/Kolkata", 24)));
    for at in ["2026-10-31T23:00:00Z", "2026-11-30T22:59:59Z"] {
        assert_eq!(span(&world, at), november);
    }
    // Before it by the clock that it was begun by, and behind it as the next one will be begun.
    assert_eq!(span(&world, "2026-10-31T22:59:59Z"), is("2026-10", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"));
    let december = is("2026-12", "2026-11-30T23:00:00Z", "2026-12-31T18:30:00Z");
    assert_eq!(span(&world, "2026-11-30T23:00:00Z"), december);
    assert_eq!(span(&world, "2027-01-31T18:29:59Z"), is("2027-01", "2026-12-31T18:30:00Z", "2027-01-31T18:30:00Z"));
    world.acme("2026-12-10T00:00:00Z", "2026-12-10T00:00:00Z");
    world.periods.change_terms("acme", Some(terms("UTC", 24)));
    assert_eq!(span(&world, "2026-12-31T18:29:59Z"), december);
}

#[test]
fn a_closed_month_keeps_the_labels_that_its_tenant_had() {
    let labelled = |team: &str| {
        let labels = Arc::new([("team".to_owned(), team.to_owned())].into());
        Some(Terms { labels, ..terms("UTC", 24) })
    };
    let mut world = World::new("UTC");
    world.periods.change_terms("acme", labelled("red"));
    world.acme("2026-11-10T00:00:00Z", "2026-11-10T00:00:00Z");
    world.periods.change_terms("acme", labelled("green"));
    world.acme("2026-12-10T00:00:00Z", "2026-12-10T00:00:00Z");
    world.periods.change_terms("acme", labelled("blue"));
    let closed = |name: &str| world.periods.get("acme", month(name)).unwrap().closed.clone();
    assert_eq!(closed("2026-11").unwrap().labels, labelled("green").map(|terms| terms.labels));
    assert_eq!(closed("2026-12"), None);
    world.check_rows();
}

#[test]
fn who_is_not_declared_any_more_keeps_its_clock_and_is_closed() {
    let mut world = World::new("Europe/Berlin");
    world.acme("2026-11-10T00:00:00Z", "2026-11-10T00:00:00Z");
    world.periods.change_terms("acme", None);
    world.pass(at("2026-12-01T23:00:00Z"));
    assert_eq!(world.standing("2026-11", "2026-12-01T23:00:00Z"), Standing::Closed);
    assert_eq!(world.acme("2026-12-31T22:59:59Z", "2026-12-31T23:00:00Z"), on("2026-12"));
    assert_eq!(world.acme("2026-12-31T23:00:00Z", "2026-12-31T23:00:00Z"), on("2027-01"));
}

#[test]
fn a_row_of_nobody_is_on_no_bill() {
    let mut world = World::new("UTC");
    let (placed, mut row) =
        (world.placed(at("2026-11-10T00:00:00Z")), LedgerRow { seq: 1 << 16, ..LedgerRow::default() });
    world.periods.take(&mut row, &placed, &mut Touched::default());
    assert_eq!((row.month, world.periods.list(None, None).count()), (0, 0));
}

#[test]
fn many_months_are_closed_a_few_at_a_time() {
    let mut world = World::new("UTC");
    let count = MAX_CLOSED * 2 + 10;
    for n in 0..count {
        world.settle(&format!("t{n}"), at("2026-11-10T00:00:00Z"), at("2026-11-10T00:00:00Z"), 1);
    }
    let closed = |world: &World| world.periods.list(None, None).filter(|(_, it)| it.closed.is_some()).count();
    let now = at("2026-12-02T00:00:00Z");
    for wanted in [MAX_CLOSED, 2 * MAX_CLOSED, count] {
        assert!(world.periods.next_close().unwrap() <= now);
        world.pass(now);
        assert_eq!(closed(&world), wanted);
    }
    assert_eq!(world.periods.next_close(), None);
    world.check_rows();
}

#[test]
fn months_are_listed_in_pages() {
    let mut world = World::new("UTC");
    for tenant in ["a", "b", "c"] {
        for at in [at("2026-11-10T00:00:00Z"), at("2026-12-10T00:00:00Z")] {
            world.settle(tenant, at, at, 1);
        }
    }
    let names = |tenant, after| -> Vec<(String, String)> {
        let all = world.periods.list(tenant, after);
        all.map(|(tenant, it)| (tenant.to_owned(), it.month.to_string())).collect()
    };
    let all = names(None, None);
    assert_eq!(all.len(), 6);
    for (n, (tenant, of)) in all.iter().enumerate() {
        assert_eq!(names(None, Some((tenant, month(of)))), all[n + 1..]);
    }
    assert_eq!(names(Some("b"), None), all[2..4]);
    assert_eq!(names(Some("b"), Some(("b", month("2026-11")))), all[3..4]);
}

#[test]
fn rows_that_are_none_of_these_are_refused() {
    let mut world = World::new("UTC");
    world.acme("2026-11-10T00:00:00Z", "2026-11-10T00:00:00Z");
    for (key, value) in world.periods.rows() {
        let mut other = key.clone();
        *other.last_mut().unwrap() ^= 1;
        assert!(Periods::restore([(other, value)]).is_err());
        assert!(Periods::restore([(key, vec![0xff])]).is_err());
    }
    assert!(Periods::restore([(b"x".to_vec(), Vec::new())]).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    /// Log time goes on, and what was admitted so long before is settled.
    Settle {
        tenant: usize,
        on: u64,
        before: u64,
        pico: i128,
    },
    Pass {
        on: u64,
    },
    Move {
        tenant: usize,
        zone: usize,
        hours: u64,
    },
}

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Kiritimati",
    "America/St_Johns",
    "Pacific/Pago_Pago",
];
const TENANTS: [&str; 2] = ["acme", "globex"];

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![0..HOUR, 0..3 * DAY, 0..70 * DAY];
    let before = prop_oneof![3 => 0..HOUR, 1 => 0..3 * DAY, 1 => 0..100 * DAY];
    prop_oneof![
        6 => (0..2_usize, time.clone(), before, -1_000_000_000_000_i128..9_000_000_000_000)
            .prop_map(|(tenant, on, before, pico)| Step::Settle { tenant, on, before, pico }),
        1 => time.prop_map(|on| Step::Pass { on }),
        1 => (0..2_usize, 0..ZONES.len(), 0..336_u64).prop_map(|(tenant, zone, hours)| Step::Move { tenant, zone, hours }),
    ]
}

/// Every row is on one bill, which is not closed; months follow one another; what is closed stays.
fn lives(steps: Vec<Step>, begin: Timestamp, moves: bool) {
    let mut world = World::new("UTC");
    let (mut now, mut zones, mut count, mut sum) = (begin, [ZONES[0]; 2], 0_u64, 0_i128);
    let mut closed: BTreeMap<(usize, Month), Period> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Pass { on } => {
                now = Timestamp(now.0 + on);
                world.pass(now);
            }
            Step::Move { tenant, zone, hours } => {
                let zone = if moves { ZONES[zone] } else { zones[tenant] };
                zones[tenant] = zone;
                world.periods.change_terms(TENANTS[tenant], Some(terms(zone, hours)));
            }
            Step::Settle { tenant, on, before, pico } => {
                now = Timestamp(now.0 + on);
                let admitted = Timestamp(now.0 - before);
                let first = world.periods.list(Some(TENANTS[tenant]), None).next().map(|(_, it)| it.start);
                let foretold = world.periods.month_at(TENANTS[tenant], admitted);
                assert!(foretold.has(admitted));
                let (month, late) = world.settle(TENANTS[tenant], admitted, now, pico);
                if first.is_some_and(|first| first <= admitted) {
                    assert_eq!(foretold.month, late.unwrap_or(month), "begun or not, it is the same month");
                    assert_eq!(world.periods.month_at(TENANTS[tenant], admitted), foretold);
                }
                (count, sum) = (count + 1, sum + pico);
                let period = world.periods.get(TENANTS[tenant], month).unwrap();
                assert!(period.closed.is_none() && admitted < period.end);
                assert_eq!(late.is_none(), period.start <= admitted, "{late:?}");
                let earlier = world.periods.list(Some(TENANTS[tenant]), None).map(|(_, it)| it);
                for earlier in earlier.take_while(|it| it.month < month) {
                    assert!(earlier.closed.is_some() || earlier.end <= admitted);
                }
                if !moves {
                    let calendar = Month::of(admitted, &TimeZone::parse(zones[tenant]).unwrap());
                    assert_eq!(late.unwrap_or(month), calendar);
                }
            }
        }
        for (tenant, name) in TENANTS.iter().enumerate() {
            let all: Vec<_> = world.periods.list(Some(name), None).map(|(_, it)| it).collect();
            for pair in all.windows(2) {
                assert_eq!((pair[0].end, pair[0].month.next()), (pair[1].start, pair[1].month));
                assert!(pair[0].closed.is_some() || pair[1].closed.is_none());
            }
            for it in all.into_iter().filter(|it| it.closed.is_some()) {
                let known = closed.entry((tenant, it.month)).or_insert_with(|| (**it).clone());
                assert_eq!(*known, **it, "a closed month never changes");
            }
        }
    }
    world.check_rows();
    let all: Vec<_> = world.periods.list(None, None).map(|(_, it)| it).collect();
    assert_eq!(all.iter().map(|it| it.tree.leaves()).sum::<u64>(), count);
    let usd = Currency::parse("USD").unwrap();
    let total = |it: &&Arc<Period>| it.totals().get(&usd).copied().unwrap_or_default();
    assert_eq!(all.iter().map(|it| total(it).exact.0).sum::<i128>(), sum);
    let rounding: i128 = all.iter().filter(|it| it.closed.is_some()).map(|it| total(it).rounding().0).sum();
    assert_eq!(world.periods.rounding().map(|(_, amount)| amount.0).sum::<i128>(), rounding);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_row_is_on_one_bill(
        steps in prop::collection::vec(step(), 1..40),
        begin in 900_000_000_u64..1_800_000_000,
        moves in any::<bool>(),
    ) {
        lives(steps, Timestamp::from_secs(begin), moves);
    }
}
