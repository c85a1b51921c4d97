//! Three nodes, one provider that is fair and some that are not, and tenants who pay in every way.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    Cluster, Provider, Seed, eventually, free_port,
    resources::{self, document},
};
use tollgate_mock_llm::{Options, Record};

use super::{
    load::{Caller, Told},
    strikes::{Strikes, Struck},
};

/// A name with a known vocabulary, so that what has no usage block is counted exactly.
pub(super) const MODEL: &str = "gpt-4o-proof";
/// The same, whose provider says no usage.
pub(super) const UNTOLD: &str = "gpt-4o-proof-nousage";
/// Who answers in the end, whoever was asked first.
pub(super) const MAIN: &str = "main";
const CALLERS: usize = 48;

/// Providers that never answer, each with its knob; `gone` is not there at all.
const UNFIT: [(&str, &str, &str); 3] =
    [("refusing", "status", "503"), ("late", "delay", "30s"), ("closing", "close", "true")];
pub(super) const GONE: &str = "gone";

/// How somebody pays, and by which price: pico-units of its currency for a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payer {
    pub(super) tenant: &'static str,
    pub(super) currency: &'static str,
    billing: &'static str,
    pub(super) input: i128,
    pub(super) output: i128,
    /// Paid in, in whole units.
    pub(super) credit: Option<i128>,
}

pub(super) const PAYERS: [Payer; 3] = [
    Payer {
        tenant: "acme",
        currency: "USD",
        billing: "{mode: postpaid, currency: USD}",
        input: 2_500_003,
        output: 10_000_007,
        credit: None,
    },
    Payer {
        tenant: "penny",
        currency: "USD",
        billing: "{mode: prepaid, currency: USD}",
        input: 2_500_003,
        output: 10_000_007,
        credit: Some(1_000_000),
    },
    Payer {
        tenant: "cent",
        currency: "EUR",
        billing: "{mode: prepaid, currency: EUR, durability: quorum}",
        input: 1_900_001,
        output: 7_000_009,
        credit: Some(1_000_000),
    },
];

/// What the upstreams bill, in dollars.
pub(super) const COST: (i128, i128) = (1_000_003, 3_000_001);

/// Millionths of a currency unit for a million tokens are pico-units for one.
fn figures(input: i128, output: i128) -> String {
    let text = |pico: i128| format!("'{}.{:06}'", pico / 1_000_000, pico % 1_000_000);
    format!("input: {}, output: {}", text(input), text(output))
}

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) providers: BTreeMap<&'static str, Provider>,
}

impl Stage {
    pub(super) async fn set() -> anyhow::Result<Stage> {
        let cluster = Cluster::start().await?;
        let mut providers = BTreeMap::from([(MAIN, Provider::start(Options::default()).await?)]);
        for (name, knob, value) in UNFIT {
            let provider = Provider::start(Options::default()).await?;
            provider.turn(&[(knob, value)]).await?;
            providers.insert(name, provider);
        }
        let stage = Stage { cluster, providers };
        stage.cluster.cli().apply_and_wait(&stage.resources()).await?;
        for payer in PAYERS {
            let Some(credit) = payer.credit else { continue };
            let args = ["credits", "grant", payer.tenant, &credit.to_string(), "--key", "start"];
            stage.cluster.cli().rows(&args).await?;
        }
        Ok(stage)
    }

    fn resources(&self) -> String {
        let timeouts = ", timeouts: {request: 8s, firstByte: 2s, idle: 2s}";
        let mut yaml = String::new();
        for (name, provider) in &self.providers {
            yaml += &resources::provider(name, "openai", &provider.url());
        }
        yaml += &resources::provider(GONE, "openai", &format!("http://{}/v1", free_port()));
        for name in self.providers.keys().copied().chain([GONE]) {
            let on = "fallbacks: [{provider: main, on: [connectFailure, reset, \"5xx\", timeout]}]";
            let fallbacks = if name == MAIN { String::new() } else { format!(", {on}") };
            let more = format!(", hosts: [{name}.test]{timeouts}{fallbacks}");
            yaml += &resources::route(name, &format!("[{{provider: {name}}}]"), &more);
            let cost = figures(COST.0, COST.1);
            let spec = format!("{{table: cost, currency: USD, match: {{providers: [{name}], models: ['*']}}, {cost}}}");
            yaml += &document("Price", &format!("{name}-cost"), &spec);
        }
        for payer in PAYERS {
            let Payer { tenant, currency, billing, .. } = payer;
            yaml += &document("Tenant", tenant, &format!("{{billing: {billing}}}"));
            yaml += &resources::consumer(&consumer(tenant), tenant);
            let price = figures(payer.input, payer.output);
            let of = format!("{{tenants: [{tenant}], models: ['{MODEL}*']}}");
            let spec = format!("{{table: contract, currency: {currency}, match: {of}, {price}}}");
            yaml += &document("Price", &format!("{tenant}-price"), &spec);
        }
        yaml
    }

    /// Load until so many calls have reached a provider, under strikes all the while. What callers were told, by request.
    pub(super) async fn play(&mut self, calls: u64, seed: Seed) -> anyhow::Result<(BTreeMap<String, Told>, Struck)> {
        let (stop, mut callers) = (CancellationToken::new(), JoinSet::new());
        for number in 0..CALLERS {
            let (client, origins) = (self.cluster.client.clone(), self.cluster.origins());
            callers.spawn(Caller { client, origins, stop: stop.clone() }.calls(seed, number));
        }
        let mut strikes = Strikes::new(seed);
        while self.reached().await? < calls {
            strikes.next(&mut self.cluster).await?;
        }
        stop.cancel();
        let mut told = BTreeMap::new();
        while let Some(done) = callers.join_next().await {
            for (request, one) in done? {
                anyhow::ensure!(told.insert(request.clone(), one).is_none(), "two calls are called {request}");
            }
        }
        self.cluster.ready().await?;
        Ok((told, strikes.done()))
    }

    /// Every call that goes out ends at the main provider, if nobody dies.
    async fn reached(&self) -> anyhow::Result<u64> {
        Ok(self.providers[MAIN].witness().await?.total.requests)
    }

    /// What all providers know of each request, once they are idle.
    pub(super) async fn witnessed(&self) -> anyhow::Result<BTreeMap<String, BTreeMap<&'static str, Record>>> {
        let mut requests = BTreeMap::<String, BTreeMap<_, _>>::new();
        for (name, provider) in &self.providers {
            let summary = provider.settled().await?;
            anyhow::ensure!(summary.dropped_records == 0, "{name} has forgotten {}", summary.dropped_records);
            for record in provider.records().await? {
                let id = record.request_id.clone().unwrap_or_default();
                let again = requests.entry(id).or_default().insert(*name, record);
                anyhow::ensure!(again.is_none(), "{name} was asked twice for one request: {again:?}");
            }
        }
        Ok(requests)
    }

    /// Waits until nothing of what was paid in is held, or in nobody's hands.
    pub(super) async fn at_rest(&self) -> anyhow::Result<()> {
        self.cluster.converged_on_one_leader().await?;
        for payer in PAYERS.iter().filter(|it| it.credit.is_some()) {
            eventually("no call holds credit", || async {
                let rows = self.cluster.cli().rows(&["credits", "show", payer.tenant]).await?;
                anyhow::ensure!(rows.iter().all(|row| row["held"] == "0" && row["suspense"] == "0"), "{rows:?}");
                Ok(())
            })
            .await?;
        }
        self.cluster.converged().await
    }
}

pub(super) fn consumer(tenant: &str) -> String {
    format!("of-{tenant}")
}
