//! Whether this node takes a request on, by what it is worth beside all others.

use http::Version;
use tollgate_model::Priority;

use super::{Exchange, routed};
use crate::{
    error::Rejection,
    filters,
    overload::{Rank, Short},
    routing::Model,
};

/// How this request ranks, once its route is found and its caller known: the caller's priority goes before the route's, as that
/// alone can tell a batch job from those whom the same route serves while they wait.
pub(crate) fn rank(exchange: &Exchange) -> Rank {
    match exchange.record.let_in {
        Some(rank) => rank,
        None => rank_as(exchange, exchange.record.caller.as_ref().and_then(|caller| caller.consumer.priority)),
    }
}

fn rank_as(exchange: &Exchange, of_caller: Option<Priority>) -> Rank {
    Rank::new(of_caller.unwrap_or(exchange.plan.route.priority), exchange.compiled.view.has_critical())
}

/// Lets the request in, or refuses it.
pub(super) fn admit(exchange: &mut Exchange) -> Result<(), Rejection> {
    let caller = exchange.record.caller.as_ref();
    let rank = rank_as(exchange, caller.and_then(|caller| caller.consumer.priority));
    admit_as(exchange, rank)?;
    match &mut exchange.room {
        Some(room) => Ok(room.is_of(rank)?),
        None => Ok(()),
    }
}

/// The same before its body is read, whose model decides on the route: as the highest that it can turn out to be, and a stranger as
/// the highest that strangers can. It is looked at again then.
pub(super) fn admit_ahead(exchange: &mut Exchange) -> Result<(), Rejection> {
    let rank = rank_ahead(exchange);
    admit_as(exchange, rank)
}

fn admit_as(exchange: &mut Exchange, rank: Rank) -> Result<(), Rejection> {
    let before = exchange.record.let_in;
    if before == Some(rank) {
        return Ok(());
    }
    let closes = exchange.head.version < Version::HTTP_2;
    match exchange.shared.overload.admit(rank, before.is_some(), closes) {
        Ok(()) => exchange.record.let_in = Some(rank),
        Err(short) => {
            exchange.shared.overload.shed_by(short, rank);
            let rejection = Rejection::overloaded();
            return Err(if short == Short::Connections { rejection.closing() } else { rejection });
        }
    }
    Ok(())
}

fn rank_ahead(exchange: &Exchange) -> Rank {
    let view = &exchange.compiled.view;
    let rank = |priority| Rank::new(priority, view.has_critical());
    if !view.has_priorities() {
        return rank(Priority::Standard);
    }
    let caller = filters::caller_ahead(view, &exchange.head.headers);
    if let Some(priority) = caller.as_ref().and_then(|caller| caller.consumer.priority) {
        return rank(priority);
    }
    let facts = routed::facts(&exchange.head, &exchange.target, Model::Unread);
    // A stranger gets nothing but a refusal elsewhere: no place that is kept for callers is taken by that.
    let open = exchange.compiled.table.could_be(&facts).map(|plan| &plan.route);
    let open = open.filter(|route| caller.is_some() || route.auth.takes_strangers());
    rank(open.map(|route| route.priority).max().unwrap_or(Priority::Sheddable))
}
