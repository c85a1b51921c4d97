//! Turns every configuration change into a view that the gateway serves, off the hot path.

use std::sync::Arc;

use tokio::{sync::watch, task::spawn_blocking};
use tollgate_admin::backplane::ConfigState;
use tollgate_billing::PriceBook;
use tollgate_gateway::Gateway;
use tollgate_model::{ConfigView, Kind, LogIndex, secret::ClusterKey};
use tracing::{error, info, warn};

use crate::backplane::{Fault, NodeBackplane};

/// Compiles `state`; what does not compile is logged and left out, and never stops the rest.
pub(crate) fn compile(state: &ConfigState, previous: Option<&ConfigView>, key: Option<&ClusterKey>) -> Arc<ConfigView> {
    let (view, problems) = ConfigView::compile(state.index, &state.catalog, previous, key);
    for problem in problems.iter() {
        if problem.kind == Some(Kind::Provider) && problem.field.starts_with("spec.keys[") {
            warn!(%problem, "a provider's key is not to be had on this node");
        } else if problem.field.starts_with("spec.key.") || problem.field.starts_with("spec.tls.certificate.key.") {
            warn!(%problem, "a certificate's key is not to be had on this node");
        } else {
            error!(%problem, "a committed resource can't be served as it is");
        }
    }
    Arc::new(view)
}

/// What is wrong with this node's cluster key, if it is not the one that the configuration was made under.
pub(crate) fn key_fault(view: &ConfigView, key: Option<&ClusterKey>) -> Option<String> {
    let theirs = view.other_cluster_key()?;
    let ours = key.map_or("none".to_owned(), |key| format!("key {}", key.id()));
    Some(format!(
        "the cluster key does not fit: the configuration was made under key {theirs}, and `[cluster] key_file` of this \
         node holds {ours}; give it the file that the other nodes have"
    ))
}

/// Serves every later configuration until the state's owner is gone; `served` follows. Changes that come while one is
/// compiled are served together.
pub(crate) async fn follow(
    mut config: watch::Receiver<ConfigState>,
    prices: impl Fn() -> Arc<PriceBook>,
    gateway: Gateway,
    key: Option<Arc<ClusterKey>>,
    served: watch::Sender<LogIndex>,
    backplane: Arc<NodeBackplane>,
) {
    while config.changed().await.is_ok() {
        let state = config.borrow_and_update().clone();
        let prices = prices(); // of this state, or of a later one
        let (gateway, key) = (gateway.clone(), key.clone());
        let compiled = spawn_blocking(move || {
            let view = compile(&state, Some(&gateway.view()), key.as_deref());
            let (index, fault) = (view.index, key_fault(&view, key.as_deref()));
            gateway.set_view(view, prices);
            (index, fault)
        });
        match compiled.await {
            Ok((index, fault)) => {
                backplane.set_fault(Fault::ClusterKey, fault);
                served.send_replace(index);
                info!(index = index.0, "configuration served");
            }
            Err(error) => error!(%error, "a configuration was not compiled: the one before stays in service"),
        }
    }
}
