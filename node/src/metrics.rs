//! Figures of consensus, the ledger and the desk: read when they are scraped, kept nowhere twice.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tollgate_consensus::{Consensus, Role};
use tollgate_quota::Desk;

use crate::state::Shared;

const RAFT_TERM: &str = "tollgate_raft_term";
const RAFT_LEADER: &str = "tollgate_raft_is_leader";
const RAFT_LAST_LOG: &str = "tollgate_raft_last_log_index";
const RAFT_APPLIED: &str = "tollgate_raft_applied_index";
const RAFT_SNAPSHOT: &str = "tollgate_raft_snapshot_index";
const LOG_BYTES: &str = "tollgate_log_bytes";
const LOG_ENTRIES: &str = "tollgate_log_entries";
const LOG_TORN_BYTES: &str = "tollgate_log_torn_bytes";
const LOG_FULL: &str = "tollgate_log_full";
const CLOCK_OFFSET: &str = "tollgate_clock_offset_ms";
const HOLDS_OPEN: &str = "tollgate_quota_holds_open";
const DECISIONS: &str = "tollgate_quota_decisions";
const QUOTA_ENTRIES: &str = "tollgate_quota_entries";
const QUOTA_FRAMES: &str = "tollgate_quota_frames";
const UNSETTLED: &str = "tollgate_quota_requests_unsettled";
const PROPOSALS: &str = "tollgate_quota_proposals";
const FAILED_PROPOSALS: &str = "tollgate_quota_failed_proposals";
const USAGE_DROPPED: &str = "tollgate_usage_records_dropped";

/// What is read on each scrape, once it is there.
#[derive(Clone, Default)]
pub(crate) struct NodeMetrics {
    sources: Arc<OnceLock<Sources>>,
}

struct Sources {
    consensus: Consensus,
    desk: Desk,
    state: Arc<Shared>,
}

impl NodeMetrics {
    /// Registers the collector. It tells nothing until [`NodeMetrics::watch`].
    pub(crate) fn register(registry: &mut Registry) -> NodeMetrics {
        let metrics = NodeMetrics::default();
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// Reads its figures from these from now on.
    pub(crate) fn watch(&self, consensus: Consensus, desk: Desk, state: Arc<Shared>) {
        // The first ones stay: a process has one of each.
        let _ = self.sources.set(Sources { consensus, desk, state });
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(Sources { consensus, desk, state }) = self.sources.get() else { return Ok(()) };
        let raft = consensus.status();
        gauge(&mut encoder, RAFT_TERM, "Raft term", raft.term)?;
        gauge(&mut encoder, RAFT_LEADER, "1 on the leader", u64::from(raft.role == Role::Leader))?;
        gauge(&mut encoder, RAFT_LAST_LOG, "Last entry of this node's log", raft.last_log_index)?;
        gauge(&mut encoder, RAFT_APPLIED, "Last entry applied", raft.applied_index)?;
        gauge(&mut encoder, RAFT_SNAPSHOT, "Last entry in the newest snapshot", raft.snapshot_index)?;
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
        decisions(&mut encoder, [("granted", desk.granted), ("refused", desk.refused), ("undecided", desk.undecided)])
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

fn decisions(encoder: &mut DescriptorEncoder<'_>, values: [(&str, u64); 3]) -> fmt::Result {
    let help = "Reservations asked for on this node, by what became of them";
    let mut family = encoder.encode_descriptor(DECISIONS, help, None, MetricType::Counter)?;
    for (decision, value) in values {
        let labels = [("decision", decision)];
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
