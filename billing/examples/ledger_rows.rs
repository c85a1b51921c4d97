//! What the ledger costs: processor time to take down a row and to write it, beside that of a proxied call, and how long a node
//! that has so many rows takes to have them again after a start. Rows are of 50 tenants and eight models, 25 in an entry of the
//! log, synced every thousand entries; they need some 340 bytes each in the directory for temporary files.
//!
//! `cargo run --release -p tollgate-billing --example ledger_rows -- [ROWS] [CALL_US]`
//!
//! `CALL_US` is the processor time of all three nodes for one call, as `bench_limits --only cpu` tells it of the same machine.
#![expect(clippy::print_stdout, reason = "an example says what it measured")]

use std::{
    env,
    error::Error,
    io,
    time::{Duration, Instant},
};

use tollgate_billing::{
    Changes,
    ledger::{Keeper, ROWS_PER_ENTRY, State},
};
use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, PriceVersionRow, UsageSource};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// October 2026, in microseconds.
const BEGIN_US: u64 = 1_790_812_800_000_000;
const MONTH_US: u64 = 30 * 24 * 3_600_000_000;
const ROWS_OF_AN_ENTRY: u64 = 25;
const ENTRIES_OF_A_SYNC: u64 = 1_000;
/// Each takes down and writes every row.
const NODES: f64 = 3.0;
/// Of a call without limits, as README.md has it.
const CALL_US: f64 = 289.0;
const STARTS: usize = 5;

fn row(at: u64, of: u64) -> LedgerRow {
    let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let time = BEGIN_US + at * (MONTH_US / of.max(1));
    let model = mixed % 8;
    LedgerRow {
        seq: at / ROWS_OF_AN_ENTRY * ROWS_PER_ENTRY + ROWS_PER_ENTRY + at % ROWS_OF_AN_ENTRY,
        request_id: format!("0199a1b2-{:04x}-7{:03x}-8abc-{:012x}", (at >> 16) & 0xffff, at & 0xfff, mixed >> 16),
        admitted_us: time.saturating_sub(900_000).max(BEGIN_US),
        settled_us: time,
        tenant: format!("tenant-{}", (mixed >> 8) % 50),
        consumer: format!("consumer-{}", (mixed >> 16) % 1_000),
        route: "chat".into(),
        provider: if mixed & 1 == 0 { "openai" } else { "anthropic" }.into(),
        model: format!("gpt-{model}"),
        provider_model: format!("gpt-{model}-2026-08-06"),
        status: 200,
        outcome: LedgerOutcome::Settled.into(),
        usage_source: UsageSource::Provider.into(),
        input_tokens: mixed >> 52,
        output_tokens: mixed >> 54,
        price: format!("price-{model}"),
        price_version: 17,
        currency: "USD".into(),
        amount: i128::from(mixed >> 24).to_be_bytes().to_vec(),
        node: 1 + mixed % 3,
        zone: "az-a".into(),
        ..LedgerRow::default()
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[derive(Default)]
struct Took {
    recording: Duration,
    writing: Duration,
    /// Wall time of the syncs.
    syncing: Duration,
}

fn fill(keeper: &Keeper, rows: u64) -> Result<Took, Box<dyn Error>> {
    let (mut took, mut changes) = (Took::default(), Changes::new());
    for entry in 0..rows / ROWS_OF_AN_ENTRY {
        let first = entry * ROWS_OF_AN_ENTRY;
        let of_entry: Vec<_> =
            (first..first + ROWS_OF_AN_ENTRY).map(|at| (row(at, rows), None::<PriceVersionRow>)).collect();
        let begun = cpu();
        keeper.record(of_entry, &mut changes);
        let recorded = cpu();
        keeper.write()?;
        took.recording += recorded - begun;
        took.writing += cpu() - recorded;
        changes.clear();
        if entry % ENTRIES_OF_A_SYNC == 0 {
            let (begun, cpu_before) = (Instant::now(), cpu());
            keeper.sync()?;
            took.syncing += begun.elapsed();
            took.writing += cpu() - cpu_before;
        }
    }
    keeper.sync()?;
    Ok(took)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let rows: u64 = args.next().map_or(Ok(10_000_000), |rows| rows.parse())?;
    let call_us: f64 = args.next().map_or(Ok(CALL_US), |micros| micros.parse())?;
    let dir = tempfile::tempdir()?;
    let keeper = Keeper::new(dir.path().join("ledger"));
    let took = fill(&keeper, rows)?;
    let (image, complete): (Vec<_>, usize) =
        keeper.look(|state| (state.rows().collect(), state.chain().complete().count()));
    let bytes: u64 = keeper.look(|state| {
        let chain = state.chain();
        chain.complete().chain([chain.open()]).map(|extent| extent.bytes).sum()
    });
    drop(keeper);

    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let read: Vec<_> = image.iter().cloned().map(Ok::<_, io::Error>).collect();
        let begun = Instant::now();
        let keeper = Keeper::new(dir.path().join("ledger"));
        keeper.restore(State::restore(read)?);
        // Opens the files, and reads the last one through.
        if !keeper.missing()?.is_empty() {
            return Err("segments are missing after a start".into());
        }
        starts.push(begun.elapsed());
    }
    starts.sort_unstable();

    let us = |took: Duration| took.as_secs_f64() * 1e6 / rows as f64;
    let of_row = us(took.recording) + us(took.writing);
    let share = of_row * NODES / call_us * 100.0;
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    println!("{{");
    println!("  \"rows\": {rows}, \"bytesPerRow\": {}, \"segments\": {},", bytes / rows.max(1), complete + 1);
    println!("  \"recordUs\": {:.2}, \"writeUs\": {:.2},", us(took.recording), us(took.writing));
    println!("  \"rowOnThreeNodesUs\": {:.2}, \"callUs\": {call_us}, \"percentOfCall\": {share:.2},", of_row * NODES);
    println!("  \"syncWallMs\": {:.0},", ms(took.syncing));
    println!("  \"startMs\": {:.1}, \"startMaxMs\": {:.1}", ms(starts[STARTS / 2]), ms(starts[STARTS - 1]));
    println!("}}");
    Ok(())
}
