//! Nodes with the wrong papers.

use std::time::Duration;

use anyhow::Context;
use tollgate_chaos_tests::{Ca, Cluster, Identity, Outcome, Plan, SOON, eventually, resources};

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

/// Every file of it fits to the others, so the node itself finds nothing wrong.
#[tokio::test]
async fn papers_of_another_authority_are_told_on_both_sides() -> Outcome {
    const TOLD: &str = "TLS handshake between nodes failed: a certificate was not accepted";
    let mut cluster = Cluster::start().await?;
    let other = Ca::new()?;
    cluster.node(3).kill()?;
    other.node(3)?.write(&other, &cluster.nodes[2].dir)?;
    cluster.node(3).start()?;
    let joiner = cluster.add()?;
    other.node(4)?.write(&other, &joiner.dir)?;
    joiner.start()?;
    let says = async |id: usize, line: &str, word: &str| {
        let node = &cluster.nodes[id - 1];
        eventually(&format!("node {id} says {line:?} and {word:?}"), || async {
            let log = node.log();
            anyhow::ensure!(log.lines().any(|said| said.contains(line) && said.contains(word)), "not yet: {log}");
            Ok(())
        })
        .await
    };
    says(3, TOLD, "[peer.tls]").await?;
    says(3, "waiting for a leader", "certificate").await?;
    says(4, "waiting for peers to form a cluster", "certificate").await?;
    says(1, TOLD, "[peer.tls]").await?;
    // Told now and then, not each time.
    let times = cluster.nodes[0].log().matches(TOLD).count();
    assert!(times <= 6, "told {times} times");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_expires_in_service_is_told_and_can_be_renewed() -> Outcome {
    let mut cluster = Cluster::start().await?;
    // The node takes it over from the disk, as it does any renewal.
    let short = cluster.ca.short_lived_node(3, Duration::from_secs(10))?;
    short.write(&cluster.ca, &cluster.nodes[2].dir)?;
    let (client, node) = (cluster.client.clone(), &cluster.nodes[2]);
    let readyz = format!("{}/readyz", node.admin_url());
    eventually("node 3 says that its certificate has expired", || async {
        let answer = client.get(&readyz, &[]).await?;
        anyhow::ensure!(answer.status == 503 && answer.text().contains("certificate"), "{}", answer.text());
        Ok(())
    })
    .await?;
    let log = node.log();
    assert!(log.contains("peer certificate expires soon"), "{log}");
    assert!(log.contains("no other node takes this node's peer certificate any more"), "{log}");
    let first = client.get(&format!("{}/readyz", cluster.nodes[0].admin_url()), &[]).await?;
    assert_eq!(first.status, 200, "the others go on");
    cluster.ca.node(3)?.write(&cluster.ca, &node.dir)?;
    cluster.node(3).ready(SOON).await?;
    cluster.cli_of(3).apply(&resources::tenant("renewed")).await?;
    Ok(())
}
