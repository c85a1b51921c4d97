//! The billing ledger: a row for each request that went out, the same files on every node, and what becomes of damage.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use serde_json::Value;
use tokio::task::JoinSet;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider, Run,
    calls::Call,
    client::{Client, LIMIT},
    eventually, free_port,
    resources::{self, api_key, document},
};
use tollgate_mock_llm::{Options, Outcome as Ended, Record};

/// Millionths of a dollar for one token.
const INPUT: u64 = 3;
const OUTPUT: u64 = 7;

/// A snapshot every few calls, and little kept behind it: whoever lost its disk gets no log from the beginning.
fn plan() -> Plan {
    let env = [("TOLLGATE_SNAPSHOT_LOG_SIZE", "16KiB"), ("TOLLGATE_SNAPSHOT_KEEP_ENTRIES", "2")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Plan { env, ..Plan::default() }
}

/// A tenant that pays, and a provider that is asked after one that is never there.
async fn paying(cluster: &Cluster) -> anyhow::Result<Provider> {
    let provider = Provider::start(Options::default()).await?;
    let gone = format!("http://{}/v1", free_port());
    let mut yaml =
        resources::provider("gone", "openai", &gone) + &resources::provider("mock", "openai", &provider.url());
    yaml += &resources::route("chat", "[{provider: gone}]", ", fallbacks: [{provider: mock, on: [connectFailure]}]");
    yaml += &document("Tenant", "acme", "{billing: {mode: postpaid, currency: USD}}");
    yaml += &resources::consumer("alice", "acme");
    yaml += &document("Price", "mock", &format!("{{currency: USD, input: {INPUT}, output: {OUTPUT}}}"));
    cluster.cli().apply_and_wait(&yaml).await?;
    Ok(provider)
}

/// One of a mix: whole answers and streams of both dialects, callers who leave, providers that refuse or say no usage.
async fn call(client: Client, origin: String, n: usize) {
    let key = api_key("alice");
    let call = match n % 7 {
        0 => Call::messages(&key, "mock-1"),
        1 => Call::chat(&key, "mock-1").stream(),
        2 => Call::messages(&key, "mock-1").stream(),
        3 => Call::chat(&key, "mock-1-429"),
        4 => Call::chat(&key, "mock-1-nousage"),
        5 => Call::chat(&key, "mock-1-slow").stream(),
        _ => Call::chat(&key, "mock-1"),
    };
    // What became of it, the provider and the ledger say; nodes die under some of them.
    if !call.is_stream() {
        drop(client.send(call.request(&origin), LIMIT).await);
    } else if let Ok(mut stream) = client.open(call.request(&origin), LIMIT).await {
        if n % 7 == 5 {
            drop(stream.next().await);
        } else {
            drop(stream.rest().await);
        }
    }
}

/// Calls from `from` on, some at a time, of all nodes.
async fn load(cluster: &Cluster, from: usize, count: usize) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    for n in from..from + count {
        let origin = cluster.origins()[n % 3].clone();
        calls.spawn(call(cluster.client.clone(), origin, n));
        if calls.len() >= 6 {
            calls.join_next().await;
        }
    }
    calls
}

pub(crate) async fn verify(cluster: &Cluster, node: u64) -> anyhow::Result<Run> {
    cluster.cli_of(node).run(&["ledger", "verify", "-o", "json"]).await
}

/// What a node says of a ledger that is whole.
pub(crate) async fn whole(cluster: &Cluster, node: u64) -> anyhow::Result<Value> {
    eventually(&format!("the ledger of node {node} is whole"), || async {
        let run = verify(cluster, node).await?;
        anyhow::ensure!(run.code == 0, "{run:?}");
        Ok(run.json()?[0].clone())
    })
    .await
}

pub(crate) fn segments(cluster: &Cluster, node: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir =
        cluster.nodes.iter().find(|it| it.id == node).expect("the test knows its nodes").data_dir().join("ledger");
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "seg"));
    paths.map(|path| (path.file_name().expect("it is a file").into(), fs::read(&path).unwrap_or_default())).collect()
}

/// The same bytes on every node, and something at all.
pub(crate) async fn same_everywhere(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("all nodes have the same segments", || async {
        let [one, two, three] = [1, 2, 3].map(|node| segments(cluster, node));
        anyhow::ensure!(one.values().any(|bytes| !bytes.is_empty()), "there is no ledger");
        let sizes = |of: &BTreeMap<PathBuf, Vec<u8>>| of.values().map(Vec::len).collect::<Vec<_>>();
        anyhow::ensure!(one == two && two == three, "{:?} {:?} {:?}", sizes(&one), sizes(&two), sizes(&three));
        Ok(())
    })
    .await
}

/// By request, what the provider knows of it.
fn by_request(records: Vec<Record>) -> anyhow::Result<BTreeMap<String, Record>> {
    let mut by_request = BTreeMap::new();
    for record in records {
        let id = record.request_id.clone().unwrap_or_default();
        anyhow::ensure!(by_request.insert(id, record).is_none(), "a request came twice");
    }
    Ok(by_request)
}

/// One row against what the provider served; its amount in millionths of a dollar.
fn judge(row: &Value, record: &Record, killed: bool) -> anyhow::Result<u64> {
    let (outcome, source) =
        (row["outcome"].as_str().unwrap_or_default(), row["usage_source"].as_str().unwrap_or_default());
    let tokens = |name: &str| row[name].as_u64().unwrap_or(u64::MAX);
    let told = (tokens("input_tokens"), tokens("output_tokens"));
    let right = match (outcome, record.outcome) {
        ("settled", Ended::Finished) if source == "counted" => record.model.ends_with("-nousage"),
        ("settled", Ended::Finished) => told == (record.input_tokens, record.output_tokens),
        ("voided", Ended::Refused) => told == (0, 0) && row["status"] == 429,
        ("partial", Ended::Aborted | Ended::Finished) => told.1 <= record.planned_tokens,
        ("orphaned", _) => killed && told == (0, 0),
        _ => false,
    };
    anyhow::ensure!(right, "{row} of {record:?}");
    let amount = if outcome == "voided" || outcome == "orphaned" { 0 } else { told.0 * INPUT + told.1 * OUTPUT };
    let cost = row["cost"].as_str().unwrap_or_default();
    anyhow::ensure!(micros(cost) == Some(amount), "{row} costs {cost}, and not {amount}");
    Ok(amount)
}

/// Of a decimal that has no more than six places.
fn micros(decimal: &str) -> Option<u64> {
    let (whole, part) = decimal.split_once('.').unwrap_or((decimal, ""));
    format!("{whole}{part:0<6}").parse().ok().filter(|_| part.len() <= 6)
}

/// Exactly one row for each request that the provider knows, and what they come to; how many rows of others there are.
async fn judge_all(cluster: &Cluster, provider: &Provider, killed: bool) -> anyhow::Result<u64> {
    let records = by_request(provider.records().await?)?;
    let mut sum = 0;
    for (id, record) in &records {
        let rows = eventually(&format!("request {id} has its row"), || async {
            cluster.cli().rows(&["ledger", "show", id]).await
        })
        .await?;
        anyhow::ensure!(rows.len() == 1 && rows[0]["request_id"] == id.as_str(), "{rows:?}");
        sum += judge(&rows[0], record, killed)?;
    }
    let told = whole(cluster, 1).await?;
    let balances = told["balances"].as_array().cloned().unwrap_or_default();
    let balance = balances.iter().find(|it| it["account"] == "tenant:acme:consumed").expect("somebody has paid");
    anyhow::ensure!(micros(balance["amount"].as_str().unwrap_or_default()) == Some(sum), "{balance} is not {sum}");
    Ok(told["rows"].as_u64().unwrap_or_default() - records.len() as u64)
}

#[tokio::test]
async fn every_request_that_went_out_has_one_row_whoever_dies_and_leads() -> Outcome {
    let mut cluster = Cluster::with(plan()).await?;
    let provider = paying(&cluster).await?;
    load(&cluster, 0, 40).await.join_all().await;
    let leader = cluster.leader().await?;
    let under_way = load(&cluster, 40, 12).await;
    cluster.node(leader).kill()?;
    under_way.join_all().await;
    load(&cluster, 52, 14).await.join_all().await;
    cluster.node(leader).start()?;
    cluster.ready().await?;
    load(&cluster, 66, 14).await.join_all().await;
    provider.settled().await?;
    let unknown = judge_all(&cluster, &provider, true).await?;
    // Of those that were journaled, and died before they reached the provider.
    assert!(unknown <= 12, "{unknown} rows of requests that the provider has never seen");
    let told = [whole(&cluster, 1).await?, whole(&cluster, 2).await?, whole(&cluster, 3).await?];
    let hashes: BTreeSet<&str> = told.iter().filter_map(|it| it["hash"].as_str()).collect();
    assert_eq!(hashes.len(), 1, "{told:?}");
    same_everywhere(&cluster).await?;
    Ok(())
}

#[tokio::test]
async fn a_byte_that_was_changed_is_named_and_comes_back_from_another_node() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let provider = paying(&cluster).await?;
    load(&cluster, 0, 14).await.join_all().await;
    provider.settled().await?;
    assert_eq!(judge_all(&cluster, &provider, false).await?, 0);
    same_everywhere(&cluster).await?;
    let file = cluster.nodes[0].data_dir().join("ledger/000000000001.seg");
    let good = fs::read(&file)?;
    OpenOptions::new().write(true).open(&file)?.write_all_at(&[good[200] ^ 0x10], 200)?;
    let run = verify(&cluster, 1).await?;
    assert!(run.code == 1 && run.stderr.contains("segment 1 of the ledger is broken at byte "), "{run:?}");
    assert!(run.stderr.contains("is being fetched from other nodes"), "{run:?}");
    whole(&cluster, 1).await?;
    load(&cluster, 14, 7).await.join_all().await;
    provider.settled().await?;
    assert_eq!(judge_all(&cluster, &provider, false).await?, 0);
    same_everywhere(&cluster).await?;

    // The same without a cluster.
    for id in 1..=3 {
        cluster.node(id).kill()?;
    }
    let data_dir = cluster.nodes[0].data_dir().to_string_lossy().into_owned();
    let offline = ["ledger", "verify", "--dir", &data_dir];
    let run = Run::offline(&offline, cluster.dir(), &[]).await?;
    assert_eq!(run.code, 0, "{run:?}");
    OpenOptions::new().write(true).open(&file)?.write_all_at(&[good[200] ^ 0x10], 200)?;
    let run = Run::offline(&offline, cluster.dir(), &[]).await?;
    assert!(run.code == 1 && run.stderr.contains("segment 1 of the ledger is broken at byte "), "{run:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_lost_its_disk_fetches_the_ledger() -> Outcome {
    let mut cluster = Cluster::with(plan()).await?;
    let provider = paying(&cluster).await?;
    let snapshots = cluster.nodes[0].data_dir().join("snapshots");
    for round in 0.. {
        load(&cluster, round * 35, 35).await.join_all().await;
        if fs::read_dir(&snapshots).is_ok_and(|entries| entries.count() > 0) {
            break;
        }
        assert!(round < 40, "there is no snapshot");
    }
    let wiped = cluster.follower().await?;
    cluster.node(wiped).kill()?;
    cluster.node(wiped).wipe()?;
    cluster.node(wiped).start()?;
    cluster.ready().await?;
    load(&cluster, 0, 14).await.join_all().await;
    provider.settled().await?;
    whole(&cluster, wiped).await?;
    same_everywhere(&cluster).await?;
    let fetched = cluster.node(wiped).log().contains("segments of the ledger are missing");
    assert!(fetched, "it had the whole log, so it fetched nothing");
    // It is a node as any other: what comes now is the same again after a restart.
    cluster.node(wiped).kill()?;
    cluster.node(wiped).start()?;
    cluster.ready().await?;
    load(&cluster, 0, 14).await.join_all().await;
    provider.settled().await?;
    whole(&cluster, wiped).await?;
    same_everywhere(&cluster).await?;
    Ok(())
}
