//! Connections that serve several requests at once (HTTP/2), each on a stream, and as many as their peer lets them.
//!
//! Streams are counted here, as a request that is beyond the peer's bound would wait inside of hyper, where nobody could tell it
//! from one that was sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2;
use tokio::time::Instant;

use super::{http1::Made, lane::Lane, peer::Peer};
use crate::body::{BodyFault, UpstreamRequestBody};

pub(super) type Sender = http2::SendRequest<OnStream>;

/// Before a peer has said what it takes. It is asked something at once, as it may be far away.
const FIRST: usize = 1;

/// A connection that requests share; a task drives it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) number: u64,
    pub(super) sender: Sender,
    pub(super) made: Made,
    pub(super) peer: Arc<Peer>,
    pub(super) streams: usize,
    /// When somebody last asked for it, or let go of it.
    pub(super) used: Instant,
}

impl Shared {
    /// Whether it takes requests at all.
    pub(super) fn is_there(&self) -> bool {
        self.sender.is_ready() && !self.peer.goes()
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams < self.peer.most().unwrap_or(FIRST)
    }
}

/// One request's stream on it.
#[derive(Debug)]
pub(super) struct Http2 {
    pub(super) sender: Sender,
    pub(super) made: Made,
    pub(super) stream: Arc<Stream>,
}

/// It is counted until both halves of it are over: the answer, and what of the request is still on its way.
pub(super) struct Stream {
    lane: Arc<Lane>,
    /// The connection's.
    pub(super) number: u64,
}

impl Stream {
    pub(super) fn new(lane: &Arc<Lane>, number: u64) -> Arc<Self> {
        Arc::new(Self { lane: Arc::clone(lane), number })
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("connection", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.lane.stream_is_over(self.number);
    }
}

/// A request's body, with the stream that it goes over.
pub(super) struct OnStream {
    pub(super) body: UpstreamRequestBody,
    pub(super) _stream: Arc<Stream>,
}

impl Body for OnStream {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
