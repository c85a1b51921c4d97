//! Memory that runs out.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use tollgate_chaos_tests::{
    Figures, SOON, Seed,
    calls::Call,
    client::{Client, LIMIT},
    faults::MemoryCage,
    resources::api_key,
};

use super::{Skipped, say, stage::Stage};

/// Beside what the node uses already, which a control group does not count.
const CAGE_BYTES: u64 = 64 << 20;
/// Prompts of so many bytes, below the limit of a body.
const PROMPT_BYTES: usize = 4 << 20;
/// Together some three times what there is.
const CALLERS: usize = 50;

/// Row 36: more prompts at once than fit in a node's memory. It sheds them, or is killed and comes back; the others carry on.
/// T is the time until it is ready again.
pub(super) async fn pressure(seed: Seed) -> anyhow::Result<Figures> {
    let cage =
        MemoryCage::build(CAGE_BYTES).ok_or(Skipped("a memory cage needs root and control groups of version 1"))?;
    let mut stage = Stage::set(seed).await?;
    let follower = stage.cluster.follower().await?;
    cage.put(stage.cluster.node(follower).pid()?)?;
    let origin = stage.cluster.node(follower).http_url();
    let mut call = Call::chat(&api_key("ample"), "ample-1");
    call.body["messages"][0]["content"] = Value::from("x ".repeat(PROMPT_BYTES / 2));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (call, origin) = (call.clone(), origin.clone());
        callers
            .spawn(async move { Client::new().send(call.request(&origin), LIMIT).await.map(|answer| answer.status) });
    }
    let (mut served, mut shed, mut broken, mut why) = (0, 0, 0, BTreeMap::<String, u32>::new());
    while let Some(done) = callers.join_next().await {
        match done? {
            Ok(200) => served += 1,
            Ok(status) => {
                shed += 1;
                *why.entry(status.to_string()).or_default() += 1;
            }
            Err(error) => {
                broken += 1;
                *why.entry(error.to_string()).or_default() += 1;
            }
        }
    }
    let killed = !stage.cluster.node(follower).is_running();
    let peak = cage.peak()? >> 20;
    say(&format!(
        "  {CALLERS} large prompts: {served} served, {shed} shed, {broken} without an answer; peak {peak} MiB, killed: {killed}"
    ));
    say(&format!("  {why:?}"));
    stage.goes_on_after(Instant::now()).await?;
    let begun = Instant::now();
    if killed {
        stage.cluster.node(follower).start()?;
    }
    stage.cluster.node(follower).ready(SOON).await?;
    let recovery: Duration = begun.elapsed();
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}
