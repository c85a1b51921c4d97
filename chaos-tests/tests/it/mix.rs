//! Everything at once: answers whole and streamed, cut, hanging, without usage, left by their callers, while nodes are
//! killed. Whatever becomes of a call, no account is over, and nothing that the provider finished is forgotten.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    Cli, Cluster, Outcome, Provider, SOON, Seed,
    accounts::Accounts,
    calls::Call,
    client::{CallError, Client},
    day_with_room, eventually, nightly,
    resources::{self, api_key},
};
use tollgate_mock_llm::Options;

use crate::matrix::say;

/// Runs out every few seconds.
const CAPACITY: u64 = 6_000;
const CALLERS: usize = 24;
/// A caller gives up on a call after this long.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Between two calls of one caller: the shape of the load.
const THINK: Duration = Duration::from_millis(20);
/// Accounts that run out before, between and after the kills.
const ROUNDS: u64 = 1;

/// How a call ends, and after how many events its caller leaves.
#[derive(Clone, Copy, Debug)]
struct Kind {
    stream: bool,
    knobs: &'static [(&'static str, &'static str)],
    leaves_after: Option<usize>,
}

const fn kind(stream: bool, knobs: &'static [(&'static str, &'static str)]) -> Kind {
    Kind { stream, knobs, leaves_after: None }
}

/// What the provider counted of these is what the gateway has read.
const FAIR: &[Kind] = &[
    kind(false, &[]),
    kind(true, &[("pace", "5ms")]),
    kind(false, &[("usage", "missing")]),
    kind(true, &[("usage", "missing"), ("pace", "2ms")]),
    kind(true, &[("usage", "twice")]),
    kind(false, &[("status", "503")]),
    kind(true, &[("cut", "fin"), ("pace", "5ms")]),
    kind(true, &[("cut", "end")]),
    kind(true, &[("cut", "silence"), ("pace", "2ms")]),
    kind(false, &[("hang", "true")]),
    kind(false, &[("close", "true")]),
    kind(false, &[("delay", "300ms")]),
];

/// The provider may have written more of these than the gateway has read.
const UNFAIR: &[Kind] = &[
    Kind { stream: true, knobs: &[("pace", "5ms")], leaves_after: Some(1) },
    Kind { stream: true, knobs: &[], leaves_after: Some(3) },
    kind(true, &[("cut", "rst")]),
];

struct Mix {
    cluster: Cluster,
    provider: Provider,
    accounts: Arc<Accounts>,
    seed: Seed,
    stop: CancellationToken,
    callers: JoinSet<u64>,
    sums: JoinSet<anyhow::Result<u64>>,
}

impl Mix {
    async fn set(kinds: Vec<Kind>) -> anyhow::Result<Mix> {
        day_with_room(Duration::from_secs(300)).await;
        let (cluster, provider) = (Cluster::start().await?, Provider::start(Options::default()).await?);
        // A name with a known vocabulary, so that what has no usage block is counted exactly.
        let accounts = Arc::new(Accounts::new("gpt-4o-mix", CAPACITY));
        let mut yaml = resources::provider("mock", "openai", &provider.url());
        yaml +=
            &resources::route("chat", "[{provider: mock}]", ", timeouts: {request: 8s, firstByte: 500ms, idle: 500ms}");
        yaml += &(resources::tenant("acme") + &resources::consumer("alice", "acme") + &accounts.resource("alice"));
        cluster.cli().apply_and_wait(&yaml).await?;
        let (seed, stop, mut callers) = (Seed::from_env(), CancellationToken::new(), JoinSet::new());
        let clis = [0, 1, 2].map(|first| cluster.cli_from(first));
        let sums = JoinSet::from_iter([watch(clis, stop.clone())]);
        for number in 0..CALLERS {
            let caller = Caller {
                client: cluster.client.clone(),
                origins: cluster.origins(),
                accounts: Arc::clone(&accounts),
                kinds: kinds.clone(),
                stop: stop.clone(),
            };
            callers.spawn(caller.calls(seed, number));
        }
        Ok(Mix { cluster, provider, accounts, seed, stop, callers, sums })
    }

    /// Waits until some more accounts have run out.
    async fn goes_on(&self) -> anyhow::Result<()> {
        let before = self.accounts.rounds();
        eventually("accounts run out", || async {
            let rounds = self.accounts.rounds();
            anyhow::ensure!(rounds >= before + ROUNDS, "{rounds} did, {before} before");
            Ok(())
        })
        .await
    }

    /// Kills one node under load, and starts it again.
    async fn strike(&mut self, id: u64) -> anyhow::Result<()> {
        self.cluster.node(id).kill()?;
        self.goes_on().await?;
        self.cluster.node(id).start()?;
        self.cluster.node(id).ready(SOON).await
    }

    async fn play(mut self) -> Outcome {
        self.goes_on().await?;
        for _ in 0..if nightly() { 10 } else { 1 } {
            for id in 1..=3 {
                self.strike(id).await?;
            }
            let leader = self.cluster.leader().await?;
            self.strike(leader).await?;
        }
        self.stop.cancel();
        let mut answered = 0;
        while let Some(done) = self.callers.join_next().await {
            answered += done?;
        }
        let mut looks = 0;
        while let Some(done) = self.sums.join_next().await {
            looks += done??;
        }
        let ledger = self.accounts.judge(&self.cluster, &self.provider).await?;
        say(&format!(
            "mix (each node and the leader killed) {} answered={answered} looks={looks} seed={}",
            ledger.line(),
            self.seed
        ));
        assert_eq!((ledger.over, ledger.forgotten), (0, 0));
        assert!(answered > 0 && looks > 0 && ledger.accounts > 4 * ROUNDS, "{ledger:?}");
        Ok(())
    }
}

/// Looks at all accounts through one node after the other until it is stopped; how many accounts it saw. Each must add up to
/// its capacity at every moment.
async fn watch(clis: [Cli; 3], stop: CancellationToken) -> anyhow::Result<u64> {
    let mut looks = 0;
    for cli in clis.iter().cycle() {
        if stop.is_cancelled() {
            break;
        }
        // There may be no leader to ask.
        for row in cli.rows(&["limits", "show"]).await.unwrap_or_default() {
            let part = |name: &str| row[name].as_u64().unwrap_or_default();
            let parts = ["used", "held", "leased", "free", "suspense"].map(part);
            anyhow::ensure!(parts.iter().sum::<u64>() == part("capacity"), "it does not add up: {row}");
            looks += 1;
        }
        time::sleep(Duration::from_millis(300)).await;
    }
    Ok(looks)
}

struct Caller {
    client: Client,
    origins: Vec<String>,
    accounts: Arc<Accounts>,
    kinds: Vec<Kind>,
    stop: CancellationToken,
}

impl Caller {
    /// Calls until it is stopped; how many answers it got.
    async fn calls(self, seed: Seed, number: usize) -> u64 {
        let mut rng = seed.rng(&format!("caller {number}"));
        let mut answered = 0;
        while !self.stop.is_cancelled() {
            let kind = self.kinds[rng.random_range(0..self.kinds.len())];
            let origin = &self.origins[rng.random_range(0..self.origins.len())];
            let tokens = rng.random_range(100..300);
            let (call, round) = self.accounts.now(&call(kind, tokens));
            match self.once(&call, kind, origin).await {
                Ok(429) => self.accounts.refused(round),
                Ok(200) => answered += 1,
                // Dead nodes, undecided calls and failed providers are what this is about.
                Ok(_) | Err(_) => (),
            }
            time::sleep(THINK).await;
        }
        answered
    }

    async fn once(&self, call: &Call, kind: Kind, origin: &str) -> Result<u16, CallError> {
        if !kind.stream {
            return Ok(self.client.send(call.request(origin), TRY_LIMIT).await?.status);
        }
        let mut stream = self.client.open(call.request(origin), TRY_LIMIT).await?;
        let status = stream.status;
        let mut left = kind.leaves_after.unwrap_or(usize::MAX);
        while left > 0 && stream.next().await.is_ok() {
            left -= 1;
        }
        Ok(status)
    }
}

/// A call whose answer has `tokens` tokens, about as many as it asks for.
fn call(kind: Kind, tokens: u64) -> Call {
    let call =
        Call::chat(&api_key("alice"), "any").max_tokens(tokens + 20).header("x-mock-output", &tokens.to_string());
    let call = if kind.stream { call.stream().header("x-mock-chunk", "10") } else { call };
    kind.knobs.iter().fold(call, |call, (name, value)| call.header(&format!("x-mock-{name}"), value))
}

#[tokio::test]
async fn whatever_becomes_of_calls_and_nodes_no_account_is_over_and_nothing_forgotten() -> Outcome {
    Mix::set(FAIR.to_vec()).await?.play().await
}

#[tokio::test]
async fn the_same_with_callers_who_leave_and_providers_that_reset() -> Outcome {
    Mix::set([FAIR, UNFAIR].concat()).await?.play().await
}
