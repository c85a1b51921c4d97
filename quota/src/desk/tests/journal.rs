//! Desks whose journal is not always on the disk.

use super::*;
use crate::{
    Account, JournalEntry,
    journal::{Journal, Progress, Watermarks},
};

/// A journal that comes as far as it is told to.
#[derive(Debug, Default)]
struct Held {
    appended: AtomicU64,
    progress: Watermarks,
}

impl Held {
    fn come(&self, change: impl FnOnce(&mut Progress, u64)) {
        let all = self.appended.load(std::sync::atomic::Ordering::Relaxed);
        self.progress.change(|progress| change(progress, all));
    }
}

impl Journal for Held {
    fn append(&self, entries: Vec<JournalEntry>) {
        self.appended.fetch_add(entries.len() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    fn progress(&self) -> Watermarks {
        self.progress.clone()
    }
}

fn desk_with(log: &Arc<Log>, journal: &Arc<Held>) -> Desk {
    let journal = Arc::clone(journal) as Arc<dyn Journal>;
    Desk::spawn(DeskConfig::new(NodeId(1), 1), Arc::clone(log) as Arc<dyn Uplink>, journal, &TaskTracker::new())
}

async fn ask(desk: &Desk, durability: Durability) -> Result<Reservation, ReserveError> {
    desk.reserve(charges(1), durability, Instant::now() + Duration::from_secs(1), Duration::from_secs(60)).await
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_out_before_it_is_durable_and_nothing_is_said_before_either() {
    let (log, journal) = (Log::with_limit(100), Arc::new(Held::default()));
    let desk = desk_with(&log, &journal);
    let call = ask(&desk, Durability::Quorum).await.unwrap().dispatch(named("r"));
    assert!(matches!(call.durable(soon()).await, Err(Unavailable::Journal)));
    journal.come(|progress, all| progress.durable = all);
    call.durable(soon()).await.unwrap();
    let mut written = call.settle(input(1), Outcome::Settled, named("r"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.alice(), (0, 1, 0), "the log does not hear of an end that the disk does not know");
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut written).await.is_err());
    journal.come(|progress, all| progress.written = all);
    written.await;
    journal.come(|progress, all| progress.durable = all);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.alice(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_what_has_to_be_journaled_and_heals() {
    let (log, journal) = (Log::with_limit(100), Arc::new(Held::default()));
    let desk = desk_with(&log, &journal);
    journal.come(|progress, _| progress.full = true);
    for durability in [Durability::Journal, Durability::Quorum] {
        let refused = ask(&desk, durability).await.unwrap_err();
        assert!(matches!(refused, ReserveError::Unavailable(Unavailable::Journal)), "{refused:?}");
    }
    assert_eq!(desk.stats().journal_full, 2);
    drop(ask(&desk, Durability::Memory).await.unwrap());
    journal.come(|progress, _| progress.full = false);
    drop(ask(&desk, Durability::Journal).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_has_stopped_bounds_what_waits_for_it() {
    let (log, journal) = (Log::with_limit(u64::MAX / 4), Arc::new(Held::default()));
    let desk = desk_with(&log, &journal);
    let mut asked = 0;
    let refused = loop {
        let by = Instant::now() + Duration::from_secs(1);
        match desk.reserve(Vec::new(), Durability::Journal, by, Duration::ZERO).await {
            Ok(reservation) => reservation.dispatch(named("r")).void(),
            Err(refused) => break refused,
        }
        asked += 1;
        assert!(asked < 200_000, "nothing bounds it");
    };
    assert!(matches!(refused, ReserveError::Unavailable(Unavailable::Journal)), "{refused:?}");
    journal.come(|progress, all| progress.durable = all);
    drop(ask(&desk, Durability::Journal).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_request_from_a_pocket_goes_out_once_the_ceiling_above_it_is_durable() {
    let (log, journal) = (Log::with_limit(100_000), Arc::new(Held::default()));
    let desk = desk_with(&log, &journal);
    log.followers.lock().push(desk.clone());
    let account = Account { limit: Name::new("tpm"), version: LogIndex(1), key: vec!["alice".into()] };
    let path = desk.path(vec![account]);
    let mut asked = 0;
    let reservation = loop {
        journal.come(|progress, all| (progress.written, progress.durable) = (all, all));
        if let Some(reservation) = path.try_reserve(&[1]) {
            break reservation;
        }
        let by = Instant::now() + Duration::from_secs(1);
        let asked_for = path.reserve(&[10], Durability::Memory, by, Duration::from_secs(60)).await.unwrap();
        drop(asked_for.dispatch(named("r")).settle(input(10), Outcome::Settled, named("r")));
        tokio::time::sleep(Duration::from_millis(1)).await;
        asked += 1;
        assert!(asked < 1_000, "no pocket was opened");
    };
    journal.come(|progress, _| progress.durable = 0);
    let call = reservation.dispatch(Attribution::default());
    assert!(matches!(call.durable(soon()).await, Err(Unavailable::Journal)));
    journal.come(|progress, all| progress.durable = all);
    call.durable(soon()).await.unwrap();
    call.void();
}
