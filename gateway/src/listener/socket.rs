//! A client's socket: what was read to tell the protocols apart, a bound on stalled writes, and a close that lets the
//! last answer arrive.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::timer::LazyTimer;

/// After an answer that closes the connection, what the client still sends is read and dropped: closing with unread
/// bytes would reset the connection and take the answer along. It ends once the client was silent for so long, …
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// … once it took so long in all, …
const LINGER: Duration = Duration::from_secs(10);
/// … or after this much: three bodies of the default limit.
const LINGER_BYTES: usize = 32 * 1024 * 1024;
/// Dropped at once.
const DISCARD_BYTES: usize = 16 * 1024;

pub(super) struct Socket<S> {
    inner: S,
    prefix: Bytes,
    /// A client that takes nothing for so long is gone: what it holds is given back.
    taken_within: Duration,
    stall: Option<Instant>,
    timer: LazyTimer,
    /// By when TLS has said goodbye, or is not waited for.
    closing: Option<Instant>,
    linger: Option<Linger>,
}

struct Linger {
    since: Instant,
    heard: Instant,
    left: usize,
}

impl Linger {
    fn new(now: Instant) -> Self {
        Self { since: now, heard: now, left: LINGER_BYTES }
    }

    fn ends_by(&self) -> Instant {
        (self.heard + LINGER_SILENCE).min(self.since + LINGER)
    }
}

impl<S> Socket<S> {
    pub(super) fn new(inner: S, prefix: Bytes, taken_within: Duration) -> Self {
        let timer = LazyTimer::default();
        Self { inner, prefix, taken_within, stall: None, timer, closing: None, linger: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Reads what comes and drops it. Ready at the end, an error, or when `left` is used up.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let mut scratch = [0; DISCARD_BYTES];
        while *left > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *self).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => *left = left.saturating_sub(buf.filled().len()),
                _ => *left = 0,
            }
        }
        Poll::Ready(())
    }

    /// Ends what is written, and goes on reading.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stall = None;
            return poll;
        }
        let since = *self.stall.get_or_insert_with(Instant::now);
        ready!(self.timer.poll(cx, since + self.taken_within));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let taken = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..taken]);
        self.prefix.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            // TLS says goodbye first, and for that there has to be room.
            let closing = this.closing.get_or_insert_with(|| Instant::now() + LINGER);
            match Pin::new(&mut this.inner).poll_shutdown(cx)? {
                Poll::Ready(()) => this.linger = Some(Linger::new(Instant::now())),
                Poll::Pending => return this.timer.poll(cx, *closing).map(Ok),
            }
        }
        let mut linger = this.linger.take().expect("set above");
        let before = linger.left;
        let ended = this.poll_discard(cx, &mut linger.left).is_ready();
        if linger.left < before {
            linger.heard = Instant::now();
        }
        let ended = ended || this.timer.poll(cx, linger.ends_by()).is_ready();
        if ended {
            linger.left = 0;
        }
        this.linger = Some(linger);
        if ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Closes a socket while `client` does what it does; how long that took.
    async fn close(client: impl AsyncFnOnce(DuplexStream)) -> Duration {
        let (near, far) = duplex(64 * 1024);
        let mut socket = Socket::new(near, Bytes::new(), Duration::from_secs(60));
        let started = Instant::now();
        let closing = poll_fn(|cx| Pin::new(&mut socket).poll_shutdown(cx));
        tokio::select! {
            closed = closing => assert!(closed.is_ok()),
            () = async { client(far).await; std::future::pending().await } => {}
        }
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_ends_is_not_waited_for() {
        assert_eq!(close(async |client| drop(client)).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_waited_for_a_moment() {
        let silent = async |mut client: DuplexStream| {
            client.read_to_end(&mut Vec::new()).await.unwrap();
            std::future::pending().await
        };
        assert!((2..3).contains(&close(silent).await.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_for_ever_is_cut_by_time_and_by_size() {
        for (pause, least, most) in [(1_000, 10, 11), (0, 0, 1)] {
            let writing = async |mut client: DuplexStream| {
                while client.write_all(&[0; 32 * 1024]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            };
            let took = close(writing).await;
            assert!((least..most).contains(&took.as_secs()), "{took:?}");
        }
    }
}
