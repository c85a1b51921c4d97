//! Reserving from memory allocates nothing on the thread that does it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, NodeId, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::Shared;
use tollgate_quota::{
    Account, Attribution, BoxFuture, Desk, DeskConfig, Durability, Frame, FrameOutcome, Ledger, NodeOpen, Outcome,
    Path, QuotaBatch, Rule, Uplink, UplinkError, Usage, journal::Forgetful,
};

const LIMITS: [&str; 4] = ["tenant", "team", "consumer", "model"];
const AMOUNTS: [u64; 4] = [500; 4];
const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what each thread allocates.
struct Counting;

// SAFETY: everything is left to the system's allocator.
#[expect(unsafe_code, reason = "an allocator can't be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Of a thread that is ending nothing is asked.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The log of one node, in memory.
struct Log {
    ledger: Mutex<(Ledger, u64)>,
    desk: OnceLock<Desk>,
}

impl Uplink for Log {
    fn propose(&self, frame: Frame, _by: Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>> {
        Box::pin(async move {
            let mut state = self.ledger.lock().expect("nobody panics with it");
            let (ledger, index) = &mut *state;
            *index += 1;
            let batch = QuotaBatch { frames: vec![frame] };
            let applied = ledger.apply(LogIndex(*index), NOW, &batch, &mut Vec::new());
            let news = ledger.take_news();
            self.desk.get().expect("it was set").follow(ledger, &news);
            applied.outcome.frames.into_iter().next().ok_or_else(|| UplinkError::Unknown("no outcome".into()))
        })
    }
}

fn desk_over(algorithm: Algorithm) -> Desk {
    let mut ledger = Ledger::new();
    for limit in LIMITS {
        let rule = Rule {
            limit: Name::new(limit),
            version: LogIndex(1),
            unit: Unit::Tokens,
            per: vec![KeyPart::Consumer],
            capacity: u64::MAX / 4,
            window: Window::Hour,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
            algorithm,
        };
        ledger.set_rule(NOW, rule, &mut Vec::new());
    }
    ledger.open(LogIndex(2), NOW, &NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }, &mut Vec::new());
    let log = Arc::new(Log { ledger: Mutex::new((ledger, 2)), desk: OnceLock::new() });
    let config = DeskConfig::new(NodeId(1), 1);
    let uplink = Arc::clone(&log) as Arc<dyn Uplink>;
    let desk = Desk::spawn(config, uplink, Arc::new(Forgetful::default()), &TaskTracker::new());
    log.desk.set(desk.clone()).expect("it is the first");
    desk
}

fn path(desk: &Desk) -> Path {
    let account = |limit| Account { limit: Name::new(limit), version: LogIndex(1), key: vec!["alice".to_owned()] };
    desk.path(LIMITS.into_iter().map(account).collect())
}

fn usage() -> Usage {
    Usage { input_tokens: 400, ..Usage::default() }
}

/// Whether it was served at once, and what it allocated then.
fn call(path: &Path, name: Shared<Attribution>) -> Option<u64> {
    let before = ALLOCATIONS.get();
    let reservation = path.try_reserve(&AMOUNTS)?;
    drop(reservation.dispatch(Attribution::default()).settle(usage(), Outcome::Settled, name));
    Some(ALLOCATIONS.get() - before)
}

async fn slow_call(path: &Path) {
    let by = Instant::now() + Duration::from_secs(5);
    let reserved = path.reserve(&AMOUNTS, Durability::Memory, by, Duration::from_secs(60)).await;
    let reserved = reserved.expect("there is enough");
    drop(reserved.dispatch(Attribution::default()).settle(usage(), Outcome::Settled, Attribution::default()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reserving_and_settling_over_four_accounts_allocates_nothing() {
    for algorithm in [Algorithm::Fixed, Algorithm::Sliding] {
        let desk = desk_over(algorithm);
        let path = path(&desk);
        let (mut served, mut waited, begun) = (0, 0, Instant::now());
        while served < 5_000 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{served} of 5,000 served: {:?}", desk.stats());
            // Every now and then an end has a name, and is told to the log.
            let named = Attribution { request_id: "r".to_owned(), ..Attribution::default() };
            let name = if served % 50 == 0 { named } else { Attribution::default() };
            match call(&path, name.into()) {
                Some(allocated) => {
                    assert_eq!(allocated, 0, "by request {served}");
                    served += 1;
                }
                None => {
                    slow_call(&path).await;
                    waited += 1;
                }
            }
        }
        assert!(waited < 500, "{waited} had to go another way");
        desk.stop(Duration::from_secs(5)).await;
    }
}
