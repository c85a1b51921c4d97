//! Judges: pure functions from evidence to violations.

use std::{collections::BTreeSet, time::Duration};

use tollgate_mock_llm::Record;

use crate::history::{Asked, Operation, Told};

/// Reads of a growing register that can't have happened in any order of the operations: the value is older than one
/// that was acknowledged, or read, before the read began; or newer than anything asked for before it returned.
///
/// With one writer whose values grow, this is exactly linearizability.
pub fn stale_reads(history: &[Operation]) -> Vec<Operation> {
    history.iter().filter(|operation| is_stale(operation, history)).copied().collect()
}

fn is_stale(read: &Operation, history: &[Operation]) -> bool {
    let (Asked::Read, Told::Done(value)) = (read.asked, read.told) else { return false };
    let known_before = history.iter().filter(|other| other.returned < read.invoked).filter_map(|other| match other {
        Operation { asked: Asked::Write(written), told: Told::Done(_), .. } => Some(*written),
        Operation { asked: Asked::Read, told: Told::Done(seen), .. } => Some(*seen),
        _ => None,
    });
    let asked_before =
        history.iter().filter(|other| other.invoked < read.returned).filter_map(|other| match other.asked {
            Asked::Write(written) => Some(written),
            Asked::Read => None,
        });
    value < known_before.max().unwrap_or(0) || value > asked_before.max().unwrap_or(0)
}

/// Acknowledged writes that are not there any more.
pub fn lost_writes(acknowledged: &[u64], present: &BTreeSet<u64>) -> Vec<u64> {
    acknowledged.iter().filter(|value| !present.contains(value)).copied().collect()
}

/// Tokens beyond a limit.
pub fn over_admitted(tokens: u64, limit: u64) -> u64 {
    tokens.saturating_sub(limit)
}

/// The most tokens beyond `limit` in any fixed window, of the calls that certainly belong to one: those which the
/// provider saw begin at least `slack` after the window did, `slack` being more than a call needs from its admission
/// to the provider.
pub fn over_admitted_in_windows(records: &[Record], window: Duration, slack: Duration, limit: u64) -> u64 {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    let (window, slack) = (us(window), us(slack));
    let mut sums = std::collections::BTreeMap::<u64, u64>::new();
    for record in records.iter().filter(|record| record.started_us % window >= slack) {
        *sums.entry(record.started_us / window).or_default() += record.input_tokens + record.output_tokens;
    }
    sums.values().map(|&tokens| over_admitted(tokens, limit)).max().unwrap_or(0)
}

/// The most tokens beyond `limit` in any window of this length, wherever it begins: what a sliding limit promises. The
/// length to give is the limit's own less what a call needs, at the most, from its admission to the provider.
pub fn over_admitted_in_any_window(records: &[Record], window: Duration, limit: u64) -> u64 {
    let length = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
    let mut calls: Vec<(u64, u64)> =
        records.iter().map(|record| (record.started_us, record.input_tokens + record.output_tokens)).collect();
    calls.sort_unstable();
    let (mut first, mut sum, mut worst) = (0, 0, 0);
    for &(at, tokens) in &calls {
        sum += tokens;
        while calls[first].0 + length <= at {
            sum -= calls[first].1;
            first += 1;
        }
        worst = worst.max(over_admitted(sum, limit));
    }
    worst
}

/// The most calls that were being answered at the same moment, each taken to have ended `slack` before the provider noted
/// its end: whoever reads an answer may have it by then.
pub fn most_at_once(records: &[Record], slack: Duration) -> u64 {
    let slack = u64::try_from(slack.as_micros()).unwrap_or(u64::MAX);
    let mut edges = Vec::new();
    for record in records {
        let ended = if record.ended_us == 0 { u64::MAX } else { record.ended_us.saturating_sub(slack) };
        edges.push((record.started_us, true));
        // One that was shorter than the slack has had its moment all the same.
        edges.push((ended.max(record.started_us + 1), false));
    }
    // At the same moment, ends come first.
    edges.sort_unstable();
    let (mut now, mut most) = (0_u64, 0);
    for (_, begins) in edges {
        now = if begins { now + 1 } else { now - 1 };
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tollgate_mock_llm::Outcome;

    use super::*;

    /// Times in milliseconds.
    fn operation(asked: Asked, from: u64, told: Told, to: u64, zero: Instant) -> Operation {
        let at = |ms| zero + Duration::from_millis(ms);
        Operation { asked, invoked: at(from), told, returned: at(to) }
    }

    #[test]
    fn a_read_may_see_neither_the_past_nor_the_future() {
        let zero = Instant::now();
        let write = |value, from, told, to| operation(Asked::Write(value), from, told, to, zero);
        let read = |value, from, to| operation(Asked::Read, from, Told::Done(value), to, zero);
        let (done, unknown) = (Told::Done(0), Told::Unknown);
        let good =
            [write(1, 0, done, 10), write(2, 20, unknown, 30), read(1, 11, 12), read(2, 40, 41), read(2, 50, 51)];
        assert!(stale_reads(&good).is_empty());
        let concurrent = [write(1, 0, done, 100), read(0, 1, 2), read(1, 3, 4), read(1, 5, 6)];
        assert!(stale_reads(&concurrent).is_empty());
        let behind_write = [write(1, 0, done, 10), read(0, 11, 12)];
        assert_eq!(stale_reads(&behind_write), [behind_write[1]]);
        let behind_read = [write(1, 0, unknown, 10), read(1, 11, 12), read(0, 13, 14)];
        assert_eq!(stale_reads(&behind_read), [behind_read[2]]);
        let invented = [write(1, 0, done, 10), read(7, 11, 12)];
        assert_eq!(stale_reads(&invented), [invented[1]]);
    }

    #[test]
    fn a_write_is_lost_when_it_was_acknowledged_and_is_not_there() {
        assert_eq!(lost_writes(&[1, 2, 4], &BTreeSet::from([1, 3, 4])), [2]);
    }

    /// One call from `from` on, for so long, both in milliseconds.
    fn record(from: u64, long: u64, tokens: u64) -> Record {
        Record {
            sequence: 0,
            request_id: None,
            path: String::new(),
            model: String::new(),
            stream: false,
            status: 200,
            input_tokens: 0,
            output_tokens: tokens,
            planned_tokens: tokens,
            started_us: from * 1_000,
            first_byte_us: 0,
            ended_us: (from + long) * 1_000,
            outcome: Outcome::Finished,
        }
    }

    #[test]
    fn windows_are_summed_apart_and_their_edges_left_out() {
        let records = [record(1_100, 1, 6), record(1_900, 1, 6), record(2_000, 1, 50)];
        let over = over_admitted_in_windows(&records, Duration::from_secs(1), Duration::from_millis(50), 10);
        assert_eq!(over, 2);
    }

    #[test]
    fn a_window_may_begin_anywhere() {
        let second = Duration::from_secs(1);
        let apart = [record(1_900, 1, 6), record(900, 1, 6), record(2_900, 1, 6)];
        assert_eq!(over_admitted_in_any_window(&apart, second, 10), 0);
        let close = [record(1_900, 1, 6), record(901, 1, 6), record(2_850, 1, 6)];
        assert_eq!(over_admitted_in_any_window(&close, second, 10), 2);
    }

    #[test]
    fn calls_at_once_are_those_that_overlap_by_more_than_the_slack() {
        let slack = Duration::from_millis(10);
        assert_eq!(most_at_once(&[record(0, 100, 1), record(100, 50, 1)], slack), 1);
        assert_eq!(most_at_once(&[record(0, 100, 1), record(95, 50, 1)], slack), 1);
        assert_eq!(most_at_once(&[record(0, 100, 1), record(50, 50, 1), record(80, 1, 1)], slack), 3);
        let going_on = Record { ended_us: 0, ..record(0, 0, 1) };
        assert_eq!(most_at_once(&[going_on.clone(), record(500, 50, 1), going_on], slack), 3);
    }
}
