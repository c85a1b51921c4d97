//! Bills: what the provider counted is in them, and whoever is killed meanwhile, they are the same bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use rand::RngExt;
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    task::JoinSet,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Cli, Cluster, Outcome, Provider, Seed,
    calls::Call,
    client::LIMIT,
    eventually,
    faults::SmallDisk,
    nightly,
    resources::{api_key, document},
    tollgate,
};

use crate::matrix::say;

/// Some 3 MB of events as JSON lines: more than pipes, windows and queues hold of an export that nobody reads.
const CALLS: usize = 6_000;
const CALLERS: usize = 16;
/// How often the exporter is killed, and the node that it reads from.
const KILLS: usize = 12;
/// How often both are killed at once, unless something else is asked for.
const BOTH_KILLS: usize = 5;
const BOTH_KILLS_NIGHTLY: usize = 100;
const KILLS_ENV: &str = "TOLLGATE_KILLS";
/// A verb that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const RANGE: [&str; 4] = ["--from", "2026-01-01", "--to", "2999-01-01"];
const JSONL: (&str, &str) = ("events", "jsonl");
const SHAPES: [(&str, &str); 5] =
    [("events", "csv"), ("events", "jsonl"), ("events", "parquet"), ("summary", "csv"), ("focus", "csv")];

/// A cluster that was called, and does nothing any more.
async fn called(calls: usize) -> anyhow::Result<(Cluster, Provider)> {
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("alice", None), ("bob", None)]).await?;
    let price = "{currency: USD, match: {models: [mock-1]}, input: 0.15, output: 0.6}";
    let billed =
        document("Tenant", "acme", "{billing: {mode: postpaid, currency: USD}}") + &document("Price", "mock", price);
    cluster.cli().apply_and_wait(&billed).await?;
    let (client, origins) = (Arc::new(cluster.client.clone()), cluster.origins());
    let mut callers = JoinSet::<anyhow::Result<()>>::new();
    for caller in 0..CALLERS {
        let (client, origins) = (Arc::clone(&client), origins.clone());
        callers.spawn(async move {
            for number in (caller..calls).step_by(CALLERS) {
                let call = Call::chat(&api_key(["alice", "bob"][number % 2]), "mock-1");
                let call = if number % 5 == 0 { call.stream() } else { call };
                // A disk that is too slow refuses calls: what was refused has no row.
                eventually("the call is answered", || async {
                    let answer = client.send(call.request(&origins[number % origins.len()]), LIMIT).await?;
                    anyhow::ensure!(answer.status == 200, "{}", answer.text());
                    Ok(())
                })
                .await?;
            }
            Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    eventually("every call is in the bill", || async {
        let rows = events(&cluster.cli()).await?.len();
        anyhow::ensure!(rows == calls, "{rows} rows of {calls} calls");
        Ok(())
    })
    .await?;
    Ok((cluster, provider))
}

async fn events(cli: &Cli) -> anyhow::Result<Vec<Value>> {
    let run = cli.run(&[&["billing", "export", "--format", "jsonl"][..], &RANGE].concat()).await?.ok()?;
    run.stdout.lines().map(|line| serde_json::from_str(line).context("a line of JSON")).collect()
}

/// A whole export, as a file.
pub(crate) async fn whole(cli: &Cli, (schema, format): (&str, &str), to: &Path) -> anyhow::Result<Vec<u8>> {
    let path = to.to_string_lossy();
    let asked = ["billing", "export", "--schema", schema, "--format", format, "--output", &path];
    cli.run(&[&asked[..], &RANGE].concat()).await?.ok()?;
    Ok(fs::read(to)?)
}

/// An export under way, with standard output as it is told and standard error in a file.
fn begin(
    cli: &Cli,
    (schema, format): (&str, &str),
    cursor: Option<&str>,
    out: Stdio,
    told: &Path,
) -> anyhow::Result<Child> {
    let mut command = Command::new(tollgate());
    command.args(["billing", "export", "--schema", schema, "--format", format]).args(RANGE);
    command.args(cursor.iter().flat_map(|cursor| ["--cursor", cursor]));
    command.env("TOLLGATE_ADMIN", &cli.admin).env("TOLLGATE_TOKEN", &cli.token);
    command.stdin(Stdio::null()).stdout(out).stderr(fs::File::create(told)?).kill_on_drop(true);
    command.spawn().context("can't start the program")
}

/// The last cursor that was told in a whole line, and how many bytes were before it.
fn last_cursor(told: &Path) -> anyhow::Result<Option<(String, usize)>> {
    let told = fs::read_to_string(told)?;
    let whole = told.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let of = |line: &str| {
        let (cursor, bytes) = line.strip_prefix("cursor: ")?.split_once(" after ")?;
        Some((cursor.to_owned(), bytes.strip_suffix(" bytes")?.parse().ok()?))
    };
    Ok(whole.lines().filter_map(of).next_back())
}

struct Files {
    _dir: tempfile::TempDir,
    out: PathBuf,
    told: PathBuf,
}

impl Files {
    fn new() -> anyhow::Result<Files> {
        let dir = tempfile::tempdir()?;
        Ok(Files { out: dir.path().join("out"), told: dir.path().join("told"), _dir: dir })
    }
}

#[tokio::test]
async fn every_call_is_one_row_and_all_nodes_say_the_same() -> Outcome {
    let (cluster, provider) = called(600).await?;
    let rows = events(&cluster.cli()).await?;
    let tokens = |row: &Value| row["input_tokens"].as_u64().unwrap_or(0) + row["output_tokens"].as_u64().unwrap_or(0);
    assert_eq!(rows.iter().map(tokens).sum::<u64>(), provider.tokens("mock-1").await?);
    assert!(rows.iter().all(|row| row["outcome"] == "settled" && row["usage_source"] == "provider"));
    let ids: std::collections::BTreeSet<_> = rows.iter().map(|row| row["event_id"].to_string()).collect();
    assert_eq!(ids.len(), rows.len(), "event ids are unique");

    let files = Files::new()?;
    for shape in SHAPES {
        let first = whole(&cluster.cli_of(1), shape, &files.out).await?;
        assert!(first.len() > 100, "{shape:?}");
        for id in 2..=3 {
            assert!(whole(&cluster.cli_of(id), shape, &files.out).await? == first, "{shape:?} of node {id}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_exporter_that_is_killed_goes_on_with_the_very_next_byte() -> Outcome {
    let (cluster, _provider) = called(CALLS).await?;
    let (files, seed) = (Files::new()?, Seed::from_env());
    let mut rng = seed.rng("export");
    for shape in SHAPES {
        let wanted = whole(&cluster.cli(), shape, &files.out).await?;
        for kill in 0..KILLS {
            let (mut got, mut cursor, mut killed) = (Vec::new(), None::<String>, false);
            loop {
                let out = fs::File::create(&files.out)?;
                let mut export = begin(&cluster.cli(), shape, cursor.as_deref(), out.into(), &files.told)?;
                let limit = if killed { PATIENCE } else { Duration::from_micros(rng.random_range(0..400_000)) };
                if let Ok(done) = time::timeout(limit, export.wait()).await {
                    assert!(done?.success(), "{}", fs::read_to_string(&files.told)?);
                    got.extend(fs::read(&files.out)?);
                    break;
                }
                assert!(!killed, "the export does not end");
                export.kill().await?;
                killed = true;
                if let Some((behind, bytes)) = last_cursor(&files.told)? {
                    got.extend(&fs::read(&files.out)?[..bytes]);
                    cursor = Some(behind);
                }
            }
            assert!(got == wanted, "{shape:?}, kill {kill}, seed {seed}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_dies_under_an_export_is_followed_by_another_one() -> Outcome {
    let (mut cluster, _provider) = called(CALLS).await?;
    let files = Files::new()?;
    let wanted = whole(&cluster.cli(), JSONL, &files.out).await?;
    for id in 1..=3 {
        let cli = cluster.cli_from(usize::try_from(id - 1)?);
        let mut export = begin(&cli, JSONL, None, Stdio::piped(), &files.told)?;
        let mut out = export.stdout.take().context("standard output is a pipe")?;
        let mut got = vec![0; 1_000];
        out.read_exact(&mut got).await?;
        // Nothing more is read, so the export is on its way when its node dies.
        cluster.node(id).kill()?;
        time::timeout(PATIENCE, out.read_to_end(&mut got)).await??;
        assert!(export.wait().await?.success(), "{}", fs::read_to_string(&files.told)?);
        assert!(got == wanted, "after the kill of node {id}");
        cluster.node(id).start()?;
        cluster.ready().await?;
    }
    Ok(())
}

fn both_kills() -> usize {
    let told = env::var(KILLS_ENV).ok().map(|text| text.parse().expect("TOLLGATE_KILLS is a whole number"));
    told.unwrap_or(if nightly() { BOTH_KILLS_NIGHTLY } else { BOTH_KILLS })
}

/// An export that is read up to some byte, when its node dies and then the exporter, or the other way round. All that it wrote up
/// to the last cursor that it told, and that cursor.
async fn cut(
    cluster: &mut Cluster,
    (id, shape): (u64, (&str, &str)),
    (bytes, node_first): (usize, bool),
    told: &Path,
) -> anyhow::Result<(Vec<u8>, Option<String>)> {
    let mut export = begin(&cluster.cli_from(usize::try_from(id - 1)?), shape, None, Stdio::piped(), told)?;
    let mut out = export.stdout.take().context("standard output is a pipe")?;
    let mut got = vec![0; bytes];
    // Nothing more is read, so both are under way.
    out.read_exact(&mut got).await?;
    if node_first {
        cluster.node(id).kill()?;
        export.kill().await?;
    } else {
        export.kill().await?;
        cluster.node(id).kill()?;
    }
    // What it has written is in the pipe.
    time::timeout(PATIENCE, out.read_to_end(&mut got)).await??;
    let Some((cursor, bytes)) = last_cursor(told)? else { return Ok((Vec::new(), None)) };
    anyhow::ensure!(bytes <= got.len(), "it told a cursor after {bytes} bytes, and had written {}", got.len());
    got.truncate(bytes);
    Ok((got, Some(cursor)))
}

#[tokio::test]
async fn an_exporter_that_dies_with_its_node_goes_on_elsewhere_with_the_very_next_byte() -> Outcome {
    let (mut cluster, _provider) = called(CALLS).await?;
    let (files, seed, begun) = (Files::new()?, Seed::from_env(), Instant::now());
    let (mut rng, mut wanted, mut resumed) = (seed.rng("both"), Vec::new(), 0);
    for shape in SHAPES {
        wanted.push(whole(&cluster.cli(), shape, &files.out).await?);
    }
    for kill in 0..both_kills() {
        let (at, id) = (kill % SHAPES.len(), rng.random_range(1..=3));
        let point = (rng.random_range(0..wanted[at].len()), rng.random());
        let (mut got, cursor) = cut(&mut cluster, (id, SHAPES[at]), point, &files.told).await?;
        resumed += usize::from(cursor.is_some());
        // The dead one is asked first, and does not answer.
        let cli = cluster.cli_from(usize::try_from(id - 1)?);
        let mut export = begin(&cli, SHAPES[at], cursor.as_deref(), fs::File::create(&files.out)?.into(), &files.told)?;
        let done = time::timeout(PATIENCE, export.wait()).await??;
        assert!(done.success(), "{}", fs::read_to_string(&files.told)?);
        got.extend(fs::read(&files.out)?);
        assert!(got == wanted[at], "{:?}, kill {kill} of node {id} at {point:?}, seed {seed}", SHAPES[at]);
        cluster.node(id).start()?;
        cluster.ready().await?;
    }
    say(&format!(
        "exports: killed={} with their node, resumed={resumed} in {:.0?} seed={seed}",
        both_kills(),
        begun.elapsed()
    ));
    assert!(resumed > 0, "no cursor was ever told");
    Ok(())
}

#[tokio::test]
async fn what_is_interrupted_leaves_nothing_half_written() -> Outcome {
    let (cluster, _provider) = called(CALLS).await?;
    let files = Files::new()?;
    fs::write(&files.out, "the last one")?;
    let refused = ["billing", "export", "--from", "2027-01-01", "--to", "2026-01-01"];
    let run = cluster.cli().run(&refused).await?;
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("from: ") && run.stderr.contains("to: "), "{}", run.stderr);
    let dir = tempfile::tempdir()?;
    if let Some(_disk) = SmallDisk::mount(dir.path(), 1) {
        let path = dir.path().join("bill.jsonl");
        let output = ["billing", "export", "--format", "jsonl", "--output", &path.to_string_lossy()];
        let full = cluster.cli().run(&[&output[..], &RANGE].concat()).await?;
        assert_eq!((full.code, fs::read_dir(dir.path())?.count()), (1, 0), "{}", full.stderr);
        assert!(full.stderr.contains("bill.jsonl") && full.stderr.contains("No space left"), "{}", full.stderr);
    } else {
        eprintln!("SKIPPED: no right to mount a small disk");
    }

    let mut export = begin(&cluster.cli(), JSONL, None, Stdio::piped(), &files.told)?;
    let mut out = export.stdout.take().context("standard output is a pipe")?;
    // Until the first chunk is through: more of them are to come.
    while last_cursor(&files.told)?.is_none() {
        out.read_exact(&mut [0; 4_096]).await?;
    }
    let pid = export.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    rustix::process::kill_process(pid.context("it runs")?, rustix::process::Signal::INT)?;
    let done = time::timeout(PATIENCE, export.wait()).await??;
    assert_eq!(done.code(), Some(130), "{}", fs::read_to_string(&files.told)?);
    assert!(last_cursor(&files.told)?.is_some(), "it is told where to go on");
    assert_eq!(fs::read_to_string(&files.out)?, "the last one");
    Ok(())
}
