//! The bytes of an HTTP/1 connection, told apart into heads and bodies; a head is released when it is whole and good.

use super::{
    framing::Remaining,
    head,
    refusal::{Malformed, Refusal},
};

/// Bytes of a head at most.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Empty lines before a request line at most (RFC 9112 §2.2 asks for one).
const MAX_BLANK_LINES: u8 = 2;

/// Follows one connection's bytes. Pure: whoever reads the socket asks what may pass.
#[derive(Debug)]
pub(super) struct Inspector {
    body: Option<Remaining>,
    /// Of a partial head: bytes known to contain no end.
    scanned: usize,
    blank_lines: u8,
}

/// What may pass of the bytes shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// This many; the rest is the beginning of a head, to be shown again with more.
    pub(super) release: usize,
    /// So many heads were completed in them.
    pub(super) heads: u64,
    /// What follows them must not pass.
    pub(super) end: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The next head is refused.
    Refused(Refusal),
    /// The current body is not framed as announced.
    BadBody,
    /// The last head that passes asks for another protocol: what follows is not known before its answer.
    MaySwitch,
}

impl Inspector {
    pub(super) fn new() -> Self {
        Self { body: None, scanned: 0, blank_lines: 0 }
    }

    /// Whether the next byte belongs to a head.
    pub(super) fn in_head(&self) -> bool {
        self.body.is_none()
    }

    pub(super) fn inspect(&mut self, bytes: &[u8]) -> Verdict {
        let mut verdict = Verdict { release: 0, heads: 0, end: None };
        while verdict.end.is_none() && verdict.release < bytes.len() {
            let rest = &bytes[verdict.release..];
            let step = match &mut self.body {
                Some(body) => body.take(rest).map_err(|_| End::BadBody),
                None => self.head(rest, &mut verdict).map_err(End::Refused),
            };
            match step {
                Ok(0) => break,
                Ok(passed) => verdict.release += passed,
                Err(end) => verdict.end = Some(end),
            }
            if self.body.is_some_and(|body| body.is_done()) {
                self.body = None;
            }
        }
        verdict
    }

    /// The length of the whole head at the start of `bytes`, 0 when its end is not there yet.
    fn head(&mut self, bytes: &[u8], verdict: &mut Verdict) -> Result<usize, Refusal> {
        if bytes.starts_with(b"\r\n") && self.blank_lines < MAX_BLANK_LINES {
            self.blank_lines += 1;
            return Ok(2);
        }
        let Some(end) = self.find_end(bytes)? else {
            return if bytes.len() > MAX_HEAD_BYTES { Err(Refusal::HeadTooLarge) } else { Ok(0) };
        };
        if end > MAX_HEAD_BYTES {
            return Err(Refusal::HeadTooLarge);
        }
        let head = head::check(&bytes[..end])?;
        self.body = Some(Remaining::new(head.framing));
        (self.scanned, self.blank_lines) = (0, 0);
        verdict.heads += 1;
        verdict.end = head.may_switch.then_some(End::MaySwitch);
        Ok(end)
    }

    /// Looks for the empty line. Every line must end with CRLF, so a bare LF is noticed before the head is whole.
    fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(lf) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let lf = self.scanned + lf;
            if lf == 0 || bytes[lf - 1] != b'\r' {
                return Err(Malformed::LineEnd.into());
            }
            self.scanned = lf + 1;
            if lf >= 3 && bytes[lf - 2] == b'\n' {
                return Ok(Some(lf + 1));
            }
            if lf == 1 {
                return Err(Malformed::RequestLine.into());
            }
        }
        self.scanned = bytes.len();
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\n\n\r\n0\r\n\r\n";

    /// Feeds `bytes` in pieces the way a socket would, and returns what passed, the heads and the end.
    fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, u64, Option<End>) {
        let mut inspector = Inspector::new();
        let (mut held, mut passed, mut heads) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            held.extend_from_slice(piece);
            let verdict = inspector.inspect(&held);
            passed.extend(held.drain(..verdict.release));
            heads += verdict.heads;
            if verdict.end.is_some() {
                return (passed, heads, verdict.end);
            }
        }
        (passed, heads, None)
    }

    #[test]
    fn a_bad_head_behind_good_requests_does_not_pass() {
        let bad = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
        let (passed, heads, end) = feed([[GET, POST, bad].concat().as_slice()]);
        assert_eq!(passed, [GET, POST].concat());
        assert_eq!((heads, end), (2, Some(End::Refused(Malformed::TwoHosts.into()))));
    }

    #[test]
    fn nothing_passes_behind_a_head_that_asks_for_another_protocol() {
        let asks = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        let whole = [GET, POST, asks, GET].concat();
        for cut in 1..=whole.len() {
            let (passed, heads, end) = feed(whole.chunks(cut));
            assert_eq!(passed, [GET, POST, asks].concat(), "cut at {cut}");
            assert_eq!((heads, end), (3, Some(End::MaySwitch)), "cut at {cut}");
        }
    }

    #[test]
    fn a_bare_lf_is_refused_before_the_head_is_whole() {
        let (passed, _, end) = feed([&b"GET / HTTP/1.1\nHost: a\n\n"[..]]);
        assert_eq!((passed.len(), end), (0, Some(End::Refused(Malformed::LineEnd.into()))));
        let (_, _, end) = feed([&b"\n"[..]]);
        assert_eq!(end, Some(End::Refused(Malformed::LineEnd.into())));
    }

    #[test]
    fn a_head_that_never_ends_is_too_large() {
        let line = [b"X: ", vec![b'a'; 4091].as_slice(), b"\r\n"].concat();
        let head = std::iter::once(&GET[..GET.len() - 2]).chain(std::iter::repeat_n(line.as_slice(), 17));
        assert_eq!(feed(head).2, Some(End::Refused(Refusal::HeadTooLarge)));
    }

    #[test]
    fn a_few_empty_lines_before_a_request_are_let_pass() {
        assert_eq!(feed([[b"\r\n\r\n", GET].concat().as_slice()]).1, 1);
        assert!(feed([[b"\r\n\r\n\r\n", GET].concat().as_slice()]).2.is_some());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(cuts in proptest::collection::vec(1_usize..40, 1..80), bad in any::<bool>()) {
            let last: &[u8] = if bad { b"GET / HTTP/1.1\r\nHost : a\r\n\r\n" } else { GET };
            let whole = [GET, POST, POST, GET, last].concat();
            let mut rest = whole.as_slice();
            let pieces = cuts.iter().cycle().map_while(|&cut| {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                rest = left;
                (!piece.is_empty()).then_some(piece)
            });
            let cut = feed(pieces);
            let at_once = feed([whole.as_slice()]);
            prop_assert_eq!(&cut, &at_once);
            prop_assert_eq!(cut.1, if bad { 4 } else { 5 });
        }
    }
}
