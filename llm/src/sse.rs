//! Server-sent events, cut out of a byte stream that may be cut anywhere (WHATWG HTML §9.2).
//!
//! An event that lies whole in a chunk is a slice of it; only one that is cut between chunks is copied. Lines end
//! with LF, CR or CRLF; comments, unknown fields and a byte order mark are allowed.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

/// The largest event; the largest real ones (a whole answer repeated at the end of a Responses stream) are below 1 MiB.
pub(crate) const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

/// An event exceeded [`MAX_EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Cuts a byte stream after each blank line.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    pending: BytesMut,
    scan: Scan,
}

/// One event as it came, with the blank line that ends it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Framed {
    pub(crate) bytes: Bytes,
    /// A slice of the chunk, rather than put together from several.
    pub(crate) is_slice: bool,
}

impl Framer {
    /// Takes the next event from the front of `chunk`; what is left without an end is kept for the next chunk.
    pub(crate) fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Framed>, TooLarge> {
        let end = self.scan.end_of_event(chunk);
        if self.pending.len() + end.unwrap_or(chunk.len()) > MAX_EVENT_BYTES {
            return Err(TooLarge);
        }
        let Some(end) = end else {
            self.pending.extend_from_slice(chunk);
            chunk.clear();
            return Ok(None);
        };
        let bytes = chunk.split_to(end);
        if self.pending.is_empty() {
            return Ok(Some(Framed { bytes, is_slice: true }));
        }
        self.pending.extend_from_slice(&bytes);
        Ok(Some(Framed { bytes: self.pending.split().freeze(), is_slice: false }))
    }

    /// What is left of an event when the stream has ended.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.pending.split().freeze()
    }
}

/// Where in a line the stream stands.
#[derive(Debug)]
struct Scan {
    line_is_empty: bool,
    after_cr: bool,
}

impl Default for Scan {
    fn default() -> Scan {
        Scan { line_is_empty: true, after_cr: false }
    }
}

impl Scan {
    /// The place after the first blank line in `bytes`.
    fn end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            at = usize::from(bytes[0] == b'\n');
        }
        while let Some(length) = memchr::memchr2(b'\n', b'\r', &bytes[at..]) {
            let blank = self.line_is_empty && length == 0;
            let is_cr = bytes[at + length] == b'\r';
            at += length + 1;
            match bytes.get(at) {
                Some(b'\n') if is_cr => at += 1,
                None => self.after_cr = is_cr,
                _ => {}
            }
            self.line_is_empty = true;
            if blank {
                return Some(at);
            }
        }
        self.line_is_empty &= at == bytes.len();
        None
    }
}

/// What an event says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    /// All its data lines, joined; `None` when it is only comments.
    pub(crate) data: Option<Cow<'a, [u8]>>,
}

impl<'a> Event<'a> {
    pub(crate) fn parse(raw: &'a [u8]) -> Event<'a> {
        // Where a chunk ended between the CR and the LF of a blank line, the LF comes with the next event.
        let raw = raw.strip_prefix(b"\n").unwrap_or(raw);
        let raw = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
        let mut data: Option<Cow<'a, [u8]>> = None;
        for line in lines(raw) {
            let Some(value) = field(line, b"data") else { continue };
            match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(before) => {
                    let joined = before.to_mut();
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                }
            }
        }
        Event { data }
    }
}

fn lines(mut raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if raw.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\n', b'\r', raw).unwrap_or(raw.len());
        let line = &raw[..end];
        raw = raw.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// The value of a line `name: value`, or of a line that is only the name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => rest.is_empty().then_some(rest),
    }
}

#[cfg(test)]
mod tests;
