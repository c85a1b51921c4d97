//! HTTP/2 written and read by hand, so that anything can be said that a library would not say.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Whatever is waited for is there by then, on a machine with much to do.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

// RFC 9113 §6
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

// Flags: one bit has two names.
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 0x20;
/// A request without a body, in one frame.
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// An error code of RFC 9113 §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

pub(super) const NO_ERROR: Code = Code(0);
pub(super) const PROTOCOL_ERROR: Code = Code(1);
pub(super) const FLOW_CONTROL_ERROR: Code = Code(3);
pub(super) const STREAM_CLOSED: Code = Code(5);
pub(super) const FRAME_SIZE_ERROR: Code = Code(6);
pub(super) const REFUSED_STREAM: Code = Code(7);
pub(super) const CANCEL: Code = Code(8);
pub(super) const COMPRESSION_ERROR: Code = Code(9);
pub(super) const ENHANCE_YOUR_CALM: Code = Code(11);

/// One frame, however wrong (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A SETTINGS frame.
pub(super) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload = values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, payload.collect::<Vec<_>>())
}

pub(super) fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

pub(super) fn rst_stream(stream: u32, code: Code) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, code.0.to_be_bytes())
}

/// A number with so many bits of the first byte (RFC 7541 §5.1).
pub(super) fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let (mut written, mut rest) = (vec![first | u8::try_from(most).unwrap()], value - most);
    while rest >= 128 {
        written.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    written.push(u8::try_from(rest).unwrap());
    written
}

/// As it is, without Huffman's code (RFC 7541 §5.2).
pub(super) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&integer(0, 7, text.len())[..], text].concat()
}

/// A field with a name of its own that no table is told of (RFC 7541 §6.2.2).
pub(super) fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![0], string(name), string(value)].concat()
}

/// The same, and the dynamic table is told of it (RFC 7541 §6.2.1).
pub(super) fn remembered(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![0x40], string(name), string(value)].concat()
}

pub(super) type Fields<'a> = &'a [(&'a str, &'a str)];

pub(super) fn block(fields: Fields<'_>) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A request's head.
pub(super) fn asks(method: &str, path: &str, more: Fields<'_>) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")];
    [block(&pseudo), block(more)].concat()
}

/// A whole request without a body.
pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, asks("GET", path, &[]))
}

/// The head of a request whose body is to come.
pub(super) fn post(stream: u32, path: &str, more: Fields<'_>) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, asks("POST", path, more))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// Four bytes of the payload as a number.
    pub(super) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// What an answer's head says, as the first of its fields: a static one, or digits in Huffman's code.
    pub(super) fn status(&self) -> u16 {
        assert_eq!((self.kind, self.flags & (PADDED | WITH_PRIORITY)), (HEADERS, 0), "{self:?}");
        let mut block = &self.payload[..];
        while block[0] & 0xe0 == 0x20 {
            block = &block[1..]; // an update of the table's size, to nothing as was asked
        }
        const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        match *block {
            [index @ 0x88..=0x8e, ..] => STATIC[usize::from(index - 0x88)],
            [0x48 | 0x08 | 0x18, length, ref text @ ..] => {
                let text = &text[..usize::from(length & 0x7f)];
                if length & 0x80 == 0 { std::str::from_utf8(text).unwrap().parse().unwrap() } else { digits(text) }
            }
            _ => panic!("no status in {block:02x?}"),
        }
    }
}

/// Three digits of RFC 7541's Appendix B: 0 to 2 have five bits, the others six.
fn digits(coded: &[u8]) -> u16 {
    let mut bits = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut take = |count: usize| bits.by_ref().take(count).fold(0, |read, bit| read << 1 | bit);
    (0..3).fold(0, |number, _| {
        let five = take(5);
        let digit = if five < 3 { five } else { (five << 1 | take(1)) - 0b011001 + 3 };
        number * 10 + digit
    })
}

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// One end of a connection.
pub(super) struct Wire {
    io: Box<dyn Duplex>,
    read: Vec<u8>,
}

impl Wire {
    /// As it was made: nothing is said yet.
    pub(super) fn new(io: impl Duplex + 'static) -> Self {
        Self { io: Box::new(io), read: Vec::new() }
    }

    /// Says what begins a connection. The first that comes back must be the other side's settings (RFC 9113 §3.4).
    pub(super) async fn begin(&mut self, own: &[(u16, u32)]) {
        self.send(&[PREFACE, &settings(own)].concat()).await;
        let first = self.next().await.expect("the server says something");
        assert_eq!((first.kind, first.flags & ACK, first.stream), (SETTINGS, 0, 0), "{first:?}");
        self.send(&frame(SETTINGS, ACK, 0, [])).await;
    }

    /// Whoever is told nothing more may have been closed on already: what comes says so.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.io.write_all(bytes)).await.expect("the server reads");
    }

    /// The next frame; none at the end of the connection.
    ///
    /// # Panics
    /// Nothing comes.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        self.next_within(PATIENCE).await.expect("something comes")
    }

    /// The same, or nothing in so long.
    pub(super) async fn next_within(&mut self, within: Duration) -> Option<Option<Frame>> {
        timeout(within, self.read_frame()).await.ok().map(|frame| frame.ok())
    }

    async fn read_frame(&mut self) -> io::Result<Frame> {
        self.fill(9).await?;
        let length = usize::from(self.read[0]) << 16 | usize::from(self.read[1]) << 8 | usize::from(self.read[2]);
        self.fill(9 + length).await?;
        let rest = self.read.split_off(9 + length);
        let whole = std::mem::replace(&mut self.read, rest);
        let stream = u32::from_be_bytes(whole[5..9].try_into().unwrap());
        Ok(Frame { kind: whole[3], flags: whole[4], stream, payload: whole[9..].to_vec() })
    }

    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.read.len() < length {
            if self.io.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Skips to a frame that is looked for.
    pub(super) async fn until(&mut self, what: &str, is_it: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the connection ended before {what}"));
            if is_it(&frame) {
                return frame;
            }
        }
    }

    /// What comes until the end, in whatever protocol.
    pub(super) async fn all(&mut self) -> Vec<u8> {
        let end = timeout(PATIENCE, self.fill(usize::MAX)).await;
        assert!(end.is_ok(), "the connection stays open");
        std::mem::take(&mut self.read)
    }

    /// Whether the connection is closed, whatever comes before that.
    pub(super) async fn is_closed(&mut self) -> bool {
        timeout(PATIENCE, async { while self.read_frame().await.is_ok() {} }).await.is_ok()
    }
}
