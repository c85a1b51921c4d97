//! A provider's stream on its way to the caller, under backpressure; the usage is read going by.
//!
//! Whatever ends it, the call is settled exactly once: at the end, or in `leave.rs` when the caller left or ran out of time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body as _;
use tokio::time::Instant;
use tollgate_llm::{ApiError, Emit, StreamError, code};
use tollgate_quota::Written;
use tracing::debug;

use super::{admit::LONGEST_STREAM, leave::Source, pace::BEHIND};
use crate::{
    metrics::{CUT_BY_CALLER, CUT_BY_TIME},
    timer::LazyTimer,
};

type Pieces = <Emit as IntoIterator>::IntoIter;

/// A stream that ends with its dialect's terminal event, or with an error event, never in between.
#[derive(Debug)]
pub(crate) struct AiStream {
    /// Until it has ended.
    source: Option<Source>,
    ready: Pieces,
    /// The last words, after `ready`.
    farewell: Option<Bytes>,
    /// The last bytes wait for it.
    written: Option<Written>,
    idle: Duration,
    waiting_since: Option<Instant>,
    /// When the caller was given the latest bytes.
    gave_at: Option<Instant>,
    ends_by: Instant,
    timer: LazyTimer,
}

impl AiStream {
    /// `ends_by` is for the whole of it, where the route names a time.
    pub(super) fn new(mut source: Source, first: Emit, idle: Duration, ends_by: Option<Instant>) -> Self {
        let written = last_words_wait(&mut source);
        Self {
            source: Some(source),
            ready: first.into_iter(),
            farewell: None,
            written,
            idle,
            waiting_since: None,
            gave_at: None,
            ends_by: ends_by.unwrap_or_else(|| Instant::now() + LONGEST_STREAM),
            timer: LazyTimer::default(),
        }
    }

    /// The next bytes for the caller, or the end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(written) = &mut self.written {
                ready!(Pin::new(written).poll(cx));
                self.written = None;
            }
            if let Some(piece) = self.ready.next().or_else(|| self.farewell.take()) {
                self.gave_at = Some(Instant::now());
                return Poll::Ready(Some(piece));
            }
            let Some(source) = &mut self.source else { return Poll::Ready(None) };
            if self.gave_at.take().is_some_and(|at| at.elapsed() > BEHIND) {
                source.fall_behind();
            }
            if Instant::now() >= self.ends_by {
                self.time_out("The provider's stream took longer than it may take here.");
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut source.body).poll_frame(cx) else {
                ready!(self.poll_patience(cx));
                if Instant::now() < self.ends_by {
                    self.time_out("The provider's stream stopped in the middle.");
                }
                continue;
            };
            let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.push(&data, waited),
                    Err(_trailers) => {}
                },
                Some(Err(_)) if source.relay.is_complete() => self.finish(),
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

    fn push(&mut self, data: &Bytes, waited: Duration) {
        let Some(source) = &mut self.source else { return };
        match source.push(data, waited) {
            Ok(emit) => {
                self.ready = emit.into_iter();
                self.written = last_words_wait(source);
            }
            Err(error) => self.broke(&error),
        }
    }

    fn finish(&mut self) {
        let Some(source) = &mut self.source else { return };
        match source.relay.finish() {
            Ok(emit) => {
                self.ready = emit.into_iter();
                self.end();
            }
            Err(error) => self.broke(&error),
        }
    }

    /// A stream whose last event was sent on has not failed, whatever its connection does. Of any other the provider may
    /// be writing more at this moment.
    fn time_out(&mut self, message: &str) {
        if self.source.as_ref().is_some_and(|source| source.relay.is_complete()) {
            return self.finish();
        }
        self.tell(code::UPSTREAM_TIMEOUT, 504, message);
        if let Some(source) = self.source.take() {
            source.leave(CUT_BY_TIME);
        }
    }

    fn broke(&mut self, error: &StreamError) {
        self.fail(code::UPSTREAM_ERROR, 502, &super::answer::sentence(error));
    }

    fn fail(&mut self, code: &'static str, status: u16, message: &str) {
        self.tell(code, status, message);
        self.end();
    }

    /// Tells the caller, in its dialect, that this is not the whole answer.
    fn tell(&mut self, code: &'static str, status: u16, message: &str) {
        let Some(source) = &mut self.source else { return };
        let event = source.relay.fail(&ApiError::new(status, code, message));
        self.farewell = Some(event).filter(|event| !event.is_empty());
    }

    /// Settles. The last bytes wait until that is written.
    fn end(&mut self) {
        self.written = self.source.take().map(|mut source| source.settle());
    }
}

/// Settles once the terminal event is there: callers take it for the end, whenever the connection ends, so it is among the last bytes.
fn last_words_wait(source: &mut Source) -> Option<Written> {
    source.relay.is_complete().then(|| source.settle())
}

impl Drop for AiStream {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.leave(CUT_BY_CALLER);
        }
    }
}
