//! What an HTTP/1 request head must look like before hyper sees it.
//!
//! hyper frames correctly but is lenient where two parsers could disagree: a second `content-length` with the same
//! value, a bare LF, transfer-encodings other than `chunked`. Two readings of one message are how requests are
//! smuggled, so whatever is ambiguous is refused here, on the raw bytes (RFC 9112 §2.2, §5, §6).
//! Not here: what the target and the host mean (`normalize`).

use super::refusal::{Malformed, Refusal};

/// Lines of a head at most. HTTP/2 counts 32 bytes for each field besides its own (RFC 9113 §6.5.2), so that 64 KB hold
/// fewer than this: the bytes decide. hyper's tables for so many live while one head is parsed.
pub(super) const MAX_HEADERS: usize = 2_000;
/// A path beyond this names nothing that is served.
const MAX_KNOWN_PATH: usize = 1_024;

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// What a checked head says that matters to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// It asks for a WebSocket, and has no body: what follows it depends on the answer.
    pub(super) may_switch: bool,
}

/// Checks one whole head, from its request line to the empty line that ends it.
pub(super) fn check(head: &[u8]) -> Result<Head, Refusal> {
    let mut lines = Lines { rest: head };
    let line = lines.next().ok_or(Malformed::RequestLine)??;
    let version = request_line(line)?;
    let mut seen = Seen::default();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        seen.count += 1;
        if seen.count > MAX_HEADERS {
            return Err(Refusal::HeadTooLarge);
        }
        seen.header(line)?;
    }
    let framing = seen.framing(version)?;
    let may_switch = seen.websocket && version == Version::Http11 && framing == Framing::Length(0);
    Ok(Head { framing, may_switch })
}

/// The path that the beginning of a head names, as far as it can be read: for the refusal's dialect, not for routing.
pub(super) fn path_of(head: &[u8]) -> Option<&str> {
    let line = head.split(|&byte| matches!(byte, b'\r' | b'\n')).next()?;
    let method = line.iter().position(|&byte| byte == b' ')?;
    let target = &line[method + 1..];
    let path = match target.windows(3).position(|it| it == b"://") {
        Some(scheme) if !target.starts_with(b"/") => {
            let authority = &target[scheme + 3..];
            &authority[authority.iter().position(|&byte| byte == b'/')?..]
        }
        _ => target,
    };
    let end = path.iter().position(|&byte| matches!(byte, b' ' | b'?' | b'#'))?;
    std::str::from_utf8(&path[..end]).ok().filter(|path| path.len() <= MAX_KNOWN_PATH)
}

/// Lines of a head, each ended by CRLF and nothing else.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Some(end) = memchr::memchr(b'\n', self.rest) else { return Some(Err(Malformed::LineEnd)) };
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        match line.strip_suffix(b"\r\n") {
            Some(line) if memchr::memchr2(b'\r', 0, line).is_none() => Some(Ok(line)),
            Some(_) => Some(Err(Malformed::Control)),
            None => Some(Err(Malformed::LineEnd)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// `method SP request-target SP HTTP-version`, single spaces only (RFC 9112 §3).
fn request_line(line: &[u8]) -> Result<Version, Malformed> {
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next()) else {
        return Err(Malformed::RequestLine);
    };
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err(Malformed::RequestLine);
    }
    if method == b"CONNECT" {
        return Err(Malformed::Connect);
    }
    check_target(target)?;
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => Err(Malformed::Version),
    }
}

/// The target must be visible ASCII without a fragment, and one that the URI parser will take: else hyper would
/// answer by itself, without a request id. It is a path, a URI with its scheme, or `*` (RFC 9112 §3.2).
fn check_target(target: &[u8]) -> Result<(), Malformed> {
    let usual = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.~?=&%+,:;@!$'()*".contains(byte);
    if target.is_empty() || target.contains(&b'#') {
        return Err(Malformed::Target);
    }
    if target[0] == b'/' && target.iter().all(usual) {
        return Ok(());
    }
    let visible = target.iter().all(u8::is_ascii_graphic);
    let named = target[0] == b'/' || target == b"*" || target.windows(3).any(|it| it == b"://");
    if visible && named && http::Uri::try_from(target).is_ok() { Ok(()) } else { Err(Malformed::Target) }
}

#[derive(Default)]
struct Seen {
    count: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    websocket: bool,
}

impl Seen {
    fn header(&mut self, line: &[u8]) -> Result<(), Malformed> {
        if matches!(line[0], b' ' | b'\t') {
            return Err(Malformed::Folded);
        }
        let colon = memchr::memchr(b':', line).ok_or(Malformed::HeaderName)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Malformed::HeaderName);
        }
        if value.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
            return Err(Malformed::Control);
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.websocket |= value.eq_ignore_ascii_case(b"websocket");
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self) -> Result<(), Malformed> {
        self.hosts += 1;
        if self.hosts == 1 { Ok(()) } else { Err(Malformed::TwoHosts) }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        match (length, self.length) {
            (None, _) => Err(Malformed::ContentLength),
            (Some(_), Some(_)) => Err(Malformed::TwoLengths),
            (length, None) => {
                self.length = length;
                Ok(())
            }
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::TransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<Framing, Malformed> {
        if self.hosts == 0 {
            return Err(Malformed::NoHost);
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Malformed::LengthAndChunked),
            (None, true) if version == Version::Http10 => Err(Malformed::ChunkedInHttp10),
            (None, true) => Ok(Framing::Chunked),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Result<Framing, Refusal> {
        check(format!("{lines}\r\n\r\n").as_bytes()).map(|head| head.framing)
    }

    fn headers(lines: &str) -> Result<Framing, Refusal> {
        head(&format!("POST /v1 HTTP/1.1\r\nHost: a\r\n{lines}"))
    }

    #[test]
    fn plain_requests_are_framed() {
        assert_eq!(head("GET / HTTP/1.1\r\nHost: a"), Ok(Framing::Length(0)));
        assert_eq!(head("GET /?a=%7B&b={} HTTP/1.0\r\nhost: a"), Ok(Framing::Length(0)));
        assert_eq!(headers("Content-Length: 12"), Ok(Framing::Length(12)));
        assert_eq!(headers("Transfer-Encoding:\tChunked "), Ok(Framing::Chunked));
    }

    #[test]
    fn whatever_two_parsers_could_read_differently_is_refused() {
        for (lines, why) in [
            ("Content-Length: 5\r\nContent-Length: 5", Malformed::TwoLengths),
            ("Content-Length: 5, 5", Malformed::ContentLength),
            ("Content-Length: +5", Malformed::ContentLength),
            ("Content-Length: 0x5", Malformed::ContentLength),
            ("Content-Length:", Malformed::ContentLength),
            ("Content-Length: 18446744073709551616", Malformed::ContentLength),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", Malformed::LengthAndChunked),
            ("Transfer-Encoding: identity, chunked", Malformed::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Malformed::TransferEncoding),
            ("Transfer-Encoding: xchunked", Malformed::TransferEncoding),
            ("Transfer-Encoding: \x0bchunked", Malformed::Control),
            ("X: a\r\n b", Malformed::Folded),
            ("X : a", Malformed::HeaderName),
            ("X\0: a", Malformed::Control),
            (": a", Malformed::HeaderName),
            ("no colon", Malformed::HeaderName),
            ("X: a\0b", Malformed::Control),
            ("X: a\rb", Malformed::Control),
            ("X: a\nY: b", Malformed::LineEnd),
            ("Host: a", Malformed::TwoHosts),
        ] {
            assert_eq!(headers(lines), Err(why.into()), "{lines:?}");
        }
        assert_eq!(head("GET / HTTP/1.1\r\nX: a"), Err(Malformed::NoHost.into()));
        let chunked = head("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked");
        assert_eq!(chunked, Err(Malformed::ChunkedInHttp10.into()));
    }

    #[test]
    fn a_head_that_asks_for_a_websocket_is_told_from_others() {
        for (lines, may_switch) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade:  WebSocket ", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 0", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 1", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nX-Upgrade: websocket", false),
            ("GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket", false),
        ] {
            let head = check(format!("{lines}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(head.may_switch, may_switch, "{lines:?}");
        }
    }

    #[test]
    fn a_request_line_has_three_parts_and_single_spaces() {
        for (line, why) in [
            ("GET  / HTTP/1.1", Malformed::RequestLine),
            ("GET / HTTP/1.1 ", Malformed::RequestLine),
            ("GET\t/ HTTP/1.1", Malformed::RequestLine),
            ("GET /", Malformed::RequestLine),
            (" GET / HTTP/1.1", Malformed::RequestLine),
            ("GET / HTTP/2.0", Malformed::Version),
            ("GET / http/1.1", Malformed::Version),
            ("G(T / HTTP/1.1", Malformed::RequestLine),
            ("GET /a#b HTTP/1.1", Malformed::Target),
            ("GET foo HTTP/1.1", Malformed::Target),
            ("GET foo:80 HTTP/1.1", Malformed::Target),
            ("GET /\u{e9} HTTP/1.1", Malformed::Target),
            ("CONNECT a:1 HTTP/1.1", Malformed::Connect),
        ] {
            assert_eq!(head(&format!("{line}\r\nHost: a")), Err(why.into()), "{line:?}");
        }
    }

    #[test]
    fn too_many_headers_are_too_large() {
        assert!(headers(&vec!["a: b"; MAX_HEADERS - 1].join("\r\n")).is_ok());
        assert_eq!(headers(&vec!["a: b"; MAX_HEADERS].join("\r\n")), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn the_path_of_a_refused_head_is_read_where_it_is_whole() {
        for (head, path) in [
            ("POST /v1/messages HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Some("/v1/messages")),
            ("POST /v1/messages?beta=true", Some("/v1/messages")),
            ("POST http://a/v1/messages HTTP/1.1", Some("/v1/messages")),
            ("POST /x://v1/messages HTTP/1.1", Some("/x://v1/messages")),
            ("POST /v1/messages", None),
            ("POST http://a HTTP/1.1", None),
            ("POST\r\n/v1/messages HTTP/1.1", None),
            ("", None),
        ] {
            assert_eq!(path_of(head.as_bytes()), path, "{head:?}");
        }
        assert_eq!(path_of(format!("GET /{} HTTP/1.1", "a".repeat(2_000)).as_bytes()), None);
    }
}
