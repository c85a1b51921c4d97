//! The real quota core in virtual time, under every fault there is: see `quota/src/sim.rs`.
//!
//! `cargo run --release -p tollgate-chaos-tests --example simulate -- [--seed N] [--events N | --for 60s] [--nodes 3] [-o json]`
//!
//! The seeds N, N+1, N+2… are run until that many events have happened, or so much time has passed. The exit code is 1 when
//! an invariant breaks: the run is then shrunk, and told. `--bug NAME` makes the core wrong in one way, which must end
//! with 1; `--bug list` names the ways. `--checks I1,I3` looks at those invariants alone.
//!
//! Of eight seeds in a row the first two are of what every run has; 2 and 3 have keys that live in several zones, and move; 4 and 5
//! a limit that changes between fixed and sliding; 6 and 7 requests that are paid for in advance. Odd ones have standing shares.
//!
//! `--exhaustive [--states N]` takes no dice: it looks at every order in which a few things can happen to two nodes and a
//! limit of four units, scope by scope, each up to so many states.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tollgate_quota::sim::{Budget, Bug, Checks, Failure, Fault, Plan, Report, Scope, Searched, run, search, shrink};

/// Nodes that a run can have.
const NODES: std::ops::RangeInclusive<u64> = 1..=9;

/// Runs the quota core under faults in virtual time, and checks every invariant after every event.
#[derive(Debug, Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ends after the run in which so many events have happened.
    #[arg(long, default_value_t = 3_000_000, conflicts_with = "time")]
    events: u64,
    /// Ends after the run in which so much time has passed: 60s, 5m, 1h.
    #[arg(long = "for", value_parser = duration)]
    time: Option<Duration>,
    /// How many nodes there are.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(NODES))]
    nodes: u64,
    /// Looks at every order of a few things instead.
    #[arg(long, conflicts_with_all = ["seed", "events", "time", "nodes", "checks"])]
    exhaustive: bool,
    /// Looks at so many states of each scope at most.
    #[arg(long, default_value_t = 100_000, requires = "exhaustive", value_parser = clap::value_parser!(u64).range(1..))]
    states: u64,
    /// Makes the core wrong in one way; `list` prints the names.
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Looks at these invariants alone: I1,I3. All of them by default.
    #[arg(long, value_name = "NAMES", value_parser = checks)]
    checks: Option<Checks>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> io::Result<ExitCode> {
    let options = Options::parse();
    let mut out = io::stdout().lock();
    let bug = match options.bug.as_deref() {
        None => None,
        Some("list") => {
            for bug in Bug::all() {
                writeln!(out, "{}", bug.name())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(name) => match Bug::named(name) {
            Some(bug) => Some(bug),
            None => {
                writeln!(io::stderr(), "error: --bug: there is no bug `{name}`; did you mean `{}`?", nearest(name))?;
                return Ok(ExitCode::from(2));
            }
        },
    };
    if options.exhaustive {
        return exhaust(&options, bug, &mut out);
    }
    let result = simulate(&options, bug);
    match options.output {
        Output::Json => writeln!(out, "{}", result.json(options.seed))?,
        Output::Text => result.text(options.seed, &mut out)?,
    }
    Ok(if result.failure.is_some() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Searches one scope after the other, up to the first that breaks something.
fn exhaust(options: &Options, bug: Option<Bug>, out: &mut impl Write) -> io::Result<ExitCode> {
    let mut all: Vec<(&str, Searched)> = Vec::new();
    for (name, budget) in Budget::SCOPES {
        let found = search(Scope { budget, states: options.states, bug });
        let is_over = found.violation.is_some();
        if options.output == Output::Text {
            scope(name, &found, out)?;
        }
        all.push((name, found));
        if is_over {
            break;
        }
    }
    if options.output == Output::Json {
        writeln!(out, "{}", exhausted(&all))?;
    }
    let broken = all.iter().any(|(_, found)| found.violation.is_some());
    Ok(if broken { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn scope(name: &str, found: &Searched, out: &mut impl Write) -> io::Result<()> {
    let whole = if found.exhausted { "all there are" } else { "and there are more" };
    let Searched { states, depth, ends, .. } = found;
    writeln!(out, "{name}: {states} states up to {depth} steps deep, {whole}; {ends} brought to their end")?;
    let Some((violation, story)) = &found.violation else { return Ok(()) };
    writeln!(out, "\n{violation}\nthe shortest way to it:\n")?;
    story.iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn exhausted(all: &[(&str, Searched)]) -> Value {
    let violations: Vec<Value> = all
        .iter()
        .filter_map(|(name, found)| {
            let (violation, story) = found.violation.as_ref()?;
            Some(json!({
                "invariant": violation.invariant,
                "detail": violation.detail,
                "scope": name,
                "trace": story,
            }))
        })
        .collect();
    let scopes: Vec<Value> = all
        .iter()
        .map(|(name, found)| {
            json!({
                "scope": name,
                "states": found.states,
                "depth": found.depth,
                "exhausted": found.exhausted,
                "ends": found.ends,
            })
        })
        .collect();
    json!({
        "states": all.iter().map(|(_, found)| found.states).sum::<u64>(),
        "depth": all.iter().map(|(_, found)| found.depth).max(),
        "violations": violations,
        "scopes": scopes,
    })
}

fn nearest(name: &str) -> &'static str {
    let names = Bug::all().map(Bug::name);
    names.min_by_key(|known| strsim::damerau_levenshtein(known, name)).unwrap_or("list")
}

/// Names of invariants, with commas.
fn checks(text: &str) -> Result<Checks, String> {
    text.split(',').try_fold(Checks::NONE, |checks, name| {
        let known = || Checks::names().collect::<Vec<_>>().join(", ");
        checks.and(name).ok_or_else(|| format!("there is no invariant `{name}`: name some of {}", known()))
    })
}

/// A whole number with `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write 60s, 5m or 1h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// What all runs together came to.
#[derive(Debug)]
struct Outcome {
    sum: Report,
    took: Duration,
    /// Shrunk.
    failure: Option<Failure>,
}

/// Runs one seed after the other, up to the first that fails.
fn simulate(options: &Options, bug: Option<Bug>) -> Outcome {
    let begun = Instant::now();
    let mut sum = Report::default();
    let mut seed = options.seed;
    loop {
        let checks = options.checks.unwrap_or(Checks::ALL);
        let plan = Plan { nodes: options.nodes, bug, checks, ..Plan::mixed(seed) };
        match run(plan) {
            Ok(report) => sum.add(&report),
            Err(failure) => {
                sum.add(&failure.report);
                return Outcome { sum, took: begun.elapsed(), failure: Some(shrink(*failure)) };
            }
        }
        let took = begun.elapsed();
        if options.time.map_or(sum.events >= options.events, |time| took >= time) {
            return Outcome { sum, took, failure: None };
        }
        seed = seed.wrapping_add(1);
    }
}

impl Outcome {
    fn events_per_second(&self) -> u64 {
        let micros = self.took.as_micros().max(1);
        u64::try_from(u128::from(self.sum.events) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }

    fn json(&self, seed: u64) -> Value {
        let faults: Value =
            Fault::ALL.iter().map(|fault| (fault.name().to_owned(), json!(self.sum.faults.of(*fault)))).collect();
        let violations: Vec<Value> = self.failure.iter().map(violation).collect();
        json!({
            "seed": seed,
            "events": self.sum.events,
            "admissions": self.sum.admissions,
            "refusals": self.sum.refusals,
            "faults": faults,
            "violations": violations,
            "eventsPerSecond": self.events_per_second(),
            "traceHash": format!("{:016x}", self.sum.trace),
            "usableShare": self.sum.usable_share(),
            "oracleUnits": self.sum.oracle_units,
            "refusedBesideRoom": self.sum.refused_beside_room,
            "refusedBesideOldRoom": self.sum.refused_beside_old_room,
            "grown": self.sum.grown,
            "unprotected": self.sum.unprotected,
            "falseRefusals": self.sum.false_refusals,
            "billedUnits": self.sum.billed_units,
            "lostUnits": self.sum.lost_units,
            "flips": self.sum.flips,
        })
    }

    fn text(&self, seed: u64, out: &mut impl Write) -> io::Result<()> {
        let sum = &self.sum;
        writeln!(
            out,
            "seed {seed}: {} events, {} a second, trace {:016x}",
            sum.events,
            self.events_per_second(),
            sum.trace
        )?;
        writeln!(
            out,
            "{} admitted, {} refused, {} of those falsely",
            sum.admissions, sum.refusals, sum.false_refusals
        )?;
        writeln!(
            out,
            "{:.2} % of what a perfect counter would have admitted was admitted",
            100.0 * self.sum.usable_share()
        )?;
        let faults = Fault::ALL.map(|fault| format!("{} {}", sum.faults.of(fault), fault.name()));
        writeln!(out, "faults: {}", faults.join(", "))?;
        let Some(failure) = &self.failure else { return writeln!(out, "every invariant held") };
        writeln!(out, "\n{}", failure.violation)?;
        writeln!(out, "shrunk to {}; what happened last:\n", plan(failure))?;
        failure.story.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

fn violation(failure: &Failure) -> Value {
    json!({
        "invariant": failure.violation.invariant,
        "detail": failure.violation.detail,
        "seed": failure.plan.seed,
        "plan": failure.plan.kind(),
        "faults": failure.plan.faults.iter().map(Fault::name).collect::<Vec<_>>(),
        "arrivals": failure.report.arrivals,
        "trace": failure.story,
    })
}

fn plan(failure: &Failure) -> String {
    let faults: Vec<&str> = failure.plan.faults.iter().map(Fault::name).collect();
    let faults = if faults.is_empty() { "no fault at all".to_owned() } else { faults.join(", ") };
    let Plan { seed, .. } = failure.plan;
    format!("seed {seed} ({}), {} requests, with {faults}", failure.plan.kind(), failure.report.arrivals)
}
