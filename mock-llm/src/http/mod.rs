//! HTTP/1.1 by hand: just what a provider needs, with every byte under control.
//!
//! A framing fault (a wrong length, a reset in mid-chunk) is an ordinary write here, and a write that returned is one whose
//! bytes the kernel has. Nothing of this is shared with the gateway that it witnesses.

mod connection;
mod request;

pub(crate) use connection::{Connection, Gone, head};
pub(crate) use request::Request;

/// The reason phrase of a status.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Overloaded",
        _ => "Mock",
    }
}
