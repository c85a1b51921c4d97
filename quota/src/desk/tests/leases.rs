//! Desks that admit from leases.

use super::*;
use crate::ledger::News;

/// The desk of a node that asks for leases and follows the log.
pub(super) fn leasing(log: &Arc<Log>, node: u64) -> (Desk, TaskTracker) {
    let open = NodeOpen { node, incarnation: 1, ..NodeOpen::default() };
    log.ledger.lock().open(LogIndex(2), Timestamp(0), &open, &mut Changes::new());
    let tracker = TaskTracker::new();
    let journal = Arc::new(Forgetful::default());
    let desk = Desk::spawn(DeskConfig::new(NodeId(node), 1), Arc::clone(log) as Arc<dyn Uplink>, journal, &tracker);
    tracker.close();
    log.followers.lock().push(desk.clone());
    (desk, tracker)
}

/// As [`super::reserve`], from leases where there are any.
pub(super) async fn reserve(desk: &Desk, amount: u64) -> Result<Reservation, ReserveError> {
    let by = Instant::now() + Duration::from_secs(10);
    desk.reserve(charges(amount), Durability::Journal, by, Duration::from_secs(600)).await
}

pub(super) fn settle(reservation: Reservation, used: u64) {
    reservation.dispatch(named("r")).settle(input(used), Outcome::Settled, named("r"));
}

/// Small requests until one is admitted from a lease.
pub(super) async fn warm(desk: &Desk) -> u64 {
    let before = desk.stats().local;
    for asked in 1..100 {
        settle(reserve(desk, 10).await.unwrap(), 10);
        if desk.stats().local > before {
            return 10 * asked;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no lease came: {:?}", desk.stats());
}

/// What nodes have in hand and no request holds.
pub(super) fn leased(log: &Log) -> u64 {
    log.ledger.lock().accounts(Timestamp(0), &Query::default()).accounts[0].leased
}

#[tokio::test(start_paused = true)]
async fn a_lease_admits_while_the_log_is_away_and_all_of_it_is_counted() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = leasing(&log, 1);
    let used = warm(&desk).await;
    log.fail(&[Fault::Unreachable; 20]);
    let begun = Instant::now();
    let (one, other) = (reserve(&desk, 10).await.unwrap(), reserve(&desk, 10).await.unwrap());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let standing = &other.standings()[0];
    assert_eq!((standing.capacity, standing.remaining), (1_000, 1_000 - used - 20), "right to the unit");
    settle(one, 4);
    drop(other);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((log.alice(), leased(&log)), ((used + 4, 0, 0), 0), "and nothing is left with the node");
}

#[tokio::test(start_paused = true)]
async fn what_another_node_has_in_hand_is_called_back_before_anyone_is_refused() {
    let log = Log::with_limit(1_000);
    let ((one, _one), (other, tracker)) = (leasing(&log, 1), leasing(&log, 2));
    let used = warm(&one).await + warm(&other).await;
    assert!(leased(&log) > 0);
    let held = reserve(&one, 10).await.unwrap();
    let all = reserve(&other, 1_000 - used - 10).await.unwrap();
    assert_eq!(log.alice(), (used, 1_000 - used, 0));
    assert_eq!((one.stats().parked, other.stats().parked), (0, 1), "who waited for that is counted apart");
    let refused = reserve(&one, 1).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Exhausted { remaining: 0, .. }), "{refused:?}");
    settle(held, 3);
    drop(all);
    assert_eq!(stopped(&other, &tracker).await, 0);
    settle(reserve(&one, 1_000 - used - 3).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_while_others_give_back_leaves_nothing_held() {
    let log = Log::with_limit(1_000);
    let ((one, tracker), (other, _other)) = (leasing(&log, 1), leasing(&log, 2));
    let used = warm(&one).await + warm(&other).await;
    log.followers.lock().pop(); // it applies nothing any more, and so gives nothing back
    let soon = Instant::now() + Duration::from_millis(200);
    let late =
        one.reserve(charges(1_000 - used), Durability::Journal, soon, Duration::from_secs(600)).await.unwrap_err();
    assert!(matches!(late, ReserveError::Unavailable(Unavailable::Deadline)), "{late:?}");
    assert_eq!(stopped(&one, &tracker).await, 0);
    assert_eq!(log.alice(), (used, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_log_alone_may_decide_asks_for_no_lease() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = desk(&log);
    log.followers.lock().push(desk.clone());
    for _ in 0..10 {
        settle(super::reserve(&desk, 10).await.unwrap(), 10);
    }
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((desk.stats().local, log.ledger.lock().counters().leased), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_left_is_said_at_once_whether_anybody_calls_or_not() {
    let log = Log::with_limit(1_000);
    log.open(2);
    let tracker = TaskTracker::new();
    let recovers = vec![Recover { incarnation: 1, done: true, ..Recover::default() }];
    let config = DeskConfig { recovers, ..DeskConfig::new(NodeId(1), 2) };
    let desk = Desk::spawn(config, Arc::clone(&log) as Arc<dyn Uplink>, Arc::new(Forgetful::default()), &tracker);
    assert_eq!(log.ledger.lock().earlier(1).len(), 1);
    log.fail(&[Fault::Unreachable]);
    until(|| log.ledger.lock().earlier(1).is_empty()).await;
    let took = desk.stats().recovery;
    assert!(took > Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(desk.stats().recovery, took, "it is over");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_decided_while_the_node_is_cut_off_is_counted_apart() {
    let log = Log::with_limit(1_000);
    let (desk, _tracker) = leasing(&log, 1);
    warm(&desk).await;
    log.fail(&[Fault::Unreachable; 1_000]);
    let ask =
        || desk.reserve(charges(900), Durability::Journal, Instant::now() + Duration::from_secs(1), Duration::ZERO);
    assert!(ask().await.is_err());
    assert_eq!((desk.stats().undecided, desk.stats().cut_off), (1, 0), "it may spend what it has");
    tokio::time::sleep(DeskConfig::new(NodeId(1), 1).isolation).await;
    assert!(ask().await.is_err());
    assert_eq!((desk.stats().undecided, desk.stats().cut_off), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_call_tells_its_age() {
    let log = Log::with_limit(1_000);
    let (desk, _tracker) = leasing(&log, 1);
    warm(&desk).await;
    until(|| leased(&log) > 0 && log.alice().1 == 0).await;
    assert_eq!(desk.stats().oldest, Duration::ZERO);
    let old = reserve(&desk, 7).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let young = reserve(&desk, 7).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(desk.stats().oldest.as_secs(), 4);
    drop(old);
    assert_eq!(desk.stats().oldest.as_secs(), 1);
    drop(young);
}

/// Waits for a condition, in paused time.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(1), "waited in vain");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_long_call_has_drawn_is_told_though_nothing_else_is_to_be_said() {
    let log = Log::with_limit(1_000);
    let (desk, _tracker) = leasing(&log, 1);
    warm(&desk).await;
    until(|| leased(&log) > 0 && log.alice().1 == 0).await;
    let _long = reserve(&desk, 7).await.unwrap();
    until(|| log.alice().1 == 7).await;
}

#[tokio::test(start_paused = true)]
async fn ends_that_give_nothing_back_wait_for_company_whatever_else_is_said_and_applied() {
    let log = Log::with_limit(10_000_000);
    let ((one, _one), (other, _other)) = (leasing(&log, 1), leasing(&log, 2));
    let second = async |amount| {
        // Each node serves a call a millisecond, and applies what the other says.
        for _ in 0..1_000 {
            settle(reserve(&one, amount).await.unwrap(), amount);
            settle(reserve(&other, amount).await.unwrap(), amount);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    second(10).await;
    let before = (one.stats(), other.stats());
    second(10).await;
    let after = (one.stats(), other.stats());
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert_eq!(after.granted, before.granted, "all from leases");
        let frames = after.proposals - before.proposals;
        assert!((20..=35).contains(&frames), "{frames} frames for {} calls", after.local - before.local);
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_last_for_a_while_are_asked_for_with_whatever_else_is_said() {
    let log = Log::with_limit(10_000_000);
    let (desk, _tracker) = leasing(&log, 1);
    let seconds = async |count: u64| {
        // One call a millisecond, over many accounts.
        for number in 0..count * 1_000 {
            let mut charges = charges(10);
            charges[0].key = vec![format!("consumer-{}", number % 100)];
            let by = Instant::now() + Duration::from_secs(10);
            let hold_for = Duration::from_secs(600);
            settle(desk.reserve(charges, Durability::Journal, by, hold_for).await.unwrap(), 10);
            // Log time is the index here: what else is said has to make it pass as time does.
            log.ahead.fetch_add(1_000, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    seconds(4).await;
    let before = desk.stats();
    seconds(4).await;
    let (frames, after) = (desk.stats().proposals - before.proposals, desk.stats());
    assert_eq!(after.granted, before.granted, "all from leases");
    assert!(frames <= 4 * 30, "{frames} frames for {} calls", after.local - before.local);
}

/// What was used of a sliding lease is in the node's hands until it has aged: it is nothing to spend.
#[tokio::test(start_paused = true)]
async fn a_sliding_lease_that_is_used_steadily_is_granted_more_all_through_its_window() {
    let log = Log::with_rule(Rule { algorithm: tollgate_model::Algorithm::Sliding, ..rule(1, 100_000_000) });
    let (desk, _tracker) = leasing(&log, 1);
    let seconds = async |count: u64| {
        for _ in 0..count * 100 {
            settle(reserve(&desk, 100).await.unwrap(), 100);
            log.ahead.fetch_add(10_000, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    seconds(4).await;
    let before = desk.stats();
    seconds(90).await;
    let after = desk.stats();
    assert_eq!((after.granted - before.granted, after.local - before.local), (0, 9_000), "all from leases");
}

impl crate::Replica for Log {
    fn show(&self, look: &mut dyn FnMut(&Ledger)) {
        look(&self.ledger.lock());
    }
}

/// A share of each account is there by rule, and another node has used some of this one before.
#[tokio::test(start_paused = true)]
async fn the_first_answer_of_a_node_about_an_account_knows_what_others_have_used() {
    let log = Arc::new(Log::default());
    let tracker = TaskTracker::new();
    let open = NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() };
    log.ledger.lock().open(LogIndex(2), Timestamp(0), &open, &mut Changes::new());
    let (other, others) = leasing(&log, 2);
    log.set_limit(1, 1_000_000);
    settle(super::reserve(&other, 300).await.unwrap(), 250);
    assert_eq!(stopped(&other, &others).await, 0);
    let replica: Option<Arc<dyn crate::Replica>> = Some(Arc::clone(&log) as _);
    let config = DeskConfig { replica, ..DeskConfig::new(NodeId(1), 1) };
    let desk = Desk::spawn(config, Arc::clone(&log) as Arc<dyn Uplink>, Arc::new(Forgetful::default()), &tracker);
    tracker.close();
    desk.follow(&log.ledger.lock(), &News { all: true, ..News::default() });
    log.followers.lock().push(desk.clone());
    let reservation = reserve(&desk, 1_000).await.unwrap();
    assert!(reservation.is_local());
    assert_eq!(reservation.standings()[0].remaining, 1_000_000 - 250 - 1_000);
    settle(reservation, 700);
    let again = reserve(&desk, 1_000).await.unwrap();
    assert_eq!((again.is_local(), again.standings()[0].remaining), (true, 1_000_000 - 250 - 700 - 1_000));
    drop(again);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (950, 0, 0));
}
