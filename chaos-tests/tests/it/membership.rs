//! Nodes that come, go and lead.

use std::time::Duration;

use tollgate_chaos_tests::{Cluster, Outcome, eventually};

#[tokio::test]
async fn leadership_moves_when_asked_and_every_node_tells_the_same_status() -> Outcome {
    let cluster = Cluster::start().await?;
    let leader = cluster.leader().await?;
    let next = cluster.follower().await?;
    cluster.cli().run(&["cluster", "transfer-leader", &next.to_string()]).await?.ok()?;
    eventually("the other node leads", || async {
        let now = cluster.leader().await?;
        anyhow::ensure!(now == next, "node {now} leads, it was {leader}");
        Ok(())
    })
    .await?;
    for node in &cluster.nodes {
        let rows = cluster.cli_of(node.id).rows(&["cluster", "status"]).await?;
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert!(rows.iter().all(|row| row["state"] == "ready" && row["http"].is_string()), "{rows:?}");
        assert_eq!(rows.iter().filter(|row| row["role"] == "leader").count(), 1, "{rows:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_asked_to_leave_turns_unready_hands_over_and_ends_well() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let leader = cluster.leader().await?;
    cluster.node(leader).terminate()?;
    let url = format!("{}/readyz", cluster.node(leader).admin_url());
    let client = cluster.client.clone();
    eventually("it turns unready", || async {
        // Once it is gone nobody answers, which is as unready as it gets.
        let ready = client.get(&url, &[]).await.is_ok_and(|answer| answer.status == 200);
        anyhow::ensure!(!ready, "it still says that it is ready");
        Ok(())
    })
    .await?;
    let status = cluster.node(leader).exited(Duration::from_secs(60)).await?;
    assert!(status.success(), "{status}");
    assert_ne!(cluster.leader().await?, leader);
    cluster.node(leader).start()?;
    cluster.ready().await?;
    cluster.converged().await?;
    Ok(())
}
