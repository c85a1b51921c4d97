//! Disks that fail, tear, rot or are gone.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use rand::RngExt;
use tokio::time::Instant;
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, SOON, Seed, eventually_within,
    faults::{Disk, Shim, SmallDisk, files},
    nightly, resources,
};

use super::{Skipped, say, stage::Stage};
use crate::full_disk::{fill, large};

/// Enough for logs, stores and snapshots of a row.
const DATA_MIB: u32 = 160;
/// Megabytes that are written before a log that has no more space must have met its end.
const MOST_MIB: u32 = 64;

/// Row 12: the node whose flush fails ends at once, and never carries on; T is the time to the next acknowledged write.
pub(super) async fn failing_flush(seed: Seed) -> anyhow::Result<Figures> {
    let (mut stage, shims) = on_shims(seed).await?;
    let leader = stage.cluster.leader().await?;
    let follower = stage.cluster.follower().await?;
    let mut recovery = Duration::ZERO;
    for victim in [follower, leader] {
        let shim = &shims[usize::try_from(victim)? - 1];
        shim.set(Disk::Failing)?;
        let failed = Instant::now();
        let status = stage.cluster.node(victim).exited(Duration::from_secs(20)).await?;
        anyhow::ensure!(!status.success(), "a node whose disk failed ended as if all were well");
        recovery = recovery.max(stage.first_write_after(failed).await? - failed);
        shim.set(Disk::Healthy)?;
        stage.cluster.node(victim).start()?;
        stage.cluster.node(victim).ready(SOON).await?;
        stage.is_past_the_fault().await?;
    }
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Rows 11 and 12: a cluster each of whose nodes has a disk that can be spoilt.
async fn on_shims(seed: Seed) -> anyhow::Result<(Stage, Vec<Shim>)> {
    let mut cluster = Cluster::prepare(&Plan::default())?;
    let mut shims = Vec::new();
    for node in &mut cluster.nodes {
        let shim = Shim::build()?;
        node.env = shim.env();
        shims.push(shim);
        node.start()?;
    }
    Ok((Stage::on(cluster, seed).await?, shims))
}

/// Row 11: every flush of one node takes long, of a follower and of the leader. T is the longest time from then to the next
/// acknowledged write.
pub(super) async fn slow_flush(seed: Seed) -> anyhow::Result<Figures> {
    let (stage, shims) = on_shims(seed).await?;
    let mut longest = Duration::ZERO;
    for millis in [50, 500, 5_000] {
        for of_leader in [false, true] {
            let id = if of_leader { stage.cluster.leader().await? } else { stage.cluster.follower().await? };
            let shim = &shims[usize::try_from(id)? - 1];
            shim.set(Disk::Slow(Duration::from_millis(millis)))?;
            let begun = Instant::now();
            stage.goes_on_after(begun).await?;
            let wrote = stage.first_write_after(begun).await? - begun;
            say(&format!("  {millis} ms on {}: {wrote:.2?}", if of_leader { "the leader" } else { "a follower" }));
            longest = longest.max(wrote);
            shim.set(Disk::Healthy)?;
            stage.cluster.converged_on_one_leader().await?;
        }
    }
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 10: no space for a follower, for the leader, for anybody. Nobody ends, and all heal by themselves. T is the longest time
/// from the space that is there again to the next acknowledged write.
pub(super) async fn full_disks(seed: Seed) -> anyhow::Result<Figures> {
    let mut cluster = Cluster::prepare(&Plan::default())?;
    let mut disks = Vec::new();
    for node in &mut cluster.nodes {
        fs::create_dir_all(node.data_dir())?;
        let disk = SmallDisk::mount(&node.data_dir(), DATA_MIB);
        disks.push(disk.ok_or(Skipped("a small disk needs the right to mount a tmpfs (run as root)"))?);
        node.start()?;
    }
    let mut stage = Stage::on(cluster, seed).await?;
    let (follower, leader) = (stage.cluster.follower().await?, stage.cluster.leader().await?);
    let mut longest = Duration::ZERO;
    for victims in [vec![follower], vec![leader], vec![1, 2, 3]] {
        longest = longest.max(starve(&mut stage, &victims).await?);
    }
    // Where the leader can write nothing, nobody is served: R is not judged here.
    stage.judge(Some(longest)).await
}

/// Fills the disks of these nodes until their logs have no space, frees them, and gives the time until a write succeeds.
async fn starve(stage: &mut Stage, victims: &[u64]) -> anyhow::Result<Duration> {
    let dirs: Vec<PathBuf> = victims.iter().map(|&id| stage.cluster.node(id).data_dir()).collect();
    let cli = stage.cluster.cli();
    for written in 0.. {
        for dir in &dirs {
            fill(dir)?;
        }
        if all_full(stage, victims).await? {
            break;
        }
        anyhow::ensure!(written < MOST_MIB, "{MOST_MIB} MiB were written and no log is full");
        // It may be refused, which is what this is for.
        cli.run_with(&["apply", "-f", "-", "--timeout", "2s"], &large(written)).await?;
    }
    if let [alone] = victims {
        // The others have space: they serve and write, one of them leads, and the full one stays.
        stage.goes_on_after(Instant::now()).await?;
        let leader = stage.cluster.leader().await?;
        anyhow::ensure!(leader != *alone, "node {alone} leads with a full disk");
    }
    for dir in &dirs {
        fs::remove_file(dir.join("filler"))?;
    }
    let freed = Instant::now();
    for node in &mut stage.cluster.nodes {
        anyhow::ensure!(node.is_running(), "node {} has ended: {}", node.id, node.log());
    }
    stage.goes_on_after(freed).await?;
    let took = stage.first_write_after(freed).await? - freed;
    stage.cluster.converged().await?;
    Ok(took)
}

/// Whether each of these says that its log has no space left.
async fn all_full(stage: &Stage, ids: &[u64]) -> anyhow::Result<bool> {
    for node in stage.cluster.nodes.iter().filter(|node| ids.contains(&node.id)) {
        let metrics = stage.cluster.client.get(&format!("{}/metrics", node.admin_url()), &[]).await?.text();
        if !metrics.contains("\ntollgate_log_full 1\n") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Row 16: an empty disk under a known id: no vote with amnesia, a learner under a new Raft id, then a voter again. The log
/// it would need is purged, so it comes back by a snapshot.
pub(super) async fn wiped_follower(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::with(&Plan { env: snapshots_soon(), ..Plan::default() }, seed).await?;
    let follower = stage.cluster.follower().await?;
    stage.cluster.node(follower).kill()?;
    stage.goes_on_after(Instant::now()).await?;
    stage.cluster.node(follower).wipe()?;
    let begun = Instant::now();
    stage.cluster.node(follower).start()?;
    stage.cluster.node(follower).ready(SOON).await?;
    let recovery = begun.elapsed();
    stage.goes_on_after(Instant::now()).await?;
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Settings under which twenty small changes make a snapshot and purge the log behind it.
fn snapshots_soon() -> Vec<(String, String)> {
    [("TOLLGATE_SNAPSHOT_LOG_SIZE", "1KiB"), ("TOLLGATE_SNAPSHOT_KEEP_ENTRIES", "2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// What became of a node whose files were damaged.
enum Fate {
    /// It runs, caught up, and shows what the others show.
    Whole,
    /// It refused, and named what is wrong.
    Refused,
}

/// A cluster with some content, one follower of which lies down with its files set aside.
struct Patient {
    cluster: Cluster,
    id: u64,
    backup: PathBuf,
    expected: String,
}

impl Patient {
    async fn new() -> anyhow::Result<Patient> {
        let mut cluster = Cluster::with(Plan { env: snapshots_soon(), ..Plan::default() }).await?;
        for number in 0..20 {
            cluster.cli().apply(&resources::tenant(&format!("tenant-{number}"))).await?;
        }
        cluster.converged().await?;
        let expected = cluster.cli().run(&["export"]).await?.ok()?.stdout;
        let id = cluster.follower().await?;
        cluster.node(id).kill()?;
        let backup = cluster.dir().join("backup");
        files::copy_tree(&cluster.node(id).data_dir(), &backup)?;
        Ok(Patient { cluster, id, backup, expected })
    }

    /// Files whose path holds `part`, relative to the data directory, with their content's length.
    fn files(&self, part: &str) -> anyhow::Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        for path in files::tree(&self.backup)? {
            let relative = path.strip_prefix(&self.backup)?.to_owned();
            let used = files::used_length(&path)?;
            if relative.to_string_lossy().contains(part) && used > 0 {
                found.push((relative, used));
            }
        }
        Ok(found)
    }

    /// Restores the files, damages them, starts the node and looks what becomes of it.
    async fn try_with(&mut self, damage: impl FnOnce(&std::path::Path) -> anyhow::Result<()>) -> anyhow::Result<Fate> {
        let data = self.cluster.node(self.id).data_dir();
        files::copy_tree(&self.backup, &data)?;
        damage(&data)?;
        let said_before = self.cluster.node(self.id).log().len();
        self.cluster.node(self.id).start()?;
        let ready = self.cluster.node(self.id).ready(SOON).await;
        if self.cluster.node(self.id).is_running() {
            ready?;
            self.shows_what_all_show().await?;
            self.cluster.node(self.id).kill()?;
            // It has acknowledged more since: an older copy would be a disk that lies, which is another fault.
            files::copy_tree(&data, &self.backup)?;
            return Ok(Fate::Whole);
        }
        let log = self.cluster.node(self.id).log();
        let said = &log[said_before..];
        let clear = said.contains("data") && !said.contains("panicked");
        anyhow::ensure!(clear, "it ended without a clear reason: {said}");
        self.cluster.node(self.id).exited(SOON).await?;
        Ok(Fate::Refused)
    }

    async fn shows_what_all_show(&self) -> anyhow::Result<()> {
        let cli = self.cluster.cli_of(self.id);
        eventually_within(SOON, "the damaged node shows what the others show", || async {
            let shown = cli.run(&["export"]).await?.ok()?.stdout;
            anyhow::ensure!(shown == self.expected, "it shows something else: {shown}");
            Ok(())
        })
        .await
    }

    /// Undamaged, it must be as it was.
    async fn recovers(mut self) -> anyhow::Result<Figures> {
        match self.try_with(|_| Ok(())).await? {
            Fate::Whole => Ok(Figures { writes_lost: Some(0), stale_reads: Some(0), ..Figures::default() }),
            Fate::Refused => anyhow::bail!("the node refuses its own, undamaged files"),
        }
    }
}

/// Row 14: the end of the newest log segment is missing or zero, by every length that matters.
pub(super) async fn torn_tail(seed: Seed) -> anyhow::Result<Figures> {
    let mut patient = Patient::new().await?;
    let mut rng = seed.rng("torn");
    let mut lengths: Vec<u64> = vec![1, 4, 512];
    lengths.extend((0..if nightly() { 200 } else { 2 }).map(|_| rng.random_range(1..1_024)));
    let (mut whole, mut refused) = (0, 0);
    for (number, length) in lengths.iter().enumerate() {
        let mut logs = patient.files("log/")?.into_iter();
        let (segment, used) = logs.rfind(|(path, _)| is_segment(path)).context("there is no log")?;
        let at = used.saturating_sub(*length);
        let fate = patient
            .try_with(|data| {
                let file = data.join(&segment);
                if number % 2 == 0 {
                    files::truncate(&file, at)
                } else {
                    files::zero(&file, at, usize::try_from(*length)?)
                }
            })
            .await?;
        count(&fate, &mut whole, &mut refused);
    }
    say(&format!("  {whole} tails were healed, {refused} refused because acknowledged records were gone"));
    patient.recovers().await
}

/// Row 15: one bit in any file that a node keeps. It is found, or it changes nothing: never a silent difference.
pub(super) async fn flipped_bits(seed: Seed) -> anyhow::Result<Figures> {
    let mut patient = Patient::new().await?;
    let mut rng = seed.rng("bits");
    let flips = if nightly() { 200 } else { 3 };
    for part in ["log/", "snapshots/", "state/"] {
        let (mut whole, mut refused) = (0, 0);
        for _ in 0..flips {
            let kept = patient.files(part)?;
            anyhow::ensure!(!kept.is_empty(), "there are no files in {part}");
            let (file, used) = &kept[rng.random_range(0..kept.len())];
            let (offset, bit) = (rng.random_range(0..*used), rng.random_range(0..8));
            let fate = patient.try_with(|data| files::flip_bit(&data.join(file), offset, bit)).await;
            let fate = fate.with_context(|| format!("bit {bit} at {offset} of {}", file.display()))?;
            count(&fate, &mut whole, &mut refused);
        }
        say(&format!("  {part}: {whole} flips were healed or harmless, {refused} refused"));
    }
    patient.recovers().await
}

/// Segments are the large files of the log; the watermark is a small one.
fn is_segment(path: &std::path::Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
}

fn count(fate: &Fate, whole: &mut u32, refused: &mut u32) {
    match fate {
        Fate::Whole => *whole += 1,
        Fate::Refused => *refused += 1,
    }
}

/// A data directory that can't be read at all belongs to nobody.
#[tokio::test]
async fn a_log_that_is_gone_is_not_taken_for_a_new_node() -> tollgate_chaos_tests::Outcome {
    let mut patient = Patient::new().await?;
    let fate = patient.try_with(|data| Ok(fs::remove_dir_all(data.join("log"))?)).await?;
    // It may refuse, or join again as a node that lost its disk; it may not vote as if nothing had happened.
    let (mut whole, mut refused) = (0, 0);
    count(&fate, &mut whole, &mut refused);
    say(&format!("  without its log: {}", if whole == 1 { "joined again" } else { "refused" }));
    Ok(())
}
