//! How long `tollgate usage` takes for a month, and what the sums of that month take: of calls that are made up, by so many tenants,
//! each with 20 consumers, over 2 routes and 6 models of 2 providers, busier by day than by night, a few of them far busier than most.
//!
//! `cargo run --release -p tollgate-billing --example usage_month -- [CALLS] [TENANTS]`
#![expect(clippy::print_stdout, reason = "an example says what it measured")]

use std::{
    env,
    error::Error,
    io,
    time::{Duration, Instant},
};

use tollgate_billing::{Bill, Changes, Column, Query, UsageTable};
use tollgate_model::{Currency, Money, Timestamp};
use tollgate_proto::state::v1::{Attribution, Usage};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONSUMERS: u64 = 20;
const MODELS: [(&str, &str); 6] = [
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("o3", "openai"),
    ("claude-sonnet", "anthropic"),
    ("claude-haiku", "anthropic"),
    ("claude-opus", "anthropic"),
];
const HOUR_US: u64 = 3_600_000_000;
/// October 2026, in hours since the epoch, and how many it has.
const BEGIN: u64 = 497_616;
const HOURS: u64 = 744;
const RUNS: usize = 25;
/// As `admin` has it.
const MAX_LINES: usize = 100_000;

/// A number below `below` that looks random: the same each run.
struct Mixed(u64);

impl Mixed {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 33);
        (x.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 20) % below.max(1)
    }

    /// Small ones far more often than great ones: of two draws the product's part.
    fn skewed(&mut self, below: u64) -> u64 {
        self.next(below) * self.next(below) / below.max(1)
    }
}

fn attribution(mixed: &mut Mixed, tenants: u64) -> Attribution {
    let tenant = mixed.skewed(tenants);
    let (model, provider) = MODELS[usize::try_from(mixed.skewed(6)).unwrap_or(0)];
    Attribution {
        tenant: format!("tenant-{tenant}"),
        consumer: format!("tenant-{tenant}-consumer-{}", mixed.skewed(CONSUMERS)),
        route: if mixed.next(10) < 8 { "chat" } else { "agents" }.into(),
        provider: provider.into(),
        model: model.into(),
        provider_model: format!("{model}-2026-08-06"),
        ..Attribution::default()
    }
}

/// Two of three hours of the day, at most, are as busy as the rest.
fn hour(mixed: &mut Mixed, at: u64, of: u64) -> u64 {
    let hour = at * HOURS / of.max(1);
    let by_day = 8 + mixed.next(12);
    BEGIN + if mixed.next(3) == 0 { hour } else { (hour / 24 * 24 + by_day).min(HOURS - 1) }
}

fn fill(calls: u64, tenants: u64) -> (UsageTable, Duration, u64) {
    let (mut table, mut mixed, mut changes) = (UsageTable::new(), Mixed(7), Changes::new());
    let bill = Bill { currency: Currency::parse("USD").expect("a code"), amount: Some(Money(1_234_567)) };
    let (mut took, mut written) = (Duration::ZERO, 0);
    for at in 0..calls {
        let at = Timestamp(hour(&mut mixed, at, calls) * HOUR_US + 1);
        let attribution = attribution(&mut mixed, tenants);
        let usage = Usage { input_tokens: mixed.next(2_000), output_tokens: mixed.next(800), ..Usage::default() };
        let begun = Instant::now();
        table.record(at, &attribution, &usage, Some(bill), &mut changes);
        took += begun.elapsed();
        written += changes.drain(..).filter_map(|(key, value)| Some(key.len() + value?.len())).sum::<usize>() as u64;
    }
    (table, took, written)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let calls: u64 = args.next().map_or(Ok(10_000_000), |calls| calls.parse())?;
    let tenants: u64 = args.next().map_or(Ok(50), |tenants| tenants.parse())?;
    let before = resident_mb()?;
    let (mut table, took, written) = fill(calls, tenants);
    let memory = resident_mb()?.saturating_sub(before);
    println!("{{");
    println!("  \"calls\": {calls}, \"tenants\": {tenants}, \"sums\": {}, \"memoryMb\": {memory},", table.len());
    println!("  \"recordNs\": {}, \"rowBytesPerCall\": {},", took.as_nanos() / u128::from(calls), written / calls);
    println!("  \"queries\": [");
    let of = |by: &[Column], tenant: Option<&str>, (first, end): (u64, u64)| Query {
        by: by.to_vec(),
        from: Some(Timestamp((BEGIN + first) * HOUR_US)),
        to: Some(Timestamp((BEGIN + end) * HOUR_US)),
        tenant: tenant.map(str::to_owned),
        max: Some(MAX_LINES),
    };
    let (month, cut) = ((0, HOURS), (5, HOURS - 5));
    use Column::{Consumer, Day, Hour, Model, Provider, Route, Tenant};
    let queries = [
        ("all", of(&[], None, month)),
        ("all, from and to within days", of(&[], None, cut)),
        ("by tenant", of(&[Tenant], None, month)),
        ("by model, consumer", of(&[Model, Consumer], None, month)),
        ("by tenant, consumer, route, provider, model", of(&[Tenant, Consumer, Route, Provider, Model], None, month)),
        ("by day, tenant", of(&[Day, Tenant], None, month)),
        ("by hour", of(&[Hour], None, month)),
        ("by hour, tenant", of(&[Hour, Tenant], None, month)),
        ("by hour, consumer, model: refused, as it is too long", of(&[Hour, Consumer, Model], None, month)),
        ("one tenant by hour, model", of(&[Hour, Model], Some("tenant-0"), month)),
    ];
    let last = queries.len() - 1;
    for (n, (name, query)) in queries.into_iter().enumerate() {
        let (lines, mut times) = times(&mut table, &query);
        times.sort_unstable();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        let comma = if n == last { "" } else { "," };
        let (half, most) = (ms(RUNS / 2), ms(RUNS - 1));
        println!(r#"    {{"query": "{name}", "lines": {lines}, "medianMs": {half:.1}, "maxMs": {most:.1}}}{comma}"#);
    }
    println!("  ], \"startMs\": {:.0}", restored(table)?.as_secs_f64() * 1e3);
    println!("}}");
    Ok(())
}

/// What a node that starts makes of its rows.
fn restored(table: UsageTable) -> Result<Duration, Box<dyn Error>> {
    let sums = table.len();
    let rows: Vec<_> = table.into_rows().collect();
    let begun = Instant::now();
    let restored = UsageTable::restore(rows.into_iter().map(Ok::<_, io::Error>))?;
    let took = begun.elapsed();
    if restored.len() != sums { Err("a start has lost some sums".into()) } else { Ok(took) }
}

/// As a node answers: of a clone, while calls go on.
fn times(table: &mut UsageTable, query: &Query) -> (usize, Vec<Duration>) {
    let mut mixed = Mixed(11);
    let (mut lines, mut times) = (0, Vec::new());
    for _ in 0..RUNS {
        let begun = Instant::now();
        lines = table.clone().query(query).len();
        times.push(begun.elapsed());
        let at = Timestamp((BEGIN + HOURS - 1) * HOUR_US);
        table.record(at, &attribution(&mut mixed, 50), &Usage::default(), None, &mut Changes::new());
    }
    (lines, times)
}

fn resident_mb() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let now = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(now.unwrap_or(0) / 1_024)
}
