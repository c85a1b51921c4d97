//! What is left of a request's body that nobody wants (HTTP/2).
//!
//! A stream whose request was not read to its end is reset behind its answer (RFC 9113 §8.1), and many clients lose an
//! answer that a reset follows at once. So what is left of a body that was let go is read and dropped, within bounds: the
//! answer goes out meanwhile, and the stream ends by itself. In HTTP/1 the connection's close does the same
//! (`listener::socket`).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::TaskTracker;

/// After this much the stream is reset: three bodies of the default limit, as in HTTP/1.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Or after this long: by then the client has read its answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client's body as it arrives.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// There until it is dropped.
    inner: Option<Incoming>,
    /// Whose task reads the rest of it. Streams are bounded, and so are these tasks.
    tasks: Option<TaskTracker>,
}

impl Arriving {
    /// With `tasks`, the rest is read when it is dropped before its end.
    pub(crate) fn new(inner: Incoming, tasks: Option<TaskTracker>) -> Self {
        Self { inner: Some(inner), tasks }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let rest = self.inner.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), Some(tasks), Ok(runtime)) = (rest, &self.tasks, Handle::try_current()) {
            tasks.spawn_on(async move { drop(timeout(PATIENCE, discard(rest)).await) }, &runtime);
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = MAX_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
