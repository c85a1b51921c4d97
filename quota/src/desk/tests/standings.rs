//! How limits stand after a refusal: as if the request had never come.

use super::{leases::leasing, *};

const CAPACITY: u64 = 50;

fn path(tokens: u64) -> Vec<Charge> {
    let requests = Charge { limit: Name::new("rpm"), amount: 1, ..charges(1).remove(0) };
    vec![requests, charges(tokens).remove(0)]
}

async fn ask(desk: &Desk, charges: Vec<Charge>) -> Result<Reservation, ReserveError> {
    let by = Instant::now() + Duration::from_secs(10);
    desk.reserve(charges, Durability::Journal, by, Duration::from_secs(600)).await
}

/// What the log says of alice's requests: left, and held.
fn requests(log: &Log) -> (u64, u64) {
    let ledger = log.ledger.lock();
    let key = ["alice".to_owned()];
    let held = ledger.account(Timestamp(0), "rpm", Some(&key)).unwrap().held;
    (ledger.peek(Timestamp(0), "rpm", &key).unwrap().remaining, held)
}

/// A desk that has a lease of the one limit, while nothing of the other is left; with how many requests were counted.
async fn refusing(log: &Arc<Log>) -> (Desk, u64) {
    log.set_rule(Rule { limit: Name::new("rpm"), unit: Unit::Requests, ..rule(1, CAPACITY) });
    let (desk, _tracker) = leasing(log, 1);
    let settle = |it: Reservation, used| it.dispatch(named("r")).settle(input(used), Outcome::Settled, named("r"));
    settle(ask(&desk, path(90)).await.unwrap(), 90);
    for used in 2..20 {
        let before = desk.stats().local;
        settle(ask(&desk, path(1)[..1].to_vec()).await.unwrap(), 0);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if desk.stats().local > before {
            return (desk, used);
        }
    }
    panic!("no lease came: {:?}", desk.stats());
}

#[tokio::test(start_paused = true)]
async fn what_a_refused_request_had_drawn_is_not_taken_in_the_limits_that_did_not_refuse_it() {
    let log = Log::with_limit(100);
    let (desk, used) = refusing(&log).await;
    assert_eq!(requests(&log), (CAPACITY - used, 0));
    for _ in 0..3 {
        let refused = ask(&desk, path(50)).await.unwrap_err();
        let ReserveError::Exhausted { limit, remaining, standings, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((&*limit, remaining), ("tpm", 10));
        let left: Vec<_> = standings.iter().map(|it| (&*it.limit, it.remaining)).collect();
        assert_eq!(left, [("rpm", CAPACITY - used), ("tpm", 10)]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_request_has_drawn_is_told_once_the_log_has_granted_the_rest() {
    let log = Log::with_limit(100);
    let (desk, used) = refusing(&log).await;
    let granted = ask(&desk, path(5)).await.unwrap();
    let left: Vec<_> = granted.standings().iter().map(|it| (it.limit.to_string(), it.remaining)).collect();
    assert_eq!(left, [("rpm".into(), CAPACITY - used - 1), ("tpm".into(), 5)]);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(requests(&log), (CAPACITY - used - 1, 1));
}
