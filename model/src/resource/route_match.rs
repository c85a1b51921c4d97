//! Which requests a route takes.

use http::{HeaderName, Method};
use regex::Regex;

use crate::{Glob, Name};

/// Which host a request must name; compared without port, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Any host.
    Any,
    /// This one, in lower case.
    Exact(String),
    /// What ends in this: `.example.com`, in lower case. Not `example.com` itself.
    Suffix(String),
}

/// All that is given must hold.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The normalised path.
    pub path: PathMatch,
    /// Any of these; any method when empty.
    pub methods: Vec<Method>,
    /// Each of these.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Each of these, by decoded name and value.
    pub query: Vec<(String, ValueMatch)>,
    /// Each of these.
    pub cookies: Vec<(String, ValueMatch)>,
    /// The model asked for is any of these; any model, or none, when empty.
    pub models: Vec<Glob>,
}

/// The requests that a backend is for; all that is given must hold.
#[derive(Debug, Clone)]
pub struct When {
    /// Each of these.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Each of these, by decoded name and value.
    pub query: Vec<(String, ValueMatch)>,
    /// Each of these.
    pub cookies: Vec<(String, ValueMatch)>,
    /// Any of these calls; anybody when empty.
    pub consumers: Vec<Name>,
}

/// A condition on the path.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// Every path.
    Any,
    /// This path.
    Exact(String),
    /// This path and what is below it, on segments: `/v1` takes `/v1` and `/v1/x`, not `/v10`. Without a slash at its
    /// end, so `/` is empty here, and takes everything.
    Prefix(String),
    /// The whole path; anchored at both ends.
    Regex(Regex),
}

impl PathMatch {
    /// Whether this path is meant.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// A condition on a header, a query parameter or a cookie.
#[derive(Debug, Clone)]
pub enum ValueMatch {
    /// Is there and is this.
    Exact(String),
    /// Is there and begins so.
    Prefix(String),
    /// Is there and the whole of it matches; anchored at both ends.
    Regex(Regex),
    /// Is there, or is not.
    Present(bool),
}

impl ValueMatch {
    /// Whether this value, or its absence, is meant.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => *wanted == value.is_some(),
            (_, None) => false,
            (Self::Exact(exact), Some(value)) => value == exact,
            (Self::Prefix(prefix), Some(value)) => value.starts_with(prefix.as_str()),
            (Self::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }
}
