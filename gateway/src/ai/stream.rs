//! A provider's stream on its way to the caller, under backpressure; the usage is read going by.
//!
//! Whatever ends it, the call is settled exactly once: here at the end, or in `Drop` when the caller left.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use tollgate_llm::{ApiError, Emit, StreamError, StreamRelay, code};
use tollgate_quota::Outcome;
use tracing::debug;

use super::{admit::LONGEST_STREAM, settle::Call};
use crate::timer::LazyTimer;

type Pieces = <Emit as IntoIterator>::IntoIter;

/// A stream that ends with its dialect's terminal event, or with an error event, never in between.
#[derive(Debug)]
pub(crate) struct AiStream {
    body: Option<Incoming>,
    relay: StreamRelay,
    ready: Pieces,
    /// The last words, after `ready`.
    farewell: Option<Bytes>,
    call: Option<Call>,
    idle: Duration,
    waiting_since: Option<Instant>,
    ends_by: Instant,
    timer: LazyTimer,
}

impl AiStream {
    /// `ends_by` is for the whole of it, where the route names a time.
    pub(super) fn new(
        body: Incoming,
        relay: StreamRelay,
        first: Emit,
        call: Call,
        idle: Duration,
        ends_by: Option<Instant>,
    ) -> Self {
        Self {
            body: Some(body),
            relay,
            ready: first.into_iter(),
            farewell: None,
            call: Some(call),
            idle,
            waiting_since: None,
            ends_by: ends_by.unwrap_or_else(|| Instant::now() + LONGEST_STREAM),
            timer: LazyTimer::default(),
        }
    }

    /// The next bytes for the caller, or the end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(piece) = self.ready.next().or_else(|| self.farewell.take()) {
                return Poll::Ready(Some(piece));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            if Instant::now() >= self.ends_by {
                self.time_out("The provider's stream took longer than it may take here.");
                continue;
            }
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                ready!(self.poll_patience(cx));
                if Instant::now() < self.ends_by {
                    self.time_out("The provider's stream stopped in the middle.");
                }
                continue;
            };
            self.waiting_since = None;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.push(&data),
                    Err(_trailers) => {}
                },
                Some(Err(_)) if self.relay.is_complete() => self.finish(),
                Some(Err(error)) => {
                    debug!(%error, "a provider's stream was cut");
                    self.fail(code::UPSTREAM_ERROR, 502, "The provider's stream was cut in the middle.");
                }
                None => self.finish(),
            }
        }
    }

    /// Ready when the provider has been silent for too long. Time in which the caller takes nothing does not count.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        self.timer.poll(cx, (since + self.idle).min(self.ends_by))
    }

    fn push(&mut self, data: &Bytes) {
        match self.relay.push(data) {
            Ok(emit) => self.ready = emit.into_iter(),
            Err(error) => self.broke(&error),
        }
        let output = self.relay.counted_output();
        if let Some(call) = &mut self.call {
            let usage = tollgate_llm::Usage { output, ..call.unanswered() };
            call.count(usage);
        }
    }

    fn finish(&mut self) {
        match self.relay.finish() {
            Ok(emit) => {
                self.ready = emit.into_iter();
                self.end(Outcome::Settled);
            }
            Err(error) => self.broke(&error),
        }
    }

    /// A stream whose last event was sent on has not failed, whatever its connection does.
    fn time_out(&mut self, message: &str) {
        if self.relay.is_complete() {
            self.finish();
        } else {
            self.fail(code::UPSTREAM_TIMEOUT, 504, message);
        }
    }

    fn broke(&mut self, error: &StreamError) {
        self.fail(code::UPSTREAM_ERROR, 502, &super::answer::sentence(error));
    }

    /// Tells the caller, in its dialect, that this is not the whole answer.
    fn fail(&mut self, code: &'static str, status: u16, message: &str) {
        let event = self.relay.fail(&ApiError::new(status, code, message));
        self.farewell = Some(event).filter(|event| !event.is_empty());
        self.end(Outcome::Partial);
    }

    fn end(&mut self, outcome: Outcome) {
        self.body = None;
        if let Some(call) = self.call.take() {
            call.settle(self.relay.usage(), outcome, 200);
        }
    }
}

impl Drop for AiStream {
    fn drop(&mut self) {
        let outcome = if self.relay.is_complete() { Outcome::Settled } else { Outcome::Partial };
        self.end(outcome); // the caller left; nothing happens if the stream had ended
    }
}
