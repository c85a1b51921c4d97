//! A node that is told to stop: what it says, and what its exit code says.

use std::time::Duration;

use tollgate_chaos_tests::{Cluster, Outcome, Plan, calls::Call, client::LIMIT, eventually, resources::api_key};

/// Longer than a drain that is left alone takes here.
const LEFT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_clean_stop_is_no_error_for_anybody() -> Outcome {
    let mut cluster = Cluster::start().await?;
    for node in &mut cluster.nodes {
        node.terminate()?;
    }
    for node in &mut cluster.nodes {
        let status = node.exited(LEFT).await?;
        assert!(status.success(), "{status}");
        let log = node.log();
        let errors: Vec<_> = log.lines().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
        assert!(log.contains(r#""message":"left""#) && errors.is_empty(), "node {}: {errors:#?}", node.id);
    }
    Ok(())
}

#[tokio::test]
async fn a_second_signal_is_a_failure_only_where_it_cuts_requests() -> Outcome {
    let mut cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let slow = Call::chat(&api_key("alice"), "mock-1").stream().header("x-mock-pace", "10s");
    let mut stream = cluster.client.open(slow.request(&cluster.origins()[0]), LIMIT).await?;
    assert!(stream.next().await.is_ok(), "it has begun");
    let code = told_twice(&mut cluster, 1).await?;
    assert_eq!(code, Some(1), "{}", cluster.nodes[0].log());
    assert!(cluster.nodes[0].log().contains(r#""requests":1"#), "{}", cluster.nodes[0].log());
    drop(stream);
    cluster.nodes[0].start()?;
    cluster.ready().await?;
    let code = told_twice(&mut cluster, 2).await?;
    assert_eq!(code, Some(0), "{}", cluster.nodes[0].log());
    Ok(())
}

/// Tells the only node to stop, and again once it drains, for the `nth` time in its log; gives its exit code.
async fn told_twice(cluster: &mut Cluster, nth: usize) -> anyhow::Result<Option<i32>> {
    let node = &mut cluster.nodes[0];
    node.terminate()?;
    eventually("it drains", || async {
        anyhow::ensure!(node.log().matches(r#""message":"draining""#).count() == nth, "it has not said so");
        Ok(())
    })
    .await?;
    node.terminate()?;
    Ok(node.exited(LEFT).await?.code())
}
