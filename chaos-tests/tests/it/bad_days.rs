//! Days on which a limit meets what nobody had in mind when it was written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider, SOON,
    accounts::SHOWN_WITHIN,
    calls::{Call, is_complete},
    client::LIMIT,
    day_with_room, eventually, eventually_within,
    faults::files::copy_tree,
    nightly,
    resources::{api_key, document},
    tollgate_with_failpoints,
};

use crate::matrix::say;

/// Accounts that a limit may have, of a million in the program that is shipped.
const ACCOUNTS: u64 = 100;
/// Values that somebody makes up, each for one call.
const VALUES: u64 = 2_000;
/// Of each account.
const REQUESTS: u64 = 5;
/// Calls at the same time.
const AT_ONCE: u64 = 50;

async fn status(cluster: &Cluster, call: &Call, node: usize) -> anyhow::Result<u16> {
    Ok(cluster.client.send(call.request(&cluster.origins()[node]), LIMIT).await?.status)
}

/// Calls one after the other, each with a value of its own.
async fn each_once(cluster: Arc<Cluster>, values: impl Iterator<Item = u64>) -> anyhow::Result<BTreeMap<u16, u64>> {
    let mut told = BTreeMap::new();
    for value in values {
        let call = Call::chat(&api_key("alice"), "mock-1").header("x-team", &format!("team-{value}"));
        let mut last = 503;
        let begun = Instant::now();
        // What could not be decided is asked again, elsewhere.
        for node in value.. {
            last = status(&cluster, &call, usize::try_from(node % 3)?).await?;
            if last != 503 || begun.elapsed() > SOON {
                break;
            }
        }
        *told.entry(last).or_default() += 1;
    }
    Ok(told)
}

/// Exactly: one call for each account of its own, and as many as the limit says for all others together.
#[tokio::test]
async fn values_that_somebody_makes_up_without_end_share_one_account_and_are_never_over() -> Outcome {
    if !nightly() && std::env::var_os("TOLLGATE_FAILPOINTS_BIN").is_none() {
        say("SKIPPED: values without end: builds the program a second time (set TOLLGATE_NIGHTLY=1)");
        return Ok(());
    }
    day_with_room(Duration::from_secs(180)).await;
    let env = vec![("TOLLGATE_MAX_ACCOUNTS".to_owned(), ACCOUNTS.to_string())];
    let mut cluster = Cluster::prepare(&Plan { env, ..Plan::default() })?;
    for node in &mut cluster.nodes {
        node.program = Some(tollgate_with_failpoints().to_owned());
        node.start()?;
    }
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let spec = format!("{{per: [\"header:x-team\"], unit: requests, limit: {REQUESTS}, window: 1d, algorithm: fixed}}");
    cluster.cli().apply_and_wait(&document("Limit", "teams", &spec)).await?;
    let cluster = Arc::new(cluster);
    let mut callers = JoinSet::new();
    for first in 0..AT_ONCE {
        let values = (0..VALUES).skip(usize::try_from(first)?).step_by(usize::try_from(AT_ONCE)?);
        callers.spawn(each_once(Arc::clone(&cluster), values));
    }
    let mut told = BTreeMap::<u16, u64>::new();
    while let Some(some) = callers.join_next().await {
        some??.into_iter().for_each(|(status, count)| *told.entry(status).or_default() += count);
    }
    let served = provider.settled().await?.total.finished;
    let expected = BTreeMap::from([(200, ACCOUNTS + REQUESTS), (429, VALUES - ACCOUNTS - REQUESTS)]);
    assert_eq!((&told, served), (&expected, ACCOUNTS + REQUESTS));
    eventually_within(SHOWN_WITHIN, "every account is shown", || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let used = |row: &serde_json::Value| row["used"].as_u64().unwrap_or_default();
        let shared = rows.iter().find(|row| row["account"] == "_OVERFLOW").map(used);
        anyhow::ensure!(
            shared == Some(REQUESTS) && rows.len() as u64 == ACCOUNTS + 1,
            "{} rows, {shared:?}",
            rows.len()
        );
        anyhow::ensure!(rows.iter().map(used).sum::<u64>() == served, "{rows:?}");
        Ok(())
    })
    .await?;
    for node in &cluster.nodes {
        eventually("the audit has counted the shared account", || async {
            let text = cluster.client.get(&format!("{}/metrics", node.admin_url()), &[]).await?.text();
            let metric = text.lines().find(|line| line.starts_with("tollgate_quota_overflow_accounts"));
            anyhow::ensure!(metric.is_some_and(|line| line.ends_with(" 1")), "{metric:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Calls that one node serves; what they used is in the provider's books.
async fn serve(cluster: &Cluster, node: usize, calls: usize) -> anyhow::Result<()> {
    for number in 0..calls {
        let call = Call::chat(&api_key("alice"), "mock-1");
        let served = eventually("it is served", || async {
            let status = status(cluster, &call, node).await?;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        });
        served.await.map_err(|error| error.context(format!("call {number}")))?;
    }
    Ok(())
}

/// Nothing is forgotten of what was used; what the lost processes had in hand may count as used besides.
async fn nothing_is_forgotten(cluster: &Cluster, provider: &Provider) -> anyhow::Result<()> {
    let witnessed = provider.tokens("mock-1").await?;
    eventually_within(SHOWN_WITHIN, "what was used is charged", || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let row = rows.first().ok_or_else(|| anyhow::anyhow!("no account"))?;
        let figure = |name: &str| row[name].as_u64().unwrap_or_default();
        let taken = figure("used") + figure("suspense");
        anyhow::ensure!(taken >= witnessed && figure("held") == 0, "{witnessed} witnessed: {row}");
        let parts = ["used", "held", "leased", "free", "suspense", "lost"].map(figure).iter().sum::<u64>();
        anyhow::ensure!(parts == figure("capacity") && figure("overrun") == 0, "it does not add up: {row}");
        Ok(())
    })
    .await
}

/// Starts a node until it is ready. One whose disk is older than it was ends, and rejoins when it is started again.
async fn rejoins(cluster: &mut Cluster, id: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let node = cluster.node(id);
        if !node.is_running() {
            node.start()?;
        }
        match node.ready(SOON).await {
            Ok(()) => return Ok(()),
            Err(error) => anyhow::ensure!(Instant::now() < deadline && !node.is_running(), "{error:#}"),
        }
    }
}

/// The image knows fewer incarnations than the log: what it would begin is none that others know, and its journal says nothing.
#[tokio::test]
async fn a_node_restored_from_an_old_image_of_its_disk_neither_forgets_nor_spends_anything_twice() -> Outcome {
    day_with_room(Duration::from_secs(180)).await;
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let id = cluster.follower().await?;
    let at = usize::try_from(id)? - 1;
    serve(&cluster, at, 5).await?;
    cluster.node(id).kill()?;
    let (data, image) = (cluster.node(id).data_dir(), cluster.dir().join("image"));
    copy_tree(&data, &image)?;
    for _ in 0..2 {
        cluster.node(id).start()?;
        cluster.node(id).ready(SOON).await?;
        serve(&cluster, at, 5).await?;
        cluster.node(id).kill()?;
    }
    std::fs::remove_dir_all(&data)?;
    copy_tree(&image, &data)?;
    rejoins(&mut cluster, id).await?;
    assert!(cluster.node(id).log().contains("the journal of this node is a copy"), "{}", cluster.node(id).log());
    serve(&cluster, at, 5).await?;
    nothing_is_forgotten(&cluster, &provider).await?;
    for node in &mut cluster.nodes {
        assert!(node.is_running(), "node {}", node.id);
    }
    Ok(())
}

/// A window holds the bound of one call, and not of two.
#[tokio::test]
async fn a_stream_over_the_edges_of_windows_counts_in_the_one_that_it_began_in() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let spec = "{per: [consumer], unit: tokens, limit: 300, window: 1s, algorithm: fixed}";
    cluster.cli().apply_and_wait(&document("Limit", "second", spec)).await?;
    let call = Call::chat(&api_key("alice"), "gpt-4o-mini").max_tokens(200).header("x-mock-output", "200");
    let long = call.clone().stream().header("x-mock-chunk", "5").header("x-mock-pace", "100ms");
    let stream = eventually("a stream begins", || async {
        let stream = cluster.client.open(long.request(&cluster.origins()[0]), LIMIT).await?;
        anyhow::ensure!(stream.status == 200, "{}", stream.status);
        Ok(stream)
    })
    .await?;
    let begun = Instant::now();
    let mut reading = JoinSet::new();
    reading.spawn(stream.rest());
    let (mut served, mut refused) = (0, 0);
    let (events, end) = loop {
        if let Some(read) = reading.try_join_next() {
            break read.map_err(anyhow::Error::from)?;
        }
        match status(&cluster, &call, served % 3).await? {
            200 => served += 1,
            429 => refused += 1,
            status => return Err(anyhow::anyhow!("status {status}").into()),
        }
        time::sleep(Duration::from_millis(20)).await; // the shape of the load
    };
    let windows = usize::try_from(begun.elapsed().as_secs())?;
    assert!(is_complete(call.dialect(), &events), "{end:?} {:?}", events.last());
    assert!(windows >= 3 && refused > 0, "{windows} windows, {refused} refused");
    assert!((windows - 1..=windows + 2).contains(&served), "one in each window: {served} in {windows}");
    eventually("nothing is held of the window that it began in", || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        // An account that nobody uses in a window is not there.
        anyhow::ensure!(rows.iter().all(|row| row["held"] == 0), "{rows:?}");
        let is_right = |row: &serde_json::Value| row["overrun"] == 0 && row["used"].as_u64() <= Some(300);
        anyhow::ensure!(rows.iter().all(is_right), "{rows:?}");
        Ok(())
    })
    .await?;
    Ok(())
}
