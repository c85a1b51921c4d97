//! The desk's one task: gather, propose, hand out the answers, and again.

use std::{error::Error as _, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};
use tollgate_proto::state::v1::Frame;
use tracing::{debug, warn};

use super::{due::Next, shared::Shared};
use crate::{Uplink, UplinkError};

/// Between attempts when the log cannot be reached: a leader is elected within some hundred milliseconds.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Runs until the desk is stopped and flushed.
pub(super) async fn run(shared: Arc<Shared>, uplink: Arc<dyn Uplink>) {
    tokio::select! {
        () = carry(&shared, uplink.as_ref()) => {}
        () = shared.overdue().cancelled() => {}
    }
    shared.end();
}

async fn carry(shared: &Shared, uplink: &dyn Uplink) {
    let mut backoff = BACKOFF_MIN;
    while wait(shared).await {
        let Some((frame, after)) = shared.next_frame() else { continue };
        let seq = frame.first_seq;
        let Err(failure) = propose(shared, uplink, frame, after).await else {
            backoff = BACKOFF_MIN;
            continue;
        };
        shared.count_failed();
        if backoff == BACKOFF_MIN {
            warn!(seq, error = %failure, "frame not confirmed, sending it again until it is");
        } else {
            debug!(seq, error = %failure, "frame not confirmed, sending again");
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Waits until a frame is due; false when the desk has ended.
async fn wait(shared: &Shared) -> bool {
    loop {
        match shared.next() {
            Next::End => return false,
            Next::Sleep => shared.woken().await,
            Next::At(due) if due <= Instant::now() => return true,
            Next::At(due) => tokio::select! {
                () = sleep_until(due) => {}
                () = shared.woken() => {}
            },
        }
    }
}

/// Why a frame has to be sent again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}: {cause}", cause = cause(.0))]
    Uplink(UplinkError),
    #[error("no answer in time")]
    Timeout,
    #[error("the journal is not on the disk yet")]
    Journal,
    #[error("the ledger does not know this incarnation")]
    Unopened,
    #[error("the ledger lacks records before it")]
    Gap,
}

/// What is under an error that is logged here and goes no further.
fn cause(error: &UplinkError) -> String {
    let chain = std::iter::successors(error.source(), |error| (*error).source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Proposes the frame once. `Ok` when the log has confirmed it, or never will: there is nothing to send again.
async fn propose(shared: &Shared, uplink: &dyn Uplink, frame: Frame, after: u64) -> Result<(), Failure> {
    let records = frame.records.len();
    let by = Instant::now() + shared.config.propose_timeout;
    shared.durable(after, by).await.map_err(|_| Failure::Journal)?;
    shared.asks();
    let proposed = timeout_at(by, uplink.propose(frame, by)).await.map_err(|_| Failure::Timeout)?;
    if matches!(proposed, Ok(_) | Err(UplinkError::Refused(_))) {
        shared.is_heard();
    }
    let outcome = proposed.map_err(Failure::Uplink)?;
    if outcome.unopened {
        return Err(Failure::Unopened);
    }
    if !shared.applied(&outcome) {
        return Err(Failure::Gap);
    }
    shared.count_confirmed(records);
    Ok(())
}
