//! The bursts in which gateways that count after the answer go 1.8 to 10 times over their limits: here, 0 over.
//!
//! Three nodes, a hundred callers at once, and a judge that is not the product: the provider's own counters. A case that
//! did not ask for far more than its limit, or in which nobody was admitted or nobody refused, proves nothing and fails.
//! Each case prints one line.

mod cases;
mod growing;
mod usable;
pub(crate) mod windows;

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, Seed,
    accounts::SHOWN_WITHIN,
    burst::{Manner, Told, alike, burst},
    calls::Call,
    checkers, day_with_room, eventually, eventually_within,
    resources::{self, api_key},
};
use tollgate_mock_llm::Options;

use crate::matrix::say;

/// Who calls at once.
const CALLERS: usize = 100;
/// What each case asks for, in tenths of its limit, at the least: the mildest overshoot that was seen elsewhere.
const CONTEST_TENTHS: u64 = 18;

/// What happens between two bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    LeaderKilled,
    AllKilled,
}

/// One case.
struct Case {
    name: &'static str,
    /// No other case calls this model: the provider's counters go by it.
    model: &'static str,
    /// Tokens a day.
    limit: u64,
    bursts: usize,
    manner: Manner,
    between: Between,
    /// What is said beside the model and the key.
    call: fn(Call) -> Call,
    /// Tokens of one call that is answered to its end, by the provider's rule.
    tokens: u64,
}

/// Three nodes, and a provider that everything is sent to.
struct Scene {
    cluster: Cluster,
    provider: Provider,
    seed: Seed,
}

impl Scene {
    async fn set() -> anyhow::Result<Scene> {
        Scene::on(Cluster::start().await?).await
    }

    /// The same on nodes that somebody else has started.
    async fn on(mut cluster: Cluster) -> anyhow::Result<Scene> {
        day_with_room(Duration::from_secs(300)).await;
        cluster.ready().await?;
        let provider = Provider::start(Options::default()).await?;
        let mut yaml = resources::provider("mock", "openai", &provider.url());
        yaml += &resources::route("chat", "[{provider: mock}]", ", tokens: {default: 600, max: 100000}");
        yaml += &resources::tenant("acme");
        cluster.cli().apply_and_wait(&yaml).await?;
        Ok(Scene { cluster, provider, seed: Seed::from_env() })
    }

    /// A consumer of this name with so many tokens a day.
    async fn consumer(&self, name: &str, tokens: u64) -> anyhow::Result<()> {
        let limit = resources::tokens_per_day(&limit_of(name), name, tokens);
        self.cluster.cli().apply_and_wait(&(resources::consumer(name, "acme") + &limit)).await?;
        Ok(())
    }

    /// The bursts of a case, and its line; whether it was over is judged by whoever has run all that he wants to run.
    async fn play(&mut self, case: &Case) -> anyhow::Result<Found> {
        self.consumer(case.model, case.limit).await?;
        let call = (case.call)(Call::chat(&api_key(case.model), case.model));
        let mut told = Told::default();
        for number in 0..case.bursts {
            if number > 0 {
                self.strike(case.between).await?;
            }
            let origins = self.living();
            told += burst(&self.cluster.client, &origins, alike(&call, CALLERS), case.manner, self.seed).await?;
        }
        for node in &mut self.cluster.nodes {
            if !node.is_running() {
                node.start()?;
            }
        }
        self.cluster.ready().await?;
        let witnessed = self.provider.tokens(case.model).await?;
        let used = self.used(&limit_of(case.model), witnessed).await?;
        let found = Found { name: case.name, limit: case.limit, witnessed, used, told };
        say(&format!("{} seed={}", found.line(), self.seed));
        found.is_a_contest(case)?;
        Ok(found)
    }

    /// Origins of the nodes that run.
    fn living(&mut self) -> Vec<String> {
        self.cluster.nodes.iter_mut().filter_map(|node| node.is_running().then(|| node.http_url())).collect()
    }

    async fn strike(&mut self, between: Between) -> anyhow::Result<()> {
        match between {
            Between::Nothing => (),
            Between::LeaderKilled => {
                let leader = self.cluster.leader().await?;
                self.cluster.node(leader).kill()?;
            }
            Between::AllKilled => {
                for node in &mut self.cluster.nodes {
                    node.kill()?;
                }
                for node in &mut self.cluster.nodes {
                    node.start()?;
                }
                self.cluster.ready().await?;
            }
        }
        Ok(())
    }

    /// What the account of a limit has used, once no call holds anything. It has a moment to show what was `witnessed`.
    async fn used(&self, limit: &str, witnessed: u64) -> anyhow::Result<u64> {
        let ended = Instant::now();
        eventually("no call holds anything", || async {
            let rows = self.cluster.cli().rows(&["limits", "show"]).await?;
            let row = rows.iter().find(|row| row["limit"] == limit);
            let row = row.ok_or_else(|| anyhow::anyhow!("no account of {limit} in {rows:?}"))?;
            anyhow::ensure!(row["held"] == 0, "{row}");
            let used = row["used"].as_u64().ok_or_else(|| anyhow::anyhow!("{row}"))?;
            anyhow::ensure!(used >= witnessed || ended.elapsed() > SHOWN_WITHIN, "{witnessed} witnessed: {row}");
            Ok(used)
        })
        .await
    }
}

impl Scene {
    /// The journals have told what had ended, and nothing is charged that was not served.
    async fn charges_exactly(&self, consumer: &str, witnessed: u64) -> anyhow::Result<()> {
        eventually_within(SHOWN_WITHIN, "what was served is charged, and nothing else", || async {
            let used = self.used(&limit_of(consumer), witnessed).await?;
            anyhow::ensure!(used == witnessed, "{used} charged for {witnessed}");
            Ok(())
        })
        .await
    }
}

fn limit_of(consumer: &str) -> String {
    format!("{consumer}-tokens")
}

/// What came of a case.
struct Found {
    name: &'static str,
    limit: u64,
    witnessed: u64,
    used: u64,
    told: Told,
}

impl Found {
    fn over(&self) -> u64 {
        checkers::over_admitted(self.witnessed, self.limit)
    }

    fn line(&self) -> String {
        let Found { name, limit, witnessed, used, told } = self;
        let Told { admitted, refused, undecided } = told;
        format!(
            "overshoot ({name}) limit={limit} witnessed={witnessed} used={used} admitted={admitted} refused={refused} \
             undecided={undecided} over={}",
            self.over()
        )
    }

    /// A limit that nobody leans against holds by itself.
    fn is_a_contest(&self, case: &Case) -> anyhow::Result<()> {
        let asked = case.tokens * (CALLERS * case.bursts) as u64;
        anyhow::ensure!(asked * 10 >= case.limit * CONTEST_TENTHS, "{}: only {asked} tokens asked for", self.name);
        anyhow::ensure!(self.told.admitted > 0 && self.told.refused > 0, "{}: {:?}", self.name, self.told);
        Ok(())
    }

    /// Nothing over, and nothing forgotten of what the provider counted.
    fn must_hold(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.over() == 0, "{}: {} tokens over", self.name, self.over());
        let (used, witnessed) = (self.used, self.witnessed);
        anyhow::ensure!(used >= witnessed, "{}: {witnessed} tokens were served and {used} charged", self.name);
        anyhow::ensure!(used <= self.limit, "{}: {used} charged to {}", self.name, self.limit);
        Ok(())
    }
}

/// Plays all of them on one cluster, then judges: the lines of all cases are to be seen even where one fails.
async fn play_all(cases: &[Case]) -> Outcome {
    let mut scene = Scene::set().await?;
    let mut found = Vec::new();
    for case in cases {
        found.push(scene.play(case).await?);
    }
    let wrong: Vec<String> =
        found.iter().filter_map(|found| found.must_hold().err()).map(|error| error.to_string()).collect();
    if !wrong.is_empty() {
        return Err(anyhow::anyhow!("{}", wrong.join("; ")).into());
    }
    Ok(())
}

/// One message instead of the usual prompt.
fn prompt(mut call: Call, text: &str) -> Call {
    call.body["messages"][0]["content"] = Value::from(text);
    call
}
