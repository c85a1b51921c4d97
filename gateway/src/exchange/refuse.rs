//! What is answered to by nobody: requests that no upstream is asked for, whoever sent them.

use std::net::IpAddr;

use http::{HeaderValue, Method, Version, header, request};
use tollgate_llm::{code, is_realtime};
use tollgate_model::{RouteAction, Traffic};

use super::Exchange;
use crate::{
    compiled::Compiled,
    error::Rejection,
    gateway::Shared,
    listener::{Connection, MAX_HEAD_BYTES, Malformed},
    tls::{self, Host},
    websocket::Wish,
};

/// HTTP/1's heads are read and measured as they arrive; HTTP/2's fields here, as far as h2 does not: how many bytes they are, as
/// RFC 9113 §6.5.2 counts, and that none begins or ends with a blank (§8.2.1), which HTTP/1 would take off.
pub(super) fn fields(head: &request::Parts) -> Result<(), Rejection> {
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let mut total = 0;
    for (name, value) in &head.headers {
        total += name.as_str().len() + value.len() + 32;
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(Malformed::Blank.into());
        }
    }
    if total > MAX_HEAD_BYTES {
        return Err(Rejection::new(431, code::REQUEST_TOO_LARGE, "The request's headers are too large."));
    }
    Ok(())
}

/// A host that asks for clients' certificates is had only by connections that were made to it.
pub(super) fn misdirected(
    shared: &Shared,
    compiled: &Compiled,
    host: &str,
    connection: &Connection,
) -> Result<(), Rejection> {
    let secured = connection.secured.as_ref();
    let of_host = compiled.certificates.find(host).cloned();
    let of_node =
        || shared.config.certificate.as_ref().filter(|_| secured.is_some()).map(|it| Host::Served(it.served()));
    if tls::admits(of_host.or_else(of_node).as_ref(), secured) { Ok(()) } else { Err(Rejection::misdirected()) }
}

/// TRACE echoes what it is sent: an upstream's echo would show what is added on the way, and to scripts what they must
/// not read (RFC 9110 §9.3.8).
pub(super) fn trace(head: &request::Parts) -> Result<(), Rejection> {
    if head.method != Method::TRACE {
        return Ok(());
    }
    let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    let refused = Rejection::new(405, code::INVALID_REQUEST, "The method TRACE is not allowed here.");
    Err(refused.with_header(header::ALLOW, allowed))
}

/// What was here before and would go on again (RFC 5842 §7.2). What is answered here may come as often as it likes.
pub(super) fn comes_back(exchange: &Exchange) -> Result<(), Rejection> {
    let goes_on = matches!(exchange.plan.route.action, RouteAction::Forward { .. });
    if !(goes_on && exchange.shared.hop.is_in(&exchange.head.headers)) {
        return Ok(());
    }
    let message = "This request has come back: the route leads to this gateway itself.";
    Err(Rejection::new(508, code::LOOP_DETECTED, message))
}

/// The one upgrade is to a WebSocket: of a service, or of the realtime API.
pub(super) fn upgrade(exchange: &Exchange) -> Result<(), Rejection> {
    let route = &exchange.plan.route;
    let to_service = matches!(route.action, RouteAction::Forward { .. }) && !route.is_ai();
    match Wish::of(&exchange.head) {
        Wish::Nothing => Ok(()),
        Wish::WebSocket if to_service => Ok(()),
        Wish::WebSocket if route.is_ai() && is_realtime(&exchange.target.path) => Ok(()),
        Wish::WebSocket if route.is_ai() => {
            Err(Rejection::not_supported("Of the AI APIs, only `/v1/realtime` has a WebSocket here."))
        }
        Wish::WebSocket => Err(Rejection::not_supported("This route answers by itself, and has no WebSocket.")),
        Wish::Other => Err(Rejection::not_supported("Upgrades to other protocols than WebSocket are not supported.")),
    }
}

pub(super) fn lets_in(traffic: &Traffic, address: IpAddr) -> bool {
    traffic.ips.as_ref().is_none_or(|ips| ips.allows(address))
}

pub(super) fn not_for_this_address() -> Rejection {
    Rejection::new(403, code::ACCESS_DENIED, "This route is not for this address.")
}
