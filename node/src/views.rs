//! Turns every configuration change into a view that the gateway serves, off the hot path.

use std::sync::Arc;

use tokio::{sync::watch, task::spawn_blocking};
use tollgate_admin::backplane::ConfigState;
use tollgate_gateway::Gateway;
use tollgate_model::{ConfigView, Kind, LogIndex, secret::ClusterKey};
use tracing::{error, info, warn};

/// Compiles `state`; what does not compile is logged and left out, and never stops the rest.
pub(crate) fn compile(state: &ConfigState, previous: Option<&ConfigView>, key: Option<&ClusterKey>) -> Arc<ConfigView> {
    let (view, problems) = ConfigView::compile(state.index, &state.catalog, previous, key);
    for problem in problems.iter() {
        if problem.kind == Some(Kind::Provider) && problem.field.starts_with("spec.keys[") {
            warn!(%problem, "a provider's key is not to be had on this node");
        } else {
            error!(%problem, "a committed resource can't be served as it is");
        }
    }
    Arc::new(view)
}

/// Serves every later configuration until the state's owner is gone; `served` follows. Changes that come while one is
/// compiled are served together.
pub(crate) async fn follow(
    mut config: watch::Receiver<ConfigState>,
    gateway: Gateway,
    key: Option<Arc<ClusterKey>>,
    served: watch::Sender<LogIndex>,
) {
    while config.changed().await.is_ok() {
        let state = config.borrow_and_update().clone();
        let (gateway, key) = (gateway.clone(), key.clone());
        let compiled = spawn_blocking(move || {
            let view = compile(&state, Some(&gateway.view()), key.as_deref());
            let index = view.index;
            gateway.set_view(view);
            index
        });
        match compiled.await {
            Ok(index) => {
                served.send_replace(index);
                info!(index = index.0, "configuration served");
            }
            Err(error) => error!(%error, "a configuration was not compiled: the one before stays in service"),
        }
    }
}
