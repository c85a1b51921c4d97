//! Stopping: leadership first, then consensus, then the disk.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::Core;

/// Handing over takes some 20 ms; a cluster where it does not work shall not hold up the stop.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls under way end by themselves at once; a connection that does not close is not waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Core {
    pub(crate) async fn shutdown(self: &Arc<Self>, deadline: Instant) {
        if self.leads() {
            let until = deadline.min(Instant::now() + HAND_OVER_TIMEOUT);
            let handed = self.hand_over(None, until).await;
            tracing::info!(?handed, "leadership handed over before stopping");
        }
        if self.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.raft.shutdown().await.is_err() {
            tracing::warn!("consensus did not end well");
        }
        self.shared.set_core(None);
        self.stop.cancel();
        self.tracker.close();
        if timeout_at(deadline.min(Instant::now() + CLOSE_TIMEOUT), self.tracker.wait()).await.is_err() {
            tracing::debug!("peer connections were still open at the end");
        }
        let store = Arc::clone(&self.store);
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::warn!("the state store did not close");
        }
        self.data_dir.lock().take();
    }
}
