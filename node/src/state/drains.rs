//! Zones that are drained: the log's word, and whoever follows it.

use std::sync::Arc;

use prost::Message;
use tokio::sync::watch;
use tollgate_admin::DrainedZones;
use tollgate_consensus::Changes;
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::ZoneChange;
use tracing::info;

use super::{ReplicatedState, Shared, rows::Part};

impl ReplicatedState {
    pub(super) fn change_zone(&self, now: Timestamp, change: &ZoneChange, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let mut zones = DrainedZones::clone(&self.shared.drained_zones());
        let outcome = zones.apply(now, change, &mut rows);
        Part::Zones.collect(rows, changes);
        if outcome.changed {
            let word = if change.drained { "zone drained" } else { "zone taken back" };
            info!(token = %change.actor, zone = %change.zone, "{word}");
            self.publish_zones(zones);
        }
        outcome.encode_to_vec()
    }

    pub(super) fn publish_zones(&self, zones: DrainedZones) {
        self.shared.drained.send_replace(Arc::new(zones));
    }
}

impl Shared {
    /// The drained zones as this node has applied them.
    pub(crate) fn drained_zones(&self) -> Arc<DrainedZones> {
        Arc::clone(&self.drained.borrow())
    }

    /// The same, and every later set.
    pub(crate) fn follow_zones(&self) -> watch::Receiver<Arc<DrainedZones>> {
        self.drained.subscribe()
    }
}
