//! Nodes with the wrong papers.

use std::time::Duration;

use anyhow::Context;
use tollgate_chaos_tests::{Ca, Cluster, Identity, Outcome, Plan, eventually, resources};

/// Three nodes of which the third comes back with other papers: it says what is wrong, nobody speaks with it, and the
/// others go on.
async fn third_is_kept_out(papers: impl FnOnce(&Ca) -> anyhow::Result<Identity>) -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.node(3).kill()?;
    let identity = papers(&cluster.ca)?;
    identity.write(&cluster.ca, &cluster.nodes[2].dir)?;
    let before = cluster.node(3).log().len();
    cluster.node(3).start()?;
    let node = cluster.node(3);
    eventually("node 3 says what is wrong", || {
        let log = node.log()[before..].to_lowercase();
        async move {
            anyhow::ensure!(
                log.contains("certificate") || log.contains("unknownca"),
                "nothing about certificates in: {log}"
            );
            Ok(())
        }
    })
    .await?;
    for _ in 0..3 {
        cluster.cli_of(1).apply(&resources::tenant("acme")).await?;
        let rows = cluster.cli_of(1).rows(&["cluster", "status"]).await?;
        let third = rows.iter().find(|row| row["id"] == 3).context("node 3 is a member")?;
        anyhow::ensure!(third["state"] == "unreachable", "{third}");
    }
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_keeps_a_node_out() -> Outcome {
    Ok(third_is_kept_out(|ca| ca.expired_node(3)).await?)
}

#[tokio::test]
async fn a_certificate_of_another_node_keeps_a_node_out() -> Outcome {
    Ok(third_is_kept_out(|ca| ca.node(2)).await?)
}

#[tokio::test]
async fn a_foreign_certificate_keeps_a_node_out() -> Outcome {
    Ok(third_is_kept_out(|_| Ca::new()?.node(3)).await?)
}

#[tokio::test]
async fn a_certificate_that_is_none_is_named() -> Outcome {
    let mut cluster = Cluster::prepare(&Plan { nodes: 1, ..Plan::default() })?;
    let node = cluster.node(1);
    std::fs::write(node.dir.join("node.pem"), "not a certificate")?;
    node.start()?;
    let status = node.exited(Duration::from_secs(30)).await?;
    assert!(!status.success());
    assert!(node.log().contains("node.pem"), "{}", node.log());
    Ok(())
}
