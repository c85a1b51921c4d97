//! Bytes both ways between two connections, under back-pressure: what one side does not take is not read from the other.

use std::{
    future::poll_fn,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::timer::LazyTimer;

/// Read at once, and kept at most where the other side takes less. Between pieces nothing is kept.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces in a row before others have their turn.
const PIECES: usize = 16;

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Upstream,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides have said all they had to.
    Whole,
    /// That side is gone.
    Lost(Side),
    TimedOut,
}

/// How long it may last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// With nothing going either way.
    pub(crate) idle: Duration,
    pub(crate) ends_by: Option<Instant>,
}

/// Relays until both sides have ended, one is lost, or it has been too long. `moved` is told how many bytes each side was
/// given.
pub(super) async fn relay<C, U>(
    mut client: C,
    mut upstream: U,
    patience: Patience,
    moved: impl Fn(Side, usize),
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (OneWay::default(), OneWay::default());
    let (mut timer, mut moved_at) = (LazyTimer::default(), Instant::now());
    poll_fn(|cx| {
        let (mut given, mut taken) = (0, 0);
        let upwards = up.poll(cx, &mut client, &mut upstream, &mut given);
        let downwards = down.poll(cx, &mut upstream, &mut client, &mut taken);
        for (to, bytes) in [(Side::Upstream, given), (Side::Client, taken)] {
            if bytes > 0 {
                moved(to, bytes);
                moved_at = Instant::now();
            }
        }
        let lost = |end: &Poll<Result<(), End>>, from, to| match end {
            Poll::Ready(Err(End::Reading)) => Some(Ended::Lost(from)),
            Poll::Ready(Err(End::Writing)) => Some(Ended::Lost(to)),
            _ => None,
        };
        let lost_one = lost(&upwards, Side::Client, Side::Upstream);
        if let Some(ended) = lost_one.or_else(|| lost(&downwards, Side::Upstream, Side::Client)) {
            return Poll::Ready(ended);
        }
        if upwards.is_ready() && downwards.is_ready() {
            return Poll::Ready(Ended::Whole);
        }
        let silent_by = moved_at + patience.idle;
        ready!(timer.poll(cx, patience.ends_by.map_or(silent_by, |ends_by| ends_by.min(silent_by))));
        Poll::Ready(Ended::TimedOut)
    })
    .await
}

/// What ended one direction early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Reading,
    Writing,
}

/// One direction: what was read and not yet taken, and how far it is.
#[derive(Debug, Default)]
struct OneWay {
    kept: Vec<u8>,
    given: usize,
    phase: Phase,
    unflushed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Copying,
    /// The reader has ended: the writer is told.
    Ending,
    Ended,
}

impl OneWay {
    /// Ready when its reader has ended and its writer knows.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, moved: &mut usize) -> Poll<Result<(), End>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..PIECES {
            ready!(self.poll_kept(cx, to, moved))?;
            match self.phase {
                Phase::Copying => {
                    if self.poll_piece(cx, from, to, moved)?.is_pending() {
                        ready!(self.poll_flush(cx, to))?;
                        return Poll::Pending;
                    }
                }
                Phase::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|_| End::Writing)?;
                    self.phase = Phase::Ended;
                }
                Phase::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives what was kept.
    fn poll_kept<W>(&mut self, cx: &mut Context<'_>, to: &mut W, moved: &mut usize) -> Poll<Result<(), End>>
    where
        W: AsyncWrite + Unpin,
    {
        while self.given < self.kept.len() {
            let given = ready!(poll_give(cx, to, &self.kept[self.given..]))?;
            self.given += given;
            *moved += given;
        }
        (self.kept, self.given) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Reads a piece and gives it, or keeps what is not taken at once.
    fn poll_piece<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        moved: &mut usize,
    ) -> Result<Poll<()>, End>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut scratch = [const { MaybeUninit::uninit() }; PIECE_BYTES];
        let mut buf = ReadBuf::uninit(&mut scratch);
        match Pin::new(from).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read.map_err(|_| End::Reading)?,
        }
        let piece = buf.filled();
        if piece.is_empty() {
            self.phase = Phase::Ending;
            return Ok(Poll::Ready(()));
        }
        let given = match poll_give(cx, to, piece) {
            Poll::Ready(given) => given?,
            Poll::Pending => 0,
        };
        *moved += given;
        self.kept.extend_from_slice(&piece[given..]);
        self.unflushed = true;
        Ok(Poll::Ready(()))
    }

    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), End>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(|_| End::Writing)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// How much of it was taken: something.
fn poll_give<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<Result<usize, End>> {
    Poll::Ready(match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) | Err(_) => Err(End::Writing),
        Ok(given) => Ok(given),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Patience = Patience { idle: Duration::from_secs(10), ends_by: None };

    /// Relays between the near ends of two pipes of so many bytes while `sides` has the far ones.
    async fn between(
        bytes: usize,
        patience: Patience,
        sides: impl AsyncFnOnce(DuplexStream, DuplexStream),
    ) -> (Ended, usize, usize) {
        let ((near, client), (far, upstream)) = (duplex(bytes), duplex(bytes));
        let moved = (Cell::new(0), Cell::new(0));
        let count = |to: Side, bytes: usize| {
            let of = if to == Side::Upstream { &moved.0 } else { &moved.1 };
            of.set(of.get() + bytes);
        };
        let (ended, ()) = tokio::join!(relay(near, far, patience, count), sides(client, upstream));
        (ended, moved.0.get(), moved.1.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_has_ended_still_hears_the_other() {
        let ended = between(64, PATIENCE, async |mut client, mut upstream| {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            upstream.read_to_string(&mut asked).await.unwrap();
            upstream.write_all(b"a long answer").await.unwrap();
            drop(upstream);
            let mut told = String::new();
            client.read_to_string(&mut told).await.unwrap();
            assert_eq!((asked.as_str(), told.as_str()), ("question", "a long answer"));
        });
        assert_eq!(ended.await, (Ended::Whole, 8, 13));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_is_not_read_ahead_for() {
        let sent = Cell::new(0);
        let (ended, given, _) = between(64 * 1024, PATIENCE, async |mut client, upstream| {
            while client.write_all(&[7; 1_000]).await.is_ok() {
                sent.set(sent.get() + 1_000);
            }
            drop(upstream);
        })
        .await;
        // What fits into the pipes, one piece in between, and no more: then it was silent for too long.
        assert_eq!((ended, given), (Ended::TimedOut, 64 * 1024));
        assert!(sent.get() <= 2 * 64 * 1024 + PIECE_BYTES, "{}", sent.get());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_at_once_is_not_lost() {
        let whole: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let expected = whole.clone();
        let (ended, given, taken) = between(7, PATIENCE, async move |client, upstream| {
            let (mut client_reads, mut client_writes) = tokio::io::split(client);
            let (mut upstream_reads, mut upstream_writes) = tokio::io::split(upstream);
            let say = async {
                client_writes.write_all(&whole).await.unwrap();
                client_writes.shutdown().await.unwrap();
            };
            let echo = async {
                tokio::io::copy(&mut upstream_reads, &mut upstream_writes).await.unwrap();
                upstream_writes.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let hear = async { client_reads.read_to_end(&mut back).await.unwrap() };
            tokio::join!(say, echo, hear);
            assert!(back == expected);
        })
        .await;
        assert_eq!((ended, given, taken), (Ended::Whole, 200_000, 200_000));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_both_ends_it_and_bytes_of_either_do_not() {
        let started = Instant::now();
        let talks = async |mut client: DuplexStream, mut upstream: DuplexStream| {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                client.write_all(b"x").await.unwrap();
                tokio::time::sleep(Duration::from_secs(8)).await;
                upstream.write_all(b"y").await.unwrap();
            }
            let _ = upstream.read_to_end(&mut Vec::new()).await;
        };
        assert_eq!(between(64, PATIENCE, talks).await.0, Ended::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 6 * 8 + 10);
        let bounded = Patience { ends_by: Some(Instant::now() + Duration::from_secs(20)), ..PATIENCE };
        let started = Instant::now();
        let chats = async |mut client: DuplexStream, _upstream: DuplexStream| {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        assert_eq!(between(64, bounded, chats).await.0, Ended::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_end_broke_is_told() {
        let gone = async |_client: DuplexStream, mut upstream: DuplexStream| {
            upstream.write_all(b"x").await.unwrap();
        };
        // A pipe whose other end was dropped takes nothing, and has ended.
        assert_eq!(between(64, PATIENCE, gone).await.0, Ended::Lost(Side::Client));
    }
}
