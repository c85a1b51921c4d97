//! Nodes that come, go and lead.

use std::time::Duration;

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan,
    calls::Call,
    client::LIMIT,
    day_with_room, eventually,
    resources::{api_key, tokens_per_day},
};

/// From the removal to the end of the process: it asks, then drains.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

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

const PROMOTION: &str = "00000000000000000000000000000001";
const REMOVE: [&str; 5] = ["cluster", "remove", "4", "--request-id", "00000000000000000000000000000002"];

/// What `cluster status` says of a node.
async fn row(cluster: &Cluster, id: u64) -> anyhow::Result<Option<Value>> {
    Ok(cluster.status().await?.into_iter().find(|row| row["id"] == id))
}

#[tokio::test]
async fn a_node_is_added_promoted_removed_and_leaves_by_itself() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let absent = cluster.cli().run(&["cluster", "add", "4", "127.0.0.1:1", "--timeout", "2s"]).await?;
    assert_eq!(absent.code, 1);
    assert!(absent.stderr.contains("node 4 does not answer at 127.0.0.1:1"), "{}", absent.stderr);

    let four = cluster.add()?;
    four.start()?;
    let peer = four.peer.to_string();
    let added = cluster.cli().run(&["cluster", "add", "4", &peer]).await?.ok()?;
    assert!(added.stderr.contains("node 4 is a learner"), "{}", added.stderr);
    cluster.ready().await?;
    assert_eq!(row(&cluster, 4).await?.map(|row| row["role"].clone()), Some("learner".into()));
    let promote = ["cluster", "promote", "4", "--request-id", PROMOTION];
    cluster.cli().run(&promote).await?.ok()?;
    cluster.cli().run(&promote).await?.ok()?;
    let used = cluster.cli().run(&["cluster", "remove", "4", "--request-id", PROMOTION]).await?;
    assert!(used.code == 1 && used.stderr.contains("the request id was used for another"), "{}", used.stderr);
    let again = cluster.cli().run(&["cluster", "add", "4", &peer]).await?.ok()?;
    assert!(again.stderr.contains("node 4 is a member already: it votes"), "{}", again.stderr);
    let elsewhere = cluster.cli().run(&["cluster", "add", "4", "127.0.0.1:1"]).await?;
    assert!(elsewhere.code == 1 && elsewhere.stderr.contains("a voter at"), "{}", elsewhere.stderr);
    eventually("node 4 votes", || async {
        let role = row(&cluster, 4).await?.map(|row| row["role"].clone());
        anyhow::ensure!(role == Some("follower".into()), "it is {role:?}");
        Ok(())
    })
    .await?;
    let origin = cluster.node(4).http_url();
    let call = Call::chat(&api_key("alice"), "mock-1");
    assert_eq!(cluster.client.send(call.request(&origin), LIMIT).await?.status, 200);

    // A stream that goes on while the node is removed ends as it should, and is settled.
    let slow = Call::chat(&api_key("alice"), "mock-1").stream().header("x-mock-pace", "100ms");
    let url = format!("{}/readyz", cluster.node(4).admin_url());
    let removed = async {
        eventually("the provider streams", || async {
            anyhow::ensure!(provider.witness().await?.total.active > 0, "not yet");
            Ok(())
        })
        .await?;
        cluster.cli().run(&REMOVE).await?.ok()?;
        anyhow::ensure!(row(&cluster, 4).await?.is_none(), "it is a member still");
        eventually("it says that it was removed", || async {
            let answer = cluster.client.get(&url, &[]).await?;
            let told = answer.status == 503 && answer.text().contains("removed from the cluster");
            anyhow::ensure!(told, "{}: {}", answer.status, answer.text());
            Ok(())
        })
        .await
    };
    let (answer, removed) = tokio::join!(cluster.client.send(slow.request(&origin), LIMIT), removed);
    removed?;
    let answer = answer?;
    assert!(answer.status == 200 && answer.text().contains("[DONE]"), "{}", answer.text());
    let status = cluster.node(4).exited(LEAVES_WITHIN).await?;
    assert!(status.success(), "{status}");
    let log = cluster.node(4).log();
    assert!(log.contains("node 4 was removed from the cluster. To bring it back, empty"), "{log}");
    assert!(!log.contains("did not take every settlement"), "{log}");

    // Started again it says so and ends; emptied, it is a new node.
    let said = log.len();
    cluster.node(4).start()?;
    let status = cluster.node(4).exited(LEAVES_WITHIN).await?;
    assert_eq!(status.code(), Some(1));
    let log = cluster.node(4).log();
    assert!(log[said..].contains("node 4 was removed from the cluster. To bring it back, empty"), "{}", &log[said..]);
    cluster.node(4).wipe()?;
    cluster.node(4).start()?;
    cluster.ready().await?;
    assert_eq!(row(&cluster, 4).await?.map(|row| row["role"].clone()), Some("learner".into()));
    assert_eq!(cluster.client.send(call.request(&origin), LIMIT).await?.status, 200);

    // What was asked for once is not done again to the node that has come since.
    cluster.cli().run(&REMOVE).await?.ok()?;
    assert_eq!(row(&cluster, 4).await?.map(|row| row["role"].clone()), Some("learner".into()));
    Ok(())
}

/// What the one limit's account says: it must always add up.
async fn account(cluster: &Cluster) -> anyhow::Result<Value> {
    let rows = cluster.cli().rows(&["limits", "show"]).await?;
    let row = rows.first().ok_or_else(|| anyhow::anyhow!("nobody has used it"))?.clone();
    let figures = ["used", "held", "leased", "free", "suspense", "lost"];
    let sum: u64 = figures.iter().filter_map(|figure| row[figure].as_u64()).sum();
    anyhow::ensure!(row["capacity"] == sum, "it does not add up: {row}");
    Ok(row)
}

#[tokio::test]
async fn what_a_lost_node_had_in_hand_is_written_off_as_the_operator_says() -> Outcome {
    day_with_room(Duration::from_secs(180)).await;
    let more_toml = "[limits]\nisolation = \"2s\"\n".to_owned();
    let mut cluster = Cluster::with(Plan { more_toml, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let gone = cluster.follower().await?;
    let origin = cluster.node(gone).http_url();
    let call = Call::chat(&api_key("alice"), "mock-1");
    eventually("it has some in hand, and all that was used is known", || async {
        let answer = cluster.client.send(call.request(&origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        let used = provider.settled().await?;
        let row = account(&cluster).await?;
        let by_node = row["leasedByNode"].as_str().unwrap_or_default();
        anyhow::ensure!(by_node.contains(&format!("{gone}:")) && row["held"] == 0, "{row}, {used:?}");
        Ok(())
    })
    .await?;
    let id = gone.to_string();
    let alive = cluster.cli().run(&["cluster", "remove", &id, "--lost"]).await?;
    let refused = alive.code == 1 && alive.stderr.contains(&format!("node {gone} answers"));
    assert!(refused && alive.stderr.contains("remove it without --lost"), "{alive:?}");

    let tokens = provider.tokens("mock-1").await?;
    eventually("what was used is known", || async {
        let row = account(&cluster).await?;
        anyhow::ensure!(row["used"] == tokens && row["lost"] == 0, "not {tokens}: {row}");
        Ok(())
    })
    .await?;
    cluster.node(gone).kill()?;
    let lost =
        eventually("it is given up", || async { cluster.cli().run(&["cluster", "remove", &id, "--lost"]).await?.ok() })
            .await?;
    assert!(lost.stderr.contains("what it had in hand of 1 accounts: consume"), "{}", lost.stderr);
    assert!(cluster.status().await?.iter().all(|row| row["id"] != gone));
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|other| *other != gone).collect();
    // Time passes in the log with what is said there.
    let say = async |what: &str, as_told: &dyn Fn(&Value) -> bool| {
        eventually(what, || async {
            let origin = cluster.nodes.iter().find(|node| node.id == others[0]).map(|node| node.http_url());
            let answer = cluster.client.send(call.request(&origin.unwrap_or_default()), LIMIT).await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
            let row = account(&cluster).await?;
            anyhow::ensure!(as_told(&row), "{row}");
            Ok(row)
        })
        .await
    };
    let row = say("it is lost", &|row| row["lost"] != 0 && row["suspense"] == 0).await?;
    let had = row["lost"].as_u64().unwrap_or(0);
    assert!(had > 0, "{row}");
    let again = cluster.cli().run(&["cluster", "remove", &id, "--lost", "--write-off", "release"]).await?.ok()?;
    assert!(again.stderr.contains("release; 0 requests in flight"), "{}", again.stderr);
    say("others have it", &|row| row["lost"] == 0 && row["suspense"] == 0).await?;
    provider.settled().await?;
    let tokens = provider.tokens("mock-1").await?;
    eventually("nothing was forgotten", || async {
        let row = account(&cluster).await?;
        anyhow::ensure!(row["used"] == tokens && row["held"] == 0, "not {tokens}: {row}");
        Ok(())
    })
    .await?;
    let never = cluster.cli().run(&["cluster", "remove", &id]).await?;
    assert!(never.code == 1 && never.stderr.contains("is not a member"), "{never:?}");
    Ok(())
}

#[tokio::test]
async fn a_lowered_limit_is_accepted_at_once_and_effective_when_nobody_spends_by_the_former() -> Outcome {
    day_with_room(Duration::from_secs(180)).await;
    let more_toml = "[limits]\nisolation = \"15s\"\n".to_owned();
    let mut cluster = Cluster::with(Plan { more_toml, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let apart = cluster.follower().await?;
    let origin = cluster.node(apart).http_url();
    let call = Call::chat(&api_key("alice"), "mock-1");
    eventually("it has some in hand", || async {
        let answer = cluster.client.send(call.request(&origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        let row = account(&cluster).await?;
        let by_node = row["leasedByNode"].as_str().unwrap_or_default();
        anyhow::ensure!(by_node.contains(&format!("{apart}:")) && row["effective"] == true, "{row}");
        Ok(())
    })
    .await?;
    let lowered = |tokens| tokens_per_day("alice-tokens", "alice", tokens);
    // More than was used, less than is out: whoever has it gives it back.
    cluster.cli().apply_and_wait(&lowered(500_000)).await?.ok()?;
    assert_eq!(cluster.cli().rows(&["limits", "show"]).await?[0]["effective"], true);

    eventually("it has some in hand again", || async {
        let answer = cluster.client.send(call.request(&origin), LIMIT).await?;
        let row = account(&cluster).await?;
        let by_node = row["leasedByNode"].as_str().unwrap_or_default();
        anyhow::ensure!(answer.status == 200 && by_node.contains(&format!("{apart}:")), "{row}");
        Ok(())
    })
    .await?;
    cluster.node(apart).freeze()?;
    let reached = cluster.cli_of(if apart == 1 { 2 } else { 1 });
    let args = ["apply", "--wait", "--timeout", "8s", "-f", "-"];
    let waited = reached.run_with(&args, &lowered(1)).await?;
    let said = waited.stderr.contains("is accepted, but not effective everywhere yet");
    assert!(waited.code == 1 && said && waited.stderr.contains("alice-tokens"), "{waited:?}");
    let row = reached.rows(&["limits", "show"]).await?;
    assert_eq!((&row[0]["effective"], &row[0]["capacity"]), (&false.into(), &1.into()), "{row:?}");
    eventually("it is effective though nobody hears of that node", || async {
        let row = reached.rows(&["limits", "show"]).await?;
        anyhow::ensure!(row[0]["effective"] == true, "{row:?}");
        Ok(())
    })
    .await?;
    cluster.node(apart).thaw()?;
    cluster.ready().await?;
    let answer = cluster.client.send(call.request(&origin), LIMIT).await?;
    assert!(matches!(answer.status, 400 | 429 | 503), "{}: {}", answer.status, answer.text());
    Ok(())
}
