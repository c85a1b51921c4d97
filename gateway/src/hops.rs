//! Requests that come back: a route that leads to this node again would go round for ever.
//!
//! A node puts its name into `cdn-loop` of all that it sends on (RFC 8586), which nobody on the way may take out, and refuses to send
//! on what has it. So a loop is one request long, through whichever proxies it leads; through several nodes behind one address it ends at the
//! first that has seen it.

use http::{HeaderMap, HeaderName, HeaderValue};

static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// This node's name among the hops of a request.
#[derive(Debug)]
pub(crate) struct Hop(HeaderValue);

impl Hop {
    /// One that no other node has, nor this one when it is started again.
    pub(crate) fn new() -> Self {
        let name = format!("tollgate-{:016x}", rand::random::<u64>());
        Self(HeaderValue::try_from(name).expect("letters, digits and a hyphen"))
    }

    /// Whether a request was here before.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let infos = headers.get_all(&CDN_LOOP).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
        infos.filter_map(|info| info.split(|&byte| byte == b';').next()).any(|id| id.trim_ascii() == self.0.as_bytes())
    }

    /// Says so of one that goes on.
    pub(crate) fn add(&self, headers: &mut HeaderMap) {
        headers.append(&CDN_LOOP, self.0.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_here_is_known_among_its_hops() {
        let (own, other) = (Hop::new(), Hop::new());
        let mut headers = HeaderMap::new();
        assert!(!own.is_in(&headers));
        other.add(&mut headers);
        assert!(!own.is_in(&headers) && other.is_in(&headers));
        let name = own.0.to_str().unwrap();
        for (line, is_in) in [
            (name.to_owned(), true),
            (format!("a, {name};v=1 ,b"), true),
            (format!("{name}0, x{name}"), false),
            (format!("a;{name}"), false),
        ] {
            let mut headers = headers.clone();
            headers.append(&CDN_LOOP, line.parse().unwrap());
            assert_eq!(own.is_in(&headers), is_in, "{line}");
        }
    }
}
