//! A node that starts: from when on it takes callers.

use tollgate_chaos_tests::{Cluster, Outcome, Plan, client::CallError, eventually};

#[tokio::test]
async fn callers_are_refused_until_their_node_serves_and_so_ask_another() -> Outcome {
    let mut cluster = Cluster::prepare(&Plan::default())?;
    cluster.nodes[0].start()?;
    let (origin, admin) = (cluster.nodes[0].http_url(), cluster.nodes[0].admin_url());
    // It has taken its ports before it answers there, and without the others it serves nobody.
    eventually("its admin port answers", || async {
        let answer = cluster.client.get(&format!("{admin}/readyz"), &[]).await?;
        anyhow::ensure!(answer.status == 503, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await?;
    let answer = cluster.client.get(&origin, &[]).await;
    assert!(matches!(answer, Err(CallError::Broken(_))), "they would wait for as long as it takes: {answer:?}");
    for node in &mut cluster.nodes[1..] {
        node.start()?;
    }
    cluster.ready().await?;
    let answer = cluster.client.get(&origin, &[]).await?;
    assert_eq!(answer.status, 404, "now it serves, and has no routes");
    Ok(())
}
