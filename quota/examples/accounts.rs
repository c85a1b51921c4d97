//! What limits cost: `cargo run --release -p tollgate-quota --example accounts`.
//!
//! Reserving, sending out and settling over four accounts from leases of this node, with the log in the same process: how
//! long one call takes, what it allocates, and how many two threads do on the same accounts. Then the ledger alone: records
//! applied in a second, and what a million consumers with three limits take in memory and in a snapshot.

#![expect(clippy::print_stdout, reason = "a report for the terminal")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    hint::black_box,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, NodeId, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{self as wire, Charge as WireCharge, Hold, Record, record::Kind};
use tollgate_quota::{
    Attribution, BoxFuture, Charge, Desk, DeskConfig, Durability, Frame, FrameOutcome, Ledger, NodeOpen, Outcome,
    QuotaBatch, Rule, Settle, Uplink, UplinkError, Usage, journal::Forgetful,
};

/// Calls that are timed.
const CALLS: usize = 200_000;
/// Calls of two threads, each.
const SHARED_CALLS: u64 = 1_000_000;
/// Holds in one frame, when the ledger is alone.
const PER_FRAME: u64 = 1_000;
const FRAMES: u64 = 500;
const CONSUMERS: u64 = 1_000_000;
const LIMITS: [&str; 4] = ["tenant", "team", "consumer", "model"];
const NOW: u64 = 1_800_000_000_000_000;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator.
#[expect(unsafe_code, reason = "an allocator can't be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
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
            let applied = ledger.apply(LogIndex(*index), Timestamp(NOW), &batch, &mut Vec::new());
            let outcome = applied.outcome.frames.into_iter().next();
            let news = ledger.take_news();
            if let Some(desk) = self.desk.get() {
                desk.follow(ledger, &news);
            }
            outcome.ok_or_else(|| UplinkError::Unknown("no outcome".into()))
        })
    }
}

fn rule(limit: &str, capacity: u64) -> Rule {
    Rule {
        limit: Name::new(limit),
        version: LogIndex(1),
        unit: Unit::Tokens,
        per: vec![KeyPart::Consumer],
        capacity,
        window: Window::Day,
        time_zone: TimeZone::UTC,
        shadow: false,
        algorithm: Algorithm::Fixed,
    }
}

fn ledger(limits: &[&str]) -> Ledger {
    let mut ledger = Ledger::new();
    for limit in limits {
        ledger.set_rule(Timestamp(NOW), rule(limit, u64::MAX / 4), &mut Vec::new());
    }
    let open = NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() };
    ledger.open(LogIndex(2), Timestamp(NOW), &open, &mut Vec::new());
    ledger
}

fn charges(consumer: &str) -> Vec<Charge> {
    let charge = |limit: &&str| Charge {
        limit: Name::new(limit),
        version: LogIndex(1),
        key: vec![consumer.to_owned()],
        amount: 500,
    };
    LIMITS.iter().map(charge).collect()
}

async fn call(desk: &Desk, charges: &[Charge], durability: Durability) {
    let by = Instant::now() + Duration::from_secs(5);
    let reserved = desk.reserve(charges.to_vec(), durability, by, Duration::from_secs(60)).await;
    let in_flight = reserved.expect("there is enough").dispatch(Attribution::default());
    in_flight.settle(Usage { input_tokens: 400, ..Usage::default() }, Outcome::Settled, Attribution::default());
}

async fn desk() -> (Desk, Arc<Log>) {
    let log = Arc::new(Log { ledger: Mutex::new((ledger(&LIMITS), 2)), desk: OnceLock::new() });
    let config = DeskConfig { max_open: usize::MAX, ..DeskConfig::new(NodeId(1), 1) };
    let desk =
        Desk::spawn(config, Arc::clone(&log) as Arc<dyn Uplink>, Arc::new(Forgetful::default()), &TaskTracker::new());
    assert!(log.desk.set(desk.clone()).is_ok(), "it is the first");
    for _ in 0..200 {
        call(&desk, &charges("alice"), Durability::Memory).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (desk, log)
}

/// One call after the other, each timed.
async fn one_by_one(durability: Durability) {
    let (desk, _log) = desk().await;
    let charges = charges("alice");
    let mut took = Vec::with_capacity(CALLS);
    let (before, local) = (ALLOCATIONS.load(Relaxed), desk.stats().local);
    for _ in 0..CALLS {
        let begun = std::time::Instant::now();
        call(&desk, &charges, durability).await;
        took.push(begun.elapsed());
    }
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    let local = desk.stats().local - local;
    took.sort_unstable();
    println!(
        "reserve + settle over 4 accounts ({durability:?}): p50 {:?}, p99 {:?}, {} allocations a call, {local} of {CALLS} local",
        took[CALLS / 2],
        took[CALLS * 99 / 100],
        allocations / CALLS as u64,
    );
}

/// Two threads on the same accounts.
async fn together() {
    let (desk, _log) = desk().await;
    let begun = std::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let desk = desk.clone();
        tasks.spawn(async move {
            let charges = vec![charges("alice").remove(0)];
            for _ in 0..SHARED_CALLS / 10 {
                call(&desk, &charges, Durability::Memory).await;
            }
        });
    }
    tasks.join_all().await;
    println!(
        "two threads on one account: {:.2} M pairs/s",
        2.0 * (SHARED_CALLS / 10) as f64 / 1e6 / begun.elapsed().as_secs_f64()
    );
}

/// Holds of four charges and their ends, by the ledger alone.
fn applied() {
    let mut ledger = ledger(&LIMITS);
    let (mut seq, mut request, mut spent) = (1, 1, Duration::ZERO);
    for index in 0..FRAMES {
        let hold = |request: u64| {
            Kind::Hold(Hold {
                request,
                charges: LIMITS
                    .iter()
                    .map(|limit| WireCharge {
                        limit: (*limit).to_owned(),
                        key: vec![format!("c{}", request % 1_000)],
                        amount: 500,
                        limit_version: 1,
                    })
                    .collect(),
                hold_for_us: 60_000_000,
            })
        };
        let end = |request: u64| {
            Kind::Settle(Settle {
                request,
                outcome: Outcome::Settled.into(),
                usage: Some(wire::Usage { input_tokens: 400, ..wire::Usage::default() }),
                ..Settle::default()
            })
        };
        for (make, counts) in [(&hold as &dyn Fn(u64) -> Kind, false), (&end, true)] {
            let records: Vec<Record> =
                (request..request + PER_FRAME).map(|request| Record { kind: Some(make(request)) }).collect();
            let frame = Frame { node: 1, incarnation: 1, first_seq: seq, records };
            seq += PER_FRAME;
            let batch = QuotaBatch { frames: vec![frame] };
            let mut changes = Vec::new();
            let begun = std::time::Instant::now();
            black_box(ledger.apply(LogIndex(index + 3), Timestamp(NOW), &batch, &mut changes));
            if counts {
                spent += begun.elapsed();
            }
        }
        request += PER_FRAME;
    }
    println!(
        "ledger: {:.2} M settle records/s, four accounts each",
        (FRAMES * PER_FRAME) as f64 / 1e6 / spent.as_secs_f64()
    );
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// A million consumers, three limits each.
fn many() {
    let before = resident();
    let limits = &LIMITS[..3];
    let mut ledger = ledger(limits);
    let mut seq = 1;
    for first in (0..CONSUMERS).step_by(1_000) {
        let record = |request: u64| Record {
            kind: Some(Kind::Hold(Hold {
                request,
                charges: limits
                    .iter()
                    .map(|limit| WireCharge {
                        limit: (*limit).to_owned(),
                        key: vec![format!("consumer-{request}")],
                        amount: 1,
                        limit_version: 1,
                    })
                    .collect(),
                hold_for_us: 1,
            })),
        };
        let end = |request: u64| Record {
            kind: Some(Kind::Settle(Settle {
                request,
                outcome: Outcome::Settled.into(),
                usage: Some(wire::Usage { input_tokens: 1, ..wire::Usage::default() }),
                ..Settle::default()
            })),
        };
        let records: Vec<Record> =
            (first + 1..=first + 1_000).map(record).chain((first + 1..=first + 1_000).map(end)).collect();
        let records_len = records.len() as u64;
        let frame = Frame { node: 1, incarnation: 1, first_seq: seq, records };
        seq += records_len;
        ledger.apply(LogIndex(3 + first), Timestamp(NOW), &QuotaBatch { frames: vec![frame] }, &mut Vec::new());
    }
    let taken = (resident() - before) / 1_024;
    let begun = std::time::Instant::now();
    let image = ledger.image();
    let imaged = begun.elapsed();
    let bytes: usize = image.into_rows().map(|(key, value)| key.len() + value.len()).sum();
    println!(
        "{CONSUMERS} consumers x 3 limits: {taken} MiB resident, snapshot {} MiB, image in {imaged:?}, rows in {:?}",
        bytes >> 20,
        begun.elapsed()
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    one_by_one(Durability::Memory).await;
    one_by_one(Durability::Journal).await;
    together().await;
    applied();
    many();
}
