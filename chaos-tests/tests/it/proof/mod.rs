//! The long proof of the ledger: many calls of every kind while nodes are killed, stopped, frozen and restarted at random and the
//! leader is moved. Then every row is held against what the providers counted themselves, and every sum against every other.
//!
//! `TOLLGATE_CALLS` says how many calls, `TOLLGATE_SEED` repeats a run.

mod audit;
mod evidence;
mod load;
mod stage;
mod strikes;

use std::{env, time::Instant};

use tollgate_chaos_tests::{Outcome, Seed, nightly};

use crate::matrix::say;

use self::{audit::audit, stage::Stage};

/// Another number of calls.
const CALLS: &str = "TOLLGATE_CALLS";

/// How many calls reach a provider.
fn size() -> u64 {
    let told = env::var(CALLS).ok().map(|text| text.parse().expect("TOLLGATE_CALLS is a whole number"));
    told.unwrap_or(if nightly() { 100_000 } else { 2_000 })
}

#[tokio::test]
async fn every_call_is_in_the_ledger_as_its_provider_counted_it_whoever_dies_and_leads() -> Outcome {
    let (seed, calls, begun) = (Seed::from_env(), size(), Instant::now());
    say(&format!("ledger proof: calls={calls} seed={seed}"));
    let mut stage = Stage::set().await?;
    let (told, struck) = stage.play(calls, seed).await?;
    let loaded = begun.elapsed();
    let found = audit(&mut stage, &told, &struck).await?;
    say(&format!(
        "ledger proof: {} {} load={:.0}s all={:.0}s seed={seed}",
        struck.line(),
        found.line(),
        loaded.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    ));
    found.must_be_much_of(calls)?;
    Ok(())
}
