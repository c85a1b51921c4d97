//! What a request holds of its limits until its answer has ended.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::StatusCode;
use tollgate_quota::{InFlight, Touch};

use super::settle;

/// Settled when it is dropped.
pub(super) struct Held {
    in_flight: Option<InFlight>,
    status: StatusCode,
    /// Where it has a permit: until others may have it.
    lost: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Held {
    pub(super) fn new(in_flight: InFlight, permit: Option<Arc<Touch>>, status: StatusCode) -> Self {
        let lost = permit
            .map(|permit| -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(async move { permit.lost().await }) });
        Self { in_flight: Some(in_flight), status, lost }
    }

    /// Whether it keeps a permit from others.
    pub(super) fn has_permit(&self) -> bool {
        self.lost.is_some()
    }

    /// Ready when its permit may soon be given to others: it ends before.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.lost {
            Some(lost) => lost.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            settle(in_flight, self.status.as_u16());
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("status", &self.status).finish_non_exhaustive()
    }
}
