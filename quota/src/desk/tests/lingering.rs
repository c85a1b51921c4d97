//! Requests that come before the log knows of the end of others.

use tokio::time::sleep;

use super::*;
use crate::Way;

/// A frame waits for so long for company, and the log of these tests answers at once.
const ONE_FRAME: Duration = Duration::from_millis(4);

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Asks now, and tells what came of it and how long that took.
fn ask(desk: &Desk, amount: u64) -> tokio::task::JoinHandle<(Result<Reservation, ReserveError>, Duration)> {
    let (desk, begun) = (desk.clone(), Instant::now());
    TaskTracker::new().spawn(async move { (reserve(&desk, amount).await, begun.elapsed()) })
}

fn settle(reservation: Reservation, used: u64) {
    reservation.dispatch(named("r")).settle(input(used), Outcome::Settled, named("r"));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_log_holds_something_of_is_said_within_two_milliseconds() {
    let log = Log::with_limit(100);
    let (desk, _tracker) = desk(&log);
    let held = reserve(&desk, 60).await.unwrap();
    assert_eq!(held.way(), Way::Central);
    let begun = Instant::now();
    settle(held, 10);
    while log.alice() != (10, 0, 0) {
        sleep(Duration::from_micros(100)).await;
        assert!(
            begun.elapsed() <= ms(2),
            "{:?} after the end of its answer it is held: {:?}",
            begun.elapsed(),
            log.alice()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_just_before_an_end_is_admitted_with_it() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let first = reserve(&desk, 60).await.unwrap();
    let second = ask(&desk, 60);
    sleep(ms(10)).await;
    settle(first, 5);
    let (second, took) = second.await.unwrap();
    let second = second.unwrap();
    assert_eq!((second.standings()[0].remaining, desk.stats().parked, desk.stats().refused), (35, 1, 0));
    assert!(took <= ms(30), "{took:?}");
    assert_eq!(second.way(), Way::Parked, "a wait for others is none for the log");
    settle(second, 5);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_used_is_refused_at_once() {
    let log = Log::with_limit(100);
    let (desk, _tracker) = desk(&log);
    settle(reserve(&desk, 60).await.unwrap(), 50);
    let _held = reserve(&desk, 10).await.unwrap();
    let (refused, took) = ask(&desk, 51).await.unwrap();
    assert!(matches!(refused, Err(ReserveError::Exhausted { remaining: 40, .. })), "{refused:?}");
    assert!(took <= ONE_FRAME, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_stays_held_is_refused_within_a_bound_and_leaves_nothing() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let held = reserve(&desk, 60).await.unwrap();
    let (refused, took) = ask(&desk, 60).await.unwrap();
    let Err(ReserveError::Exhausted { remaining, standings, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((remaining, standings.len()), (40, 1));
    assert!(took >= ms(80) && took <= ms(105), "{took:?}");
    assert!(desk.stats().proposals <= 7, "{} for one that was refused", desk.stats().proposals);
    settle(held, 60);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((log.alice(), desk.stats().refused), ((60, 0, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_tells_what_the_log_has_said() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let held = reserve(&desk, 60).await.unwrap();
    for allowed in [false, true] {
        let begun = Instant::now();
        let (allowed, by, hold_for) = ([allowed], begun + ms(30), Duration::from_secs(60));
        let asked = desk.reserve_or_allow(charges(60), &allowed, Durability::Quorum, by, hold_for, None);
        let refused = asked.await.unwrap_err();
        assert!(matches!(refused, ReserveError::Exhausted { remaining: 40, .. }), "{refused:?}");
        assert_eq!(begun.elapsed().as_millis(), 30);
    }
    assert_eq!((desk.stats().open, desk.stats().refused, desk.stats().undecided), (1, 2, 0), "it is forgotten");
    settle(held, 5);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (5, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_a_crowd_a_few_linger_and_the_log_is_asked_no_more_often_for_them() {
    let log = Log::with_limit(100);
    let (desk, _tracker) = desk(&log);
    let _held = reserve(&desk, 60).await.unwrap();
    let before = desk.stats();
    let crowd: Vec<_> = (0..500).map(|_| ask(&desk, 60)).collect();
    let mut at_once = 0;
    for told in crowd {
        let (refused, took) = told.await.unwrap();
        assert!(matches!(refused, Err(ReserveError::Exhausted { .. })), "{refused:?}");
        at_once += usize::from(took <= ONE_FRAME);
    }
    assert_eq!(at_once, 500 - 16);
    let after = desk.stats();
    assert!(after.proposals - before.proposals <= 6, "{} entries", after.proposals - before.proposals);
    assert!(after.records - before.records <= 500 + 5 * 16, "{} records", after.records - before.records);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_goes_before_who_comes_later() {
    let log = Log::with_limit(100);
    let (desk, _tracker) = desk(&log);
    let first = reserve(&desk, 60).await.unwrap();
    let waits = ask(&desk, 60);
    sleep(ms(19)).await;
    settle(first, 5);
    sleep(ms(3)).await;
    assert!(!waits.is_finished(), "it asks again a millisecond from now");
    let later = ask(&desk, 60);
    let (waited, _) = waits.await.unwrap();
    assert!(waited.is_ok(), "{waited:?}");
    let (later, _) = later.await.unwrap();
    assert!(matches!(later, Err(ReserveError::Exhausted { .. })), "{later:?}");
}
