//! What the nodes say of themselves: counters, and histograms as far as a quantile can be read off them.

use std::collections::BTreeMap;

use tollgate_chaos_tests::Cluster;

/// Reservations from memory, and by the log: at once, or after other nodes had given back.
pub(super) const LOCAL: &str = "tollgate_quota_admissions_total{path=\"local\"}";
const CENTRAL: &str = "tollgate_quota_admissions_total{path=\"central\"}";
const PARKED: &str = "tollgate_quota_admissions_total{path=\"parked\"}";

/// The metrics of all nodes at one moment, added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    values: BTreeMap<String, f64>,
    /// The newest entry that any node has applied.
    pub(super) applied: u64,
}

impl Snapshot {
    pub(super) async fn take(cluster: &Cluster) -> anyhow::Result<Snapshot> {
        let mut all = Snapshot::default();
        for node in &cluster.nodes {
            let text = cluster.client.get(&format!("{}/metrics", node.admin_url()), &[]).await?.text();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let Some((name, value)) = line.rsplit_once(' ') else { continue };
                let value: f64 = value.parse().unwrap_or_default();
                if name == "tollgate_raft_applied_index" {
                    all.applied = all.applied.max(whole(value));
                }
                *all.values.entry(name.to_owned()).or_default() += value;
            }
        }
        Ok(all)
    }

    /// By how much a counter has grown since `before`.
    pub(super) fn grown(&self, before: &Snapshot, name: &str) -> u64 {
        let of = |snapshot: &Snapshot| snapshot.values.get(name).copied().unwrap_or_default();
        whole(of(self) - of(before))
    }

    /// Reservations by the log since `before`.
    pub(super) fn by_log(&self, before: &Snapshot) -> u64 {
        self.grown(before, CENTRAL) + self.grown(before, PARKED)
    }

    /// The `quantile` of what a histogram has counted since `before`, in its own unit, taken to be spread evenly within a bucket.
    /// `labels` are those of its lines without `le`, as `path="central"`.
    pub(super) fn quantile(&self, before: &Snapshot, name: &str, labels: &str, quantile: f64) -> f64 {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (line, value) in &self.values {
            let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix("_bucket{")) else { continue };
            let Some((le, others)) = bound(rest) else { continue };
            if others == labels {
                buckets.push((le, value - before.values.get(line).copied().unwrap_or_default()));
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        read_off(&buckets, quantile)
    }
}

/// A counter is far below where a float is not exact any more.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

/// The bound of a bucket's labels, and the others.
fn bound(labels: &str) -> Option<(f64, String)> {
    let (before, rest) = labels.split_once("le=\"")?;
    let (bound, after) = rest.split_once('"')?;
    let others = format!("{before}{}", after.trim_end_matches('}'));
    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
    Some((bound, others.trim_matches(',').to_owned()))
}

/// `buckets` are bounds and how many are not above them.
fn read_off(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let wanted = buckets.last().map_or(0.0, |(_, all)| all * quantile);
    let (mut low, mut below) = (0.0, 0.0);
    for &(high, up_to) in buckets {
        if up_to >= wanted && up_to > below {
            let share = (wanted - below) / (up_to - below);
            return if high.is_finite() { low + (high - low) * share } else { low };
        }
        (low, below) = (high, up_to);
    }
    0.0
}
