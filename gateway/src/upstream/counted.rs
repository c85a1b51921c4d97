//! What there is of connections to an endpoint, counted.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;

use super::{breaker::Permit, means::Tcp};

/// A count that is wrong costs a connection too many, or one that is made later: what is sent, and when, does not depend on it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: AtomicUsize,
    /// Requests that have, or wait for, a connection.
    busy: AtomicUsize,
}

impl Counts {
    pub(super) fn comes(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leaves(&self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether one more connection is needed beside those that are open and `coming`, where each has one request.
    pub(super) fn lacks(&self, coming: usize) -> bool {
        self.open.load(Ordering::Relaxed) + coming < self.busy.load(Ordering::Relaxed)
    }
}

/// A connection that is counted as long as it is open.
pub(super) struct Counted {
    inner: MaybeHttpsStream<Tcp>,
    counts: Arc<Counts>,
    /// Whatever is spoken over it.
    _permit: Permit,
}

impl Counted {
    pub(super) fn new(inner: MaybeHttpsStream<Tcp>, counts: &Arc<Counts>, permit: Permit) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self { inner, counts: Arc::clone(counts), _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Read for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }
}
