//! Old segments of the ledger, which nodes have let go of: read from the archive as if they were here, and told of by name where
//! they are not.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider, Run,
    calls::Call,
    client::LIMIT,
    eventually,
    faults::Skew,
    resources::{api_key, document},
};

use crate::{
    ledger::{same_everywhere, segments, verify},
    matrix::clocks::with_clocks_on,
};

/// From any day of a month into a later one, past the tenant's grace and `archive_after`.
const LEAP_MS: i64 = 40 * 24 * 3_600_000;
const TENANT: &str = "{billing: {mode: postpaid, currency: USD, grace: 1h}}";
/// Of one version of the price, which the ledger has beside the first row by it: six fill a segment.
const GLOBS: usize = 6_000;
const GLOB_BYTES: usize = 250;
/// For what a node has, and for what it can't have: somebody else is asked until then.
const PATIENCE: &str = "60s";
const IMPATIENCE: &str = "3s";
const RANGE: [&str; 4] = ["--from", "2026-01-01", "--to", "2999-01-01"];

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A cluster whose nodes archive to directories of their own, and the ids of its calls.
struct Archiving {
    cluster: Cluster,
    _provider: Provider,
    requests: Vec<String>,
}

impl Archiving {
    fn dir(&self, node: u64) -> PathBuf {
        self.cluster.dir().join(format!("node-{node}/archive"))
    }

    /// What a node has archived, by name.
    fn archived(&self, node: u64) -> anyhow::Result<Files> {
        let read = |path: PathBuf| Ok((path.file_name().expect("it is a file").into(), fs::read(path)?));
        fs::read_dir(self.dir(node))?.map(|entry| read(entry?.path())).collect()
    }

    async fn call(&mut self) -> anyhow::Result<()> {
        let origin = &self.cluster.origins()[self.requests.len() % 3];
        let call = Call::chat(&api_key("alice"), "mock-1");
        let answer = self.cluster.client.send(call.request(origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        self.requests.push(answer.header("x-request-id").to_owned());
        Ok(())
    }

    /// Calls, each by a new version of a price that is megabytes long, until so many segments are complete and one more is begun.
    async fn fill(&mut self, complete: usize) -> anyhow::Result<()> {
        let globs: Vec<String> = (0..GLOBS).map(|n| format!("m{n:0>GLOB_BYTES$}")).collect();
        let globs = globs.join(",");
        for version in 1_u64.. {
            let spec = format!("{{currency: USD, match: {{models: [mock-1,{globs}]}}, input: {version}, output: 7}}");
            let price = document("Price", "mock", &spec);
            // So large an entry may cost a busy machine an election.
            eventually("the price is applied", || async { self.cluster.cli().apply_and_wait(&price).await }).await?;
            self.call().await?;
            let begun = segments(&self.cluster, 1).len();
            if begun > complete {
                break;
            }
            anyhow::ensure!(version < 20, "{begun} segments after {version} versions");
        }
        self.all_in(1).await
    }

    /// Every call is in a node's ledger, and all of that is in order.
    async fn all_in(&self, node: u64) -> anyhow::Result<()> {
        eventually("every call is in the ledger", || async {
            let told = verify(&self.cluster, node).await?.json()?;
            anyhow::ensure!(told[0]["rows"] == self.requests.len(), "{told}");
            Ok(())
        })
        .await
    }

    async fn show(&self, node: u64, request: usize, patience: &str) -> anyhow::Result<Run> {
        let args = ["ledger", "show", &self.requests[request], "-o", "json", "--timeout", patience];
        self.cluster.cli_of(node).run(&args).await
    }

    async fn export(&self, node: u64, to: &Path, patience: &str) -> anyhow::Result<Run> {
        let to = to.to_string_lossy();
        let told = ["billing", "export", "--format", "jsonl", "--timeout", patience, "--output", &*to];
        let args = [&told[..], &RANGE[..]].concat();
        self.cluster.cli_of(node).run(&args).await
    }

    /// What was archived is read as before, by whoever asks, and is the same everywhere.
    async fn is_read_as_before(&self, exported: &[u8]) -> anyhow::Result<()> {
        let to = self.cluster.dir().join("again.jsonl");
        for node in [1, 2, 3] {
            self.all_in(node).await?;
            let shown = self.show(node, 0, PATIENCE).await?.json()?;
            anyhow::ensure!(shown[0]["request_id"] == self.requests[0].as_str(), "{shown}");
            self.export(node, &to, PATIENCE).await?.ok()?;
            anyhow::ensure!(fs::read(&to)? == exported, "node {node} exports something else");
        }
        Ok(())
    }
}

/// Two segments are complete, the months of all their rows are closed, and every node has let go of both.
async fn archived() -> anyhow::Result<(Archiving, Vec<u8>)> {
    let more_toml = "[ledger]\narchive = \"archive\"\narchive_after = \"10d\"\n".to_owned();
    let (mut cluster, clocks) = with_clocks_on(&Plan { more_toml, ..Plan::default() })?;
    for node in &cluster.nodes {
        fs::create_dir(node.dir.join("archive"))?;
    }
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    cluster.cli().apply_and_wait(&document("Tenant", "acme", TENANT)).await?;
    let mut of = Archiving { cluster, _provider: provider, requests: Vec::new() };
    of.fill(2).await?;
    same_everywhere(&of.cluster).await?;
    let (to, before) = (of.cluster.dir().join("before.jsonl"), segments(&of.cluster, 1));
    of.export(1, &to, PATIENCE).await?.ok()?;
    for clock in &clocks {
        clock.set(Skew::step(LEAP_MS))?;
    }
    for node in [1, 2, 3] {
        eventually("what is old is archived", || async {
            let (there, here) = (of.archived(node)?, segments(&of.cluster, node));
            anyhow::ensure!(there.len() == 2 && here.len() == 1, "{:?} {:?}", there.keys(), here.keys());
            Ok(())
        })
        .await?;
    }
    let old: Vec<&Vec<u8>> = before.values().take(2).collect();
    assert_eq!(of.archived(1)?.values().collect::<Vec<_>>(), old, "a segment is archived as it was");
    Ok((of, fs::read(to)?))
}

/// What is said of a segment that is neither here nor there.
fn names(run: &Run, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let segment = name.trim_start_matches('0').split('-').next().unwrap_or_default();
    let told = format!("segment {segment} of the ledger was archived, and ");
    run.code == 1 && run.stderr.contains(&told) && run.stderr.contains(&format!("{name} is not there"))
}

/// A verb says which of these is neither here nor there.
async fn named<F: Future<Output = anyhow::Result<Run>>>(
    verb: &str,
    files: &[PathBuf],
    run: impl Fn() -> F,
) -> anyhow::Result<()> {
    eventually(&format!("{verb} names what is gone"), || async {
        let run = run().await?;
        anyhow::ensure!(files.iter().any(|file| names(&run, file)), "{run:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_was_archived_is_read_as_before_and_what_is_gone_is_named() -> Outcome {
    let (mut of, exported) = archived().await?;
    assert!(of.archived(1)? == of.archived(2)? && of.archived(1)? == of.archived(3)?, "nodes archive the same");
    of.is_read_as_before(&exported).await?;

    // A file is gone of an archive that is there.
    let files: Vec<PathBuf> = of.archived(2)?.into_keys().map(|name| of.dir(2).join(name)).collect();
    let to = of.cluster.dir().join("none.jsonl");
    fs::remove_file(&files[0])?;
    named("show", &files[..1], || of.show(2, 0, IMPATIENCE)).await?;
    named("export", &files[..1], || of.export(2, &to, IMPATIENCE)).await?;
    assert!(!to.exists(), "there is a part of an export");
    let verified = verify(&of.cluster, 2).await?;
    assert!(names(&verified, &files[0]) && !names(&verified, &files[1]), "{verified:?}");
    // Another node has it in its own.
    eventually("the file is there again", || async {
        anyhow::ensure!(of.archived(2)? == of.archived(1)?, "{:?}", of.archived(2)?.keys());
        Ok(())
    })
    .await?;
    of.is_read_as_before(&exported).await?;

    // The archive is not mounted: all of it is named, as often as it is asked for, and what is new is read.
    of.call().await?;
    let last = of.requests.len() - 1;
    of.all_in(2).await?;
    let away = of.cluster.dir().join("away");
    fs::rename(of.dir(2), &away)?;
    for _ in 0..2 {
        let verified = verify(&of.cluster, 2).await?;
        assert!(files.iter().all(|file| names(&verified, file)), "{verified:?}");
    }
    named("show", &files, || of.show(2, 0, IMPATIENCE)).await?;
    assert_eq!(of.show(2, last, PATIENCE).await?.json()?[0]["request_id"], of.requests[last].as_str());
    assert_eq!(segments(&of.cluster, 2).len(), 1, "nothing of it is fetched");
    fs::rename(&away, of.dir(2))?;
    of.all_in(2).await?;

    offline(&mut of).await
}

/// The files of a node that is stopped.
async fn offline(of: &mut Archiving) -> Outcome {
    of.all_in(3).await?;
    of.cluster.node(3).terminate()?;
    of.cluster.node(3).exited(LIMIT).await?;
    let (data, archive) = (of.cluster.node(3).data_dir(), of.dir(3));
    let (data, archive) = (data.to_string_lossy(), archive.to_string_lossy());
    let alone = ["ledger", "verify", "-o", "json", "--dir", &data];
    let both = [&alone[..], &["--archive", &archive]].concat();
    let run = Run::offline(&alone, of.cluster.dir(), &[]).await?;
    assert!(run.code == 0 && run.stderr.contains("segments 1 to 2 of the ledger"), "{run:?}");
    let told = Run::offline(&both, of.cluster.dir(), &[]).await?.json()?;
    assert!(told[0]["rows"] == of.requests.len() && told[0]["notLookedAt"] == serde_json::json!([]), "{told}");
    let gone = of.dir(3).join(of.archived(3)?.into_keys().next_back().expect("there are two"));
    fs::remove_file(&gone)?;
    let run = Run::offline(&both, of.cluster.dir(), &[]).await?;
    assert!(names(&run, &gone), "{run:?}");
    Ok(())
}
