//! What is in flight under shadow limits on concurrency: counted here at once, and in the log within some time.

use super::*;
use crate::Shadow;

fn log() -> Arc<Log> {
    Log::with_rule(Rule { unit: Unit::Concurrency, shadow: true, ..rule(1, 3) })
}

fn seeing(log: &Arc<Log>, node: u64) -> (Desk, TaskTracker) {
    log.ledger.lock().open(
        LogIndex(2),
        Timestamp(0),
        &NodeOpen { node, incarnation: 1, ..NodeOpen::default() },
        &mut Changes::new(),
    );
    desk_with(log, DeskConfig { replica: Some(Arc::clone(log) as _), ..DeskConfig::new(NodeId(node), 1) })
}

fn account() -> Vec<Account> {
    vec![Account { limit: Name::new("tpm"), version: LogIndex(1), key: vec!["alice".into()] }]
}

/// Until the log has been told.
async fn told() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(start_paused = true)]
async fn all_nodes_see_what_is_in_flight_and_whoever_goes_is_counted_no_more() {
    let log = log();
    let ((one, _tracks), (other, _too)) = (seeing(&log, 1), seeing(&log, 2));
    let mut here: Vec<_> = (0..3).map(|_| one.presence(account())).collect();
    assert_eq!(here.iter().map(|(_, counts)| counts[0]).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(log.alice(), (0, 0, 0), "nobody waits for the log");
    told().await;
    assert_eq!(log.alice(), (0, 3, 0));
    let (_there, counts) = other.presence(account());
    assert_eq!(counts, [4]);
    here.pop();
    let (_again, counts) = one.presence(account());
    assert_eq!(counts, [3], "the other has told nothing yet");
    told().await;
    assert_eq!(log.alice(), (0, 4, 0));
    assert_eq!(one.presence(account()).1, [5]);
}

#[tokio::test(start_paused = true)]
async fn it_is_in_flight_until_its_request_is_over_however_that_ends() {
    let log = log();
    let (desk, tracker) = seeing(&log, 1);
    let place = |durability| {
        let by = Instant::now() + Duration::from_secs(1);
        let desk = desk.clone();
        async move { desk.reserve(Vec::new(), durability, by, Duration::ZERO).await.unwrap() }
    };
    let shadow = || Shadow { presence: Some(desk.presence(account()).0), ..Shadow::default() };
    let mut moved = place(Durability::Memory).await.with_shadow(shadow());
    let dropped = place(Durability::Memory).await.with_shadow(shadow());
    let cut = place(Durability::Journal).await.with_shadow(shadow()).dispatch(named("cut"));
    let whole = place(Durability::Journal).await.with_shadow(moved.take_shadow()).dispatch(named("whole"));
    drop(moved);
    let now = || desk.presence(account()).1[0] - 1;
    assert_eq!(now(), 3);
    drop(dropped);
    assert_eq!(now(), 2);
    drop(cut);
    assert_eq!(now(), 1);
    drop(whole.settle(input(1), Outcome::Settled, named("whole")));
    assert_eq!(now(), 0);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_unseen_costs_no_entry_and_a_stop_tells_the_rest() {
    let log = log();
    let (desk, tracker) = seeing(&log, 1);
    for _ in 0..100 {
        drop(desk.presence(account()));
    }
    told().await;
    assert_eq!(desk.stats().proposals, 0);
    let stays = desk.presence(account());
    told().await;
    assert_eq!((log.alice(), desk.stats().proposals), ((0, 1, 0), 1));
    drop(stays);
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_the_log_is_gone_and_no_more_is_kept_than_is_in_flight() {
    let log = log();
    log.fail(&[Fault::Unreachable; 20]);
    let (desk, _tracker) = seeing(&log, 1);
    let key = |at: u32| vec![Account { key: vec![at.to_string()], ..account().remove(0) }];
    let _kept = desk.presence(key(0));
    told().await;
    for at in 1..1_000 {
        drop(desk.presence(key(at)));
    }
    let page = || log.ledger.lock().accounts(Timestamp(0), &Query::default()).accounts;
    assert!(page().is_empty());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let known: Vec<_> = page().into_iter().map(|view| (view.account, view.held)).collect();
    assert_eq!(known, [("0".to_owned(), 1)]);
}
