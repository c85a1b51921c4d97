//! An upstream's answer on its way to the client, under backpressure.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{Held, OwnedRelay};
use crate::{
    body::{BoxError, Pulse},
    filters::admit::PERMIT_LOST,
    grpc::{self, Encoder},
    timer::LazyTimer,
    upstream::UpstreamBody,
};

const TOOK_LONG: &str = "the upstream's answer took longer than it may";

/// A body that may not be silent for too long (time in which the client takes nothing does not count), nor take longer
/// in all than its route says.
#[derive(Debug)]
pub(crate) struct Relay {
    body: UpstreamBody,
    idle: Duration,
    ends_by: Option<Instant>,
    trailers: bool,
    waiting_since: Option<Instant>,
    timer: LazyTimer,
    call: Option<Box<CallRelay>>,
    /// Of its limits, until the last byte is here.
    held: Option<Box<Held>>,
}

/// The answer to a call of gRPC: its other direction may go on meanwhile, and what cuts it is told by its trailers.
#[derive(Debug)]
struct CallRelay {
    pulse: Arc<Pulse>,
    /// For a caller who speaks gRPC-Web.
    encoder: Option<Encoder>,
    is_cut: bool,
}

impl Relay {
    /// `trailers` says that some are announced: in HTTP/1 they fit behind chunks only, so the length is not told.
    pub(super) fn new(body: UpstreamBody, idle: Duration, ends_by: Option<Instant>, trailers: bool) -> Self {
        let timer = LazyTimer::default();
        Self { body, idle, ends_by, trailers, waiting_since: None, timer, call: None, held: None }
    }

    /// An answer that holds something: a task of its own relays it. A client that takes nothing for so long is gone, as on its
    /// socket: its permit is for others. Of other limits nobody is kept waiting by it.
    pub(super) fn holding(self, held: Held, taken_within: Duration, tasks: &TaskTracker) -> OwnedRelay {
        let taken_within = held.has_permit().then_some(taken_within);
        OwnedRelay::spawn(Self { held: Some(Box::new(held)), ..self }, taken_within, tasks)
    }

    /// The answer to a call, whose own messages beat `pulse`.
    pub(crate) fn of_call(self, pulse: Arc<Pulse>, encoder: Option<Encoder>) -> Self {
        Self { call: Some(Box::new(CallRelay { pulse, encoder, is_cut: false })), ..self }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_cut() {
            return Poll::Ready(None);
        }
        if let Some(why) = self.must_end(cx) {
            return Poll::Ready(Some(self.cut(why)));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting_since = None;
            if frame.is_none() || self.body.is_end_stream() {
                self.held = None; // before the client can know, and come again
            }
            let encoder = self.call.as_ref().and_then(|call| call.encoder);
            return Poll::Ready(frame.map(|frame| frame.map(|it| encoded(encoder, it)).map_err(BoxError::from)));
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        while self.timer.poll(cx, self.waits_by(since)).is_ready() {
            // The caller may have said something since.
            if Instant::now() >= self.waits_by(since) {
                return Poll::Ready(Some(self.cut("the upstream's answer stopped in the middle")));
            }
        }
        Poll::Pending
    }

    /// Ready once it may wait no longer for a client that takes nothing, at `by` at the latest: with its end.
    pub(super) fn poll_kept_waiting(
        &mut self,
        cx: &mut Context<'_>,
        by: Option<Instant>,
    ) -> Poll<Result<Frame<Bytes>, BoxError>> {
        if let Some(why) = self.must_end(cx) {
            return Poll::Ready(self.cut(why));
        }
        let Some(by) = self.ends_by.into_iter().chain(by).min() else { return Poll::Pending };
        ready!(self.timer.poll(cx, by));
        let why = if self.is_over() { TOOK_LONG } else { "the client takes nothing" };
        Poll::Ready(self.cut(why))
    }

    /// Why it may not go on, if so.
    fn must_end(&mut self, cx: &mut Context<'_>) -> Option<&'static str> {
        if self.is_over() {
            return Some(TOOK_LONG);
        }
        let is_lost = self.held.as_mut().is_some_and(|held| held.poll_lost(cx).is_ready());
        is_lost.then_some(PERMIT_LOST)
    }

    fn is_over(&self) -> bool {
        self.ends_by.is_some_and(|ends_by| Instant::now() >= ends_by)
    }

    fn waits_by(&self, since: Instant) -> Instant {
        let said = self.call.as_ref().and_then(|call| call.pulse.last());
        let silent_by = said.map_or(since, |said| said.max(since)) + self.idle;
        self.ends_by.map_or(silent_by, |ends_by| ends_by.min(silent_by))
    }

    /// Ends it early: a call by trailers that say so.
    fn cut(&mut self, why: &'static str) -> Result<Frame<Bytes>, BoxError> {
        let is_over = self.is_over();
        let Some(call) = &mut self.call else { return Err(io::Error::new(io::ErrorKind::TimedOut, why).into()) };
        call.is_cut = true;
        Ok(encoded(call.encoder, Frame::trailers(grpc::cut(is_over, why))))
    }

    /// Whether it was ended before its end.
    pub(crate) fn is_cut(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.is_cut)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.is_cut() || self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let is_changed = self.call.as_ref().is_some_and(|call| call.encoder.is_some());
        if self.trailers || is_changed { SizeHint::new() } else { self.body.size_hint() }
    }
}

fn encoded(encoder: Option<Encoder>, frame: Frame<Bytes>) -> Frame<Bytes> {
    let Some(encoder) = encoder else { return frame };
    match frame.into_data() {
        Ok(data) => Frame::data(encoder.data(data)),
        Err(frame) => match frame.into_trailers() {
            Ok(trailers) => Frame::data(encoder.trailers(&trailers)),
            Err(other) => other,
        },
    }
}
