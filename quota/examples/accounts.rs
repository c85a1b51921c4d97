//! What limits cost: `cargo run --release -p tollgate-quota --example accounts`.
//!
//! Reserving, sending out and settling over four accounts from leases of this node, with the log in the same process: how
//! long one call takes and what it allocates, and how many calls one thread and two do on the same account. Then the ledger
//! alone: records applied in a second, and what a million consumers with three limits take in memory and in a snapshot; and how long
//! a call takes while such snapshots are made.
//! Some of it alone: name `calls`, `threads`, `ledger` or `memory`.

#![expect(clippy::print_stdout, reason = "a report for the terminal")]

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    fs,
    hint::black_box,
    sync::{
        Arc, Barrier, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use mimalloc::MiMalloc;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::TaskTracker;
use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, NodeId, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{self as wire, Charge as WireCharge, Hold, Record, record::Kind};
use tollgate_quota::{
    Account, Attribution, BoxFuture, Charge, Desk, DeskConfig, Durability, Frame, FrameOutcome, Ledger, NodeOpen,
    Outcome, Path, QuotaBatch, Reservation, Rule, Settle, Uplink, UplinkError, Usage, journal::Forgetful,
};

/// Calls that are timed.
const CALLS: usize = 200_000;
/// Calls of each thread, where several use one account.
const SHARED_CALLS: u64 = 3_000_000;
/// Holds in one frame, when the ledger is alone.
const PER_FRAME: u64 = 1_000;
const FRAMES: u64 = 500;
const CONSUMERS: u64 = 1_000_000;
const LIMITS: [&str; 4] = ["tenant", "team", "consumer", "model"];
const NOW: u64 = 1_800_000_000_000_000;

/// Counts what each thread allocates, from the program's own allocator.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to another allocator.
#[expect(unsafe_code, reason = "an allocator can't be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Of a thread that is ending nothing is asked.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is handed on.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { MiMalloc.dealloc(at, layout) }
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
        apart: false,
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

/// How a call finds its accounts, and what is written down of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// They were found before, as for further calls of one kind.
    Path,
    /// By their names.
    Names,
    /// By their names, and each call is journaled.
    Journaled,
}

/// What calls of one kind come with.
struct Caller {
    desk: Desk,
    path: Path,
    charges: Vec<Charge>,
    amounts: Vec<u64>,
    way: Way,
    handle: Handle,
}

impl Caller {
    fn of(desk: &Desk, way: Way, charges: Vec<Charge>) -> Self {
        let account =
            |charge: &Charge| Account { limit: charge.limit.clone(), version: charge.version, key: charge.key.clone() };
        let path = desk.path(charges.iter().map(account).collect());
        let amounts = charges.iter().map(|charge| charge.amount).collect();
        Self { desk: desk.clone(), path, charges, amounts, way, handle: Handle::current() }
    }

    fn reserve(&self) -> Reservation {
        let served = if self.way == Way::Path { self.path.try_reserve(&self.amounts) } else { None };
        served.unwrap_or_else(|| self.handle.block_on(self.ask()))
    }

    async fn ask(&self) -> Reservation {
        let (by, hold_for) = (Instant::now() + Duration::from_secs(5), Duration::from_secs(60));
        let reserved = match self.way {
            Way::Path => self.path.reserve(&self.amounts, Durability::Memory, by, hold_for).await,
            Way::Names => self.desk.reserve(self.charges.clone(), Durability::Memory, by, hold_for).await,
            Way::Journaled => self.desk.reserve(self.charges.clone(), Durability::Journal, by, hold_for).await,
        };
        reserved.expect("there is enough")
    }

    fn call(&self) {
        let in_flight = self.reserve().dispatch(Attribution::default());
        let usage = Usage { input_tokens: 400, ..Usage::default() };
        drop(in_flight.settle(usage, Outcome::Settled, Attribution::default()));
    }

    /// Calls, each timed.
    fn timed(&self, calls: usize, took: &mut Vec<Duration>) {
        for _ in 0..calls {
            let begun = std::time::Instant::now();
            self.call();
            took.push(begun.elapsed());
        }
    }

    /// Calls until it has been served from memory for a while.
    fn warm(&self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            self.call();
        }
    }
}

fn desk() -> Desk {
    desk_of(&Arc::new(Log { ledger: Mutex::new((ledger(&LIMITS), 2)), desk: OnceLock::new() }), NodeId(1))
}

fn desk_of(log: &Arc<Log>, node: NodeId) -> Desk {
    let config = DeskConfig { max_open: usize::MAX, ..DeskConfig::new(node, 1) };
    let uplink = Arc::clone(log) as Arc<dyn Uplink>;
    let desk = Desk::spawn(config, uplink, Arc::new(Forgetful::default()), &TaskTracker::new());
    assert!(log.desk.set(desk.clone()).is_ok(), "it is the first");
    desk
}

/// One call after the other, each timed.
fn one_by_one(way: Way) {
    let desk = desk();
    let caller = Caller::of(&desk, way, charges("alice"));
    caller.warm();
    let mut took = Vec::with_capacity(CALLS);
    let (before, local) = (ALLOCATIONS.get(), desk.stats().local);
    caller.timed(CALLS, &mut took);
    let allocations = ALLOCATIONS.get() - before;
    let local = desk.stats().local - local;
    let (p50, p99) = quantiles(&mut took);
    println!(
        "reserve + settle over 4 accounts ({way:?}): p50 {p50:?}, p99 {p99:?}, {:.2} allocations a call, {local} of {CALLS} local",
        allocations as f64 / CALLS as f64,
    );
}

fn quantiles(took: &mut [Duration]) -> (Duration, Duration) {
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// Some threads on the same account, each with what it found itself.
fn together(threads: u64, way: Way) {
    let desk = desk();
    Caller::of(&desk, way, charges("alice")[..1].to_vec()).warm();
    let calls = if way == Way::Path { SHARED_CALLS } else { SHARED_CALLS / 20 };
    let start = Arc::new(Barrier::new(usize::try_from(threads).expect("few") + 1));
    let running: Vec<_> = (0..threads)
        .map(|_| {
            let caller = Caller::of(&desk, way, charges("alice")[..1].to_vec());
            let start = Arc::clone(&start);
            thread::spawn(move || {
                start.wait();
                (0..calls).for_each(|_| caller.call());
            })
        })
        .collect();
    start.wait();
    let begun = std::time::Instant::now();
    running.into_iter().for_each(|thread| thread.join().expect("it only calls"));
    println!(
        "{threads} threads on one account ({way:?}): {:.2} M pairs/s",
        (threads * calls) as f64 / 1e6 / begun.elapsed().as_secs_f64()
    );
}

/// Holds of four charges and their ends, by the ledger alone.
fn applied() {
    let mut ledger = ledger(&LIMITS);
    let (mut seq, mut request, mut holding, mut settling) = (1, 1, Duration::ZERO, Duration::ZERO);
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
                ..Hold::default()
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
            let frame = Frame { node: 1, incarnation: 1, first_seq: seq, records, ..Frame::default() };
            seq += PER_FRAME;
            let batch = QuotaBatch { frames: vec![frame] };
            let mut changes = Vec::new();
            let begun = on_this_core();
            black_box(ledger.apply(LogIndex(index + 3), Timestamp(NOW), &batch, &mut changes));
            let took = on_this_core().saturating_sub(begun);
            *(if counts { &mut settling } else { &mut holding }) += took;
        }
        request += PER_FRAME;
    }
    let rate = |spent: Duration| (FRAMES * PER_FRAME) as f64 / 1e6 / spent.as_secs_f64();
    println!(
        "ledger: {:.2} M settle records/s of one core, {:.2} M holds/s, four accounts each",
        rate(settling),
        rate(holding)
    );
}

/// What this thread has had of a processor: others may be busy, too.
fn on_this_core() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
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
                ..Hold::default()
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
        let frame = Frame { node: 1, incarnation: 1, first_seq: seq, records, ..Frame::default() };
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
    beside_snapshots(ledger, CONSUMERS + 3);
}

/// Calls, each timed, without snapshots of this ledger, and while one is made after the other as a node makes them: an image under the
/// lock, and its rows without.
fn beside_snapshots(mut ledger: Ledger, index: u64) {
    let open = NodeOpen { node: 2, incarnation: 1, ..NodeOpen::default() };
    ledger.open(LogIndex(index), Timestamp(NOW), &open, &mut Vec::new());
    drop(ledger.take_news());
    let log = Arc::new(Log { ledger: Mutex::new((ledger, index)), desk: OnceLock::new() });
    let caller = Caller::of(&desk_of(&log, NodeId(2)), Way::Path, charges("consumer-1")[..3].to_vec());
    caller.warm();
    let mut took = Vec::with_capacity(CALLS);
    caller.timed(CALLS, &mut took);
    let (alone, alone_p99) = quantiles(&mut took);
    let done = Arc::new(AtomicBool::new(false));
    let snapshots = thread::spawn({
        let (log, done) = (Arc::clone(&log), Arc::clone(&done));
        move || {
            let mut made = 0;
            while !done.load(Relaxed) {
                let image = log.ledger.lock().expect("nobody panics with it").0.image();
                made += usize::from(black_box(image.into_rows().count()) > 0);
            }
            made
        }
    });
    took.clear();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        caller.timed(CALLS, &mut took);
    }
    done.store(true, Relaxed);
    let made = snapshots.join().expect("it only reads");
    let (beside, beside_p99) = quantiles(&mut took);
    println!(
        "reserve + settle over 3 accounts: p50 {alone:?}, p99 {alone_p99:?}; while {made} snapshots of them all are made: p50 {beside:?}, p99 {beside_p99:?}"
    );
}

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let entered = runtime.enter();
    if wanted("calls") {
        [Way::Path, Way::Names, Way::Journaled].into_iter().for_each(one_by_one);
    }
    if wanted("threads") {
        [1, 2].into_iter().for_each(|threads| together(threads, Way::Path));
        together(2, Way::Journaled);
    }
    drop(entered);
    if wanted("ledger") {
        applied();
    }
    if wanted("memory") {
        let _entered = runtime.enter();
        many();
    }
}
