//! Why a connection's next request is not served.

/// What is wrong with a request that never became one. The connection closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("the request's headers are too large")]
    HeadTooLarge,
    #[error("the request's headers did not arrive in time")]
    HeadTimeout,
}

/// A request whose framing or meaning two parsers could read differently, or that is no HTTP at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the request line is malformed")]
    RequestLine,
    #[error("the HTTP version is not supported")]
    Version,
    #[error("the request target is malformed")]
    Target,
    #[error("CONNECT is not supported")]
    Connect,
    #[error("a line does not end with CRLF")]
    LineEnd,
    #[error("a control character in the headers")]
    Control,
    #[error("a folded header line")]
    Folded,
    #[error("a malformed header name")]
    HeaderName,
    #[error("a header value that begins or ends with a blank")]
    Blank,
    #[error("the content-length is malformed")]
    ContentLength,
    #[error("more than one content-length")]
    TwoLengths,
    #[error("both content-length and transfer-encoding")]
    LengthAndChunked,
    #[error("a transfer-encoding other than chunked")]
    TransferEncoding,
    #[error("a transfer-encoding in HTTP/1.0, which has none")]
    ChunkedInHttp10,
    #[error("no host")]
    NoHost,
    #[error("more than one host")]
    TwoHosts,
    #[error("a malformed host")]
    Host,
    #[error("the host differs from the request target")]
    HostMismatch,
    #[error("the path is malformed")]
    Path,
}
