//! The rows of the fault matrix: each one test, one seed, one line of figures.
//!
//! `TOLLGATE_SEED` repeats a row; `TOLLGATE_NIGHTLY=1` makes the rows longer, with more rounds. A new row is an entry in
//! the table below and a function that breaks something.

mod attackers;
pub(crate) mod clocks;
mod config;
mod disk;
mod files;
mod journal;
mod memory;
mod network;
mod partition;
mod process;
mod providers;
mod rolling;
mod stage;
mod steps;
mod storm;
mod zone_loss;

use std::{fmt, io::Write};

use tollgate_chaos_tests::{Figures, Outcome, Seed, nightly};

use crate::overshoot::windows;

/// Each row: its test, its number, what breaks, and the function that breaks it.
macro_rules! rows {
    ($($test:ident: $number:literal, $fault:literal, $run:path;)*) => {
        $(
            #[tokio::test]
            async fn $test() -> Outcome {
                row($number, $fault, $run).await
            }
        )*
    };
}

/// The rows that take minutes, and are run at night alone.
macro_rules! long_rows {
    ($($test:ident: $number:literal, $fault:literal, $run:path;)*) => {
        $(
            #[tokio::test]
            async fn $test() -> Outcome {
                if nightly() {
                    return row($number, $fault, $run).await;
                }
                say(&format!("SKIPPED: row {:>2} ({}) takes long (set TOLLGATE_NIGHTLY=1)", $number, $fault));
                Ok(())
            }
        )*
    };
}

long_rows! {
    row_03_a_killed_learner: 3, "kill -9 a learner", process::killed_learner;
    row_05_kills_in_a_loop: 5, "kill -9 of anybody, 50 times", process::killed_in_a_loop;
    row_07_a_frozen_follower: 7, "SIGSTOP follower past T_iso, SIGCONT", process::frozen_follower;
    row_09_any_durable_step: 9, "abort at each durable step", steps::any_step;
    row_10_full_disks: 10, "disk full on follower, leader, all", disk::full_disks;
    row_11_a_slow_flush: 11, "fsync takes 50 ms, 500 ms, 5 s on one node", disk::slow_flush;
    row_20_one_way_cuts: 20, "asymmetric cuts, every pair, and bridges", partition::asymmetric;
    row_25_a_flapping_leader: 25, "leader cut off every 1-2 s", partition::flapping;
    row_28_clock_steps: 28, "clock steps of a second and an hour", clocks::steps;
    row_29_clock_rates: 29, "clock rates +-1 % and +-10 %", clocks::rates;
    row_28_clock_leaps: 28, "clock steps of a day, and to 1970", clocks::leaps;
    row_30_window_edges: 30, "window edges under clocks that differ by 50 ms", windows::skewed;
    row_36_memory_pressure: 36, "more prompts than memory", memory::pressure;
}

rows! {
    row_01_a_killed_follower: 1, "kill -9 follower, restart", process::killed_follower;
    row_02_a_killed_leader: 2, "kill -9 leader under load", process::killed_leader;
    row_04_all_killed: 4, "kill -9 all nodes at once", process::killed_all;
    row_06_a_frozen_leader: 6, "SIGSTOP leader, SIGCONT", process::frozen_leader;
    row_08_a_rolling_restart: 8, "SIGTERM of all, one at a time", rolling::restart;
    row_12_a_failing_flush: 12, "fsync returns EIO", disk::failing_flush;
    row_14_a_torn_tail: 14, "torn write at the end of the log", disk::torn_tail;
    row_15_a_flipped_bit: 15, "bit flip in log, vote, snapshot, state", disk::flipped_bits;
    row_15_a_flipped_bit_in_the_journal: 15, "bit flip in the journal", journal::flipped_bits;
    row_16_a_wiped_follower: 16, "node wiped, same id rejoins", disk::wiped_follower;
    row_18_few_files: 18, "ulimit -n 256 and 1,000 connections", files::exhausted;
    row_19_a_partition: 19, "symmetric partition", partition::symmetric;
    row_24_a_black_hole: 24, "TCP accepts but never answers", network::black_hole;
    row_26_a_lost_zone: 26, "zone loss: its node and its endpoints", zone_loss::zone_loss;
    row_27_malformed_peers: 27, "malformed peers", network::malformed_peers;
    row_33_a_storm_of_changes: 33, "config storm", config::storm;
    row_33_a_thousand_changes: 33, "a thousand changes in a row", storm::changes;
    row_36_a_small_node: 36, "more prompts than a node of 512 MB has room for", memory::small;
    row_37_attackers: 37, "idle connections, slow readers and senders, floods", attackers::burdens;
    row_39_an_absent_provider: 39, "provider down, black hole, slow", providers::absent;
    row_39_an_endpoint_that_fails: 39, "one of two endpoints of a provider fails, and heals", providers::ejected;
    row_40_a_provider_of_garbage: 40, "provider garbage", providers::garbage;
    row_41_half_a_stream: 41, "half a stream then RST, FIN, silence", providers::half_a_stream;
    row_43_leaving_callers: 43, "client leaves mid-stream, half-closes", providers::leaving_callers;
}

/// The row needs a right or a tool that is not there.
#[derive(Debug)]
struct Skipped(&'static str);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Skipped {}

async fn row(number: u32, fault: &str, run: impl AsyncFnOnce(Seed) -> anyhow::Result<Figures>) -> Outcome {
    let seed = Seed::from_env();
    let name = format!("row {number:>2} ({fault})");
    let figures = match run(seed).await {
        Ok(figures) => figures,
        Err(error) if error.is::<Skipped>() => {
            say(&format!("SKIPPED: {name}: {error}"));
            return Ok(());
        }
        Err(error) => {
            say(&format!("{name} seed={seed} FAILED"));
            return Err(error.into());
        }
    };
    say(&figures.line(&name, seed));
    figures.must_be_clean()?;
    Ok(())
}

/// Past the harness's capture: the figures are to be seen of a test that passes, too.
pub(crate) fn say(line: &str) {
    // Nothing depends on anybody reading it.
    let _ = writeln!(std::io::stderr(), "{line}");
}
