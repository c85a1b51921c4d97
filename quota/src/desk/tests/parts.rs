//! Requests that hold what they use in parts, as their streams grow.

use super::{leases::until, *};

fn output(tokens: u64) -> Usage {
    Usage { output_tokens: tokens, ..Usage::default() }
}

/// A desk, and a request's record beside the first part of what it holds.
async fn begun(log: &Arc<Log>) -> (Desk, TaskTracker, InFlight, HeldPart) {
    let (desk, tracker) = desk(log);
    let by = Instant::now() + Duration::from_secs(10);
    let row = desk.reserve(Vec::new(), Durability::Journal, by, Duration::ZERO).await.unwrap();
    let first = reserve(&desk, 60).await.unwrap();
    let row = row.dispatch(named("r"));
    (desk, tracker, row, first.dispatch_part())
}

#[tokio::test(start_paused = true)]
async fn the_parts_are_charged_and_the_request_is_recorded_once() {
    let log = Log::with_limit(100);
    let (desk, tracker, row, first) = begun(&log).await;
    let more = reserve(&desk, 30).await.unwrap().dispatch_part();
    let unused = reserve(&desk, 10).await.unwrap().dispatch_part();
    more.durable(Instant::now()).await.unwrap();
    assert_eq!(log.alice(), (0, 100, 0));
    first.settle(Usage { input_tokens: 10, ..output(50) }, Outcome::Settled);
    more.settle(output(12), Outcome::Settled);
    unused.void();
    row.settle(Usage { input_tokens: 10, ..output(62) }, Outcome::Settled, named("r"));
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (72, 0, 0));
    assert_eq!(*log.used.lock(), ["r"], "one row, whatever there were of parts");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_forgotten_is_settled_at_what_was_counted() {
    let log = Log::with_limit(100);
    let (desk, tracker, row, first) = begun(&log).await;
    let mut more = reserve(&desk, 30).await.unwrap().dispatch_part();
    more.count(output(30));
    drop((row, first, more));
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((log.alice(), log.used.lock().len()), ((30, 0, 0), 1), "what nothing was counted of is free");
}

/// R9: what is not known to have ended counts at its bound.
#[tokio::test(start_paused = true)]
async fn after_a_crash_every_part_counts_as_it_was_reserved_and_makes_no_row() {
    let log = Log::with_limit(100);
    let (desk, tracker, row, first) = begun(&log).await;
    let more = reserve(&desk, 30).await.unwrap().dispatch_part();
    log.open(2);
    assert_eq!(log.alice(), (90, 0, 0));
    drop((row, first, more));
    drop((desk, tracker));
    assert!(log.used.lock().is_empty());
}

/// What is in the log says whose it is, unless nobody would have a row by it.
#[tokio::test(start_paused = true)]
async fn what_the_log_has_outlives_the_node_and_its_disk() {
    let log = Log::with_limit(100_000);
    let (desk, tracker) = desk(&log);
    let (by, hold_for) = (Instant::now() + Duration::from_secs(10), Duration::from_secs(600));
    let asked = |durability, whose: Attribution| {
        let desk = desk.clone();
        async move { desk.reserve_or_allow(charges(20), &[], durability, by, hold_for, Some(&whose)).await.unwrap() }
    };
    let whole = asked(Durability::Quorum, named("whole")).await.dispatch(named("whole"));
    let ended = asked(Durability::Journal, named("ended")).await.dispatch(named("ended"));
    let unjournaled = asked(Durability::Memory, named("unjournaled")).await.dispatch(named("unjournaled"));
    let row = desk.record_in_log(&named("in parts"), by, hold_for).await.unwrap().dispatch(named("in parts"));
    let (part, unsent) =
        (reserve(&desk, 20).await.unwrap().dispatch_part(), asked(Durability::Quorum, named("unsent")).await);
    let unused = desk.record_in_log(&named("unused"), by, hold_for).await.unwrap();
    assert_eq!((log.alice(), log.ledger.lock().open_holds()), ((0, 100, 0), 7));
    ended.settle(input(5), Outcome::Settled, named("ended"));
    drop((unsent, unused));
    until(|| log.ledger.lock().open_holds() <= 4).await;
    assert_eq!(*log.used.lock(), ["ended"]);
    let lost = crate::NodeLost { node: 1, incarnation: 1, ..crate::NodeLost::default() };
    log.ledger.lock().lose(Timestamp(0), &lost, &mut Changes::new());
    log.turn();
    let unknown = log.ledger.lock().take_unknown(Timestamp(0), &mut Changes::new());
    let ids: Vec<_> = unknown.iter().map(|it| it.used().attribution.request_id.clone()).collect();
    assert_eq!(ids, ["whole", "in parts"]);
    drop((whole, unjournaled, row, part, desk, tracker));
}
