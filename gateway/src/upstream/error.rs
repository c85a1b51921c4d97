//! Why an upstream's answer did not come: whose fault, and may it be tried elsewhere.

use std::{error::Error, io};

use tollgate_model::Failure;

use super::means::NoFile;
use crate::{body::BodyFault, error::Rejection};

/// Sending a request, or waiting for the head of its answer, failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendError {
    #[error("no connection to the upstream")]
    Connect,
    #[error("no TLS connection to the upstream")]
    Tls,
    /// None was made, whoever is asked: this node may open no more files.
    #[error("no file is left for a connection to the upstream")]
    NoFile,
    /// It has all connections that it may have, and none was free in time.
    #[error("no connection to the upstream is free")]
    Full,
    /// It has said so: REFUSED_STREAM, or GOAWAY with the id of a stream before this one (RFC 9113 §8.7).
    #[error("the upstream did not begin to work on the request")]
    Refused,
    #[error("the upstream closed before its answer began")]
    Reset,
    #[error("the upstream's answer did not begin in time")]
    Timeout,
    #[error("the upstream's answer is no HTTP")]
    Garbage,
    #[error("the client's body failed: {0}")]
    Client(BodyFault),
}

impl SendError {
    /// No connection was made.
    pub(super) fn of_connecting(error: &(dyn Error + 'static)) -> Self {
        if find::<NoFile>(error).is_some() {
            return Self::NoFile;
        }
        if find::<rustls::Error>(error).is_some() { Self::Tls } else { Self::Connect }
    }

    /// A connection failed.
    pub(super) fn of_sending(error: &hyper::Error) -> Self {
        match find::<BodyFault>(error) {
            Some(fault) => Self::Client(*fault),
            None if find::<h2::Error>(error).is_some_and(is_refusal) => Self::Refused,
            None if error.is_parse() => Self::Garbage,
            None => Self::Reset,
        }
    }

    /// Whether the upstream may have begun to work.
    pub(crate) fn is_billable(self) -> bool {
        !matches!(self, Self::Connect | Self::Tls | Self::NoFile | Self::Full | Self::Refused)
    }

    /// Whether no endpoint has anything to do with it.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::NoFile | Self::Full)
    }

    /// As a route's `on` names it. What is no HTTP counts as the 502 that it becomes; where no file is left nobody could do better.
    pub(crate) fn failure(self) -> Option<Failure> {
        match self {
            Self::Connect | Self::Tls | Self::Full | Self::Refused => Some(Failure::Connect),
            Self::Reset => Some(Failure::Reset),
            Self::Timeout => Some(Failure::Timeout),
            Self::Garbage => Some(Failure::Status(502)),
            Self::NoFile | Self::Client(_) => None,
        }
    }

    /// For metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect_failure",
            Self::Tls => "tls_failure",
            Self::NoFile => "no_file",
            Self::Full => "no_connection_free",
            Self::Refused => "refused_stream",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Garbage => "garbage",
            Self::Client(_) => "client",
        }
    }
}

impl From<SendError> for Rejection {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect => Self::upstream_error("The upstream can't be reached."),
            SendError::Tls => Self::upstream_error(
                "No TLS connection to the upstream can be made: its certificate is not trusted, or not for its name.",
            ),
            SendError::NoFile => Self::overloaded(),
            SendError::Full => Self::no_healthy_upstream(),
            SendError::Refused => Self::upstream_error("The upstream refused the request before it worked on it."),
            SendError::Reset => Self::upstream_error("The upstream closed the connection before it answered."),
            SendError::Timeout => Self::upstream_timeout(),
            SendError::Garbage => Self::upstream_error("The upstream's answer can't be read."),
            SendError::Client(fault) => fault.into(),
        }
    }
}

/// Only of streams that it has not worked on it says so, and goes by the last one that it has.
fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

pub(super) fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error gives what its inner error was caused by, not the inner error itself.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}
