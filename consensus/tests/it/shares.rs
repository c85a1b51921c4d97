//! What the leader does with commands before it proposes them.

use std::{collections::BTreeSet, time::Instant};

use bytes::Bytes;
use tollgate_consensus::ProposeError;

use crate::cluster::{Cluster, soon};

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_all_nodes_share_entries_and_each_gets_its_own_outcome() {
    const EACH: usize = 100;
    let cluster = Cluster::start(3).await;
    cluster.write(1, "k=v").await;
    let before = cluster.nodes[0].get().status().last_log_index;
    let begun = Instant::now();
    let writes = cluster.nodes.iter().flat_map(|node| (0..EACH).map(move |n| (node, n)));
    let outcomes = futures_util::future::join_all(writes.map(|(node, n)| async move {
        let command = Bytes::from(format!("+{}-{n}={n}", node.id));
        let committed = node.get().propose(None, command, soon()).await.expect("committed");
        let outcome = String::from_utf8(committed.outcome.to_vec()).unwrap();
        (committed.index, outcome.split(' ').nth(1).unwrap().parse::<u64>().unwrap())
    }))
    .await;
    let most = u64::try_from(begun.elapsed().as_millis()).unwrap() / 5 + 1;

    let counts: BTreeSet<u64> = outcomes.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, (2..=1 + 3 * EACH as u64).collect(), "each its own, and all of them once");
    let entries: BTreeSet<u64> = outcomes.iter().map(|(index, _)| *index).collect();
    assert!(entries.len() < 3 * EACH / 10, "{} entries", entries.len());
    assert!(entries.len() as u64 <= most, "{} entries, at the pace at most {most}", entries.len());
    assert!(*entries.last().unwrap() <= before + most + 3, "and not many others");
    let leader = cluster.leader().await;
    let stats = cluster.nodes.iter().find(|node| node.id == leader).unwrap().get().share_stats();
    assert_eq!((stats.entries, stats.commands), (entries.len() as u64, 3 * EACH as u64));
    for node in &cluster.nodes {
        for n in 0..EACH {
            cluster.nodes[0].get().read_barrier(soon()).await.unwrap();
            assert_eq!(cluster.nodes[0].value(&format!("+{}-{n}", node.id)), Some(n.to_string()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_refused_on_any_node_and_halts_none() {
    let cluster = Cluster::start(3).await;
    for node in &cluster.nodes {
        for request_id in [None, Some([7; 16])] {
            let refused = node.get().propose(request_id, Bytes::from("nonsense"), soon()).await.unwrap_err();
            assert_eq!(refused, ProposeError::NotACommand("it has no `=`".into()));
            assert_eq!(refused.to_string(), "not a command: it has no `=`");
        }
    }
    cluster.write(2, "k=v").await;
    cluster.check_everywhere("k", "v").await;
}
