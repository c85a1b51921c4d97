//! The tasks that ask for names again when their answers are over.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinSet, time::sleep_until};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_model::{Kind, Name};
use tracing::error;

use super::{Named, resolver::Resolver};
use crate::{DnsConfig, compiled::Compiled, gateway::Shared};

/// One task for each upstream that has names. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Resolvers {
    resolver: Arc<Resolver>,
    tasks: TaskTracker,
    runtime: Handle,
    running: Mutex<HashMap<(Kind, Name), Running>>,
}

#[derive(Debug)]
struct Running {
    of: Vec<Arc<Named>>,
    _task: AbortOnDropHandle<()>,
}

impl Resolvers {
    /// They run there.
    pub(crate) fn new(config: DnsConfig, runtime: Handle) -> Self {
        let resolver = Arc::new(Resolver::new(config));
        Self { resolver, tasks: TaskTracker::new(), runtime, running: Mutex::default() }
    }

    /// Resolves what this configuration names, and nothing else. What did not change goes on.
    pub(crate) fn follow(&self, shared: &Arc<Shared>, compiled: &Compiled) {
        let mut running = self.running.lock();
        let mut before = std::mem::take(&mut *running);
        for (key, endpoints) in compiled.upstreams() {
            let names = endpoints.names();
            if names.is_empty() {
                continue;
            }
            let is_same =
                |of: &[Arc<Named>]| of.len() == names.len() && of.iter().zip(names).all(|(a, b)| Arc::ptr_eq(a, b));
            let known = before.remove(&key).filter(|known| is_same(&known.of));
            let begin = || {
                let resolving =
                    resolve_all(Arc::downgrade(shared), Arc::clone(&self.resolver), key.clone(), names.to_vec());
                let task = AbortOnDropHandle::new(self.tasks.spawn_on(resolving, &self.runtime));
                Running { of: names.to_vec(), _task: task }
            };
            let now = known.unwrap_or_else(begin);
            running.insert(key, now);
        }
    }
}

/// All names of one upstream, each when it is due, for as long as the gateway is there.
async fn resolve_all(shared: Weak<Shared>, resolver: Arc<Resolver>, key: (Kind, Name), names: Vec<Arc<Named>>) {
    let mut resolving = JoinSet::new();
    for named in names {
        resolving.spawn(resolve_one(Weak::clone(&shared), Arc::clone(&resolver), key.clone(), named));
    }
    while let Some(ended) = resolving.join_next().await {
        if let Err(error) = ended {
            error!(%error, upstream = %key.1, "a name is no longer resolved");
        }
    }
}

async fn resolve_one(shared: Weak<Shared>, resolver: Arc<Resolver>, (kind, upstream): (Kind, Name), named: Arc<Named>) {
    loop {
        sleep_until(named.due()).await;
        let (told, failure) = resolver.look_up(&named.host).await;
        let changed = named.take(told, failure.as_ref().map(|it| it as _));
        let Some(shared) = shared.upgrade() else { return };
        if changed {
            shared.renew(kind, &upstream);
        }
    }
}
