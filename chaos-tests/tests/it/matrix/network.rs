//! Networks that swallow, and peers that are none.

use anyhow::Context;
use rand::{Rng, RngExt};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tollgate_chaos_tests::{
    Ca, Cluster, Figures, Plan, Seed,
    faults::{
        Mode,
        stranger::{Field, Stranger, field},
    },
};

use super::stage::Stage;

/// gRPC's `PERMISSION_DENIED` and `UNAUTHENTICATED`.
const REFUSALS: [u32; 2] = [7, 16];

/// Row 24: connections to one node are accepted and never answered; first to a follower, then to the leader.
pub(super) async fn black_hole(seed: Seed) -> anyhow::Result<Figures> {
    let mut cluster = Cluster::prepare(&Plan { relayed: true, ..Plan::default() })?;
    for node in &mut cluster.nodes {
        node.start()?;
    }
    let stage = Stage::on(cluster, seed).await?;
    let mut recovery = std::time::Duration::ZERO;
    for to_leader in [false, true] {
        let id = if to_leader { stage.cluster.leader().await? } else { stage.cluster.follower().await? };
        let relay = &stage.cluster.relays[usize::try_from(id)? - 1];
        relay.set(Mode::Hold);
        stage.goes_on_after(Instant::now()).await?;
        relay.set(Mode::Pass);
        let healed = Instant::now();
        stage.cluster.converged_on_one_leader().await?;
        recovery = recovery.max(healed.elapsed());
    }
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 27: everything on the peer port that is not a member in good standing.
pub(super) async fn malformed_peers(seed: Seed) -> anyhow::Result<Figures> {
    let stage = Stage::set(seed).await?;
    let term = stage.cluster.status().await?[0]["term"].as_u64();
    let target = stage.cluster.nodes[0].peer;
    let ca = &stage.cluster.ca;

    let mut rng = seed.rng("peers");
    for _ in 0..20 {
        let mut bytes = vec![0; rng.random_range(1..5_000)];
        rng.fill_bytes(&mut bytes);
        let mut socket = TcpStream::connect(target).await?;
        // It may close before all is written.
        let _ = socket.write_all(&bytes).await;
    }

    let foreign = Ca::new()?;
    for identity in [None, Some(foreign.node(2)?), Some(ca.expired_node(2)?)] {
        let stranger = Stranger::new(target, 1, ca, identity.as_ref())?;
        let let_in = stranger.call("Identify", &[], &[]).await;
        anyhow::ensure!(let_in.is_err(), "{identity:?} was let in: {let_in:?}");
    }

    let second = Stranger::new(target, 1, ca, Some(&ca.node(2)?))?;
    let identity = second.call("Identify", &[], &[]).await.context("node 2 is a member")?.body;
    let Some(Field::Bytes(cluster)) = field(&identity, 3) else { anyhow::bail!("no cluster id in {identity:?}") };
    let Some(Field::Varint(first)) = field(&identity, 2) else { anyhow::bail!("no Raft id in {identity:?}") };
    let (cluster, first, third) = (hex(&cluster), first.to_string(), (3_u64 << 16).to_string());
    let as_third =
        [("tollgate-cluster", cluster.as_str()), ("tollgate-from", third.as_str()), ("tollgate-to", first.as_str())];
    for method in ["Vote", "PreVote", "TransferLeader", "Propose", "ReadIndex", "ChangeMembership", "Call"] {
        let reply = second.call(method, &as_third, &[]).await?;
        anyhow::ensure!(reply.status.is_some_and(|status| REFUSALS.contains(&status)), "{method} as node 3: {reply:?}");
    }

    let mut huge = vec![0];
    huge.extend_from_slice(&u32::MAX.to_be_bytes());
    huge.extend_from_slice(b"not four gigabytes");
    let as_second = [as_third[0], ("tollgate-from", "131072"), as_third[2]];
    for method in ["Vote", "Append", "InstallSnapshot", "Propose"] {
        if let Ok(reply) = second.call_raw(method, &as_second, huge.clone()).await {
            anyhow::ensure!(reply.status != Some(0), "{method} took a prefix of four gigabytes: {reply:?}");
        }
        let mut fuzz = vec![0, 0, 0, 0, 64];
        fuzz.extend((0..64).map(|_| rng.random::<u8>()));
        if let Ok(reply) = second.call_raw(method, &as_second, fuzz).await {
            anyhow::ensure!(reply.status != Some(0), "{method} took random bytes: {reply:?}");
        }
    }

    stage.goes_on_after(Instant::now()).await?;
    anyhow::ensure!(stage.cluster.status().await?[0]["term"].as_u64() == term, "a stranger caused an election");
    let figures = stage.judge(None).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
