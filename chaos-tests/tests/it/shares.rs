//! Accounts that nobody has asked for before: each node has a share of them by rule, admits from memory, and gives back what it
//! did not touch once its journal has spoken.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, SOON,
    calls::Call,
    client::LIMIT,
    day_with_room, eventually,
    resources::{api_key, document},
};

const CAPACITY: u64 = 3_000_000;
/// Of each account, of half of it, with three nodes.
const SHARE: u64 = CAPACITY / 2 / 3;
/// Keys that one node is the first to see.
const COLD: usize = 60;
const LOCAL: &str = "tollgate_quota_admissions_total{path=\"local\"}";
const CENTRAL: &str = "tollgate_quota_admissions_total{path=\"central\"}";
const PARKED: &str = "tollgate_quota_admissions_total{path=\"parked\"}";

/// Three nodes, and a limit of which each has a share.
struct Stage {
    cluster: Cluster,
    provider: Provider,
    keys: usize,
}

impl Stage {
    async fn set() -> anyhow::Result<Stage> {
        day_with_room(std::time::Duration::from_secs(180)).await;
        let cluster = Cluster::start().await?;
        let provider = cluster.with_standard(&[("alice", None)]).await?;
        let spec =
            format!("{{per: [\"header:x-key\"], unit: tokens, limit: {CAPACITY}, window: 1d, algorithm: fixed}}");
        cluster.cli().apply_and_wait(&document("Limit", "shared", &spec)).await?;
        Ok(Stage { cluster, provider, keys: 0 })
    }

    /// A call of a key that was never seen before; it, and what the answer says is left of its account.
    async fn cold(&mut self, node: u64) -> anyhow::Result<(String, u64)> {
        self.keys += 1;
        let key = format!("key-{}", self.keys);
        Ok((key.clone(), self.call(node, &key).await?))
    }

    async fn call(&mut self, node: u64, key: &str) -> anyhow::Result<u64> {
        let origin = self.cluster.node(node).http_url();
        let call = Call::chat(&api_key("alice"), "mock-1").header("x-key", key);
        let answer = self.cluster.client.send(call.request(&origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        let left = answer.headers.get("x-ratelimit-remaining-tokens").context("no header tells what is left")?;
        Ok(left.to_str()?.parse()?)
    }

    /// What a node has admitted from memory, and by the log.
    async fn admitted(&mut self, node: u64) -> anyhow::Result<(u64, u64)> {
        let url = format!("{}/metrics", self.cluster.node(node).admin_url());
        let text = self.cluster.client.get(&url, &[]).await?.text();
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(Ok(0), |value| value.trim().parse::<u64>().with_context(|| format!("{name} {value}")))
        };
        Ok((of(LOCAL)?, of(CENTRAL)? + of(PARKED)?))
    }

    /// Cold keys, until this node has been heard of and admits one from memory: at most a few.
    async fn warm_up(&mut self, node: u64) -> anyhow::Result<()> {
        for _ in 0..20 {
            let (before, _) = self.admitted(node).await?;
            self.cold(node).await?;
            if self.admitted(node).await?.0 > before {
                return Ok(());
            }
        }
        anyhow::bail!("node {node} admits no cold key from memory: {:?}", self.admitted(node).await?)
    }

    /// The accounts that have a record, as `limits show` has them. What they are made of adds up to their capacity.
    async fn accounts(&self) -> anyhow::Result<Vec<Value>> {
        let rows = self.cluster.cli().rows(&["limits", "show", "--limit", "shared"]).await?;
        for row in &rows {
            let parts = ["used", "held", "leased", "free", "suspense", "lost"];
            let sum = parts.into_iter().map(|name| figure(row, name)).sum::<anyhow::Result<u64>>()?;
            anyhow::ensure!(sum == CAPACITY, "{row} does not add up to {CAPACITY}");
            let by_node: u64 = shares(row)?.values().sum();
            anyhow::ensure!(by_node == figure(row, "leased")?, "{row} does not say who has what");
        }
        Ok(rows)
    }

    /// All that was used is what the provider has served, and nothing is held, nor with anybody who is dead.
    async fn used_is_witnessed(&self) -> anyhow::Result<Vec<Value>> {
        let served = self.provider.tokens("mock-1").await?;
        eventually("what is used is what was served", || async {
            let accounts = self.accounts().await?;
            let sum = |name: &str| accounts.iter().map(|row| figure(row, name)).sum::<anyhow::Result<u64>>();
            let (used, open) = (sum("used")?, sum("held")? + sum("suspense")?);
            anyhow::ensure!((used, open) == (served, 0), "{used} used of {served}, {open} open");
            Ok(accounts)
        })
        .await
    }
}

fn figure(row: &Value, name: &str) -> anyhow::Result<u64> {
    row[name].as_u64().with_context(|| format!("no {name} in {row}"))
}

/// What nodes have of an account: `1:166666,2:166666`.
fn shares(row: &Value) -> anyhow::Result<BTreeMap<u64, u64>> {
    let text = row["leasedByNode"].as_str().context("nobody is said to have anything")?;
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (node, units) = pair.split_once(':').with_context(|| format!("{pair} is no share"))?;
            Ok((node.parse()?, units.parse()?))
        })
        .collect()
}

#[tokio::test]
async fn each_node_admits_keys_that_it_never_saw_from_memory_and_knows_what_others_used_of_them() -> Outcome {
    let mut stage = Stage::set().await?;
    let mut first = None;
    for node in 1..=3 {
        stage.warm_up(node).await?;
        let (local, central) = stage.admitted(node).await?;
        for _ in 0..COLD {
            let (key, _) = stage.cold(node).await?;
            first.get_or_insert(key);
        }
        let now = stage.admitted(node).await?;
        assert_eq!(now, (local + COLD as u64, central), "node {node}");
    }
    let accounts = stage.used_is_witnessed().await?;
    assert_eq!(accounts.len(), stage.keys);
    // All calls are alike.
    let used = figure(&accounts[0], "used")?;
    for row in &accounts {
        let shares = shares(row)?;
        let untouched = shares.values().filter(|share| **share == SHARE).count();
        assert_eq!((figure(row, "used")?, shares.len(), untouched), (used, 3, 2), "{row}");
    }
    let key = first.context("there is one")?;
    let (_, central) = stage.admitted(3).await?;
    let left = stage.call(3, &key).await?;
    assert_eq!(stage.admitted(3).await?.1, central, "it has a share of what node 1 has used of");
    let (_, of_fresh) = stage.cold(3).await?;
    assert_eq!(left, of_fresh - used, "the answer knows what node 1 has used");
    stage.used_is_witnessed().await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_node_is_charged_what_it_drew_of_cold_keys_and_the_rest_comes_back() -> Outcome {
    let mut stage = Stage::set().await?;
    let killed = stage.cluster.follower().await?;
    let other = stage.cluster.leader().await?;
    stage.warm_up(other).await?;
    stage.warm_up(killed).await?;
    for _ in 0..COLD {
        stage.cold(killed).await?;
    }
    stage.cluster.node(killed).kill()?;
    stage.cold(other).await?;
    stage.cluster.node(killed).start()?;
    stage.cluster.node(killed).ready(SOON).await?;
    let accounts = stage.used_is_witnessed().await?;
    assert_eq!(accounts.len(), stage.keys, "what it drew on has records");
    let mut charged = 0;
    for row in &accounts {
        assert_eq!(shares(row)?.get(&killed), None, "nothing of it is in the hands of the killed one: {row}");
        let (free, used, leased) = (figure(row, "free")?, figure(row, "used")?, figure(row, "leased")?);
        if leased == 2 * SHARE {
            assert_eq!(free, CAPACITY - 2 * SHARE - used, "the rest of its share is free: {row}");
            charged += 1;
        } else {
            assert_eq!((free, leased), (CAPACITY - 2 * SHARE, 2 * SHARE - used), "all of its share is free: {row}");
        }
    }
    assert!(charged >= COLD && charged < accounts.len(), "{charged} of {}", accounts.len());
    Ok(())
}
