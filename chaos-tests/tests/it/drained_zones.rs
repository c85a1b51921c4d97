//! `tollgate zone`: traffic moved out of a zone, and back.

use std::time::{Duration, Instant};

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider,
    calls::{self, Call, Dialect},
    client::{Answer, End, LIMIT},
    eventually, eventually_within,
    resources::{api_key, consumer, document, route, tenant},
};
use tollgate_mock_llm::Options;

/// From the command's end until every node goes by it.
const MOVED: Duration = Duration::from_secs(1);

/// A provider with an endpoint in the zone of each node, in the order of nodes.
pub(crate) async fn in_all_zones(cluster: &Cluster) -> anyhow::Result<Vec<Provider>> {
    let mut providers = Vec::new();
    let mut endpoints = Vec::new();
    for node in &cluster.nodes {
        let provider = Provider::start_at(cluster.host(), Options::default()).await?;
        endpoints.push(format!("{{url: \"{}\", zone: {}}}", provider.url(), node.zone));
        providers.push(provider);
    }
    let key = "sk-provider-mock-0123456789";
    let spec = format!("{{type: openai, endpoints: [{}], keys: [{{value: \"{key}\"}}]}}", endpoints.join(", "));
    let yaml = document("Provider", "mock", &spec) + &route("chat", "[{provider: mock}]", "") + &tenant("acme");
    cluster.cli().apply_and_wait(&(yaml + &consumer("alice", "acme"))).await?;
    Ok(providers)
}

fn call() -> Call {
    Call::chat(&api_key("alice"), "mock-1")
}

async fn readyz(cluster: &Cluster, admin: &str) -> anyhow::Result<Answer> {
    Ok(cluster.client.get(&format!("{admin}/readyz"), &[]).await?)
}

/// So many calls at every node, all of which must be answered.
async fn call_all(cluster: &Cluster, times: usize) -> anyhow::Result<()> {
    for origin in cluster.origins() {
        for _ in 0..times {
            let answer = cluster.client.send(call().request(&origin), LIMIT).await?;
            anyhow::ensure!(answer.status == 200, "{origin}: {}: {}", answer.status, answer.text());
        }
    }
    Ok(())
}

async fn state_of(cluster: &Cluster, id: u64) -> anyhow::Result<Value> {
    let rows = cluster.cli().rows(&["cluster", "status"]).await?;
    let row = rows.into_iter().find(|row| row["id"] == id);
    row.map(|row| row["state"].clone()).ok_or_else(|| anyhow::anyhow!("node {id} is no member"))
}

#[tokio::test]
async fn a_drained_zone_gets_nothing_new_while_what_is_in_flight_ends_and_another_zone_leads() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let providers = in_all_zones(&cluster).await?;
    let leader = cluster.leader().await?;
    let at = usize::try_from(leader)? - 1;
    let (zone, admin, origin) =
        (cluster.nodes[at].zone.clone(), cluster.nodes[at].admin_url(), cluster.nodes[at].http_url());

    let slow = call().stream().max_tokens(40).header("x-mock-output", "40").header("x-mock-pace", "300ms");
    let mut stream = cluster.client.open(slow.request(&origin), LIMIT).await?;
    stream.next().await.map_err(|end| anyhow::anyhow!("it has not begun: {end:?}"))?;
    assert_eq!(providers[at].witness().await?.total.active, 1, "it is served in its zone");

    let done = cluster.cli().run(&["zone", "drain", &zone]).await?.ok()?;
    assert!(done.stderr.contains(&format!("zone {zone} is drained")), "{}", done.stderr);
    let drained = Instant::now();
    eventually_within(MOVED, "its node is unready", || async {
        let ready = readyz(&cluster, &admin).await?;
        anyhow::ensure!(ready.status == 503, "{}: {}", ready.status, ready.text());
        anyhow::ensure!(ready.text().contains(&format!("its zone {zone} is drained")), "{}", ready.text());
        Ok(())
    })
    .await?;
    // The others have what the leader has within the time that is promised, which is what is waited for here.
    tokio::time::sleep_until((drained + MOVED).into()).await;
    let before = providers[at].witness().await?.total;
    call_all(&cluster, 10).await?;
    let after = providers[at].witness().await?.total;
    assert_eq!(before.requests, after.requests, "none of 30 calls went to the drained zone");
    for node in cluster.nodes.iter().filter(|node| node.id != leader) {
        assert_eq!(readyz(&cluster, &node.admin_url()).await?.status, 200, "node {}", node.id);
    }
    assert_eq!(state_of(&cluster, leader).await?, "draining");
    let (events, end) = stream.rest().await;
    assert!(
        end == End::Framed && calls::is_complete(Dialect::OpenAi, &events),
        "{end:?} after {} events",
        events.len()
    );
    eventually("a node of another zone leads", || async {
        let now = cluster.leader().await?;
        anyhow::ensure!(now != leader, "node {now} leads still");
        Ok(())
    })
    .await?;

    let rows = cluster.cli().rows(&["zone", "status"]).await?;
    assert_eq!(rows.len(), 3, "{rows:?}");
    let row = rows.iter().find(|row| row["zone"] == zone.as_str()).unwrap_or(&Value::Null);
    let shown = (&row["state"], &row["nodes"], &row["endpoints"]);
    assert_eq!(shown, (&"drained".into(), &leader.to_string().into(), &1.into()), "{row}");
    assert!(row["drainedAt"].is_string() && row["drainedBy"].is_string(), "{row}");

    comes_back_drained(&mut cluster, leader).await?;
    let done = cluster.cli().run(&["zone", "undrain", &zone]).await?.ok()?;
    assert!(done.stderr.contains(&format!("zone {zone} is taken back")), "{}", done.stderr);
    cluster.ready().await?;
    let before = providers[at].witness().await?.total.requests;
    eventually("it has its share again", || async {
        call_all(&cluster, 3).await?;
        let now = providers[at].witness().await?.total.requests;
        anyhow::ensure!(now >= before + 3, "{now}, before {before}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// The zone is drained still for a process that has only its disk, and for one that has not even that.
async fn comes_back_drained(cluster: &mut Cluster, id: u64) -> anyhow::Result<()> {
    for wiped in [false, true] {
        cluster.node(id).kill()?;
        if wiped {
            cluster.node(id).wipe()?;
        }
        cluster.node(id).start()?;
        let admin = cluster.node(id).admin_url();
        eventually("it is back, and drained", || async {
            let ready = readyz(cluster, &admin).await?;
            anyhow::ensure!(ready.status == 503 && ready.text().contains("is drained"), "{}", ready.text());
            anyhow::ensure!(state_of(cluster, id).await? == "draining", "not yet");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_zone_or_the_last_one_is_not_drained_and_who_has_no_other_is_served_still() -> Outcome {
    let cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let cli = cluster.cli();
    let unknown = cli.run(&["zone", "drain", "az-x"]).await?;
    let named = unknown.stderr.contains("there is no zone `az-x`") && unknown.stderr.contains("az-a, az-b, az-c");
    assert!(unknown.code == 1 && named, "{unknown:?}");
    let only = document("Service", "one", "{endpoints: [{address: \"127.0.0.1:9\", zone: az-a}]}");
    cli.apply_and_wait(&only).await?;
    let first = cli.run(&["zone", "drain", "az-a"]).await?.ok()?;
    assert!(first.stderr.contains("service one has endpoints in drained zones alone"), "{}", first.stderr);
    let again = cli.run(&["zone", "drain", "az-a"]).await?.ok()?;
    assert!(again.stderr.contains("zone az-a was drained already"), "{}", again.stderr);

    // Whoever asks for the last two at once, through whichever nodes: one of them stays.
    let (one, other) = (cluster.cli_of(2), cluster.cli_of(3));
    let (b, c) = tokio::join!(one.run(&["zone", "drain", "az-b"]), other.run(&["zone", "drain", "az-c"]));
    let (b, c) = (b?, c?);
    let refused = if b.code == 0 { &c } else { &b };
    assert_eq!([b.code, c.code].iter().sum::<i32>(), 1, "{b:?} {c:?}");
    assert!(refused.stderr.contains("no node would get requests any more"), "{}", refused.stderr);
    call_all(&cluster, 2).await?;
    let not = cli.run(&["zone", "undrain", if b.code == 0 { "az-c" } else { "az-b" }]).await?.ok()?;
    assert!(not.stderr.contains("was not drained"), "{}", not.stderr);
    Ok(())
}
