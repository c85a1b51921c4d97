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
    pulse::Pulse,
    rest::Arriving,
};
use crate::{
    grpc::{Decoder, Messages, NoBase64, TooLarge},
    overload::Room,
    timer::LazyTimer,
};

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
    #[error("there is no room for the body")]
    NoRoom,
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
    call: Option<Box<CallBody>>,
    decoder: Option<Box<Decoder>>,
    fault: Option<BodyFault>,
}

/// What a call of gRPC sends: it may be silent, and each of its messages is bounded.
#[derive(Debug)]
struct CallBody {
    messages: Messages,
    pulse: Arc<Pulse>,
}

impl ClientBody {
    /// # Errors
    /// The body is announced to be larger than `limit`.
    pub(crate) fn new(inner: Arriving, limit: u64) -> Result<Self, BodyFault> {
        if inner.size_hint().lower() > limit {
            return Err(BodyFault::TooLarge { limit });
        }
        Ok(Self::any(inner, limit))
    }

    /// The messages of a call, each no larger than `limit`. Whoever waits for its answer sees by `pulse` that it goes on.
    pub(crate) fn of_call(inner: Arriving, limit: u64, pulse: Arc<Pulse>) -> Self {
        let call = Box::new(CallBody { messages: Messages::new(limit), pulse });
        Self { call: Some(call), ..Self::any(inner, limit) }
    }

    /// Read from base64, if it is `text`.
    pub(crate) fn decoded(self, text: bool) -> Self {
        Self { decoder: text.then(Box::default), ..self }
    }

    fn any(inner: Arriving, limit: u64) -> Self {
        let floor = Floor::default();
        Self { inner, limit, left: limit, floor, touched: false, keeper: None, call: None, decoder: None, fault: None }
    }

    /// Counts what has come.
    fn received(&mut self, data: &[u8]) -> Result<(), BodyFault> {
        let length = data.len() as u64;
        let too_large = BodyFault::TooLarge { limit: self.limit };
        if let Some(call) = &mut self.call {
            call.pulse.beat();
            return call.messages.go_by(data).map_err(|TooLarge| too_large);
        }
        self.floor.received(length);
        self.left = self.left.checked_sub(length).ok_or(too_large)?;
        Ok(())
    }

    /// Nothing has come. Ready when that has been so for too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.call.is_some() { Poll::Pending } else { self.floor.poll_wait(cx) }
    }

    /// Reads all of it into `room`; trailers are dropped.
    pub(crate) async fn collect(mut self, room: &mut Room) -> Result<Bytes, BodyFault> {
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            room.take(data.len())?;
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

impl ClientBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.touched = true;
        self.floor.resume();
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            ready!(self.poll_wait(cx));
            return Poll::Ready(Some(Err(BodyFault::Slow)));
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Poll::Ready(Some(Err(BodyFault::Broken))),
            None => {
                if self.decoder.take().is_some_and(|decoder| decoder.end().is_err()) {
                    return Poll::Ready(Some(Err(BodyFault::Broken)));
                }
                if let Some(keeper) = &mut self.keeper {
                    keeper.ended();
                }
                return Poll::Ready(None);
            }
        };
        self.received(frame.data_ref().map_or(&[], |data| data))?;
        let frame = match (&mut self.decoder, frame.into_data()) {
            (Some(decoder), Ok(data)) => {
                let data = decoder.decode(&data).map_err(|NoBase64| BodyFault::Broken)?;
                if data.is_empty() {
                    cx.waker().wake_by_ref(); // the rest of four may be here
                    return Poll::Pending;
                }
                Frame::data(data)
            }
            (None, Ok(data)) => Frame::data(data),
            (_, Err(other)) => other,
        };
        if let Some(keeper) = &mut self.keeper {
            keeper.goes_by(frame.data_ref().unwrap_or(&Bytes::new()));
            // Whoever knows that this was the last of it does not ask for more.
            if self.inner.is_end_stream() {
                keeper.ended();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let next = self.poll_next(cx);
        if let Poll::Ready(Some(Err(fault))) = &next {
            self.fault = Some(*fault);
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.decoder.as_ref().is_none_or(|decoder| decoder.end().is_ok())
    }

    fn size_hint(&self) -> SizeHint {
        if self.decoder.is_some() { SizeHint::default() } else { self.inner.size_hint() }
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

    /// Whether it may be sent to several at once.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// Whether nothing of it is waited for from the client.
    pub(crate) fn is_here(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Client(body) => body.lock().is_end_stream(),
        }
    }

    /// Why it came to no end, if so. Over HTTP/2 whoever sends it on only tells that its stream was reset.
    pub(crate) fn fault(&self) -> Option<BodyFault> {
        match self {
            Self::Whole(_) => None,
            Self::Client(body) => body.lock().fault,
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
