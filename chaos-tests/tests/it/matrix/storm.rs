//! Changes of everything that can be changed, one after the other and several at once, while callers who try once make calls.

use std::{
    env, fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    Ca, Cluster, Figures, Identity, Plan, Provider, SOON, Seed,
    admin::{Admin, Applied, Kind, Message, resource},
    calls::{self, Call, Dialect},
    careful::Careful,
    client::{Client, End, EventStream, LIMIT},
    eventually, free_port, nightly,
    resources::{api_key, document, provider_key},
};
use tollgate_mock_llm::Options;

use super::{say, stage::ample};
use crate::https;

/// Another number of changes.
const CHANGES: &str = "TOLLGATE_CHANGES";
/// Of plain calls and short streams, and as many of slow streams: what leaves two cores time for the changes.
const CALLERS: usize = 3;
/// Callers over TLS see this host.
const HOST: &str = "storm.test";
/// What one event of a stream that outlasts the storm waits for the next.
const PACE: &str = "200ms";
/// More than the storm takes.
const ENDLESS: u64 = 100_000;

fn size() -> u64 {
    let told = env::var(CHANGES).ok().map(|text| text.parse().expect("TOLLGATE_CHANGES is a whole number"));
    told.unwrap_or(if nightly() { 10_000 } else { 1_000 })
}

/// Who changes something. Each is a task of its own, and all go on at once.
#[derive(Clone, Copy, Debug)]
enum Writer {
    Routes,
    Upstreams,
    Limits,
    Consumers,
    Prices,
    Certificates,
    Contested,
}

/// Of a hundred changes.
const SHARES: [(Writer, u64); 7] = [
    (Writer::Routes, 25),
    (Writer::Upstreams, 20),
    (Writer::Limits, 15),
    (Writer::Consumers, 15),
    (Writer::Prices, 10),
    (Writer::Certificates, 5),
    (Writer::Contested, 10),
];

/// What all writers share.
struct Storm {
    admins: Vec<Admin>,
    origins: Vec<String>,
    https: Vec<SocketAddr>,
    /// The endpoints of the one provider that all calls go to.
    endpoints: [String; 2],
    identities: [Identity; 2],
    ca: Ca,
    client: Client,
    made: AtomicU64,
    conflicts: AtomicU64,
}

/// Row 33: routes, upstreams, limits, consumers, prices, certificates, zones and members are changed a thousand times, by writers who go on
/// at once; of two who want the same version one wins. No call fails, plain, streamed or over TLS, though nobody tries
/// twice; streams that were there before are there after. T is the time that it took.
pub(super) async fn changes(seed: Seed) -> anyhow::Result<Figures> {
    let (mut cluster, https, ca) = with_tls().await?;
    let providers = [Provider::start(Options::default()).await?, Provider::start(Options::default()).await?];
    let yaml = tollgate_chaos_tests::resources::standard(&providers[0].url(), &[("ample", Some(1_000_000_000))]);
    let yaml = yaml.replace("{billing: {mode: none}}", "{billing: {mode: postpaid, currency: USD}}");
    cluster.cli().apply_and_wait(&(yaml + &document("Tenant", "contested", "{billing: {mode: none}}"))).await?;
    let storm = Arc::new(Storm {
        admins: cluster.nodes.iter().map(|node| Admin::new(node.admin_url(), &cluster.token)).collect(),
        origins: cluster.origins(),
        https,
        endpoints: [providers[0].url(), providers[1].url()],
        identities: [ca.server(HOST)?, ca.server(HOST)?],
        ca,
        client: Client::new(),
        made: AtomicU64::new(0),
        conflicts: AtomicU64::new(0),
    });
    for writer in SHARES.map(|(writer, _)| writer) {
        writer.change(&storm, 0).await.with_context(|| format!("{writer:?}, before the storm"))?;
    }
    let mut streams = Vec::new();
    for origin in &storm.origins {
        streams.push(endless(&storm.client, origin).await?);
    }
    let careful = Careful::blind(&cluster.nodes, &[ample(), ample().stream()], CALLERS, seed);
    let streaming = Careful::blind(&cluster.nodes, &[slow()], CALLERS, seed);
    let over = CancellationToken::new();
    let mut over_tls = JoinSet::new();
    over_tls.spawn(call_over_tls(Arc::clone(&storm), over.clone()));
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for (writer, share) in SHARES {
        let (storm, rounds) = (Arc::clone(&storm), size() * share / 100);
        writers.spawn(async move {
            for round in 1..=rounds {
                writer.change(&storm, round).await.with_context(|| format!("{writer:?}, round {round}"))?;
            }
            anyhow::Ok(())
        });
    }
    writers.spawn(zones(Arc::clone(&storm), cluster.nodes.iter().map(|node| node.zone.clone()).collect()));
    members(&mut cluster, &storm).await?;
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let took = begun.elapsed();
    over.cancel();
    let handshakes = over_tls.join_next().await.context("it was started")???;
    for (stream, origin) in streams.iter_mut().zip(&storm.origins) {
        goes_on(stream).await.with_context(|| format!("the stream that was there before the storm at {origin}"))?;
    }
    drop(streams);
    let (tally, streamed) = (careful.stop().await, streaming.stop().await);
    let failures = [tally.failures.as_slice(), streamed.failures.as_slice()].concat();
    let (made, conflicts) = (storm.made.load(Ordering::Relaxed), storm.conflicts.load(Ordering::Relaxed));
    say(&format!(
        "  {made} changes, {conflicts} refused as conflicts; {} calls, {} slow streams, {handshakes} calls over TLS, {} failed; p50 {:.0?} p99 {:.0?}",
        tally.served,
        streamed.served,
        failures.len(),
        tally.within(50),
        tally.within(99),
    ));
    anyhow::ensure!(failures.is_empty(), "{:#?}", &failures[..failures.len().min(10)]);
    anyhow::ensure!(made >= size(), "{made} changes were made, not {}", size());
    anyhow::ensure!(tally.served > 100 && streamed.served > 10 && handshakes > 10, "that was no load");
    all_show_the_same(&cluster).await?;
    let served = tally.served + streamed.served + handshakes;
    Ok(Figures { served, recovery: Some(took), ..Figures::default() })
}

/// Three nodes that listen for TLS, too.
async fn with_tls() -> anyhow::Result<(Cluster, Vec<SocketAddr>, Ca)> {
    let (mut cluster, ca) = (Cluster::prepare(&Plan::default())?, Ca::new()?);
    let mut addresses = Vec::new();
    for node in &mut cluster.nodes {
        let address = free_port();
        let more = format!("[https]\nlisten = \"{address}\"\n");
        fs::write(node.config(), fs::read_to_string(node.config())? + &more)?;
        addresses.push(address);
        node.start()?;
    }
    cluster.ready().await?;
    Ok((cluster, addresses, ca))
}

impl Writer {
    /// Makes one change, and waits until every node serves it.
    async fn change(self, storm: &Storm, round: u64) -> anyhow::Result<()> {
        let admin = &storm.admins[usize::try_from(self as u64 + round)? % storm.admins.len()];
        let none = Message::new();
        let index = match self {
            Writer::Routes if round.is_multiple_of(2) => applied(admin, &state(round)).await?,
            Writer::Routes => applied(admin, &chat(round)).await?,
            Writer::Upstreams => applied(admin, &storm.provider(round)).await?,
            Writer::Limits if round % 3 == 2 => admin.delete(Kind::Limit, "passing").await?,
            Writer::Limits => applied(admin, &limit(round)).await?,
            Writer::Consumers => applied(admin, &consumer(round)).await?,
            Writer::Prices => {
                let matches = Message::new().with(2, "ample-1");
                let spec = Message::new().with(1, matches).with(2, "USD");
                let spec = spec.with(4, (round % 7 + 1).to_string()).with(7, (round % 5 + 1).to_string());
                applied(admin, &resource(Kind::Price, "ample", &none, &spec)).await?
            }
            Writer::Certificates => {
                let identity = &storm.identities[usize::try_from(round % 2)?];
                let key = Message::new().with(1, &identity.key);
                let spec = Message::new().with(1, HOST).with(2, &identity.cert).with(3, key);
                applied(admin, &resource(Kind::Certificate, "storm", &none, &spec)).await?
            }
            Writer::Contested => storm.contested(round).await?,
        };
        storm.made.fetch_add(1, Ordering::Relaxed);
        storm.is_served(admin, index).await?;
        match self {
            Writer::Routes if round.is_multiple_of(2) => storm.shows(round).await,
            Writer::Consumers => storm.knows_keys(round).await,
            _ => Ok(()),
        }
    }
}

async fn applied(admin: &Admin, resource: &Message) -> anyhow::Result<u64> {
    match admin.apply(std::slice::from_ref(resource)).await? {
        Applied::At(index) => Ok(index),
        Applied::Conflict => anyhow::bail!("a conflict over something that nobody else writes"),
    }
}

/// Answers by itself, so that it shows which configuration a node serves.
fn state(round: u64) -> Message {
    let path = Message::new().with(1, Message::new().with(1, "/state"));
    let answer = Message::new().number(1, 200).with(2, format!("round {round} here"));
    resource(Kind::Route, "state", &Message::new(), &Message::new().with(2, path).with(11, answer))
}

/// The route that all calls take.
fn chat(round: u64) -> Message {
    let path = Message::new().with(1, Message::new().with(2, "/v1"));
    let backend = Message::new().with(1, "mock").number(3, round % 5 + 1);
    let timeouts = Message::new().with(1, format!("{}s", 600 + round % 7));
    let spec = Message::new().with(2, path).with(3, backend).with(5, timeouts);
    resource(Kind::Route, "chat", &Message::new(), &spec)
}

/// One that all calls meet: its size changes, or another one comes and goes.
fn limit(round: u64) -> Message {
    let (name, unit) = if round.is_multiple_of(3) { ("ample-tokens", "tokens") } else { ("passing", "requests") };
    let spec = Message::new().with(1, Message::new().with(2, "ample")).with(2, "consumer").with(3, unit);
    let spec = spec.number(5, 1_000_000_000 + round).with(6, "1d").with(7, "fixed");
    resource(Kind::Limit, name, &Message::new(), &spec)
}

/// The one of all callers, with a key besides that no other round has.
fn consumer(round: u64) -> Message {
    let key = |key: String| Message::new().with(1, key);
    let spec = Message::new().with(1, "acme").with(2, key(api_key("ample"))).with(2, key(passing_key(round)));
    resource(Kind::Consumer, "ample", &Message::new(), &spec)
}

fn passing_key(round: u64) -> String {
    format!("sk-passing-{round}-0123456789")
}

impl Storm {
    /// One endpoint, the other, or both; by turns checked, and balanced otherwise.
    fn provider(&self, round: u64) -> Message {
        let endpoint = |at: usize| Message::new().with(1, &self.endpoints[at]);
        let mut spec = Message::new().with(1, "openai");
        for at in [0, 1].into_iter().filter(|at| round % 3 != *at) {
            spec = spec.with(2, endpoint(usize::try_from(at).unwrap_or(0)));
        }
        spec = spec.with(3, Message::new().with(1, provider_key("mock")));
        if round.is_multiple_of(2) {
            spec = spec.with(6, Message::new().with(1, "leastRequest"));
        }
        if round % 4 < 2 {
            spec = spec.with(7, Message::new().with(6, "tcp").with(2, "200ms").with(3, "200ms"));
        }
        resource(Kind::Provider, "mock", &Message::new(), &spec)
    }

    /// Two change the same version at once, through two nodes: one of them wins.
    async fn contested(&self, round: u64) -> anyhow::Result<u64> {
        let at = usize::try_from(round)?;
        let [one, other] = [0, 1].map(|step| &self.admins[(at + step) % self.admins.len()]);
        let version = one.version(Kind::Tenant, "contested").await?;
        let change = |writer: &str| {
            let label = Message::new().with(1, "by").with(2, format!("{writer}-{round}"));
            let metadata = Message::new().with(2, label).number(3, version);
            let billing = Message::new().with(1, Message::new().with(1, "none"));
            [resource(Kind::Tenant, "contested", &metadata, &billing)]
        };
        let (first, second) = (change("one"), change("other"));
        let (first, second) = tokio::join!(one.apply(&first), other.apply(&second));
        match (first?, second?) {
            (Applied::At(index), Applied::Conflict) | (Applied::Conflict, Applied::At(index)) => {
                self.conflicts.fetch_add(1, Ordering::Relaxed);
                Ok(index)
            }
            both => anyhow::bail!("of two who want version {version} one wins, not {both:?}"),
        }
    }

    async fn is_served(&self, admin: &Admin, index: u64) -> anyhow::Result<()> {
        eventually("every node serves the change", || async {
            let served = admin.served().await?;
            let late = (1..=3).find(|id| !served.iter().any(|(node, at)| node == id && *at >= index));
            anyhow::ensure!(late.is_none(), "{late:?} of {served:?} is behind {index}");
            Ok(())
        })
        .await
    }

    /// New requests meet it at once.
    async fn shows(&self, round: u64) -> anyhow::Result<()> {
        for origin in &self.origins {
            let answer = self.client.get(&format!("{origin}/state"), &[]).await?;
            anyhow::ensure!(answer.text() == format!("round {round} here"), "{origin}: {}", answer.text());
        }
        Ok(())
    }

    /// The key of this round is somebody's, that of the round before nobody's.
    async fn knows_keys(&self, round: u64) -> anyhow::Result<()> {
        for origin in &self.origins {
            for (key, status) in [(Some(round), 200), (round.checked_sub(1), 401)] {
                let Some(key) = key else { continue };
                let call = Call::chat(&passing_key(key), "ample-1");
                let answer = self.client.send(call.request(origin), LIMIT).await?;
                anyhow::ensure!(answer.status == status, "{origin}: {}, not {status}", answer.status);
            }
        }
        Ok(())
    }
}

fn slow() -> Call {
    ample().stream().max_tokens(40).header("x-mock-output", "40").header("x-mock-pace", "50ms")
}

/// A stream that lasts until nobody reads it.
async fn endless(client: &Client, origin: &str) -> anyhow::Result<EventStream> {
    let call = ample().stream().max_tokens(ENDLESS).header("x-mock-output", &ENDLESS.to_string());
    let call = call.header("x-mock-pace", PACE).header("x-mock-chunk", "1");
    let mut stream = client.open(call.request(origin), LIMIT).await?;
    anyhow::ensure!(stream.status == 200, "{origin}: {} for a stream", stream.status);
    stream.next().await.map_err(|end| anyhow::anyhow!("the stream has not begun: {end:?}"))?;
    Ok(stream)
}

/// What has come meanwhile is there, and more comes that can't have been.
async fn goes_on(stream: &mut EventStream) -> anyhow::Result<()> {
    let (over, mut events) = (Instant::now(), Vec::new());
    while over.elapsed() < Duration::from_secs(2) {
        let event = stream.next().await.map_err(|end: End| anyhow::anyhow!("it was cut: {end:?}"))?;
        events.push(event);
    }
    let failed = calls::error_of(&events);
    anyhow::ensure!(failed.is_none() && !calls::is_complete(Dialect::Anthropic, &events), "it has ended: {failed:?}");
    Ok(())
}

/// A new connection for each call; how many there were.
async fn call_over_tls(storm: Arc<Storm>, over: CancellationToken) -> anyhow::Result<u64> {
    let mut calls = 0;
    while !over.is_cancelled() {
        let address = storm.https[usize::try_from(calls)? % storm.https.len()];
        let mut connection = https::connect(address, &storm.ca, HOST).await.with_context(|| format!("{address}"))?;
        https::ask(&mut connection, HOST).await.with_context(|| format!("{address}"))?;
        calls += 1;
        tokio::time::sleep(Duration::from_millis(50)).await; // the shape of the load
    }
    Ok(calls)
}

/// Each zone in turn is drained, and taken back.
async fn zones(storm: Arc<Storm>, zones: Vec<String>) -> anyhow::Result<()> {
    let rounds = usize::try_from(size() / 250)?.max(1);
    for (round, zone) in zones.iter().cycle().take(rounds * zones.len()).enumerate() {
        for drained in [true, false] {
            let admin = &storm.admins[(round + 1) % storm.admins.len()];
            admin.zone(zone, drained).await.with_context(|| format!("zone {zone}, drained: {drained}"))?;
            storm.made.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A learner joins, and leaves.
async fn members(cluster: &mut Cluster, storm: &Storm) -> anyhow::Result<()> {
    for round in 0..size() / 500 {
        let learner = cluster.add()?;
        learner.start()?;
        let (id, peer) = (learner.id, learner.peer.to_string());
        let cli = cluster.cli_of(round % 3 + 1);
        cli.run(&["cluster", "add", &id.to_string(), &peer]).await?.ok()?;
        cluster.node(id).ready(SOON).await?;
        cli.run(&["cluster", "remove", &id.to_string()]).await?.ok()?;
        let status = cluster.node(id).exited(SOON).await?;
        anyhow::ensure!(status.success(), "a learner that was removed ended with {status}");
        let gone = cluster.nodes.pop().context("the learner is the last one")?;
        fs::remove_dir_all(&gone.dir)?;
        storm.made.fetch_add(2, Ordering::Relaxed);
    }
    Ok(())
}

/// All nodes have the same configuration, to the byte.
async fn all_show_the_same(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.converged().await?;
    let mut exports = Vec::new();
    for node in &cluster.nodes {
        exports.push(cluster.cli_of(node.id).run(&["export"]).await?.ok()?.stdout);
    }
    anyhow::ensure!(exports.windows(2).all(|pair| pair[0] == pair[1]), "nodes differ: {exports:#?}");
    anyhow::ensure!(exports[0].contains(&format!("-{}", size() / 10)), "the last winner is not there: {}", exports[0]);
    Ok(())
}
