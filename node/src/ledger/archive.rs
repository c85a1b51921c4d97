//! Takes old segments of the ledger to the archive, for as long as this node runs. Each node for itself: nothing is agreed on.

use std::{io, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use tollgate_model::Timestamp;
use tracing::{info, warn};

use crate::state::Shared;

/// Between two looks for what has grown old.
const EVERY: Duration = Duration::from_secs(10);

/// Archives what was settled longer ago than `after`, by log time, once the months of all its rows are closed.
pub(crate) async fn archive(state: Arc<Shared>, after: Duration) {
    let mut failed = false;
    loop {
        sleep(EVERY).await;
        match pass(&state, after).await {
            Ok(0) => failed = false,
            Ok(segments) => {
                failed = false;
                info!(segments, "old segments of the ledger were archived");
            }
            Err(error) if !failed => {
                warn!(%error, "can't archive segments of the ledger, keeping them here: look at ledger.archive");
                failed = true;
            }
            Err(_) => {}
        }
    }
}

/// How many segments went; those before an error have, too.
async fn pass(state: &Arc<Shared>, after: Duration) -> io::Result<u64> {
    let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
    let before = Timestamp(state.log_time().0.saturating_sub(micros));
    let mut gone = 0;
    loop {
        let of = Arc::clone(state);
        let next = spawn_blocking(move || of.books().archive_next(before)).await;
        match next.map_err(io::Error::other)? {
            Ok(true) => gone += 1,
            Ok(false) => return Ok(gone),
            Err(error) => return Err(error),
        }
    }
}
