//! gRPC-Web: gRPC for those who can't read trailers (grpc/doc/PROTOCOL-WEB.md). Messages are the same; trailers are a
//! last message with a flag of its own; in its text form all of it is in base64.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

use super::{Call, Framing, WEB_TEXT, suffix};

/// Before the trailers.
const TRAILERS: u8 = 0x80;
/// Base64 is read by so many bytes.
const QUAD: usize = 4;

/// Makes a request's headers those of gRPC.
pub(crate) fn to_grpc(headers: &mut HeaderMap) {
    let text = headers.get(header::CONTENT_TYPE);
    let suffix = text.and_then(|it| suffix(it, WEB_TEXT).or_else(|| suffix(it, "application/grpc-web")));
    let content_type = HeaderValue::try_from(format!("application/grpc{}", suffix.unwrap_or_default()));
    headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/grpc")));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.remove(header::ACCEPT);
}

/// Makes the headers of gRPC's answer those of gRPC-Web.
pub(crate) fn to_web(call: Call, headers: &mut HeaderMap) {
    let suffix = headers.get(header::CONTENT_TYPE).and_then(|it| suffix(it, "application/grpc")).unwrap_or("");
    let suffix = if suffix.is_empty() { "+proto" } else { suffix };
    let name = if call.answer == Framing::WebText { WEB_TEXT } else { "application/grpc-web" };
    if let Ok(content_type) = HeaderValue::try_from(format!("{name}{suffix}")) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    headers.remove(header::TRAILER);
}

/// Reads a request in base64, which may be padded wherever its client flushed.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The beginning of four.
    kept: Vec<u8>,
}

/// The bytes are no base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoBase64;

impl Decoder {
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<Bytes, NoBase64> {
        self.kept.extend_from_slice(bytes);
        let whole = self.kept.len() / QUAD * QUAD;
        let mut decoded = Vec::with_capacity(whole / QUAD * 3);
        let mut rest = &self.kept[..whole];
        while !rest.is_empty() {
            let padded = memchr::memchr(b'=', rest).map_or(rest.len(), |at| at / QUAD * QUAD + QUAD);
            let (part, after) = rest.split_at(padded);
            BASE64_STANDARD.decode_vec(part, &mut decoded).map_err(|_| NoBase64)?;
            rest = after;
        }
        self.kept.drain(..whole);
        Ok(decoded.into())
    }

    /// At the end nothing may be left.
    pub(crate) fn end(&self) -> Result<(), NoBase64> {
        if self.kept.is_empty() { Ok(()) } else { Err(NoBase64) }
    }
}

/// Writes an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder {
    text: bool,
}

impl Encoder {
    pub(crate) fn of(call: Call) -> Self {
        Self { text: call.answer == Framing::WebText }
    }

    pub(crate) fn data(self, data: Bytes) -> Bytes {
        if self.text { BASE64_STANDARD.encode(&data).into() } else { data }
    }

    /// Trailers as the last message.
    pub(crate) fn trailers(self, trailers: &HeaderMap) -> Bytes {
        let mut lines = BytesMut::new();
        for (name, value) in trailers {
            lines.put_slice(name.as_str().as_bytes());
            lines.put_slice(b": ");
            lines.put_slice(value.as_bytes());
            lines.put_slice(b"\r\n");
        }
        let mut message = BytesMut::with_capacity(lines.len() + 5);
        message.put_u8(TRAILERS);
        message.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX)); // headers are bounded far below
        message.put_slice(&lines);
        self.data(message.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::map;

    #[test]
    fn base64_is_read_however_it_is_cut_and_wherever_it_is_padded() {
        let said = [BASE64_STANDARD.encode("a"), BASE64_STANDARD.encode("bcd"), BASE64_STANDARD.encode("ef")].concat();
        for cut in 1..=said.len() {
            let mut decoder = Decoder::default();
            let decoded: Vec<Bytes> = said.as_bytes().chunks(cut).map(|it| decoder.decode(it).unwrap()).collect();
            assert_eq!((decoded.concat().as_slice(), decoder.end()), (&b"abcdef"[..], Ok(())), "cut at {cut}");
        }
        for bad in ["YQ=", "YQ", "Y", "YQ=Y", "=YQ=", "Y\nQ=", "\u{e9}\u{e9}"] {
            let mut decoder = Decoder::default();
            let read = decoder.decode(bad.as_bytes()).map(drop).and_then(|()| decoder.end());
            assert_eq!(read, Err(NoBase64), "{bad}");
        }
    }

    #[test]
    fn trailers_are_a_message_with_a_flag() {
        let trailers = map(&[("grpc-status", "0"), ("x-a", "b")]);
        let web = Call { framing: Framing::Web, answer: Framing::Web, timeout: None };
        let text = Call { answer: Framing::WebText, ..web };
        let message = b"\x80\0\0\0\x18grpc-status: 0\r\nx-a: b\r\n";
        assert_eq!(Encoder::of(web).trailers(&trailers), &message[..]);
        assert_eq!(Encoder::of(text).trailers(&trailers), BASE64_STANDARD.encode(message));
    }

    #[test]
    fn the_kind_of_messages_is_kept_in_content_types() {
        let mut request = map(&[("content-type", "application/grpc-web-text+proto"), ("accept", "x")]);
        to_grpc(&mut request);
        assert_eq!(request, map(&[("content-type", "application/grpc+proto"), ("te", "trailers")]));
        let text = Call { framing: Framing::Web, answer: Framing::WebText, timeout: None };
        for (answer, told) in [("application/grpc", "+proto"), ("application/grpc+json", "+json")] {
            let mut headers = map(&[("content-type", answer), ("trailer", "x")]);
            to_web(text, &mut headers);
            assert_eq!(headers.len(), 1);
            assert_eq!(headers["content-type"], format!("{WEB_TEXT}{told}"));
        }
    }
}
