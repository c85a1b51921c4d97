//! A thousand callers on all nodes race for the last hundred places of a limit: a hundred get one.
//!
//! What the program does not take yet is found out by `tollgate check`, and said to be skipped: these tests begin by themselves
//! as soon as it takes it.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, Run, SOON, Seed,
    burst::{Manner, alike, burst},
    calls::Call,
    checkers,
    client::{EventStream, LIMIT},
    day_with_room, eventually, nightly,
    resources::{api_key, document},
};

use crate::matrix::say;

const RACERS: usize = 1_000;
const PLACES: u64 = 100;
/// From the admission of a call to its beginning at the provider, and from the end of its answer to the provider's note
/// of it, on a machine that is busy.
const SLACK: Duration = Duration::from_millis(400);

/// How often a race is run: chance decides who meets whom.
fn rounds() -> usize {
    if nightly() { 20 } else { 1 }
}

/// Three nodes and one limit; `None` if the program does not take such a limit yet.
struct Track {
    cluster: Cluster,
    provider: Provider,
}

impl Track {
    async fn lay(spec: &str) -> anyhow::Result<Option<Track>> {
        let limit = document("Limit", "places", spec);
        if !is_taken(&limit).await? {
            say(&format!("SKIPPED: this program does not take a limit like {spec} yet"));
            return Ok(None);
        }
        day_with_room(Duration::from_secs(180)).await;
        let cluster = Cluster::start().await?;
        let provider = cluster.with_standard(&[("alice", None)]).await?;
        cluster.cli().apply_and_wait(&limit).await?;
        Ok(Some(Track { cluster, provider }))
    }

    /// All at once, each until it is told yes or no; those who are told yes keep the beginning of their answer.
    async fn race(&self, call: &Call) -> anyhow::Result<(BTreeMap<u16, u64>, Vec<EventStream>)> {
        let origins = self.cluster.origins();
        let mut racers = JoinSet::new();
        for number in 0..RACERS {
            let (client, call) = (self.cluster.client.clone(), call.clone());
            let (origin, deadline) = (origins[number % origins.len()].clone(), Instant::now() + SOON * 2);
            racers.spawn(async move {
                loop {
                    // More than wait for the log at a time are sent away as undecided, never as refused, and come again.
                    let stream = client.open(call.request(&origin), LIMIT).await?;
                    if stream.status != 503 || Instant::now() > deadline {
                        return anyhow::Ok(stream);
                    }
                }
            });
        }
        let (mut told, mut admitted) = (BTreeMap::new(), Vec::new());
        while let Some(done) = racers.join_next().await {
            let stream = done??;
            *told.entry(stream.status).or_insert(0) += 1;
            if stream.status == 200 {
                admitted.push(stream);
            }
        }
        Ok((told, admitted))
    }
}

async fn is_taken(limit: &str) -> anyhow::Result<bool> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("limit.yaml"), limit)?;
    let run = Run::offline(&["check", "limit.yaml"], dir.path(), &[]).await?;
    anyhow::ensure!(run.code == 0 || run.stderr.contains("not supported yet"), "{}{}", run.stdout, run.stderr);
    Ok(run.code == 0)
}

fn exactly_the_places() -> BTreeMap<u16, u64> {
    BTreeMap::from([(200, PLACES), (429, RACERS as u64 - PLACES)])
}

/// A race for so many requests in a window that does not end before the race does.
async fn for_requests(spec: &str, window: Duration) -> Outcome {
    for round in 0..rounds() {
        let Some(track) = Track::lay(spec).await? else { return Ok(()) };
        let begun = Instant::now();
        let (told, admitted) = track.race(&Call::chat(&api_key("alice"), "mock-1")).await?;
        let took = begun.elapsed();
        assert!(took < window, "the race took {took:?}, so that its window was another at its end");
        for stream in admitted {
            stream.rest().await;
        }
        let finished = track.provider.settled().await?.total.finished;
        say(&format!("race ({spec}) round {round}: {told:?} witnessed={finished} in {took:.2?}"));
        assert_eq!((told, finished), (exactly_the_places(), PLACES), "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn a_race_for_the_last_places_admits_exactly_as_many_as_there_are() -> Outcome {
    let spec = format!("{{per: [consumer], unit: requests, limit: {PLACES}, window: 1d, algorithm: fixed}}");
    for_requests(&spec, Duration::from_secs(180)).await
}

#[tokio::test]
async fn a_race_for_the_last_places_of_a_sliding_window_admits_exactly_as_many_as_there_are() -> Outcome {
    let spec = format!("{{per: [consumer], unit: requests, limit: {PLACES}, window: 1m, algorithm: sliding}}");
    for_requests(&spec, Duration::from_secs(60)).await
}

/// Bursts without a pause against a sliding limit, for a second's windows, and nightly a minute's: none holds more, wherever
/// it begins.
#[tokio::test]
async fn no_window_of_a_sliding_limit_is_over_wherever_it_begins() -> Outcome {
    slide("1s", Duration::from_secs(1), 6).await?;
    if nightly() {
        slide("1m", Duration::from_secs(60), 2).await?;
    }
    Ok(())
}

async fn slide(name: &str, window: Duration, windows: u32) -> anyhow::Result<()> {
    const TOKENS: u64 = 5_000;
    const CALLERS: usize = 100;
    let spec = format!("{{per: [consumer], unit: tokens, limit: {TOKENS}, window: {name}, algorithm: sliding}}");
    let Some(track) = Track::lay(&spec).await? else { return Ok(()) };
    let call = Call::chat(&api_key("alice"), "mock-1").max_tokens(100).header("x-mock-output", "100");
    let (seed, end) = (Seed::from_env(), Instant::now() + window * windows + window / 2);
    let (mut admitted, mut refused) = (0, 0);
    while Instant::now() < end {
        let (client, origins) = (&track.cluster.client, track.cluster.origins());
        let told = burst(client, &origins, alike(&call, CALLERS), Manner::Stays, seed).await?;
        admitted += told.admitted;
        refused += told.refused;
        // The load between two bursts: often enough within a window.
        time::sleep(window / 50).await;
    }
    let witnessed = track.provider.tokens("mock-1").await?;
    let over = checkers::over_admitted_in_any_window(&track.provider.records().await?, window - SLACK, TOKENS);
    say(&format!(
        "sliding ({spec}) witnessed={witnessed} admitted={admitted} refused={refused} over={over} seed={seed}"
    ));
    anyhow::ensure!(over == 0, "{over} tokens over in some window of {name}");
    anyhow::ensure!(refused > 0 && witnessed > TOKENS, "no window was contested, or none moved on");
    Ok(())
}

#[tokio::test]
async fn a_race_for_permits_admits_exactly_as_many_as_there_are_and_again_when_they_are_free() -> Outcome {
    let spec = format!("{{per: [consumer], unit: concurrency, limit: {PLACES}}}");
    for round in 0..rounds() {
        let Some(track) = Track::lay(&spec).await? else { return Ok(()) };
        held(&track, round).await?;
        churning(&track, round).await?;
    }
    Ok(())
}

/// Streams that last for as long as their callers want: a hundred hold all permits, and nobody else gets one.
async fn held(track: &Track, round: usize) -> anyhow::Result<()> {
    let slow = Call::chat(&api_key("alice"), "mock-1").stream().max_tokens(5_000);
    let slow = slow.header("x-mock-output", "5000").header("x-mock-pace", "200ms");
    let (told, holding) = track.race(&slow).await?;
    let active = track.provider.witness().await?.total.active;
    say(&format!("race (permits, all held) round {round}: {told:?} active={active}"));
    anyhow::ensure!(told == exactly_the_places() && active == PLACES, "round {round}: {told:?}, {active} in flight");
    drop(holding);
    eventually("the permits are free again", || async {
        let rows = track.cluster.cli().rows(&["limits", "show"]).await?;
        anyhow::ensure!(rows.iter().all(|row| row["held"] == 0 && row["used"] == 0), "{rows:?}");
        Ok(())
    })
    .await?;
    track.provider.settled().await?;
    track.provider.reset().await
}

/// Short calls, each made again until it is admitted: all are served, and never more than a hundred at a time.
async fn churning(track: &Track, round: usize) -> anyhow::Result<()> {
    let call = Arc::new(Call::chat(&api_key("alice"), "mock-1").header("x-mock-delay", "1s"));
    let origins = track.cluster.origins();
    let deadline = Instant::now() + SOON * 2;
    let mut callers = JoinSet::new();
    for number in 0..RACERS {
        let (client, call) = (track.cluster.client.clone(), Arc::clone(&call));
        let origin = origins[number % origins.len()].clone();
        callers.spawn(async move {
            loop {
                match client.send(call.request(&origin), LIMIT).await?.status {
                    200 => return anyhow::Ok(()),
                    // The load of a caller that does not wait for `retry-after`.
                    429 | 503 if Instant::now() < deadline => time::sleep(Duration::from_millis(100)).await,
                    other => anyhow::bail!("status {other} in the end"),
                }
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let finished = track.provider.settled().await?.total.finished;
    let most = checkers::most_at_once(&track.provider.records().await?, SLACK);
    say(&format!("race (permits, churning) round {round}: witnessed={finished} most at once={most}"));
    anyhow::ensure!(finished == RACERS as u64 && most <= PLACES, "{finished} were served, {most} at once");
    Ok(())
}
