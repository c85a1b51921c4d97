//! Requests that hold what they use in parts, as their streams grow.

use super::*;

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
