//! Both proxies, what is behind them, and who runs where.

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tollgate_chaos_tests::{
    Cluster, Plan, ProviderProcess,
    client::Client,
    resources,
    usage::{processor_time, resident},
};

use super::nginx::Nginx;

/// Who calls models.
pub(super) const CONSUMER: &str = "bench";

/// The limit, the price and the tenant that a call of a model meets.
const BILLED: &str = "---
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {billing: {mode: postpaid, currency: USD}}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: tokens}
spec: {per: [consumer], unit: tokens, limit: 1000000000000, window: 1m}
---
apiVersion: tollgate/v1
kind: Price
metadata: {name: mock}
spec: {match: {models: ['*']}, currency: USD, per: 1000000, input: '2.50', output: '10.00'}
";

/// Two proxies on the first core; a service, a provider and the load on the second.
pub(super) struct Scene {
    pub(super) cluster: Cluster,
    pub(super) nginx: Nginx,
    pub(super) client: Client,
    provider: ProviderProcess,
    _service: Nginx,
}

/// A proxy, or what is behind it.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) origin: String,
    /// Where it takes HTTP/2 without TLS.
    pub(super) http2: String,
    pub(super) pid: u32,
}

impl Side {
    /// Microseconds of CPU time so far.
    pub(super) fn used(&self) -> anyhow::Result<f64> {
        Ok(processor_time(self.pid)?.as_secs_f64() * 1e6)
    }

    /// Bytes of memory now.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        resident(self.pid)
    }
}

impl Scene {
    pub(super) async fn start() -> anyhow::Result<Scene> {
        let all = sched_getaffinity(None)?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| all.is_set(core)).take(2).collect();
        let [proxies, others] = cores[..] else { anyhow::bail!("two cores are needed, and there is one") };

        run_on(others)?;
        let service = Nginx::service().await?;
        let provider = ProviderProcess::start(&[]).await?;
        run_on(proxies)?;
        let address = provider.url.strip_prefix("http://").context("a provider has an http URL")?;
        let nginx = Nginx::proxy(service.address, address).await?;
        let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await.context("Tollgate does not start")?;
        run_on(others)?;

        let service_spec = format!("{{protocol: http, endpoints: [{{address: \"{}\"}}]}}", service.address);
        let yaml = resources::provider("mock", "openai", &format!("{}/v1", provider.url))
            + &resources::document("Service", "plain", &service_spec)
            + &resources::route("chat", "[{provider: mock}]", "")
            + &resources::document("Route", "plain", "{backends: [{service: plain}]}")
            + BILLED
            + &resources::consumer(CONSUMER, "acme");
        cluster.cli().apply_and_wait(&yaml).await?;
        Ok(Scene { cluster, nginx, client: Client::new(), provider, _service: service })
    }

    /// Tollgate and nginx.
    pub(super) fn sides(&self) -> anyhow::Result<[Side; 2]> {
        let node = &self.cluster.nodes[0];
        let tollgate = Side { name: "tollgate", origin: node.http_url(), http2: node.http_url(), pid: node.pid()? };
        let nginx = Side {
            name: "nginx",
            origin: format!("http://{}", self.nginx.address),
            http2: format!("http://{}", self.nginx.http2),
            pid: self.nginx.pid(),
        };
        Ok([tollgate, nginx])
    }

    /// The provider itself.
    pub(super) fn direct(&self) -> String {
        self.provider.url.clone()
    }
}

/// This thread, and what it starts from here on.
fn run_on(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).context("a core can't be chosen")
}
