//! The journal of a node, damaged while the node lies down.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;
use tollgate_chaos_tests::{
    Figures, SOON, Seed,
    calls::Call,
    client::LIMIT,
    faults::files::{self, flip_bit},
    nightly,
    resources::api_key,
};

use super::{say, stage::Stage};

/// What the node says of a journal that it can't trust.
const SAID: &str = "the journal of this node is ";
/// Where it puts it.
const ASIDE: &str = "journal.aside-";

/// Row 15: one bit anywhere in the journal of a node that was killed under load. The node finds it, sets the journal aside and
/// serves; what it knew stays in suspense, and no account is over. T is the longest time from a start to being ready.
pub(super) async fn flipped_bits(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let mut rng = seed.rng("bits");
    let (mut longest, mut found, mut harmless) = (Duration::ZERO, 0, 0);
    for number in 0..if nightly() { 50 } else { 4 } {
        let id = rng.random_range(1..=3);
        stage.cluster.node(id).kill()?;
        let data = stage.cluster.node(id).data_dir();
        let (file, offset) = place(&data.join("journal"), number == 0, &mut rng)?;
        let bit = rng.random_range(0..8);
        flip_bit(&file, offset, bit)?;
        let flipped = format!("node {id}, bit {bit} at {offset} of {}", file.strip_prefix(&data)?.display());
        let (took, was_found) = starts(&mut stage, id).await.with_context(|| flipped.clone())?;
        longest = longest.max(took);
        if was_found {
            found += 1;
        } else {
            harmless += 1;
            say(&format!("  not set aside: {flipped}"));
        }
        stage.is_past_the_fault().await?;
    }
    say(&format!("  {found} journals were set aside, {harmless} flips changed nothing"));
    anyhow::ensure!(found > 0, "no flip was found");
    let (figures, ledger) = stage.judge_all(Some(longest)).await?;
    anyhow::ensure!(ledger.lost == 0, "what was served is neither charged nor in suspense: {ledger:?}");
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Some byte of what was written, all alike; or one of the smallest file, which is the watermark.
fn place(journal: &Path, of_smallest: bool, rng: &mut StdRng) -> anyhow::Result<(PathBuf, u64)> {
    let mut written = Vec::new();
    for path in files::tree(journal)? {
        let used = files::used_length(&path)?;
        written.push((path, used));
    }
    written.retain(|(_, used)| *used > 0);
    written.sort_by_key(|(_, used)| *used);
    anyhow::ensure!(!written.is_empty(), "{} is empty", journal.display());
    written.truncate(if of_smallest { 1 } else { written.len() });
    let mut at = rng.random_range(0..written.iter().map(|(_, used)| used).sum());
    for (path, used) in written {
        match at.checked_sub(used) {
            None => return Ok((path, at)),
            Some(beyond) => at = beyond,
        }
    }
    anyhow::bail!("there are fewer bytes than there were")
}

/// Starts a node on its journal: how long it took, and whether the node set the journal aside.
async fn starts(stage: &mut Stage, id: u64) -> anyhow::Result<(Duration, bool)> {
    let node = stage.cluster.node(id);
    let (said, aside) = (node.log().len(), set_aside(&node.data_dir())?);
    let begun = Instant::now();
    node.start()?;
    node.ready(SOON).await?;
    let took = begun.elapsed();
    let found = set_aside(&node.data_dir())? > aside;
    anyhow::ensure!(found == node.log()[said..].contains(SAID), "it says one thing and does another");
    let call = Call::chat(&api_key("ample"), "ample-1");
    let origin = node.http_url();
    let answer = stage.cluster.client.send(call.request(&origin), LIMIT).await?;
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok((took, found))
}

fn set_aside(data: &Path) -> anyhow::Result<usize> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data)? {
        names.push(entry?.file_name());
    }
    Ok(names.iter().filter(|name| name.to_string_lossy().starts_with(ASIDE)).count())
}
