//! What most rows play on: three nodes, callers, a writer and a reader of the configuration, one limit whose accounts run
//! out one after the other, so that one is contested while the fault lasts, and one limit that does not run out.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, Provider, SOON, Seed,
    accounts::{Accounts, Ledger},
    calls::Call,
    checkers,
    client::LIMIT,
    day_with_room, eventually, eventually_within,
    history::{Asked, History, Told},
    resources::api_key,
    workload::{self, Load, Registers, Tally},
};

/// Of each account; runs out every few seconds.
const TIGHT: u64 = 2_000;
/// Never does.
const AMPLE: u64 = 1_000_000_000;
const CALLERS: usize = 10;

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) provider: Provider,
    pub(super) accounts: Arc<Accounts>,
    load: Load,
    registers: Registers,
}

pub(super) fn tight() -> Call {
    // Most of what it reserves it uses.
    Call::chat(&api_key("tight"), "tight-1").max_tokens(200).header("x-mock-output", "200").header("x-mock-chunk", "10")
}

pub(super) fn ample() -> Call {
    Call::messages(&api_key("ample"), "ample-1")
}

impl Stage {
    /// Everything runs, and calls and writes have succeeded already.
    pub(super) async fn set(seed: Seed) -> anyhow::Result<Stage> {
        Stage::with(&Plan::default(), seed).await
    }

    /// The same on nodes that are told something more.
    pub(super) async fn with(plan: &Plan, seed: Seed) -> anyhow::Result<Stage> {
        let mut cluster = Cluster::prepare(plan)?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        Stage::on(cluster, seed).await
    }

    /// The same on a cluster whose nodes were started by somebody else.
    pub(super) async fn on(mut cluster: Cluster, seed: Seed) -> anyhow::Result<Stage> {
        day_with_room(Duration::from_secs(300)).await;
        cluster.ready().await?;
        let provider = cluster.with_standard(&[("tight", None), ("ample", Some(AMPLE))]).await?;
        let accounts = Arc::new(Accounts::new("tight", TIGHT));
        cluster.cli().apply_and_wait(&accounts.resource("tight")).await?;
        let slow = tight().stream().header("x-mock-pace", "5ms");
        let calls = [tight().on(&accounts), ample(), ample().stream(), slow.on(&accounts)];
        let load = Load::start(&cluster.client, &cluster.origins(), &calls, CALLERS, seed);
        let clis: Vec<_> = (0..cluster.nodes.len()).map(|first| cluster.cli_from(first)).collect();
        let registers = Registers::start(&clis, 1);
        let stage = Stage { cluster, provider, accounts, load, registers };
        stage.goes_on_after(Instant::now()).await?;
        Ok(stage)
    }

    /// When the first write after `since` was acknowledged.
    pub(super) async fn first_write_after(&self, since: Instant) -> anyhow::Result<Instant> {
        eventually("writes succeed", || async {
            let history = self.registers.history().operations();
            let done = history
                .iter()
                .find(|op| matches!((op.asked, op.told), (Asked::Write(_), Told::Done(_))) && op.invoked >= since);
            done.map(|op| op.returned).ok_or_else(|| anyhow::anyhow!("of {} operations none", history.len()))
        })
        .await
    }

    /// Calls are served and writes acknowledged that began after `since`.
    pub(super) async fn goes_on_after(&self, since: Instant) -> anyhow::Result<()> {
        let before = self.load.so_far().served;
        eventually("calls are served", || async {
            let served = self.load.so_far().served;
            anyhow::ensure!(served > before + 10, "served {served}, before {before}");
            Ok(())
        })
        .await?;
        self.first_write_after(since).await?;
        Ok(())
    }

    /// Everything goes on, and no call is under way any more that the last fault may have met: the next one may come.
    pub(super) async fn is_past_the_fault(&self) -> anyhow::Result<()> {
        self.goes_on_after(Instant::now()).await?;
        self.load.calls_under_way_have_ended().await
    }

    /// Heals what still lies down, stops the load, and judges. `recovery` is the row's own figure.
    pub(super) async fn judge(self, recovery: Option<Duration>) -> anyhow::Result<Figures> {
        Ok(self.judge_all(recovery).await?.0)
    }

    /// The same, and what all accounts came to.
    pub(super) async fn judge_all(mut self, recovery: Option<Duration>) -> anyhow::Result<(Figures, Ledger)> {
        for node in &mut self.cluster.nodes {
            if !node.is_running() {
                node.start()?;
            }
        }
        self.cluster.ready().await?;
        let history = self.registers.stop().await;
        let tally = self.load.stop().await;
        self.cluster.converged().await?;
        exhausted(&self.cluster, &self.accounts).await?;
        let ledger = self.accounts.judge(&self.cluster, &self.provider).await?;
        // Told, not judged: a caller who ran out of patience has left, and what that does is judged in `overshoot`.
        super::say(&format!("  {}", ledger.line()));
        let figures = Figures {
            over_admitted: Some(ledger.over),
            writes_lost: Some(lost(&self.cluster, &history).await?),
            stale_reads: Some(checkers::stale_reads(&history.operations()).len() as u64),
            usage_error: None,
            served: tally.served + tally.limited,
            failed: tally.failed,
            recovery,
        };
        tell(&tally);
        Ok((figures, ledger))
    }
}

fn tell(tally: &Tally) {
    let Tally { served, retried, limited, failed, failures } = tally;
    if *failed > 0 {
        super::say(&format!(
            "  {served} served ({retried} at the second try), {limited} limited, {failed} failed: {failures:?}"
        ));
    }
}

/// Uses the account in use up: a limit that would refuse nobody has not survived.
async fn exhausted(cluster: &Cluster, accounts: &Accounts) -> anyhow::Result<()> {
    let (origins, (call, _)) = (cluster.origins(), accounts.now(&tight()));
    eventually_within(SOON * 2, "the limit is used up", || async {
        for origin in &origins {
            let answer = cluster.client.send(call.request(origin), LIMIT).await?;
            anyhow::ensure!(answer.status == 429, "{}: {}", answer.status, answer.text());
        }
        Ok(())
    })
    .await
}

/// Acknowledged writes that a node does not show.
async fn lost(cluster: &Cluster, history: &Arc<History>) -> anyhow::Result<u64> {
    let acknowledged = history.acknowledged();
    let mut lost = 0;
    for node in &cluster.nodes {
        let present = workload::written(&cluster.cli_of(node.id)).await?;
        lost = lost.max(checkers::lost_writes(&acknowledged, &present).len() as u64);
    }
    Ok(lost)
}
