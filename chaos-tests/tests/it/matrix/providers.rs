//! Providers that are not there, talk nonsense, or stop in the middle.

use std::time::Duration;

use anyhow::Context as _;
use http::HeaderMap;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, Provider, Seed,
    accounts::SHOWN_WITHIN,
    calls::{Call, Dialect, error_of, is_complete},
    checkers,
    client::LIMIT,
    day_with_room, eventually_within, free_port,
    resources::{self, api_key, document},
    usage,
};
use tollgate_mock_llm::{Options, Outcome as Ended};

use super::say;

const CAPACITY: u64 = 100_000;
/// The hold of a call that is over is gone by then.
const HOLD_GONE: Duration = Duration::from_secs(5);
/// That of a stream which broke off.
const BROKEN_HOLD_GONE: Duration = Duration::from_secs(2);
/// After so many errors in a row nobody is asked for a while, and after so long again.
const ERRORS: u64 = 5;
const BACK: Duration = Duration::from_secs(30);
/// In which that is seen.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// What garbage may take of a node's memory, at the most: 64 MiB of an answer are read before it is too long.
const GARBAGE_BYTES: u64 = 256 << 20;

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
        yaml += &document(
            "Provider",
            "pair",
            &format!(
                "{{type: openai, endpoints: [{{url: \"{}\"}}, {{url: \"{}\"}}], keys: [{{value: sk-pair-0123456789}}], outlierDetection: {{}}}}",
                first.url(),
                second.url()
            ),
        );
        for (name, host) in [("first", "safe.test"), ("nobody", "nobody.test"), ("pair", "pair.test")] {
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

    /// The one row of a call.
    async fn row(&self, id: &str) -> anyhow::Result<Value> {
        eventually_within(SHOWN_WITHIN, "the call has its row", || async {
            let mut rows = self.cluster.cli().rows(&["ledger", "show", id]).await?;
            anyhow::ensure!(rows.len() == 1, "{} rows of {id}: {rows:?}", rows.len());
            Ok(rows.remove(0))
        })
        .await
    }

    /// One row for each call that a provider has served, and it says what it was.
    async fn rows_are_of(&self, provider: &Provider, name: &str) -> anyhow::Result<u64> {
        let mut count = 0;
        for record in provider.records().await? {
            let id = record.request_id.clone().unwrap_or_default();
            let row = self.row(&id).await?;
            let told = (row["input_tokens"].as_u64(), row["output_tokens"].as_u64());
            let is_right = row["outcome"] == "settled" && row["provider"] == name && row["usage_source"] == "provider";
            anyhow::ensure!(
                is_right && told == (Some(record.input_tokens), Some(record.output_tokens)),
                "{row} of {record:?}"
            );
            count += 1;
        }
        Ok(count)
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

/// A call that went wrong is one row, of what was counted here.
fn is_counted(row: &Value) -> anyhow::Result<()> {
    let input = row["input_tokens"].as_u64().unwrap_or_default();
    anyhow::ensure!(row["usage_source"] == "counted" && row["outcome"] == "partial" && input > 0, "{row}");
    Ok(())
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
        let before = scene.first.witness().await?.total.requests;
        for call in both() {
            let begun = Instant::now();
            let answer = scene.cluster.client.send(call.header("host", host).request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!(answer.status == 200, "{host} {knob:?}: {} {}", answer.status, answer.text());
            longest = longest.max(begun.elapsed());
            served += 1;
        }
        let asked = scene.first.witness().await?.total.requests - before;
        anyhow::ensure!(asked <= both().len() as u64, "{knob:?}: {asked} tries, where each call has one");
    }
    let rows = scene.rows_are_of(&scene.second, "second").await?;
    anyhow::ensure!(rows == served, "{rows} rows of {served} calls");
    scene.used(scene.second.tokens("mock-1").await?).await?;
    slow_to_go_on(&scene).await?;
    scene.figures(served, 0, Some(longest)).await
}

/// The first words are there, so nobody else is asked: the stream ends as one that broke off.
async fn slow_to_go_on(scene: &Scene) -> anyhow::Result<()> {
    scene.first.reset().await?;
    let mut before = scene.used(0).await?;
    for call in both() {
        let slow = call.stream().header("host", "safe.test").header("x-mock-pace", "5s");
        let stream = scene.cluster.client.open(slow.request(&scene.origin()), LIMIT).await?;
        let id = id_of(&stream.headers);
        let (events, end) = stream.rest().await;
        anyhow::ensure!(!is_complete(slow.dialect(), &events), "it looks complete: {events:?}");
        anyhow::ensure!(error_of(&events).is_some(), "no error event: {end:?} {events:?}");
        is_counted(&scene.row(&id).await?)?;
        before = scene.used(before + 1).await?;
    }
    Ok(())
}

fn id_of(headers: &HeaderMap) -> String {
    headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

/// Row 39: one of two endpoints fails. It is asked a few times, and not for a while; nobody who calls notices. T is the time from
/// its healing until it has calls again.
pub(super) async fn ejected(_seed: Seed) -> anyhow::Result<Figures> {
    let scene = Scene::set().await?;
    scene.first.turn(&[("close", "true")]).await?;
    let call = Call::chat(&api_key("alice"), "mock-1").header("host", "pair.test");
    let ask = async || {
        let answer = scene.cluster.client.send(call.request(&scene.origin()), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        anyhow::Ok(1)
    };
    let mut served = 0;
    for _ in 0..60 {
        served += ask().await?;
    }
    let asked = scene.first.witness().await?.total.requests;
    anyhow::ensure!((1..=ERRORS).contains(&asked), "{asked} calls met an endpoint that answers none");
    scene.first.turn(&[("close", "false")]).await?;
    let healed = Instant::now();
    while scene.first.witness().await?.total.finished == 0 {
        anyhow::ensure!(healed.elapsed() < BACK + SEEN_WITHIN, "it is not asked again after {:?}", healed.elapsed());
        served += ask().await?;
        time::sleep(Duration::from_millis(100)).await; // the shape of the load
    }
    let back = healed.elapsed();
    scene.used(scene.second.tokens("mock-1").await?).await?;
    scene.figures(served, 0, Some(back)).await
}

/// Row 40: each kind of garbage becomes a clear 502 or a fallback's answer, one row of what was counted, memory stays bounded, and the
/// next call is served.
pub(super) async fn garbage(_seed: Seed) -> anyhow::Result<Figures> {
    let scene = Scene::set().await?;
    let pid = scene.cluster.nodes[0].pid()?;
    let before = usage::most_resident(pid)?;
    let (mut told, mut served) = (0, 0);
    for fault in ["html", "truncated", "empty", "error", "short", "long", "headers", "gzip", "endless"] {
        for call in both().into_iter().chain(both().map(Call::stream)) {
            scene.first.turn(&[("body", fault)]).await?;
            let answer = scene.cluster.client.send(call.request(&scene.origin()), LIMIT).await?;
            // What takes a busy machine more than `firstByte` to make up is late.
            anyhow::ensure!([502, 504].contains(&answer.status), "{fault}: {} {}", answer.status, answer.text());
            let json = answer.json()?;
            let is_anthropic = call.dialect() == Dialect::Anthropic;
            anyhow::ensure!(json["error"].is_object() && (json["type"] == "error") == is_anthropic, "{fault}: {json}");
            is_counted(&scene.row(&id_of(&answer.headers)).await?).with_context(|| fault)?;
            let safe = call.clone().header("host", "safe.test");
            if call.is_stream() {
                let stream = scene.cluster.client.open(safe.request(&scene.origin()), LIMIT).await?;
                let (events, end) = stream.rest().await;
                anyhow::ensure!(is_complete(safe.dialect(), &events), "behind {fault}: {end:?} {events:?}");
            } else {
                let answer = scene.cluster.client.send(safe.request(&scene.origin()), LIMIT).await?;
                anyhow::ensure!(answer.status == 200, "behind {fault}: {} {}", answer.status, answer.text());
            }
            scene.first.turn(&[("body", "normal")]).await?;
            let good = scene.cluster.client.send(call.request(&scene.origin()), LIMIT).await?;
            anyhow::ensure!(good.status == 200, "after {fault}: {} {}", good.status, good.text());
            (told, served) = (told + 1, served + 2);
        }
    }
    scene.used(0).await?;
    let grown = usage::most_resident(pid)?.saturating_sub(before);
    say(&format!("  {told} times garbage took {} MiB of the node's memory at the most", grown >> 20));
    anyhow::ensure!(grown <= GARBAGE_BYTES, "{grown} bytes");
    scene.figures(told + served, 0, None).await
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
            let id = id_of(&stream.headers);
            let (events, end) = stream.rest().await;
            anyhow::ensure!(!is_complete(call.dialect(), &events), "{cut}: it looks complete: {events:?}");
            anyhow::ensure!(error_of(&events).is_some(), "{cut}: no error event: {end:?} {events:?}");
            let ended = Instant::now();
            before = scene.used(before + 1).await?;
            longest = longest.max(ended.elapsed());
            let row = scene.row(&id).await?;
            is_counted(&row)?;
            anyhow::ensure!(row["output_tokens"].as_u64() > Some(0), "{cut}: what went by is none: {row}");
            told += 1;
        }
    }
    anyhow::ensure!(longest <= BROKEN_HOLD_GONE, "a hold is gone after {longest:?}");
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
    let (gone, used) = scene.left(before + 1).await?;
    told += 1 + again(&scene, used).await?;
    // Each is one row, of what its caller has seen at the least.
    for record in scene.first.records().await? {
        let row = scene.row(&record.request_id.clone().unwrap_or_default()).await?;
        let (said, source) = (row["output_tokens"].as_u64().unwrap_or_default(), &row["usage_source"]);
        let is_right = match record.outcome {
            Ended::Finished => said == record.output_tokens,
            _ => source == "counted" && row["outcome"] == "partial" && said <= record.planned_tokens,
        };
        anyhow::ensure!(is_right, "{row} of {record:?}");
    }
    scene.figures(told, 0, Some(longest.max(gone))).await
}

/// A caller that leaves and comes again with the same idempotency key. What that means the provider says, who is told it both times; here each
/// is a call, with a hold, a charge and a row of its own.
async fn again(scene: &Scene, used: u64) -> anyhow::Result<u64> {
    const SEEN: u64 = 10;
    let key = ("idempotency-key", "0f7e-once");
    let call = Call::chat(&api_key("alice"), "mock-1").stream().max_tokens(64).header(key.0, key.1);
    let slow = call.clone().header("x-mock-output", "64").header("x-mock-pace", "20ms");
    let mut stream = scene.cluster.client.open(slow.request(&scene.origin()), LIMIT).await?;
    let first = id_of(&stream.headers);
    for _ in 0..SEEN {
        anyhow::ensure!(stream.next().await.is_ok(), "the stream ended by itself");
    }
    drop(stream);
    let stream = scene.cluster.client.open(call.request(&scene.origin()), LIMIT).await?;
    let second = id_of(&stream.headers);
    let (events, end) = stream.rest().await;
    anyhow::ensure!(is_complete(call.dialect(), &events), "{end:?} {events:?}");
    let told = scene.first.last().await?;
    let with_key = told.iter().filter(|request| request["headers"].to_string().contains(key.1)).count();
    anyhow::ensure!(with_key == 2, "the provider is told the key {with_key} times");
    scene.left(used + 1).await?;
    let (left, whole) = (scene.row(&first).await?, scene.row(&second).await?);
    // The first events of a stream carry no text.
    anyhow::ensure!(left["output_tokens"].as_u64() >= Some(SEEN - 3) && left["usage_source"] == "counted", "{left}");
    anyhow::ensure!(whole["outcome"] == "settled" && whole["usage_source"] == "provider" && first != second, "{whole}");
    Ok(2)
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
    // Far from its end when it is left: what is counted of words that went by may be somewhat more than the provider's tokens.
    let body = Call::chat(&api_key("alice"), "mock-1").stream().max_tokens(200).body.to_string();
    let address = scene.cluster.nodes[0].http;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\nx-mock-output: 200\r\nx-mock-pace: 20ms\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
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
