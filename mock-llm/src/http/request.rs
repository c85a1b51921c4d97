//! The head of a request.

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// As it came, with its query.
    pub(crate) target: String,
    /// In order; names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

impl Request {
    /// Reads a head that ends with its empty line.
    pub(super) fn parse(head: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target, version) = (first.next()?, first.next()?, first.next()?);
        if first.next().is_some() || version != "HTTP/1.1" || !target.starts_with('/') {
            return None;
        }
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            plain.then(|| (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
        };
        let headers = lines.map(header).collect::<Option<Vec<_>>>()?;
        Some(Request { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() })
    }

    /// RFC 9112 §6.3, strictly: two lengths, or a length beside a transfer coding, are no request.
    pub(super) fn framing(&self) -> Option<Framing> {
        let mut lengths = self.all("content-length");
        let mut codings = self.all("transfer-encoding");
        match (lengths.next(), codings.next(), lengths.next(), codings.next()) {
            (None, None, ..) => Some(Framing::Length(0)),
            (Some(length), None, None, _) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().ok().map(Framing::Length)
            }
            (None, Some(coding), _, None) if coding.eq_ignore_ascii_case("chunked") => Some(Framing::Chunked),
            _ => None,
        }
    }

    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The target without its query.
    pub(crate) fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// One parameter of the query, not decoded.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the connection stays open after the answer.
    pub(crate) fn keeps_alive(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Option<Request> {
        Request::parse(head.as_bytes())
    }

    #[test]
    fn a_head_is_read_and_its_query_with_it() {
        let request = parse("POST /v1/x?since=7&limit=2 HTTP/1.1\r\nHost: a\r\nX-Mock-Delay:  2s \r\n\r\n").unwrap();
        assert_eq!((request.path(), request.query("since"), request.query("limit")), ("/v1/x", Some("7"), Some("2")));
        assert_eq!(request.header("x-mock-delay"), Some("2s"));
        assert_eq!(request.query("sinc"), None);
    }

    #[test]
    fn ambiguous_or_broken_heads_are_no_requests() {
        assert!(parse("GET / HTTP/1.0\r\n\r\n").is_none());
        assert!(parse("GET  / HTTP/1.1\r\n\r\n").is_none());
        assert!(parse("GET / HTTP/1.1\r\nno colon\r\n\r\n").is_none());
        assert!(parse("GET / HTTP/1.1\r\na b: c\r\n\r\n").is_none());
        let framing = |headers: &str| parse(&format!("POST / HTTP/1.1\r\n{headers}\r\n")).unwrap().framing();
        assert_eq!(framing("content-length: 5\r\n"), Some(Framing::Length(5)));
        assert_eq!(framing("transfer-encoding: chunked\r\n"), Some(Framing::Chunked));
        assert_eq!(framing("content-length: 5\r\ncontent-length: 5\r\n"), None);
        assert_eq!(framing("content-length: 5\r\ntransfer-encoding: chunked\r\n"), None);
        assert_eq!(framing("transfer-encoding: gzip, chunked\r\n"), None);
        assert_eq!(framing("content-length: +5\r\n"), None);
    }
}
