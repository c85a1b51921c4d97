//! HTTP/2 frames counted as they go by, to tell work from noise.
//!
//! h2 bounds resets and empty DATA frames by itself but answers PING and SETTINGS one by one for ever. Here every
//! frame that carries neither a request nor its body costs a credit, and work earns some: frames with content in
//! either direction. A client that only makes noise runs out and its connection ends (the rule is nginx's, the unit
//! frames rather than bytes).

use tokio::time::Instant;

/// Bytes that begin an HTTP/2 connection (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Noise that a connection may make before it has done any work. Real clients send some ten frames at the start, and
/// a window update or a ping for every few answers.
const INITIAL_CREDIT: i64 = 1_000;
/// The most that can be saved up.
const MAX_CREDIT: i64 = 10_000;
/// Earned by each frame with content.
const EARNED_BY_WORK: i64 = 4;
/// Paid for a reset stream: more than a request and its short answer earn, so that asking and taking back runs out.
const RESET_COST: i64 = 20;
/// Earned by time, for keep-alive pings of a connection that carries one quiet stream.
const EARNED_PER_SECOND: i64 = 10;

/// Reads frame headers out of a byte stream in one direction.
#[derive(Debug)]
pub(super) struct Frames {
    /// A frame's header, and of HEADERS with a priority what is before its block.
    start: [u8; HEADER + BEFORE_BLOCK],
    filled: usize,
    skip: u64,
}

/// Bytes of a frame's header (RFC 9113 §4.1).
const HEADER: usize = 9;
/// The most that is of interest behind it: the length of padding, and the stream that this one depends on (RFC 9113 §6.2).
const BEFORE_BLOCK: usize = 5;

/// One frame, as its header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// HEADERS of a stream that depends on itself.
    pub(super) depends_on_itself: bool,
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

impl Frames {
    /// From the start of a connection; `preface` bytes come before the first frame.
    pub(super) fn new(preface: usize) -> Self {
        Self { start: [0; HEADER + BEFORE_BLOCK], filled: 0, skip: preface as u64 }
    }

    /// Shows `bytes`; `each` is told of every frame whose header, or what of the rest is of interest, ends in them.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = (self.wanted() - self.filled).min(bytes.len());
            self.start[self.filled..self.filled + wanted].copy_from_slice(&bytes[..wanted]);
            self.filled += wanted;
            bytes = &bytes[wanted..];
            if self.filled == self.wanted() {
                let frame = self.frame();
                let seen = (self.filled - HEADER) as u64;
                (self.filled, self.skip) = (0, u64::from(frame.length) - seen);
                each(frame);
            }
        }
    }

    /// How much of the frame that has begun is of interest.
    fn wanted(&self) -> usize {
        if self.filled < HEADER || !self.has_dependency() {
            return HEADER;
        }
        HEADER + usize::from(self.is_padded()) + 4
    }

    fn length(&self) -> u32 {
        let [high, middle, low, ..] = self.start;
        u32::from_be_bytes([0, high, middle, low])
    }

    fn is_padded(&self) -> bool {
        self.start[4] & PADDED != 0
    }

    /// Of HEADERS that are long enough to have one, and so to be taken.
    fn has_dependency(&self) -> bool {
        let [_, _, _, kind, flags, ..] = self.start;
        kind == HEADERS && flags & PRIORITY != 0 && self.length() >= 4 + u32::from(self.is_padded())
    }

    fn frame(&self) -> Frame {
        let number = |at: usize| {
            let four = self.start[at..at + 4].first_chunk().copied().unwrap_or_default();
            u32::from_be_bytes(four) & (u32::MAX >> 1) // its first bit says something else
        };
        let [_, _, _, kind, flags, ..] = self.start;
        let depends_on_itself = self.has_dependency() && number(HEADER + usize::from(self.is_padded())) == number(5);
        Frame { length: self.length(), kind, flags, depends_on_itself }
    }
}

/// A connection's credit for frames that are no work.
#[derive(Debug)]
pub(super) struct Credit {
    left: i64,
    at: Instant,
}

impl Credit {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: INITIAL_CREDIT, at: now }
    }

    pub(super) fn received(&mut self, frame: Frame) {
        self.left += match frame.kind {
            DATA | HEADERS if frame.length > 0 => EARNED_BY_WORK,
            RST_STREAM => -RESET_COST,
            _ => -1,
        };
    }

    pub(super) fn sent(&mut self, frame: Frame) {
        if matches!(frame.kind, DATA | HEADERS) {
            self.left = (self.left + EARNED_BY_WORK).min(MAX_CREDIT);
        }
    }

    /// Whether the client has made more noise than it may by now.
    pub(super) fn is_spent(&mut self, now: Instant) -> bool {
        if self.left >= 0 {
            self.left = self.left.min(MAX_CREDIT);
            return false;
        }
        let seconds = i64::try_from(now.duration_since(self.at).as_secs()).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(seconds.saturating_mul(EARNED_PER_SECOND)).min(MAX_CREDIT);
        self.at = now;
        self.left < 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 0], payload].concat()
    }

    fn frame_of(kind: u8, length: u32) -> Frame {
        Frame { length, kind, flags: 0, depends_on_itself: false }
    }

    #[test]
    fn a_head_that_depends_on_itself_is_seen_however_it_is_cut_and_padded() {
        let head = |flags: u8, stream: u8, payload: &[u8]| {
            let mut head = frame(HEADERS, payload);
            (head[4], head[8]) = (flags, stream);
            head
        };
        let bytes = [
            head(PRIORITY, 5, &[0x80, 0, 0, 5, 1, 0x82]),
            head(PRIORITY, 5, &[0, 0, 0, 3, 1, 0x82]),
            head(PRIORITY | PADDED, 5, &[1, 0, 0, 0, 5, 1, 0x82, 0]),
            head(PRIORITY | PADDED, 5, &[5, 0, 0, 0, 3, 1, 0x82, 0, 0, 0, 0, 0]),
            head(0, 5, &[0, 0, 0, 5]),
            head(PRIORITY, 5, &[0, 0, 5]), // h2 refuses it
            head(PRIORITY | PADDED, 5, &[0, 0, 0, 5]),
            frame(DATA, b"behind"),
        ]
        .concat();
        for cut in 1..bytes.len() {
            let (mut frames, mut seen) = (Frames::new(0), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.read(piece, |frame| seen.push((frame.length, frame.depends_on_itself)));
            }
            let expected =
                [(6, true), (6, false), (8, true), (12, false), (4, false), (3, false), (4, false), (6, false)];
            assert_eq!(seen, expected, "cut at {cut}");
        }
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let bytes = [PREFACE, &frame(4, b""), &frame(DATA, &[7; 300]), &frame(6, &[0; 8])].concat();
        for cut in 1..bytes.len() {
            let mut frames = Frames::new(PREFACE.len());
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                frames.read(piece, |frame| seen.push((frame.kind, frame.length)));
            }
            assert_eq!(seen, [(4, 0), (DATA, 300), (6, 8)], "cut at {cut}");
        }
    }

    #[test]
    fn noise_without_work_is_ended_and_time_forgives_a_little() {
        let start = Instant::now();
        let mut credit = Credit::new(start);
        let ping = frame_of(6, 8);
        for _ in 0..INITIAL_CREDIT {
            credit.received(ping);
        }
        assert!(!credit.is_spent(start));
        for _ in 0..100 {
            credit.received(ping);
        }
        assert!(!credit.is_spent(start + Duration::from_secs(10)));
        credit.received(ping);
        assert!(credit.is_spent(start + Duration::from_secs(10)));
    }

    #[test]
    fn work_pays_for_its_own_window_updates() {
        let now = Instant::now();
        let mut credit = Credit::new(now);
        for _ in 0..100_000 {
            credit.sent(frame_of(DATA, 100));
            credit.received(frame_of(8, 4));
            credit.received(frame_of(8, 4));
            assert!(!credit.is_spent(now));
        }
    }
}
