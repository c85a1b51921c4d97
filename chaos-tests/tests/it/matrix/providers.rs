//! Providers that are not there, talk nonsense, or stop in the middle.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, Provider, Seed,
    calls::{Call, error_of, is_complete},
    checkers,
    client::LIMIT,
    day_with_room, eventually_within, free_port,
    resources::{self, api_key},
};
use tollgate_mock_llm::Options;

use super::say;

const CAPACITY: u64 = 100_000;
/// The hold of a call that is over is gone by then.
const HOLD_GONE: Duration = Duration::from_secs(5);

struct Scene {
    cluster: Cluster,
    first: Provider,
    second: Provider,
}

impl Scene {
    /// One node; route `chat` goes to `first` alone, route `safe` (host `safe.test`) has `second` behind it.
    async fn set() -> anyhow::Result<Scene> {
        day_with_room(Duration::from_secs(180)).await;
        let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
        let (first, second) = (Provider::start(Options::default()).await?, Provider::start(Options::default()).await?);
        let timeouts = ", timeouts: {request: 20s, firstByte: 1s, idle: 1s}";
        let mut yaml = resources::provider("first", "openai", &first.url());
        yaml += &resources::provider("second", "openai", &second.url());
        yaml += &resources::provider("nobody", "openai", &format!("http://{}/v1", free_port()));
        yaml += &resources::route("chat", "[{provider: first}]", timeouts);
        for (name, host) in [("first", "safe.test"), ("nobody", "nobody.test")] {
            let fallback = "fallbacks: [{provider: second, on: [connectFailure, reset, \"5xx\", timeout]}]";
            let more = format!(", hosts: [{host}], {fallback}{timeouts}");
            yaml += &resources::route(&format!("to-{name}"), &format!("[{{provider: {name}}}]"), &more);
        }
        yaml += &(resources::tenant("acme") + &resources::consumer("alice", "acme"));
        yaml += &resources::tokens_per_day("alice-tokens", "alice", CAPACITY);
        cluster.cli().apply_and_wait(&yaml).await?;
        Ok(Scene { cluster, first, second })
    }

    fn origin(&self) -> String {
        self.cluster.origins().remove(0)
    }

    async fn account(&self) -> anyhow::Result<Value> {
        let rows = self.cluster.cli().rows(&["limits", "show"]).await?;
        rows.into_iter().next().ok_or_else(|| anyhow::anyhow!("there is no account"))
    }

    /// Waits until nothing is held and so much is charged, and gives what was used.
    async fn used(&self, at_least: u64) -> anyhow::Result<u64> {
        eventually_within(HOLD_GONE, "no call holds anything", || async {
            let account = self.account().await?;
            anyhow::ensure!(account["held"] == 0, "{account}");
            let used = account["used"].as_u64().ok_or_else(|| anyhow::anyhow!("{account}"))?;
            anyhow::ensure!(used >= at_least, "{at_least} were served and {used} are charged");
            Ok(used)
        })
        .await
    }

    async fn figures(&self, served: u64, failed: u64, recovery: Option<Duration>) -> anyhow::Result<Figures> {
        let tokens = self.first.tokens("mock-1").await? + self.second.tokens("mock-1").await?;
        let over_admitted = Some(checkers::over_admitted(tokens, CAPACITY));
        Ok(Figures { over_admitted, served, failed, recovery, ..Figures::default() })
    }
}

fn both() -> [Call; 2] {
    let key = api_key("alice");
    [Call::chat(&key, "mock-1"), Call::messages(&key, "mock-1")]
}

/// Row 39: refused, hanging, slow to begin, slow to go on; T is the longest wait of a caller.
pub(super) async fn absent(_seed: Seed) -> anyhow::Result<Figures> {
    let scene = Scene::set().await?;
    let (mut served, mut longest) = (0, Duration::ZERO);
    for (host, knob) in [
        ("nobody.test", None),
        ("safe.test", Some(("hang", "true"))),
        ("safe.test", Some(("close", "true"))),
        ("safe.test", Some(("delay", "10s"))),
        ("safe.test", Some(("status", "503"))),
    ] {
        scene.first.reset().await?;
        if let Some(knob) = knob {
            scene.first.turn(&[knob]).await?;
        }
        for call in both() {
            let begun = Instant::now();
            let answer = scene.cluster.client.send(call.header("host", host).request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!(answer.status == 200, "{host} {knob:?}: {} {}", answer.status, answer.text());
            longest = longest.max(begun.elapsed());
            served += 1;
        }
    }
    scene.used(scene.second.tokens("mock-1").await?).await?;
    scene.figures(served, 0, Some(longest)).await
}

/// Row 40: each kind of garbage becomes a clear 502, memory stays bounded, and the next call is served.
pub(super) async fn garbage(_seed: Seed) -> anyhow::Result<Figures> {
    let scene = Scene::set().await?;
    let mut told = 0;
    for fault in ["html", "truncated", "empty", "error", "short", "headers", "gzip", "endless"] {
        for call in both() {
            let spoilt = call.clone().header("x-mock-body", fault);
            let answer = scene.cluster.client.send(spoilt.request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!([502, 504].contains(&answer.status), "{fault}: {} {}", answer.status, answer.text());
            anyhow::ensure!(answer.json()?["error"].is_object(), "{fault}: {}", answer.text());
            let good = scene.cluster.client.send(call.request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!(good.status == 200, "after {fault}: {} {}", good.status, good.text());
            told += 1;
        }
    }
    scene.used(0).await?;
    scene.figures(told, 0, None).await
}

/// Row 41: the stream ends with an error, never as if complete; what went by is charged, and the hold is gone. T is the
/// longest time until it is.
pub(super) async fn half_a_stream(_seed: Seed) -> anyhow::Result<Figures> {
    let scene = Scene::set().await?;
    let (mut told, mut longest, mut before) = (0, Duration::ZERO, 0);
    for cut in ["rst", "fin", "end", "silence"] {
        for call in both() {
            let call = call.stream().max_tokens(64).header("x-mock-cut", cut).header("x-mock-pace", "2ms");
            let stream = scene.cluster.client.open(call.request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!(stream.status == 200, "{cut}: {}", stream.status);
            let (events, end) = stream.rest().await;
            anyhow::ensure!(!is_complete(call.dialect(), &events), "{cut}: it looks complete: {events:?}");
            anyhow::ensure!(error_of(&events).is_some(), "{cut}: no error event: {end:?} {events:?}");
            let ended = Instant::now();
            before = scene.used(before + 1).await?;
            longest = longest.max(ended.elapsed());
            told += 1;
        }
    }
    scene.figures(told, 0, Some(longest)).await
}

/// The upstream of a caller who has left is gone by then.
const UPSTREAM_GONE: Duration = Duration::from_secs(3);

/// Row 43: callers leave in the middle of a stream, or close the half that they write on. What they have seen is charged, the
/// provider is left in peace, and nothing is held. T is the longest time until it is so.
pub(super) async fn leaving_callers(_seed: Seed) -> anyhow::Result<Figures> {
    let scene = Scene::set().await?;
    let (mut told, mut longest, mut before) = (0, Duration::ZERO, 0);
    for call in both() {
        let call = call.stream().max_tokens(2_000).header("x-mock-output", "2000").header("x-mock-pace", "10ms");
        for events in [1_u64, 20] {
            let mut stream = scene.cluster.client.open(call.request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!(stream.status == 200, "{}", stream.status);
            for _ in 0..events {
                anyhow::ensure!(stream.next().await.is_ok(), "the stream ended by itself");
            }
            drop(stream);
            // The first events of a stream carry no text.
            let (gone, used) = scene.left(before + events.saturating_sub(3)).await?;
            longest = longest.max(gone);
            before = used;
            told += 1;
        }
    }
    let half_closed = half_closed(&scene).await?;
    say(&format!("  a caller who closed half of its connection: {half_closed}"));
    let (gone, _) = scene.left(before + 1).await?;
    scene.figures(told + 1, 0, Some(longest.max(gone))).await
}

impl Scene {
    /// Waits until the provider answers nobody, nothing is held and so much is charged; how long that took, and what is used.
    async fn left(&self, at_least: u64) -> anyhow::Result<(Duration, u64)> {
        let left = Instant::now();
        eventually_within(UPSTREAM_GONE, "the upstream call has ended", || async {
            let active = self.first.witness().await?.total.active;
            anyhow::ensure!(active == 0, "{active} calls are being answered");
            Ok(())
        })
        .await?;
        let used = self.used(at_least).await?;
        Ok((left.elapsed(), used))
    }
}

/// Sends one call, closes the writing half, and reads what comes: all of the answer, or the end.
async fn half_closed(scene: &Scene) -> anyhow::Result<&'static str> {
    let body = Call::chat(&api_key("alice"), "mock-1").stream().body.to_string();
    let address = scene.cluster.nodes[0].http;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\nx-mock-pace: 20ms\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        api_key("alice"),
        body.len()
    );
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(request.as_bytes()).await?;
    // Its first bytes show that the call is on its way.
    let mut answer = vec![0; 16];
    time::timeout(LIMIT, socket.read_exact(&mut answer)).await??;
    socket.shutdown().await?;
    time::timeout(LIMIT, socket.read_to_end(&mut answer)).await??;
    Ok(if String::from_utf8_lossy(&answer).contains("[DONE]") {
        "got all of its answer"
    } else {
        "was taken to have left"
    })
}
