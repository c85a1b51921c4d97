//! What stands between a matched route and its upstream, cheap refusals first: `authenticate`, then the route's own
//! `allow`, then `admit`, last, so that nothing reserved is refused afterwards.

pub(crate) mod admit;
pub(crate) mod again;
mod authenticate;
pub(crate) mod output;
mod rate_headers;
mod reserve;
mod shadow;

pub(crate) use authenticate::{authenticate, credentials, remove_credentials};
pub(crate) use rate_headers::are_told;
