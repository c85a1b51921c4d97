//! What a client sends: bounded in size, and not slower than the floor.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    keep::{Keeper, Kept},
    rest::Arriving,
};
use crate::timer::LazyTimer;

/// A body may be silent for this long, and is measured over this long.
const FLOOR_WINDOW: Duration = Duration::from_secs(20);
/// 100 bytes a second.
const FLOOR_BYTES: u64 = 2_000;

/// Why a client's body was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the body is too slow")]
    Slow,
    #[error("the body ended early or is malformed")]
    Broken,
}

/// A client's request body on its way.
///
/// Only time spent waiting for the client counts against it: an upstream that takes nothing stops the clock.
#[derive(Debug)]
pub(crate) struct ClientBody {
    inner: Arriving,
    limit: u64,
    left: u64,
    floor: Floor,
    touched: bool,
    keeper: Option<Box<Keeper>>,
}

impl ClientBody {
    /// # Errors
    /// The body is announced to be larger than `limit`.
    pub(crate) fn new(inner: Arriving, limit: u64) -> Result<Self, BodyFault> {
        if inner.size_hint().lower() > limit {
            return Err(BodyFault::TooLarge { limit });
        }
        Ok(Self { inner, limit, left: limit, floor: Floor::default(), touched: false, keeper: None })
    }

    /// Reads all of it; trailers are dropped.
    pub(crate) async fn collect(mut self) -> Result<Bytes, BodyFault> {
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if whole.is_empty() && more.is_empty() {
                whole = data;
                continue;
            }
            if more.is_empty() {
                let announced = usize::try_from(self.size_hint().lower().min(1 << 20)).unwrap_or(0);
                more.reserve(whole.len() + data.len() + announced);
                more.extend_from_slice(&whole);
            }
            more.extend_from_slice(&data);
        }
        Ok(if more.is_empty() { whole } else { more.freeze() })
    }

    /// Whether any of it was asked for: from then on it can't be sent again.
    fn is_touched(&self) -> bool {
        self.touched
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        this.touched = true;
        this.floor.resume();
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(this.floor.poll_wait(cx));
            return Poll::Ready(Some(Err(BodyFault::Slow)));
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Poll::Ready(Some(Err(BodyFault::Broken))),
            None => {
                if let Some(keeper) = &mut this.keeper {
                    keeper.ended();
                }
                return Poll::Ready(None);
            }
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        this.floor.received(length);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(BodyFault::TooLarge { limit: this.limit }))),
        }
        if let Some(keeper) = &mut this.keeper {
            keeper.goes_by(frame.data_ref().unwrap_or(&Bytes::new()));
            // Whoever knows that this was the last of it does not ask for more.
            if this.inner.is_end_stream() {
                keeper.ended();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The clock of a body that is waited for.
#[derive(Debug, Default)]
struct Floor {
    waiting_since: Option<Instant>,
    /// Waited in this window, and since the last byte.
    waited: Duration,
    silent: Duration,
    bytes: u64,
    timer: LazyTimer,
}

impl Floor {
    /// Takes the time since the last `poll_wait` into account.
    fn resume(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            let waited = since.elapsed();
            self.waited += waited;
            self.silent += waited;
        }
    }

    fn received(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if bytes > 0 {
            self.silent = Duration::ZERO;
        }
    }

    /// Ready when the client has been too slow.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        loop {
            if self.silent >= FLOOR_WINDOW {
                return Poll::Ready(());
            }
            if self.waited >= FLOOR_WINDOW {
                if self.bytes < FLOOR_BYTES {
                    return Poll::Ready(());
                }
                (self.waited, self.bytes) = (Duration::ZERO, 0);
            }
            let left = FLOOR_WINDOW - self.waited.max(self.silent);
            if self.timer.poll(cx, now + left).is_pending() {
                self.waiting_since = Some(now);
                return Poll::Pending;
            }
            self.waited += left;
            self.silent += left;
        }
    }
}

/// What an upstream is sent as a body.
#[derive(Debug)]
pub(crate) enum UpstreamRequestBody {
    /// Here already.
    Whole(Option<Bytes>),
    /// Passed through as it comes.
    Client(Arc<Mutex<ClientBody>>),
}

/// A request's body as it may be sent to more than one upstream, one after the other.
#[derive(Debug)]
pub(crate) enum Replay {
    Whole(Bytes),
    Client(Arc<Mutex<ClientBody>>),
}

impl Replay {
    pub(crate) fn client(body: ClientBody) -> Self {
        Self::Client(Arc::new(Mutex::new(body)))
    }

    /// A copy of it, once all of it has gone by. None where it is known to be longer than `most`, or some of it is gone.
    pub(crate) fn keep(&self, most: usize) -> Option<Kept> {
        match self {
            Self::Whole(bytes) => (bytes.len() <= most).then(|| Kept::Whole(bytes.clone())),
            Self::Client(body) => {
                let mut body = body.lock();
                if body.is_touched() || body.size_hint().lower() > most as u64 {
                    return None;
                }
                let (keeper, coming) = Keeper::new(most);
                body.keeper = Some(Box::new(keeper));
                Some(Kept::Coming(coming))
            }
        }
    }

    /// Whether nothing of it is waited for from the client.
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Client(body) => body.lock().is_end_stream(),
        }
    }

    /// The body for one more attempt, unless some of it is gone.
    pub(crate) fn body(&self) -> Option<UpstreamRequestBody> {
        match self {
            Self::Whole(bytes) => Some(UpstreamRequestBody::Whole(Some(bytes.clone()))),
            Self::Client(body) if body.lock().is_touched() => None,
            Self::Client(body) => Some(UpstreamRequestBody::Client(Arc::clone(body))),
        }
    }
}

impl Body for UpstreamRequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Client(body) => Pin::new(&mut *body.lock()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Client(body) => body.lock().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Client(body) => body.lock().size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn wait(floor: &mut Floor, within: Duration) -> bool {
        floor.resume();
        tokio::time::timeout(
            within,
            poll_fn(|cx| {
                floor.resume();
                floor.poll_wait(cx)
            }),
        )
        .await
        .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_twenty_seconds_is_too_slow() {
        let mut floor = Floor::default();
        floor.received(1_000_000);
        assert!(!wait(&mut floor, Duration::from_secs(19)).await);
        assert!(wait(&mut floor, Duration::from_secs(2)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_too_slow_and_a_steady_flow_is_not() {
        for (bytes, too_slow) in [(50, true), (150, false)] {
            let mut floor = Floor::default();
            let mut ended = false;
            for _ in 0..60 {
                floor.received(bytes);
                ended |= wait(&mut floor, Duration::from_secs(1)).await;
            }
            assert_eq!(ended, too_slow, "{bytes} B/s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_reads_does_not_count() {
        let mut floor = Floor::default();
        floor.received(1);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(!wait(&mut floor, Duration::from_secs(19)).await);
    }
}
