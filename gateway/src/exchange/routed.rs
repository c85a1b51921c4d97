//! Which route a request is for: by its head, or by the model that its body asks for.

use std::sync::Arc;

use http::{Method, header, request};
use hyper::ext::Protocol;
use tollgate_llm::{AiRequest, Operation};
use tollgate_model::Traffic;

use super::{Exchange, RequestBody, admission, rank, read_ai, refuse};
use crate::{
    ai,
    compiled::Compiled,
    error::Rejection,
    filters::cors,
    gateway::Shared,
    listener::{Connection, Malformed},
    normalize::{self, Target},
    routing::{Facts, Found, Model, Plan},
};

pub(super) fn facts<'a>(head: &'a request::Parts, target: &'a Target, model: Model<'a>) -> Facts<'a> {
    Facts {
        host: target.host.name(),
        path: &target.path,
        method: &head.method,
        headers: &head.headers,
        query: target.query.as_deref(),
        model,
    }
}

/// Where a request goes, as far as its head says.
pub(super) struct Routed {
    pub(super) target: Target,
    pub(super) plan: Arc<Plan>,
    pub(super) matched: usize,
    pub(super) needs_model: bool,
}

/// Reads the target, once, and finds its route: the first that could be, and whether its model decides.
pub(super) fn route(
    shared: &Shared,
    compiled: &Compiled,
    head: &mut request::Parts,
    connection: &Connection,
) -> Result<Routed, Rejection> {
    refuse::fields(head)?;
    // HTTP/1's framing was checked on the raw head. h2 takes equal lengths for one.
    if head.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Malformed::TwoLengths.into());
    }
    if head.method == Method::CONNECT {
        if head.extensions.get::<Protocol>().is_none() {
            return Err(Malformed::Connect.into());
        }
        head.method = Method::GET; // in whose place it stands (RFC 8441 §5)
    }
    let target = Target::read(head, &connection.scheme())?;
    refuse::misdirected(shared, compiled, target.host.name(), connection)?;
    normalize::join_cookies(&mut head.headers);
    let facts = facts(head, &target, Model::Unread);
    let found = preflighted(compiled, head, facts).unwrap_or_else(|| compiled.table.find(&facts));
    let (plan, matched, needs_model) = match found {
        Found::Route(plan, matched) => (Arc::clone(plan), matched, false),
        Found::NeedsModel(plan, matched) => (Arc::clone(plan), matched, true),
        Found::Nothing => return Err(Rejection::route_not_found()),
    };
    Ok(Routed { target, plan, matched, needs_model })
}

/// A preflight is for the route of the request that it asks about, if that one answers preflights.
fn preflighted<'a>(compiled: &'a Compiled, head: &request::Parts, facts: Facts<'_>) -> Option<Found<'a>> {
    let method = cors::asked_method(head)?;
    let found = compiled.table.find(&Facts { method: &method, ..facts });
    let (Found::Route(plan, matched) | Found::NeedsModel(plan, matched)) = found else { return None };
    let answers = plan.route.traffic.as_ref().is_some_and(|traffic| traffic.cors.is_some());
    answers.then_some(Found::Route(plan, matched))
}

fn refused_by_all(exchange: &Exchange) -> Result<(), Rejection> {
    refuse::trace(&exchange.head)?;
    refuse::upgrade(exchange)?;
    refuse::comes_back(exchange)
}

/// What every route refuses; then the model, where it decides on the route.
pub(super) async fn settle_route(exchange: &mut Exchange, needs_model: bool) -> Result<(), Rejection> {
    if let Err(rejection) = refused_by_all(exchange) {
        exchange.answers_early();
        return Err(rejection);
    }
    if needs_model { Box::pin(route_by_model(exchange)).await } else { Ok(()) }
}

/// Reads the body, whose model decides on the route. One that can't be read is an answer of the first route that could
/// have been.
async fn route_by_model(exchange: &mut Exchange) -> Result<(), Rejection> {
    if !some_route_lets_in(exchange) {
        exchange.record.route = Some(exchange.plan.route.name.clone());
        return Err(refuse::not_for_this_address());
    }
    if ai::realtime::is_asked_for(&exchange.head, &exchange.target.path) {
        // What follows its head is no body.
        let model = ai::realtime::model(exchange.target.query.as_deref());
        return found_by_model(exchange, model.as_deref());
    }
    admission::admit_ahead(exchange)?;
    let RequestBody::Unread(body) = exchange.body.take() else { return Ok(()) };
    let (method, path) = (&exchange.head.method, &exchange.target.path);
    let room = exchange.room.insert(exchange.shared.overload.room(rank(exchange)));
    let (body, ai) = match read_ai(method, path, body, exchange.plan.route.body_limit_bytes, room).await {
        Ok(read) => read,
        Err(rejection) => {
            exchange.answers_early();
            return Err(rejection);
        }
    };
    let model = ai.as_ref().map(AiRequest::model).or_else(|| Operation::model_in_path(path));
    let model = model.map(str::to_owned);
    exchange.body = RequestBody::Read(body, ai);
    found_by_model(exchange, model.as_deref())
}

fn found_by_model(exchange: &mut Exchange, model: Option<&str>) -> Result<(), Rejection> {
    let found = exchange.compiled.table.find(&facts(&exchange.head, &exchange.target, Model::Read(model)));
    let (plan, matched) = match (found, model) {
        (Found::Route(plan, matched), _) => (Arc::clone(plan), matched),
        (_, Some(model)) => return Err(Rejection::model_not_found(model)),
        // An operation without a model, as the list of models, is for whatever route could have one.
        (_, None) => (Arc::clone(&exchange.plan), exchange.matched),
    };
    (exchange.plan, exchange.matched) = (plan, matched);
    Ok(())
}

/// Whether any of the routes that this request can have is for its address: if none is, its body need not be read.
fn some_route_lets_in(exchange: &Exchange) -> bool {
    let address = exchange.client_address();
    let facts = facts(&exchange.head, &exchange.target, Model::Unread);
    let lets_in = |traffic: &Traffic| refuse::lets_in(traffic, address);
    exchange.compiled.table.could_be(&facts).any(|plan| plan.route.traffic.as_deref().is_none_or(lets_in))
}
