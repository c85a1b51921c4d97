//! What stands between a matched route and its upstream, cheap refusals first: the route's `ips`, preflights (`cors`),
//! `authenticate`, then the route's own `allow`, `faults`, then `admit`, last, so that nothing reserved is refused
//! afterwards.

pub(crate) mod admit;
pub(crate) mod again;
mod authenticate;
pub(crate) mod cors;
pub(crate) mod faults;
pub(crate) mod output;
mod rate_headers;
mod reserve;
pub(crate) mod rewrite;
mod shadow;

pub(crate) use authenticate::{authenticate, caller_ahead, credentials, remove_credentials};
pub(crate) use rate_headers::are_told;
