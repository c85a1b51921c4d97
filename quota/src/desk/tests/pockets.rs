//! Desks whose requests take from pockets.

use super::{
    leases::{leased, leasing, reserve, settle, until},
    *,
};
use crate::{Account, Path};

const WAIT: Duration = Duration::from_millis(1);

fn path(desk: &Desk) -> Path {
    let account = Account { limit: Name::new("tpm"), version: LogIndex(1), key: vec!["alice".into()] };
    desk.path(vec![account])
}

/// Requests of class `memory` until they are served from a pocket. What they used.
async fn warm(desk: &Desk, path: &Path) -> u64 {
    for asked in 1..200 {
        let by = Instant::now() + Duration::from_secs(10);
        let reservation = path.reserve(&[10], Durability::Memory, by, Duration::from_secs(600)).await.unwrap();
        settle(reservation, 10);
        if path.try_reserve(&[1]).is_some() {
            assert_eq!(desk.stats().pockets, 1);
            return 10 * asked;
        }
        tokio::time::sleep(WAIT).await;
    }
    panic!("no pocket was opened: {:?}", desk.stats());
}

/// The keeper looks, now.
pub(super) fn sweep(desk: &Desk) {
    let mut state = desk.shared.lock();
    desk.shared.pass(&mut state);
    desk.shared.sweep_state(&mut state);
}

/// What is left in the lease and in its pocket.
fn in_hand(desk: &Desk) -> u64 {
    sweep(desk);
    let (key, state) = (["alice".to_owned()], desk.shared.lock());
    let lease = state.agent.book().find("tpm", &key).unwrap();
    let purse = desk.shared.front.index.read()["tpm"][&key[..]].pocket.sums().left();
    assert!(purse > 0);
    purse + state.agent.book().hand(lease).unwrap().free
}

async fn with_pocket(capacity: u64) -> (Arc<Log>, Desk, TaskTracker, Path, u64) {
    let log = Log::with_limit(capacity);
    let (desk, tracker) = leasing(&log, 1);
    let path = path(&desk);
    let used = warm(&desk, &path).await;
    (log, desk, tracker, path, used)
}

#[tokio::test(start_paused = true)]
async fn a_pocket_serves_and_all_of_it_is_counted_as_soon_as_ever() {
    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    let before = desk.stats();
    let held = path.try_reserve(&[7]).unwrap();
    let standing = &held.standings()[0];
    assert_eq!((standing.capacity, standing.remaining), (100_000, 100_000 - used - 7), "right to the unit");
    assert!(held.is_local() && desk.stats().local == before.local + 1 && desk.stats().open == before.open + 1);
    until(|| log.alice() == (used, 7, 0)).await;
    held.dispatch(Attribution::default()).settle(input(4), Outcome::Settled, Attribution::default());
    let begun = Instant::now();
    until(|| log.alice() == (used + 4, 0, 0)).await;
    assert!(begun.elapsed() <= Duration::from_millis(50), "{:?}", begun.elapsed());
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((log.alice(), leased(&log), desk.stats().pockets), ((used + 4, 0, 0), 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_end_with_a_name_is_told_by_name_and_what_is_dropped_is_voided() {
    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    until(|| log.used.lock().len() == usize::try_from(used / 10).unwrap()).await;
    log.used.lock().clear();
    path.try_reserve(&[7]).unwrap().dispatch(named("r1")).settle(input(3), Outcome::Settled, named("r1"));
    drop(path.try_reserve(&[7]).unwrap());
    let mut dropped = path.try_reserve(&[7]).unwrap().dispatch(named("r2"));
    dropped.count(input(2));
    drop(dropped);
    path.try_reserve(&[7]).unwrap().dispatch(named("r3")).void();
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((log.alice(), log.used.lock().clone()), ((used + 5, 0, 0), vec!["r1".to_owned(), "r2".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_with_charges_find_the_pocket_too() {
    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    let lock = desk.shared.lock();
    // Nobody gets the lock: whoever is served now was served without it.
    let held = desk.shared.take(&charges(5)).unwrap();
    let other = path.try_reserve(&[5]).unwrap();
    drop(lock);
    let mut stale = charges(5);
    stale[0].version = LogIndex(2);
    assert!(desk.shared.take(&stale).is_none());
    assert!(desk.shared.take(&[charges(5), charges(5)].concat()).is_none(), "a limit twice is malformed");
    drop((held, other));
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (used, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_pocket_lacks_the_lease_has_and_the_other_way_round() {
    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    until(|| log.alice() == (used, 0, 0)).await;
    log.fail(&[Fault::Unreachable; 500]);
    let all = in_hand(&desk);
    let by = || Instant::now() + Duration::from_millis(50);
    let most = path.reserve(&[all - 3], Durability::Memory, by(), Duration::from_secs(60)).await.unwrap();
    let rest = desk.reserve(charges(3), Durability::Journal, by(), Duration::from_secs(60)).await.unwrap();
    assert!(most.is_local() && rest.is_local(), "all of the lease can be used by whoever comes");
    assert!(path.try_reserve(&[1]).is_none());
    let short = path.reserve(&[1], Durability::Memory, by(), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(short, ReserveError::Unavailable(Unavailable::Deadline)), "{short:?}");
    drop((most, rest));
    log.faults.lock().clear();
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (used, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_another_node_needs_is_called_back_from_pockets_and_from_who_ends_after_that() {
    let (log, one, tracker, path, used) = with_pocket(100_000).await;
    let held = path.try_reserve(&[10]).unwrap().dispatch(Attribution::default());
    let (other, _other) = leasing(&log, 2);
    let all = reserve(&other, 100_000 - used - 10).await.unwrap();
    assert!(path.try_reserve(&[1]).is_none(), "it was called back");
    assert_eq!((log.alice(), one.stats().pockets), ((used, 100_000 - used, 0), 0));
    held.settle(input(3), Outcome::Settled, Attribution::default());
    until(|| log.alice() == (used + 3, 100_000 - used - 10, 0)).await;
    settle(reserve(&other, 7).await.unwrap(), 7);
    drop(all);
    assert_eq!(stopped(&one, &tracker).await, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_at_the_end_of_the_window_or_after_it() {
    let (_log, desk, _tracker, path, _) = with_pocket(100_000).await;
    let end = Duration::from_secs(60); // which the log, whose time stands still, does not show
    let mut served = 0;
    for _ in 0..700 {
        let now = Duration::from_micros(desk.shared.front.log_time(desk.shared.age()));
        let taken = path.try_reserve(&[1]);
        assert!(taken.is_none() || now < end, "taken at {now:?}");
        served += u32::from(taken.is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((590..=600).contains(&served), "{served}: until then");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_answers_takes_nothing_from_pockets() {
    let (log, desk, _tracker, path, _) = with_pocket(100_000).await;
    log.fail(&[Fault::Unreachable; 10_000]);
    for _ in 0..200 {
        drop(path.try_reserve(&[1]).unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(desk.stats().isolated && path.try_reserve(&[1]).is_none() && desk.shared.take(&charges(1)).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_edit_a_newer_process_a_quarantine_and_a_stop_close_the_pocket() {
    // A limit that was changed is asked for by its newest version alone, of its newest capacity.
    let (log, desk, _tracker, path, _) = with_pocket(100_000).await;
    log.set_limit(2, 90_000);
    assert!(path.try_reserve(&[1]).is_none() && desk.stats().pockets == 0);

    let (_log, desk, _tracker, path, _) = with_pocket(100_000).await;
    desk.quarantine("tpm", Some(&["alice".to_owned()]), Instant::now() + Duration::from_secs(5));
    assert!(path.try_reserve(&[1]).is_none() && desk.stats().pockets == 0);
    let by = Instant::now() + Duration::from_secs(1);
    let refused = path.reserve(&[1], Durability::Memory, by, Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Unavailable(Unavailable::Quarantined)), "{refused:?}");

    let (log, desk, _tracker, path, _) = with_pocket(100_000).await;
    let held = path.try_reserve(&[1]).unwrap();
    log.open(2);
    let _asks = desk.reserve(charges(1), Durability::Quorum, Instant::now() + Duration::from_secs(1), WAIT).await;
    assert!(path.try_reserve(&[1]).is_none() && desk.stats().pockets == 0);
    drop(held);

    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    let held = path.try_reserve(&[9]).unwrap().dispatch(named("late"));
    let mut stopping = tokio::task::JoinSet::new();
    stopping.spawn({
        let desk = desk.clone();
        async move { desk.stop(Duration::from_secs(5)).await }
    });
    until(|| desk.stats().pockets == 0).await;
    assert!(path.try_reserve(&[1]).is_none() && stopping.try_join_next().is_none(), "it waits for who holds something");
    held.settle(input(4), Outcome::Settled, named("late"));
    assert_eq!(stopping.join_all().await, [Flushed { unsettled: 0 }]);
    tracker.wait().await;
    assert_eq!((log.alice(), leased(&log)), ((used + 4, 0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_pocket_that_nobody_uses_is_closed_and_what_is_held_of_it_ends_in_its_own_window() {
    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    let held = path.try_reserve(&[10]).unwrap().dispatch(Attribution::default());
    until(|| log.alice() == (used, 10, 0)).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!((desk.stats().pockets, desk.stats().open), (0, 1));
    log.turn();
    held.settle(input(8), Outcome::Settled, Attribution::default());
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (0, 0, 0), "of the new window nothing is used");
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_blocks_at_once() {
    let (log, desk, tracker, path, used) = with_pocket(100_000).await;
    let call = path.try_reserve(&[10]).unwrap().dispatch(Attribution::default());
    call.settle(input(100_000), Outcome::Settled, Attribution::default());
    assert!(path.try_reserve(&[1]).is_none(), "all in hand makes up for it");
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (used + 10, 0, 99_990));
}

#[tokio::test(start_paused = true)]
async fn a_full_desk_sheds_who_comes_by_pockets_as_well() {
    let log = Log::with_limit(100_000);
    let tracker = TaskTracker::new();
    let config = DeskConfig { max_open: 3, ..DeskConfig::new(NodeId(1), 1) };
    let desk = Desk::spawn(config, Arc::clone(&log) as Arc<dyn Uplink>, Arc::new(Forgetful::default()), &tracker);
    log.followers.lock().push(desk.clone());
    let path = path(&desk);
    let by = || Instant::now() + Duration::from_secs(1);
    loop {
        let asked = path.reserve(&[10], Durability::Memory, by(), Duration::from_secs(600)).await;
        drop(asked.unwrap());
        if path.try_reserve(&[1]).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(desk.stats().open <= 3);
    }
    until(|| desk.stats().open == 0).await;
    let held: Vec<_> = (0..3).map(|_| path.try_reserve(&[1]).unwrap()).collect();
    assert!(path.try_reserve(&[1]).is_none());
    let shed = path.reserve(&[1], Durability::Memory, by(), Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(shed, ReserveError::Unavailable(Unavailable::Overloaded)), "{shed:?}");
    drop(held);
    assert!(path.try_reserve(&[1]).is_some());
}

/// Real threads and real time: the keeper pours, takes back and closes while others take and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_race_with_recalls_lose_no_unit() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let (log, desk, tracker, path, used) = with_pocket(10_000_000).await;
    let (other, others) = leasing(&log, 2);
    let by = || Instant::now() + Duration::from_secs(20);
    let (handle, over) = (tokio::runtime::Handle::current(), Arc::new(AtomicBool::new(false)));
    let before = desk.shared.front.served();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (path, handle, over) = (path.clone(), handle.clone(), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut used = 0;
                for nth in (0..8).cycle().take_while(|_| !over.load(Relaxed)) {
                    let ask = || handle.block_on(path.reserve(&[7], Durability::Memory, by(), WAIT));
                    let reserved = path.try_reserve(&[7]).unwrap_or_else(|| ask().unwrap());
                    let call = reserved.dispatch(Attribution::default());
                    if nth == 0 {
                        call.void();
                    } else {
                        drop(call.settle(input(nth), Outcome::Settled, Attribution::default()));
                        used += nth;
                    }
                }
                used
            })
        })
        .collect();
    for _ in 0..3 {
        let begun = Instant::now();
        while desk.shared.front.served() < before + 100 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing came from pockets: {:?}", desk.stats());
            tokio::time::sleep(WAIT).await;
        }
        let some = other.reserve(charges(5_000_000), Durability::Journal, by(), WAIT).await;
        drop(some.unwrap());
    }
    over.store(true, Relaxed);
    let made: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!((stopped(&desk, &tracker).await, stopped(&other, &others).await), (0, 0));
    assert_eq!((log.alice(), leased(&log)), ((used + made, 0, 0), 0));
}
