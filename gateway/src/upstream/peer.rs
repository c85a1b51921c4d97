//! What the other end of an HTTP/2 connection says of the connection itself, read as it goes by: hyper does not tell.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::lane::Lane;

/// Types of frames, a flag, and a setting (RFC 9113 §6.5, §6.8).
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// No peer says that, as it says 32 bits.
const UNKNOWN: u64 = u64::MAX;

/// What it said last.
#[derive(Debug)]
pub(super) struct Peer {
    most: AtomicU64,
    goes: AtomicBool,
}

impl Default for Peer {
    fn default() -> Self {
        Self { most: AtomicU64::new(UNKNOWN), goes: AtomicBool::default() }
    }
}

impl Peer {
    /// So many streams may be open at once. None before its settings came, which are the first that it says (RFC 9113 §3.4).
    pub(super) fn most(&self) -> Option<usize> {
        let most = self.most.load(Ordering::Acquire);
        (most != UNKNOWN).then(|| usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// It takes no new streams any more.
    pub(super) fn goes(&self) -> bool {
        self.goes.load(Ordering::Acquire)
    }

    fn hears(&self, said: Said) {
        match said {
            Said::Settings(Some(most)) => self.most.store(most.into(), Ordering::Release),
            // Without a bound there is none, which the first settings decide.
            Said::Settings(None) => {
                let unbounded = u64::from(u32::MAX);
                let _ = self.most.compare_exchange(UNKNOWN, unbounded, Ordering::AcqRel, Ordering::Relaxed);
            }
            Said::Goes => self.goes.store(true, Ordering::Release),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// With a bound of streams, or without.
    Settings(Option<u32>),
    Goes,
}

/// Reads frames out of a byte stream from its start, however it is cut.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 9],
    filled: usize,
    /// Of the frame's content.
    left: usize,
    /// Of a frame with settings, the one that is being read, and the bound that was among them.
    setting: [u8; 6],
    set: usize,
    most: Option<u32>,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Said)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (content, rest) = bytes.split_at(self.left.min(bytes.len()));
                if self.is_settings() {
                    content.iter().for_each(|byte| self.set(*byte));
                }
                (self.left, bytes) = (self.left - content.len(), rest);
            } else {
                let (header, rest) = bytes.split_at((9 - self.filled).min(bytes.len()));
                self.header[self.filled..self.filled + header.len()].copy_from_slice(header);
                (self.filled, bytes) = (self.filled + header.len(), rest);
                if self.filled < 9 {
                    return;
                }
                let [high, middle, low, ..] = self.header;
                (self.filled, self.set, self.most) = (0, 0, None);
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            }
            if self.left == 0 {
                match self.header[3] {
                    SETTINGS if self.is_settings() => tell(Said::Settings(self.most)),
                    GOAWAY => tell(Said::Goes),
                    _ => {}
                }
            }
        }
    }

    /// Those of the peer, not that it has ours.
    fn is_settings(&self) -> bool {
        self.header[3] == SETTINGS && self.header[4] & ACK == 0
    }

    fn set(&mut self, byte: u8) {
        self.setting[self.set] = byte;
        self.set = (self.set + 1) % 6;
        let [name @ .., a, b, c, d] = self.setting;
        if self.set == 0 && u16::from_be_bytes(name) == MAX_CONCURRENT_STREAMS {
            self.most = Some(u32::from_be_bytes([a, b, c, d]));
        }
    }
}

/// A connection whose lane is told what its peer says, and when it is over.
pub(super) struct Watched<T> {
    inner: T,
    frames: Frames,
    peer: Arc<Peer>,
    lane: Weak<Lane>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T, peer: &Arc<Peer>, lane: &Arc<Lane>) -> Self {
        Self { inner, frames: Frames::default(), peer: Arc::clone(peer), lane: Arc::downgrade(lane) }
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.peer.hears(Said::Goes);
        self.lane.upgrade().iter().for_each(Lane::look_again);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let Self { frames, peer, lane, .. } = &mut *self;
        let mut said_something = false;
        frames.read(&buffer.filled()[before..], |said| {
            peer.hears(said);
            said_something = true;
        });
        if said_something {
            lane.upgrade().iter().for_each(Lane::look_again);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], content].concat()
    }

    fn settings(all: &[(u16, u32)]) -> Vec<u8> {
        let each = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame(SETTINGS, 0, &all.iter().flat_map(each).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_peer_says_is_heard_however_it_is_cut() {
        let goaway = frame(GOAWAY, 0, &[0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0]);
        let bytes = [
            settings(&[(1, 3), (3, 2), (4, 9)]),
            frame(SETTINGS, ACK, b""),
            frame(0, 0, &settings(&[(3, 77)])),
            settings(&[]),
            settings(&[(3, 0)]),
            goaway,
        ]
        .concat();
        let expected = [Said::Settings(Some(2)), Said::Settings(None), Said::Settings(Some(0)), Said::Goes];
        for cut in 1..=bytes.len() {
            let (mut frames, mut heard) = (Frames::default(), Vec::new());
            bytes.chunks(cut).for_each(|piece| frames.read(piece, |said| heard.push(said)));
            assert_eq!(heard, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_bound_stays_until_another_one_is_said_and_is_none_where_the_first_settings_have_none() {
        let (bounded, free) = (Peer::default(), Peer::default());
        assert_eq!(bounded.most(), None);
        for (said, most) in [(Some(2), 2), (None, 2), (Some(7), 7)] {
            bounded.hears(Said::Settings(said));
            assert_eq!(bounded.most(), Some(most));
        }
        free.hears(Said::Settings(None));
        assert!(free.most().is_some_and(|most| most > 1 << 30) && !free.goes());
        free.hears(Said::Goes);
        assert!(free.goes());
    }

    proptest! {
        /// Whatever an upstream sends.
        #[test]
        fn no_bytes_are_too_much(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut frames = Frames::default();
            pieces.iter().for_each(|piece| frames.read(piece, drop));
        }
    }
}
