//! A process that ends in the middle of a durable step of its log, its journal, its snapshots or its state.
//!
//! Each place that the program names (`storage/src/failpoints.rs`) ends one node once, under load. What has to happen before
//! a node comes to it differs: [`Way`].

use std::time::Duration;

use anyhow::Context;
use rand::{RngExt, rngs::StdRng};
use tokio::time::{self, Instant};
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, SOON, Seed, eventually, faults::Mode, resources::document, tollgate_with_failpoints,
};

use super::{say, stage::Stage};

/// The program's own list, read as text: the tests share no code with it.
const SOURCE: &str = include_str!("../../../../storage/src/failpoints.rs");
const VARIABLE: &str = "TOLLGATE_FAILPOINT";

/// Snapshots come often, and the log behind them is purged.
const SMALL_SNAPSHOTS: &str = "[snapshot]\nlog_size = \"256KiB\"\nkeep_entries = 4\n";
/// What every few entries bring a node to, it is brought to this often at the most before it ends.
const MOST: u64 = 20;
/// A node that was not brought to its place by then is started again, and what led there is tried once more.
const PATIENCE: Duration = Duration::from_secs(40);
const TRIES: u32 = 3;

/// What has to happen before a node comes to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Calls and writes.
    Load,
    /// It stands for election, or is asked for its vote.
    Election,
    /// So much is written that segments fill, snapshots are made and what they cover is purged.
    Growth,
    /// What it lacks was purged while it was away: the leader sends a snapshot.
    Snapshot,
    /// It led, and what it wrote last reached nobody.
    Overruled,
}

impl Way {
    fn to(name: &str) -> Way {
        match name.split_once('.') {
            Some(("vote", _)) => Way::Election,
            Some(("truncate", _)) => Way::Overruled,
            Some(("snapshot", "before-restore" | "after-restore") | ("state", "before-image" | "before-digest")) => {
                Way::Snapshot
            }
            Some(("snapshot" | "purge", _)) => Way::Growth,
            _ => Way::Load,
        }
    }
}

/// One place, and the thread that comes to it where several do.
#[derive(Clone, Copy, Debug)]
struct Place {
    thread: Option<&'static str>,
    name: &'static str,
    way: Way,
}

impl Place {
    /// As the program reads it. What happens all the time ends the process at some random one of the first times.
    fn setting(&self, chance: &mut StdRng) -> String {
        let thread = self.thread.map(|thread| format!("{thread}/")).unwrap_or_default();
        let often = self.way == Way::Load && !self.is_rare();
        let nth = if often { chance.random_range(1..=MOST) } else { 1 };
        format!("{thread}{}:{nth}", self.name)
    }

    /// Segments are full, and dropped, now and then.
    fn is_rare(&self) -> bool {
        self.name.starts_with("segment.") || self.name.starts_with("drop.")
    }
}

fn names() -> anyhow::Result<Vec<&'static str>> {
    let (_, rest) = SOURCE.split_once("FAILPOINTS: &[&str] = &[").context("there is no list")?;
    let (list, _) = rest.split_once("];").context("the list does not end")?;
    Ok(list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect())
}

fn is_of_founding(name: &str) -> bool {
    name.starts_with("identity.")
}

/// Every place that a running node comes to. What all logs share, the log and the journal come to each for itself.
fn places() -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for name in names()?.into_iter().filter(|name| !is_of_founding(name)) {
        if ["segment.", "log.", "drop."].iter().any(|of_any_log| name.starts_with(of_any_log)) {
            let of_log = if name.starts_with("log.") { Way::Load } else { Way::Growth };
            places.push(Place { thread: Some("raft-log"), name, way: of_log });
            places.push(Place { thread: Some("journal"), name, way: Way::Load });
        } else {
            places.push(Place { thread: None, name, way: Way::to(name) });
        }
    }
    Ok(places)
}

/// Row 9: T is the longest time from the start of a node that has ended to its being ready, writes being accepted and
/// nothing being in suspense.
pub(super) async fn any_step(seed: Seed) -> anyhow::Result<Figures> {
    let (mut chance, mut longest) = (seed.rng("steps"), Duration::ZERO);
    founding(1).await?;
    let mut stage = Stage::on(founding(2).await?, seed).await?;
    let places = places()?;
    for place in &places {
        let victim = chance.random_range(1..=3);
        let setting = place.setting(&mut chance);
        let took = ends_and_returns(&mut stage, victim, &setting, place.way).await;
        let took = took.with_context(|| format!("{VARIABLE}={setting} on node {victim}"))?;
        say(&format!("  {setting:<36} on node {victim}, whole again after {took:.2?}"));
        longest = longest.max(took);
    }
    say(&format!("  {} names, {} times a node ended", names()?.len(), 6 + places.len()));
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// A cluster each of whose nodes ended once while it wrote down for the `nth` time who it is.
async fn founding(nth: u32) -> anyhow::Result<Cluster> {
    let plan = Plan { relayed: true, more_toml: SMALL_SNAPSHOTS.to_owned(), ..Plan::default() };
    let mut cluster = Cluster::prepare(&plan)?;
    let names: Vec<&str> = names()?.into_iter().filter(|name| is_of_founding(name)).collect();
    anyhow::ensure!(names.len() == cluster.nodes.len(), "a node for each of {names:?}");
    for (node, name) in cluster.nodes.iter_mut().zip(&names) {
        node.program = Some(tollgate_with_failpoints().to_owned());
        node.env = vec![(VARIABLE.to_owned(), format!("{name}:{nth}"))];
        node.start()?;
    }
    let deadline = Instant::now() + SOON;
    while cluster.nodes.iter().any(|node| !node.env.is_empty()) {
        anyhow::ensure!(Instant::now() < deadline, "not every node ended at {names:?}:{nth}");
        for node in &mut cluster.nodes {
            if !node.is_running() {
                node.env.clear();
                node.start()?;
            }
        }
        time::sleep(Duration::from_millis(20)).await;
    }
    cluster.ready().await?;
    Ok(cluster)
}

/// Lets a node end at a place, and brings it back.
async fn ends_and_returns(stage: &mut Stage, victim: u64, setting: &str, way: Way) -> anyhow::Result<Duration> {
    let mut ended = false;
    for _ in 0..TRIES {
        lie_down(stage, victim, way).await?;
        let node = stage.cluster.node(victim);
        node.env = vec![(VARIABLE.to_owned(), setting.to_owned())];
        node.start()?;
        ended = ends(stage, victim, way).await?;
        if ended {
            break;
        }
        let node = stage.cluster.node(victim);
        node.kill()?;
        node.env.clear();
        node.start()?;
        node.ready(SOON).await?;
    }
    anyhow::ensure!(ended, "it lives on");
    let node = stage.cluster.node(victim);
    node.env.clear();
    let begun = Instant::now();
    node.start()?;
    node.ready(SOON).await?;
    stage.goes_on_after(begun).await?;
    nothing_in_suspense(&stage.cluster).await?;
    Ok(begun.elapsed())
}

/// Ends a node from outside, so that it starts where the way begins.
async fn lie_down(stage: &mut Stage, victim: u64, way: Way) -> anyhow::Result<()> {
    if way == Way::Overruled {
        leads(&stage.cluster, victim).await?;
        let written = last_log(&stage.cluster, victim).await?;
        for relay in &stage.cluster.relays {
            relay.set(Mode::Cut);
        }
        let wrote = eventually("it writes for itself alone", || async {
            let now = last_log(&stage.cluster, victim).await?;
            anyhow::ensure!(now > written + 1, "{now} entries, {written} before");
            Ok(())
        })
        .await;
        stage.cluster.node(victim).kill()?;
        for relay in &stage.cluster.relays {
            relay.set(Mode::Pass);
        }
        wrote?;
    } else {
        stage.cluster.node(victim).kill()?;
    }
    if way == Way::Snapshot {
        for number in 0..3 {
            write(&stage.cluster, victim, number).await?;
        }
    }
    stage.goes_on_after(Instant::now()).await
}

/// Does what leads to a place until the node has ended there, or patience has.
async fn ends(stage: &mut Stage, victim: u64, way: Way) -> anyhow::Result<bool> {
    let (mut number, deadline) = (0_u64, Instant::now() + PATIENCE);
    while stage.cluster.node(victim).is_running() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        number += 1;
        match way {
            Way::Growth => write(&stage.cluster, victim, number).await?,
            Way::Election => {
                // Whoever leads, the others vote. The one that ends in it may have been asked to lead.
                let to = (number % 3 + 1).to_string();
                stage
                    .cluster
                    .cli_of(victim % 3 + 1)
                    .run(&["cluster", "transfer-leader", &to, "--timeout", "2s"])
                    .await?;
            }
            Way::Load | Way::Snapshot | Way::Overruled => time::sleep(Duration::from_millis(20)).await,
        }
    }
    // By itself, and not in order.
    let status = stage.cluster.node(victim).exited(SOON).await?;
    anyhow::ensure!(!status.success(), "{status}");
    let log = stage.cluster.node(victim).log();
    anyhow::ensure!(log.contains("failpoint reached"), "it ended with {status} for another reason");
    Ok(true)
}

/// A megabyte for the log, through a node that lives. It may be refused while there is no leader.
async fn write(cluster: &Cluster, victim: u64, number: u64) -> anyhow::Result<()> {
    let body = format!("{number}{}", "x".repeat(1 << 20));
    let spec = format!("{{match: [{{path: {{exact: /row-9}}}}], response: {{status: 200, body: \"{body}\"}}}}");
    let route = document("Route", "row-9", &spec);
    cluster.cli_of(victim % 3 + 1).run_with(&["apply", "-f", "-", "--timeout", "5s"], &route).await?;
    Ok(())
}

async fn leads(cluster: &Cluster, id: u64) -> anyhow::Result<()> {
    eventually("the node leads", || async {
        let leader = cluster.leader().await?;
        if leader != id {
            cluster.cli().run(&["cluster", "transfer-leader", &id.to_string(), "--timeout", "2s"]).await?;
        }
        anyhow::ensure!(leader == id, "node {leader} leads");
        Ok(())
    })
    .await
}

/// The newest entry of a node's own log.
async fn last_log(cluster: &Cluster, id: u64) -> anyhow::Result<u64> {
    let node = cluster.nodes.iter().find(|node| node.id == id).context("it is a member")?;
    let metrics = cluster.client.get(&format!("{}/metrics", node.admin_url()), &[]).await?.text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("tollgate_raft_last_log_index "));
    Ok(line.context("it tells no index")?.parse()?)
}

async fn nothing_in_suspense(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("nothing is in suspense", || async {
        for row in cluster.cli().rows(&["limits", "show"]).await? {
            anyhow::ensure!(row["suspense"] == 0, "{row}");
        }
        Ok(())
    })
    .await
}

#[test]
fn the_list_of_the_program_is_read() {
    let places = places().expect("it is there");
    let named = |name: &str| places.iter().filter(|place| place.name == name).count();
    assert!(places.len() > 40, "{places:?}");
    assert_eq!((named("apply.before"), named("log.after-sync"), named("identity.before-sync")), (1, 2, 0));
}
