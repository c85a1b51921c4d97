//! What happens to nodes meanwhile: one thing after the other, at random.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use tokio::time;
use tollgate_chaos_tests::{Cluster, SOON, Seed, nightly, now};

/// Between two strikes, in a short run and in a long one, and for how long a node is away: faults in time.
const BETWEEN_MS: std::ops::Range<u64> = 300..2_500;
const BETWEEN_MS_NIGHTLY: std::ops::Range<u64> = 500..10_000;
const AWAY_MS: std::ops::Range<u64> = 0..1_500;

/// What was done, and which process died when, in microseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct Struck {
    pub(super) killed: Vec<(u64, u128)>,
    kills: u32,
    all_killed: u32,
    stops: u32,
    freezes: u32,
    moves: u32,
}

impl Struck {
    pub(super) fn line(&self) -> String {
        let Struck { kills, all_killed, stops, freezes, moves, .. } = self;
        format!("kills={kills} all-killed={all_killed} stops={stops} freezes={freezes} leader-moves={moves}")
    }
}

pub(super) struct Strikes {
    rng: StdRng,
    struck: Struck,
}

impl Strikes {
    pub(super) fn new(seed: Seed) -> Strikes {
        Strikes { rng: seed.rng("strikes"), struck: Struck::default() }
    }

    pub(super) fn done(self) -> Struck {
        self.struck
    }

    /// The next one; all nodes are ready before and after it.
    pub(super) async fn next(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.pause(if nightly() { BETWEEN_MS_NIGHTLY } else { BETWEEN_MS }).await;
        let id = self.rng.random_range(1..=3);
        match self.rng.random_range(0..10) {
            0..=2 => self.kill(cluster, id).await?,
            3 | 4 => {
                let leader = cluster.leader().await?;
                self.kill(cluster, leader).await?;
            }
            5 => self.kill_all(cluster).await?,
            6 => self.stop(cluster, id).await?,
            7 => self.freeze(cluster, id).await?,
            _ => {
                // It may be the leader already, or just have been elected: then nothing moves.
                let moved =
                    cluster.cli().run(&["cluster", "transfer-leader", &id.to_string(), "--timeout", "5s"]).await?;
                self.struck.moves += u32::from(moved.code == 0);
            }
        }
        cluster.ready().await
    }

    async fn pause(&mut self, range: std::ops::Range<u64>) {
        time::sleep(Duration::from_millis(self.rng.random_range(range))).await;
    }

    fn killed(&mut self, id: u64) {
        self.struck.killed.push((id, now().as_micros()));
    }

    async fn kill(&mut self, cluster: &mut Cluster, id: u64) -> anyhow::Result<()> {
        self.struck.kills += 1;
        cluster.node(id).kill()?;
        self.killed(id);
        self.pause(AWAY_MS).await;
        cluster.node(id).start()
    }

    async fn kill_all(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.struck.all_killed += 1;
        for node in &mut cluster.nodes {
            node.kill()?;
            self.killed(node.id);
        }
        for node in &mut cluster.nodes {
            node.start()?;
        }
        Ok(())
    }

    async fn stop(&mut self, cluster: &mut Cluster, id: u64) -> anyhow::Result<()> {
        self.struck.stops += 1;
        cluster.node(id).terminate()?;
        let status = cluster.node(id).exited(SOON).await?;
        anyhow::ensure!(status.success(), "node {id} was asked to leave: {status}");
        self.pause(AWAY_MS).await;
        cluster.node(id).start()
    }

    async fn freeze(&mut self, cluster: &mut Cluster, id: u64) -> anyhow::Result<()> {
        self.struck.freezes += 1;
        cluster.node(id).freeze()?;
        self.pause(AWAY_MS).await;
        cluster.node(id).thaw()
    }
}
