//! Every failpoint is come to: one that is not would prove nothing, whatever it ends.
//!
//! `cargo test -p tollgate-consensus --features failpoints --test it -- failpoints`

use std::time::{Duration, Instant};

use tollgate_consensus::SnapshotPolicy;
use tollgate_storage::failpoints::{FAILPOINTS, hits};

use crate::cluster::{Cluster, soon, until};

const OFTEN: SnapshotPolicy =
    SnapshotPolicy { log_bytes: 100_000, interval: Duration::from_secs(3600), keep_entries: 2 };

/// A third of a segment of the log.
const LARGE_BYTES: usize = 6 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn every_failpoint_is_come_to() {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        node.snapshots = OFTEN;
    }
    cluster.start_all().await;
    let large = "x".repeat(LARGE_BYTES);
    for _ in 0..6 {
        cluster.write(1, &format!("large={large}")).await;
    }
    // What was left behind a snapshot goes with a later one, which has to have something to replace.
    let (small, deadline) = ("x".repeat(20_000), soon());
    while hits("drop.after-remove") == 0 || hits("snapshot.before-drop") == 0 {
        assert!(Instant::now() < deadline, "no segment was dropped, and no snapshot");
        cluster.write(1, &format!("small={small}")).await;
    }
    // An empty follower gets a snapshot.
    let wiped = cluster.follower().await;
    cluster.node(wiped).stop().await;
    cluster.node(wiped).wipe();
    cluster.node(wiped).start().await;
    cluster.write(wiped, "k=v").await;
    cluster.check_everywhere("k", "v").await;
    // In a cluster a log is rarely cut, as nothing is lost: `log/tests/model.rs` does it.
    let missing = || FAILPOINTS.iter().filter(|name| hits(name) == 0 && **name != "truncate.before-write");
    let last = Instant::now() + Duration::from_secs(20);
    until("the last are come to", || missing().next().is_none() || Instant::now() > last).await;
    assert!(missing().next().is_none(), "never come to: {:?}", missing().collect::<Vec<_>>());
}
