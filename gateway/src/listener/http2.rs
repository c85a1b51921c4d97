//! An HTTP/2 connection as hyper reads it: without floods and without header blocks that never end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    frames::{ACK, CONTINUATION, Credit, END_HEADERS, Frame, Frames, HEADERS, PREFACE, SETTINGS},
    http1::HEAD_TIMEOUT,
    socket::Socket,
};
use crate::timer::LazyTimer;

pub(super) struct Http2Io<S> {
    socket: Socket<S>,
    received: Frames,
    sent: Frames,
    credit: Credit,
    /// Whether the client has said its settings, which are the first that it says.
    begun: bool,
    /// Since when a header block is unfinished.
    open_block: Option<Instant>,
    timer: LazyTimer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http2Io<S> {
    pub(super) fn new(socket: Socket<S>, now: Instant) -> Self {
        let (received, sent) = (Frames::new(PREFACE.len()), Frames::new(0));
        Self {
            socket,
            received,
            sent,
            credit: Credit::new(now),
            begun: false,
            open_block: None,
            timer: LazyTimer::default(),
        }
    }

    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { received, credit, begun, open_block, .. } = self;
        let mut wrong = None;
        received.read(bytes, |frame| {
            credit.received(frame);
            wrong = wrong.or_else(|| passed_over_by_h2(frame, *begun));
            *begun = true;
            if matches!(frame.kind, HEADERS | CONTINUATION) {
                let ended = frame.flags & END_HEADERS != 0;
                *open_block = if ended { None } else { open_block.or_else(|| Some(Instant::now())) };
            }
        });
        if credit.is_spent(Instant::now()) {
            wrong = Some("too many frames without content");
        }
        wrong.map_or(Ok(()), |wrong| Err(io::Error::new(io::ErrorKind::InvalidData, wrong)))
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let Self { sent, credit, .. } = self;
        sent.read(bytes, |frame| credit.sent(frame));
    }
}

/// What ends a connection, and would not by h2.
fn passed_over_by_h2(frame: Frame, begun: bool) -> Option<&'static str> {
    if !begun && (frame.kind != SETTINGS || frame.flags & ACK != 0) {
        return Some("no settings at the start"); // RFC 9113 §3.4
    }
    // h2 resets the stream and does not decode the block: fields of later requests would be others than were meant (RFC 9113 §4.3).
    frame.depends_on_itself.then_some("a head that depends on itself")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Http2Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => Poll::Ready(self.received(&buf.filled()[before..])),
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                let Some(since) = self.open_block else { return Poll::Pending };
                ready!(self.timer.poll(cx, since + HEAD_TIMEOUT));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "a header block without an end")))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Http2Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, buf))?;
        self.wrote(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let taken = left.min(buf.len());
            self.wrote(&buf[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
