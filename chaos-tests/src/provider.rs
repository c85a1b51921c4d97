//! Providers that count what they serve.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
};

use anyhow::Context;
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate_mock_llm::{Options, Record, Summary};

use crate::{client::Client, eventually, tollgate};

/// A provider inside the test's own process. It ends when it is dropped.
#[derive(Debug)]
#[must_use = "a provider that is dropped is gone"]
pub struct Provider {
    address: SocketAddr,
    client: Client,
    _tasks: JoinSet<std::io::Result<()>>,
    _stop: DropGuard,
}

impl Provider {
    /// A provider on a free port.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn start(options: Options) -> anyhow::Result<Provider> {
        Provider::start_at(Ipv4Addr::LOCALHOST.into(), options).await
    }

    /// The same at another address of this machine.
    ///
    /// # Errors
    /// There is no port to be had.
    pub async fn start_at(host: IpAddr, options: Options) -> anyhow::Result<Provider> {
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(tollgate_mock_llm::serve(listener, options, stop.clone()));
        Ok(Provider { address, client: Client::new(), _tasks: tasks, _stop: stop.drop_guard() })
    }

    /// Its base URL, with the version path that a provider's endpoint has.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted so far.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn witness(&self) -> anyhow::Result<Summary> {
        Ok(serde_json::from_value(self.get("/__mock/witness").await?)?)
    }

    /// What it has counted, once it answers nobody any more.
    ///
    /// # Errors
    /// It is never done.
    pub async fn settled(&self) -> anyhow::Result<Summary> {
        eventually("the provider is idle", || async {
            let summary = self.witness().await?;
            anyhow::ensure!(summary.total.active == 0, "{} calls are being answered", summary.total.active);
            Ok(summary)
        })
        .await
    }

    /// Tokens, in and out, that it served for a model, once it is idle.
    ///
    /// # Errors
    /// It is never done.
    pub async fn tokens(&self, model: &str) -> anyhow::Result<u64> {
        let summary = self.settled().await?;
        let counters = summary.models.get(model).copied().unwrap_or_default();
        Ok(counters.input_tokens + counters.output_tokens)
    }

    /// Its records, oldest first.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn records(&self) -> anyhow::Result<Vec<Record>> {
        Ok(serde_json::from_value(self.get("/__mock/requests?limit=200000").await?)?)
    }

    /// What it bills, as a provider's usage report: by request, or by day.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn usage(&self, by_day: bool) -> anyhow::Result<Value> {
        self.get(if by_day { "/__mock/usage?by=day" } else { "/__mock/usage" }).await
    }

    /// The latest requests as they arrived: `headers` and `body` of each.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn last(&self) -> anyhow::Result<Vec<Value>> {
        Ok(serde_json::from_value(self.get("/__mock/last").await?)?)
    }

    /// Turns knobs for all calls from now on.
    ///
    /// # Errors
    /// There is no such knob.
    pub async fn turn(&self, knobs: &[(&str, &str)]) -> anyhow::Result<()> {
        let body: Map<String, Value> =
            knobs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        self.post("/__mock/knobs", &Value::Object(body)).await
    }

    /// Forgets what it counted, and turns the knobs back.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn reset(&self) -> anyhow::Result<()> {
        self.post("/__mock/reset", &Value::Object(Map::new())).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(&format!("http://{}{path}", self.address), &[]).await?;
        anyhow::ensure!(answer.status == 200, "{path}: {}", answer.text());
        answer.json()
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let answer = self.client.post(&format!("http://{}{path}", self.address), &[], body).await?;
        anyhow::ensure!(answer.status == 200, "{path}: {}", answer.text());
        Ok(())
    }
}

/// `tollgate mock-llm` as a process of its own.
#[derive(Debug)]
pub struct ProviderProcess {
    /// Its origin, as it printed it.
    pub url: String,
    _child: Child,
}

impl ProviderProcess {
    /// Starts it and waits for its line `listening on http://…`.
    ///
    /// # Errors
    /// It does not start, or says something else.
    pub async fn start(args: &[&str]) -> anyhow::Result<ProviderProcess> {
        let mut child = Command::new(tollgate())
            .args(["mock-llm", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("standard output is a pipe")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("it ended without a line")?;
        let url = line.strip_prefix("listening on ").with_context(|| format!("unexpected line: {line}"))?.to_owned();
        Ok(ProviderProcess { url, _child: child })
    }
}
