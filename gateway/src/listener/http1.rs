//! An HTTP/1 connection as hyper reads it: whole, unambiguous heads in time, and bodies framed as announced.
//!
//! A head that is refused never reaches hyper. In its place hyper reads a harmless request, and the connection's state
//! says that the request of this number is to be answered with the refusal: so the answer comes in its turn behind
//! those of pipelined requests, with a request id, metrics and an access log line like any other, and closes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    connection::Connection,
    head,
    inspect::{End, Inspector},
    refusal::Refusal,
    socket::Socket,
};
use crate::timer::LazyTimer;

/// From a connection's start, or a head's first byte, to the head's end.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A kept-alive connection without a request is closed after this.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// What hyper reads instead of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// Read at once while a head is incomplete.
const READ_BYTES: usize = 8 * 1024;

pub(super) struct Http1Io<S> {
    socket: Socket<S>,
    connection: Arc<Connection>,
    inspector: Inspector,
    /// The beginning of a head.
    held: BytesMut,
    /// To be read by hyper.
    ready: BytesMut,
    state: State,
    /// When what is waited for began: the connection, a head, or idleness.
    since: Instant,
    was_busy: bool,
    timer: LazyTimer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The last head asks for another protocol: what follows it waits here until that is decided.
    Undecided,
    /// What comes is another protocol's, and goes by as it is.
    Switched,
    /// Nothing more is let in; so many bytes are dropped while the answer goes out.
    Refused(usize),
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1Io<S> {
    pub(super) fn new(socket: Socket<S>, connection: Arc<Connection>, since: Instant) -> Self {
        let (held, ready) = (BytesMut::new(), BytesMut::new());
        let (inspector, timer) = (Inspector::new(), LazyTimer::default());
        Self { socket, connection, inspector, held, ready, state: State::Open, since, was_busy: false, timer }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.connection.refuse(refusal, head::path_of(&self.held).map(str::to_owned));
        self.held.clear();
        self.ready.extend_from_slice(STAND_IN);
        self.state = State::Refused(1024 * 1024);
    }

    /// The fast path: the bytes go straight into hyper's buffer and are inspected there.
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Progress>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            return Poll::Ready(Ok(Progress::End));
        }
        let verdict = self.inspector.inspect(fresh);
        self.held.extend_from_slice(&fresh[verdict.release..]);
        buf.set_filled(before + verdict.release);
        self.conclude(verdict.heads, verdict.end);
        Poll::Ready(Ok(if verdict.release > 0 { Progress::Filled } else { Progress::More }))
    }

    /// The beginning of a head is here already: more is read behind it.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Progress>> {
        let mut scratch = [0; READ_BYTES];
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            return Poll::Ready(Ok(Progress::End));
        }
        self.held.extend_from_slice(buf.filled());
        let verdict = self.inspector.inspect(&self.held);
        self.ready = self.held.split_to(verdict.release);
        self.conclude(verdict.heads, verdict.end);
        Poll::Ready(Ok(Progress::More))
    }

    fn conclude(&mut self, heads: u64, end: Option<End>) {
        self.connection.set_in_body(!self.inspector.in_head());
        if heads > 0 {
            self.connection.heads_passed(heads);
            self.was_busy = true;
        }
        match end {
            Some(End::Refused(refusal)) => self.refuse(refusal),
            Some(End::BadBody) => self.state = State::Broken,
            Some(End::MaySwitch) => {
                self.connection.switch.hold();
                self.state = State::Undecided;
            }
            None => {}
        }
    }

    /// Waits for what becomes of a head that asks for another protocol. Meanwhile it is only looked whether the client
    /// leaves: of what it sends no more than one piece is read.
    fn poll_undecided(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Progress>> {
        if let Poll::Ready(switched) = self.connection.switch.poll_decided(cx) {
            if switched {
                self.state = State::Switched;
                self.ready = std::mem::take(&mut self.held);
            } else {
                self.state = State::Open;
                self.since = Instant::now();
                let verdict = self.inspector.inspect(&self.held);
                self.ready = self.held.split_to(verdict.release);
                self.conclude(verdict.heads, verdict.end);
            }
            return Poll::Ready(Ok(Progress::More));
        }
        if !self.held.is_empty() {
            return Poll::Pending;
        }
        let mut scratch = [0; READ_BYTES];
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        if self.held.is_empty() { Poll::Ready(Ok(Progress::End)) } else { Poll::Pending }
    }

    /// Nothing has come: has it been too long?
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        if !self.inspector.in_head() {
            return Poll::Pending;
        }
        if !self.held.is_empty() || self.connection.is_fresh() {
            ready!(self.timer.poll(cx, self.since + HEAD_TIMEOUT));
            self.refuse(Refusal::HeadTimeout);
            return Poll::Ready(Progress::More);
        }
        let busy = self.connection.is_busy();
        if busy || self.was_busy {
            self.since = Instant::now();
            self.was_busy = busy; // an answer is on its way; hyper asks again when it is out
        }
        ready!(self.timer.poll(cx, self.since + IDLE_TIMEOUT));
        Poll::Ready(Progress::End)
    }

    fn poll_progress(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Progress>> {
        let waiting = !self.held.is_empty();
        let poll = if waiting { self.poll_held(cx) } else { self.poll_direct(cx, buf) };
        if poll.is_pending() {
            return self.poll_patience(cx).map(Ok);
        }
        if !waiting && !self.held.is_empty() {
            self.since = Instant::now();
        }
        poll
    }
}

enum Progress {
    /// hyper's buffer has new bytes.
    Filled,
    /// Look again.
    More,
    /// The client is done.
    End,
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Http1Io<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready[..count]);
                this.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            match &mut this.state {
                State::Open => {}
                State::Undecided => match ready!(this.poll_undecided(cx))? {
                    Progress::End => return Poll::Ready(Ok(())),
                    Progress::Filled | Progress::More => continue,
                },
                State::Switched => return Pin::new(&mut this.socket).poll_read(cx, buf),
                State::Refused(left) => {
                    let _ = this.socket.poll_discard(cx, left);
                    return Poll::Pending;
                }
                State::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            match ready!(this.poll_progress(cx, buf))? {
                Progress::Filled | Progress::End => return Poll::Ready(Ok(())),
                Progress::More => {}
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Http1Io<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state == State::Switched {
            return self.socket.poll_end(cx); // the client may have more to say
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
