//! The port: connections, and which part answers a request.

mod connection;
mod http;
mod services;

use std::{sync::Arc, time::Duration};

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_model::secret::ClusterKey;
use tracing::warn;

use self::http::Front;
use crate::{backplane::Backplane, metrics::AdminMetrics};

pub use services::{MAX_ANSWER_BYTES, MAX_APPLY_BYTES};

/// Connections at a time. The admin port has few callers; one more is closed at once, so that the accept queue never
/// hides that the port is full.
const MAX_CONNECTIONS: usize = 1_024;
/// After an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin plane works with.
#[derive(Clone)]
pub struct AdminState {
    /// The node beneath.
    pub backplane: Arc<dyn Backplane>,
    /// Hashes tokens and seals secrets. Without it every token is refused.
    pub key: Option<Arc<ClusterKey>>,
    /// What `/metrics` shows. The node goes on registering while the port is open already.
    pub registry: Arc<RwLock<Registry>>,
    /// Registered in `registry`.
    pub metrics: AdminMetrics,
}

/// When the admin plane ends.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// No new connection and no new call on an old one; watches end. Calls in flight go on.
    pub drain: CancellationToken,
    /// Whatever is left is cut.
    pub stop: CancellationToken,
}

/// Serves until `shutdown.drain` is cancelled and every connection has ended, or `shutdown.stop` is cancelled.
///
/// # Cancel safety
/// Dropping the future cuts every connection.
pub async fn serve(listener: TcpListener, state: AdminState, shutdown: Shutdown) {
    let tasks = TaskTracker::new();
    // Dropped with this future: whatever it owns ends with it.
    let cut = shutdown.stop.child_token();
    let _cut_on_drop = cut.clone().drop_guard();
    let front = Front::new(&state, &tasks, &shutdown.drain);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = shutdown.drain.cancelled() => break,
            () = cut.cancelled() => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (front, drain, cut) = (front.clone(), shutdown.drain.clone(), cut.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = connection::run(stream, front, drain) => {}
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                warn!(%error, "admin port can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
