//! An upstream's answer on its way to the client, under backpressure.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::{body::BoxError, timer::LazyTimer, upstream::UpstreamBody};

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
}

impl Relay {
    /// `trailers` says that some are announced: in HTTP/1 they fit behind chunks only, so the length is not told.
    pub(crate) fn new(body: UpstreamBody, idle: Duration, ends_by: Option<Instant>, trailers: bool) -> Self {
        Self { body, idle, ends_by, trailers, waiting_since: None, timer: LazyTimer::default() }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.ends_by.is_some_and(|ends_by| Instant::now() >= ends_by) {
            return Poll::Ready(Some(Err(timed_out("the upstream's answer took longer than it may"))));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.waiting_since = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let silent_by = since + self.idle;
        ready!(self.timer.poll(cx, self.ends_by.map_or(silent_by, |ends_by| ends_by.min(silent_by))));
        Poll::Ready(Some(Err(timed_out("the upstream's answer stopped in the middle"))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.trailers { SizeHint::new() } else { self.body.size_hint() }
    }
}

fn timed_out(why: &'static str) -> BoxError {
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}
