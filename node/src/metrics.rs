//! Figures of consensus, the ledger and the desk: read when they are scraped, kept nowhere twice.

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tollgate_consensus::{CommitTimes, Consensus, Role};
use tollgate_quota::{Desk, DeskStats, ledger::Sums};

use crate::{alerts::Tries, audit::Findings, clock, state::Shared};

const RAFT_TERM: &str = "tollgate_raft_term";
const RAFT_LEADER: &str = "tollgate_raft_is_leader";
const RAFT_LAST_LOG: &str = "tollgate_raft_last_log_index";
const RAFT_APPLIED: &str = "tollgate_raft_applied_index";
const RAFT_SNAPSHOT: &str = "tollgate_raft_snapshot_index";
const RAFT_COMMIT: &str = "tollgate_raft_commit_duration_seconds";
const LOG_BYTES: &str = "tollgate_log_bytes";
const LOG_ENTRIES: &str = "tollgate_log_entries";
const LOG_TORN_BYTES: &str = "tollgate_log_torn_bytes";
const LOG_FULL: &str = "tollgate_log_full";
const CLOCK_OFFSET: &str = "tollgate_clock_offset_ms";
const SNAPSHOT_SECONDS: &str = "tollgate_raft_snapshot_duration_seconds";
const HOLD_AGE: &str = "tollgate_quota_hold_age_max_seconds";
const JOURNAL_UNACKED: &str = "tollgate_quota_journal_unacked_entries";
const RECOVERY: &str = "tollgate_quota_recover_seconds";
const REFUSALS: &str = "tollgate_quota_refusals";
const LEASE_UNITS: &str = "tollgate_quota_lease_units";
const HOLDS_OPEN: &str = "tollgate_quota_holds_open";
const RESERVATIONS: &str = "tollgate_quota_reservations";
const ADMISSIONS: &str = "tollgate_quota_admissions";
const RECORDS: &str = "tollgate_quota_records";
const SETTLE_LAG: &str = "tollgate_quota_settle_lag_seconds";
const QUARANTINED: &str = "tollgate_quota_accounts_quarantined";
const LEDGER: &str = "tollgate_quota_ledger_events";
const LEASED: &str = "tollgate_quota_leased_units";
const UNITS: &str = "tollgate_quota_units";
const ACCOUNTS: &str = "tollgate_quota_accounts";
const OVERFLOW: &str = "tollgate_quota_overflow_accounts";
const UNPROTECTED_UNITS: &str = "tollgate_quota_unprotected_units";
const CHECKS: &str = "tollgate_quota_invariant_checks";
const VIOLATIONS: &str = "tollgate_quota_invariant_violations";
const QUOTA_ENTRIES: &str = "tollgate_quota_entries";
const QUOTA_FRAMES: &str = "tollgate_quota_frames";
const UNSETTLED: &str = "tollgate_quota_requests_unsettled";
const PROPOSALS: &str = "tollgate_quota_proposals";
const FAILED_PROPOSALS: &str = "tollgate_quota_failed_proposals";
const BOOK_RECORDS: &str = "tollgate_ledger_records";
const BOOK_SEGMENT: &str = "tollgate_ledger_segment";
const BOOK_MISSING: &str = "tollgate_ledger_missing_bytes";
const BOOK_FULL: &str = "tollgate_ledger_full";
const BOOK_UNBALANCED: &str = "tollgate_ledger_unbalanced";
const ALERTS: &str = "tollgate_budget_alerts";
const ALERT_TRIES: &str = "tollgate_budget_alert_tries";
const USAGE_DROPPED: &str = "tollgate_usage_records_dropped";

/// What is read on each scrape, once it is there.
#[derive(Clone, Default)]
pub(crate) struct NodeMetrics {
    sources: Arc<OnceLock<Sources>>,
}

/// Where figures are read.
pub(crate) struct Sources {
    pub(crate) consensus: Consensus,
    pub(crate) desk: Desk,
    pub(crate) state: Arc<Shared>,
    pub(crate) findings: Arc<Findings>,
    pub(crate) tries: Arc<Tries>,
}

impl NodeMetrics {
    /// Registers the collector. It tells nothing until [`NodeMetrics::watch`].
    pub(crate) fn register(registry: &mut Registry) -> NodeMetrics {
        let metrics = NodeMetrics::default();
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// Reads its figures from these from now on.
    pub(crate) fn watch(&self, sources: Sources) {
        // The first ones stay: a process has one of each.
        let _ = self.sources.set(sources);
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Sources { consensus, desk, state, findings, tries }) = self.sources.get() else { return Ok(()) };
        let raft = consensus.status();
        gauge(&mut encoder, RAFT_TERM, "Raft term", raft.term)?;
        gauge(&mut encoder, RAFT_LEADER, "1 on the leader", u64::from(raft.role == Role::Leader))?;
        gauge(&mut encoder, RAFT_LAST_LOG, "Last entry of this node's log", raft.last_log_index)?;
        gauge(&mut encoder, RAFT_APPLIED, "Last entry applied", raft.applied_index)?;
        gauge(&mut encoder, RAFT_SNAPSHOT, "Last entry in the newest snapshot", raft.snapshot_index)?;
        let help = "How long the newest snapshot took that this process has written; 0 before there is one";
        float(&mut encoder, SNAPSHOT_SECONDS, help, consensus.snapshot_time().as_secs_f64())?;
        commits(&mut encoder, &consensus.commit_times())?;
        let log = consensus.log();
        gauge(&mut encoder, LOG_BYTES, "What this node's log takes on the disk", log.disk_bytes)?;
        gauge(&mut encoder, LOG_ENTRIES, "Entries that this node's log keeps", log.entries)?;
        gauge(
            &mut encoder,
            LOG_TORN_BYTES,
            "Cut off the log's end at the last start, never acknowledged",
            log.torn_bytes,
        )?;
        gauge(&mut encoder, LOG_FULL, "1 while the log's disk is full and writes wait for space", u64::from(log.full))?;
        if let Some(offset_us) = consensus.clock_offset_us() {
            let help =
                "How far the leader's wall clock is ahead of the median of the voters' clocks; on the leader only";
            let gauge = ConstGauge::new(offset_us / 1_000);
            gauge.encode(encoder.encode_descriptor(CLOCK_OFFSET, help, None, gauge.metric_type())?)?;
        }

        let holds = u64::try_from(state.ledger(|ledger| ledger.open_holds())).unwrap_or(u64::MAX);
        gauge(&mut encoder, HOLDS_OPEN, "Reservations of requests in flight, on all nodes", holds)?;
        let desk = desk.stats();
        let help =
            "How long the oldest hold is open by now: of the log's on all nodes, and of requests on this node's leases";
        let oldest = state.ledger(tollgate_quota::Ledger::image).oldest_hold(clock::now().max(state.log_time()));
        float(&mut encoder, HOLD_AGE, help, oldest.unwrap_or_default().max(desk.oldest).as_secs_f64())?;
        let unsettled = u64::try_from(desk.open).unwrap_or(u64::MAX);
        gauge(&mut encoder, UNSETTLED, "Requests of this node open or not settled in the log yet", unsettled)?;
        let shared = consensus.share_stats();
        counter(
            &mut encoder,
            QUOTA_ENTRIES,
            "Log entries of quota frames that this node wrote as leader",
            shared.entries,
        )?;
        counter(&mut encoder, QUOTA_FRAMES, "Quota frames, of all nodes, in those entries", shared.commands)?;
        counter(&mut encoder, PROPOSALS, "Quota frames proposed, those proposed again included", desk.proposals)?;
        counter(&mut encoder, FAILED_PROPOSALS, "Quota frames without an outcome", desk.failed_proposals)?;
        counter(&mut encoder, USAGE_DROPPED, "Usage records dropped as too much was unsettled", desk.dropped)?;
        quota(&mut encoder, &desk)?;
        ledger(&mut encoder, state)?;
        books(&mut encoder, state, findings)?;
        alerts(&mut encoder, state, tries)?;
        audit(&mut encoder, findings)
    }
}

/// The billing ledger and its files.
fn books(encoder: &mut DescriptorEncoder<'_>, state: &Shared, findings: &Findings) -> fmt::Result {
    let (records, segment) = state.books().look(|state| (state.chain().records(), state.chain().open().segment));
    gauge(
        encoder,
        BOOK_RECORDS,
        "Records of the billing ledger, prices included, as this node has applied them",
        records,
    )?;
    gauge(encoder, BOOK_SEGMENT, "The segment that they are written to", segment)?;
    let missing = findings.ledger_missing().load(Relaxed);
    gauge(encoder, BOOK_MISSING, "Bytes of segments that this node has to fetch from others", missing)?;
    let full = u64::from(state.books().is_full());
    gauge(encoder, BOOK_FULL, "1 while there is no space for the ledger and rows wait in memory", full)?;
    let help = "Audits that found that the books of the billing ledger do not add up";
    counter(encoder, BOOK_UNBALANCED, help, findings.unbalanced.load(Relaxed))
}

/// Alerts of budgets, and the calls that tell of them.
fn alerts(encoder: &mut DescriptorEncoder<'_>, state: &Shared, tries: &Tries) -> fmt::Result {
    let counts = state.alerts(|book| book.outbox().counts());
    let states = [
        ("pending", counts.pending),
        ("delivered", counts.delivered),
        ("failed", counts.failed),
        ("listed", counts.listed),
    ];
    let help = "Alerts of budgets that are kept: waiting for their webhook, delivered, given up, or without a webhook";
    let mut family = encoder.encode_descriptor(ALERTS, help, None, MetricType::Gauge)?;
    for (state, count) in states {
        ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
    }
    let results = [("delivered", tries.delivered.load(Relaxed)), ("failed", tries.failed.load(Relaxed))];
    counters(encoder, ALERT_TRIES, "Calls of webhooks that this node has made", "result", &results)
}

/// What became of what this node's requests asked for.
fn quota(encoder: &mut DescriptorEncoder<'_>, desk: &DeskStats) -> fmt::Result {
    let admitted =
        [("local", desk.local), ("central", desk.granted.saturating_sub(desk.parked)), ("parked", desk.parked)];
    let help = "Reservations granted: from this node's leases, by the log, or after others had given back or ended";
    counters(encoder, ADMISSIONS, help, "path", &admitted)?;
    let outcomes = [("granted", desk.local + desk.granted), ("refused", desk.refused), ("undecided", desk.undecided)];
    let help = "Reservations asked for on this node: granted, refused by the log, or not decided in time";
    counters(encoder, RESERVATIONS, help, "outcome", &outcomes)?;
    let refusals =
        [("log", desk.refused), ("undecided", desk.undecided.saturating_sub(desk.cut_off)), ("iso", desk.cut_off)];
    let help = "Reservations not granted: by the log, not decided in time, or not while this node was cut off";
    counters(encoder, REFUSALS, help, "by", &refusals)?;
    let help = "Entries that the journal was given and does not have on the disk yet";
    gauge(encoder, JOURNAL_UNACKED, help, desk.unjournaled)?;
    let help =
        "From this process's opening until the log had what earlier ones left to say, or until now; 0 if nothing";
    float(encoder, RECOVERY, help, desk.recovery.as_secs_f64())?;
    counter(encoder, RECORDS, "Holds, settlements and reports that the log has taken from this node", desk.records)?;
    let help = "How long the oldest settlement waits for the log by now";
    float(encoder, SETTLE_LAG, help, desk.settle_lag.as_secs_f64())?;
    let quarantined = u64::try_from(desk.quarantined).unwrap_or(u64::MAX);
    gauge(encoder, QUARANTINED, "Accounts that do not add up and are closed on this node", quarantined)
}

/// What the ledger has counted since the cluster was founded: the same on all nodes.
fn ledger(encoder: &mut DescriptorEncoder<'_>, state: &Shared) -> fmt::Result {
    let meta = state.ledger(|ledger| *ledger.counters());
    let events = [
        ("settled", meta.settled),
        ("voided", meta.voided),
        ("expired", meta.expired),
        ("orphaned", meta.orphaned),
        ("late_settle", meta.late_settles),
        ("second_terminal", meta.second_terminals),
        ("recall", meta.recalls),
    ];
    counters(
        encoder,
        LEDGER,
        "How requests ended in the ledger, and leases called back, on all nodes",
        "event",
        &events,
    )?;
    counter(encoder, LEASED, "Units granted as leases, on all nodes", meta.leased)?;
    let help = "What requests used that went on without a limit, on all nodes, as the log knows";
    let mut family = encoder.encode_descriptor(UNPROTECTED_UNITS, help, None, MetricType::Counter)?;
    for (limit, unprotected) in state.ledger(tollgate_quota::Ledger::unprotected) {
        let labels = [("limit", limit.as_str())];
        ConstCounter::new(unprotected.units).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What the audit's last round came to.
fn audit(encoder: &mut DescriptorEncoder<'_>, findings: &Findings) -> fmt::Result {
    counter(encoder, CHECKS, "Accounts that this node has recomputed", findings.checks.load(Relaxed))?;
    counter(encoder, VIOLATIONS, "Accounts found not to add up: must stay 0", findings.violations.load(Relaxed))?;
    let sums = findings.sums();
    let total = |of: fn(&Sums) -> u64| sums.values().map(of).fold(0, u64::saturating_add);
    gauge(encoder, ACCOUNTS, "Accounts used in their window, at the last audit", total(|it| it.accounts))?;
    let help = "Limits with more keys than accounts, whose further keys share one";
    gauge(encoder, OVERFLOW, help, total(|it| it.overflow))?;
    let help = "What the accounts of a limit hold together, at the last audit";
    let mut family = encoder.encode_descriptor(UNITS, help, None, MetricType::Gauge)?;
    for (limit, sums) in &sums {
        for (state, units) in [
            ("used", sums.used),
            ("held", sums.held),
            ("leased", sums.leased),
            ("suspense", sums.suspense),
            ("lost", sums.lost),
            ("overrun", sums.overrun),
        ] {
            let labels = [("limit", limit.as_str()), ("state", state)];
            ConstGauge::new(u64::try_from(units).unwrap_or(u64::MAX)).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "What each node has in hand of a limit's accounts together, at the last audit";
    let mut family = encoder.encode_descriptor(LEASE_UNITS, help, None, MetricType::Gauge)?;
    for (limit, sums) in &sums {
        for (node, units) in &sums.by_node {
            let labels = [("limit", limit.to_string()), ("node", node.to_string())];
            ConstGauge::new(u64::try_from(*units).unwrap_or(u64::MAX)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn commits(encoder: &mut DescriptorEncoder<'_>, times: &CommitTimes) -> fmt::Result {
    let help = "From an entry's proposal on the leader until it is applied there; on nodes that have led";
    let mut family = encoder.encode_descriptor(RAFT_COMMIT, help, None, MetricType::Histogram)?;
    let bound = |time: Duration| if time == Duration::MAX { f64::MAX } else { time.as_secs_f64() };
    let buckets: Vec<(f64, u64)> = times.buckets.iter().map(|(time, count)| (bound(*time), *count)).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    family.encode_histogram::<NoLabelSet>(times.sum.as_secs_f64(), count, &buckets, None)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn float(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

/// One counter for each value of a label.
fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: &[(&str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        let labels = [(label, *value)];
        ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
