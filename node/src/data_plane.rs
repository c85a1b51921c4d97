//! The threads of the data plane, and what it may take of the process.
//!
//! Callers are many and are not ours: what they bring about runs on threads of its own, so that the system shares the cores between
//! them and whatever keeps the cluster together, however many requests wait. A queue of tasks that both were in would make heartbeats
//! wait behind callers.

use std::sync::Arc;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Handle, Runtime};
use tollgate_gateway::{AccessLog, Bounds, FileCertificate, GatewayConfig};
use tollgate_model::Name;
use tracing::{info, warn};

use crate::{
    config::{AccessLogPlan, NodeConfig},
    memory::{self, Memory},
};

/// The runtime that callers are served on. Dropping it ends what still runs there, and waits for nothing.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    pub(crate) fn start() -> anyhow::Result<Threads> {
        let runtime = Builder::new_multi_thread().thread_name("data-plane").enable_all().build();
        Ok(Threads(Some(runtime.context("can't start the threads of the data plane")?)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken when it is dropped").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The gateway's settings, with bounds that fit into what the process may open, and its access log, which is opened here.
pub(crate) fn gateway_config(
    config: &NodeConfig,
    certificate: &Option<Arc<FileCertificate>>,
    threads: &Threads,
) -> anyhow::Result<GatewayConfig> {
    let mut gateway = GatewayConfig::new(Name::new(&config.zone));
    gateway.trusted_proxies.clone_from(&config.trusted_proxies);
    gateway.certificate.clone_from(certificate);
    gateway.runtime = Some(threads.handle().clone());
    gateway.bounds = bounds(config, open_files(), memory::found());
    gateway.trace_sample = config.trace_sample;
    gateway.dns.clone_from(&config.dns);
    if let Some(AccessLogPlan { file, fields, sample }) = &config.access_log {
        let log = AccessLog::open(file, fields, *sample);
        gateway.access_log = Some(log.with_context(|| format!("access_log.file: {} can't be opened", file.display()))?);
    }
    Ok(gateway)
}

fn bounds(config: &NodeConfig, files: Option<u64>, memory: Option<Memory>) -> Bounds {
    let most = files.map_or_else(Bounds::default, Bounds::within);
    let most = memory.as_ref().map_or(most, |memory| most.with_memory(memory.bytes));
    let told = |key: &str, told: Option<usize>, most: usize| match told {
        // What nobody has said is bounded by memory, too; what somebody has said by files alone.
        Some(told) if files.is_some_and(|files| told > Bounds::connections_within(files)) => {
            let most = files.map_or(told, Bounds::connections_within);
            warn!(key, told, most, files, "the process may not open as many files as that takes: it is lowered");
            most
        }
        Some(told) => told,
        None => most,
    };
    let max_connections = told("http.max_connections", config.max_connections, most.max_connections);
    let max_requests = told("http.max_requests", config.max_requests, most.max_requests);
    let max_buffered_bytes =
        config.max_buffered.map_or(most.max_buffered_bytes, |told| usize::try_from(told).unwrap_or(usize::MAX));
    let (memory_bytes, memory_by) = memory.map(|memory| (memory.bytes, memory.by.to_string())).unzip();
    info!(
        max_connections,
        max_requests, max_buffered_bytes, files, memory_bytes, memory_by, "bounds of the data plane"
    );
    if let Some(memory) = memory_bytes.filter(|memory| max_buffered_bytes as u64 > memory / 2) {
        warn!(
            max_buffered_bytes,
            memory,
            "http.max_buffered is more than half of the memory there is: the node may be killed before it refuses"
        );
    }
    Bounds { max_connections, max_requests, max_buffered_bytes, ..most }
}

/// How many files the process may open, once it may open as many as it can be allowed; none where that is not bounded.
fn open_files() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    if now.current == now.maximum {
        return now.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => now.maximum,
        Err(error) => {
            warn!(%error, "the process can't raise how many files it may open");
            now.current
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::tests::GOOD, memory::By};

    fn config(env: &[(&str, &str)]) -> NodeConfig {
        let env = env.iter().map(|(key, value)| (key.into(), value.into()));
        NodeConfig::parse(GOOD, Path::new("/"), env, false).unwrap()
    }

    #[test]
    fn what_is_said_holds_as_far_as_files_allow() {
        let said = config(&[("TOLLGATE_HTTP_MAX_CONNECTIONS", "30000"), ("TOLLGATE_HTTP_MAX_REQUESTS", "7")]);
        let of = |bounds: Bounds| (bounds.max_connections, bounds.max_requests);
        assert_eq!(of(bounds(&said, Some(1 << 20), None)), (30_000, 7));
        assert_eq!(of(bounds(&said, Some(256), None)), (64, 7));
        assert_eq!(of(bounds(&config(&[]), Some(256), None)), (64, 64));
        assert_eq!(of(bounds(&said, None, None)), (30_000, 7));
        assert_eq!(bounds(&said, Some(256), None).max_file, Some(192));
    }

    #[test]
    fn what_nobody_says_fits_into_memory_and_what_is_said_holds() {
        let little = || Some(Memory { bytes: 512 << 20, by: By::Machine });
        let of = |bounds: Bounds| (bounds.max_connections, bounds.max_requests, bounds.max_buffered_bytes);
        assert_eq!(of(bounds(&config(&[]), None, little())), (2_621, 2_621, 128 << 20));
        assert_eq!(of(bounds(&config(&[]), None, None)), (20_000, 20_000, 256 << 20));
        let said = config(&[("TOLLGATE_HTTP_MAX_REQUESTS", "9000"), ("TOLLGATE_HTTP_MAX_BUFFERED", "400MiB")]);
        assert_eq!(of(bounds(&said, None, little())), (2_621, 9_000, 400 << 20));
    }
}
