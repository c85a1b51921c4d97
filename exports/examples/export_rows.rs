//! Exports of a ledger that is made up as it is read: rows a second, and the memory that it takes.
//!
//! `cargo run --release -p tollgate-exports --example export_rows -- [ROWS] [SCHEMA] [FORMAT]`
#![expect(clippy::print_stdout, reason = "a program that prints what it measured")]

use std::{env, error::Error, io, sync::Arc, time::Instant};

use tollgate_billing::{
    export::{Export, Format, Query, Schema, Source, Tenants, Terms},
    period::Months,
};
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{CreditEventRow, LedgerOutcome, LedgerRow, PriceVersionRow, UsageSource};

const BEGIN: u64 = 1_793_491_200_000_000;

/// A month's ledger of so many rows.
struct MadeUp(u64);

impl Source for MadeUp {
    fn last(&self) -> u64 {
        self.0 << 16
    }

    fn before(&self, _: Timestamp) -> io::Result<u64> {
        Ok(0)
    }

    fn rows(&self, after_seq: u64, most: usize) -> io::Result<Vec<LedgerRow>> {
        let next = (after_seq >> 16) + 1;
        Ok((next..=self.0.min(next + most as u64 - 1)).map(|at| row(at, self.0)).collect())
    }

    fn price(&self, _: &str, _: u64) -> io::Result<Option<PriceVersionRow>> {
        Ok(None)
    }
}

fn row(at: u64, of: u64) -> LedgerRow {
    let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let time = BEGIN + at * (30 * 24 * 3_600_000_000 / of.max(1));
    LedgerRow {
        seq: at << 16,
        request_id: format!("0199a1b2-{:04x}-7{:03x}-{:016x}", (at >> 16) & 0xffff, at & 0xfff, mixed),
        admitted_us: time + mixed % 1_000,
        settled_us: time + 900_000,
        tenant: format!("tenant-{}", mixed % 40),
        consumer: format!("consumer-{}", mixed % 400),
        route: "chat".into(),
        provider: if mixed & 1 == 0 { "openai" } else { "anthropic" }.into(),
        model: format!("gpt-{}", mixed % 8),
        provider_model: format!("gpt-{}-2026-08-06", mixed % 8),
        status: 200,
        outcome: LedgerOutcome::Settled.into(),
        usage_source: UsageSource::Provider.into(),
        input_tokens: mixed >> 50,
        cached_input_tokens: mixed >> 54,
        output_tokens: mixed >> 53,
        reasoning_tokens: 0,
        price: format!("price-{}", mixed % 8),
        price_version: 17,
        currency: "USD".into(),
        amount: i128::from(mixed >> 30).to_be_bytes().to_vec(),
        node: 1 + mixed % 3,
        zone: "az-a".into(),
        ..LedgerRow::default()
    }
}

struct Nobody;

impl Tenants for Nobody {
    fn terms(&self, _: &str) -> Terms {
        Terms::default()
    }

    fn months(&self, _: &str) -> Months {
        Months::new()
    }

    fn credit(&self, _: Option<&str>, _: Timestamp, _: Timestamp) -> Vec<Arc<CreditEventRow>> {
        Vec::new()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let rows: u64 = args.next().map_or(Ok(10_000_000), |rows| rows.parse())?;
    let schema = Schema::parse(&args.next().unwrap_or_else(|| "events".to_owned()), "")?;
    let format = Format::parse(&args.next().unwrap_or_else(|| "parquet".to_owned()))?;
    let (from, to, issuer) = (Timestamp(0), Timestamp::MAX, "Tollgate".to_owned());
    let query = Query { tenant: None, from, to, schema, format, issuer, costs: true };

    let begun = Instant::now();
    let made: usize = (0..rows).map(|at| row(at, rows).request_id.len()).sum();
    let making = begun.elapsed();

    let begun = Instant::now();
    let encoder = tollgate_exports::encoder(&query)?;
    let (mut bytes, mut written) = (0, 0);
    for chunk in Export::open(Arc::new(MadeUp(rows)), Arc::new(Nobody), query, "", encoder)? {
        let chunk = chunk?;
        (bytes, written) = (bytes + chunk.data.len(), chunk.rows);
    }
    let took = begun.elapsed();
    let per_second = rows as f64 / took.as_secs_f64();
    println!("{rows} rows read, {written} written, {bytes} bytes, in {took:.2?}: {per_second:.0} rows/s");
    println!("of that {making:.2?} for making the rows up ({made} bytes of ids); at most {} MB resident", peak_mb()?);
    Ok(())
}

fn peak_mb() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(peak.unwrap_or(0) / 1_024)
}
