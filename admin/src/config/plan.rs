//! What an apply would change: every resource prepared and checked, then the whole held against the catalog.

use std::collections::{HashMap, HashSet};

use tollgate_model::{
    Kind, LogIndex, Problems,
    catalog::Decision,
    check, kind_and_name,
    secret::{self, ClusterKey},
};
use tollgate_proto::{
    admin::v1::{ApplyRequest, Problem, ResourceChange},
    state::v1::{ConfigAction, ConfigChange, ConfigOutcome, PutResource},
    v1::{Metadata, Resource, resource},
};
use tonic::Status;

use crate::{
    backplane::ConfigState,
    call::Call,
    details::{Reason, from_model, from_state, refuse, refuse_all, summary},
};

/// A change that is ready for the log, and what it would do now.
pub(super) struct Plan {
    pub(super) change: ConfigChange,
    pub(super) decision: Decision,
}

/// Checks the request by itself, then plans it against `state`.
///
/// # Errors
/// Only what is wrong whatever the state is; what the state refuses is in the decision.
pub(super) fn plan(
    request: ApplyRequest,
    state: &ConfigState,
    key: Option<&ClusterKey>,
    call: &Call,
) -> Result<Plan, Status> {
    if request.prune && request.selector.is_empty() && request.apply_set.is_empty() {
        return Err(refuse(
            Reason::Invalid,
            "prune needs a selector or an apply_set: it never goes beyond one of them",
        ));
    }
    let Checked { puts, problems } = checked(request.resources, state, key);
    let change = ConfigChange {
        puts,
        deletes: Vec::new(),
        apply_set: request.apply_set,
        prune: request.prune,
        selector: request.selector,
    };
    if !problems.is_empty() {
        let problems = with_the_rest(problems, change, state);
        return Err(refuse_all(Reason::Invalid, &summary(&problems), problems, call.details_limit));
    }
    let decision = state.catalog.plan(next(state), &change);
    Ok(Plan { change, decision })
}

/// Adds what the catalog finds wrong with the same change, such as references to nothing: everything at once.
fn with_the_rest(problems: Problems, mut change: ConfigChange, state: &ConfigState) -> Vec<Problem> {
    let mut problems = from_model(problems);
    // Whether what has no name is to stay can't be known.
    change.prune &= change.puts.iter().filter_map(|put| put.resource.as_ref()).all(is_named);
    let about = |problem: &Problem| (problem.kind.clone(), problem.name.clone(), problem.field.clone());
    let told: HashSet<_> = problems.iter().map(about).collect();
    let more = from_state(state.catalog.plan(next(state), &change).outcome.problems);
    problems.extend(more.into_iter().filter(|problem| !told.contains(&about(problem))));
    problems
}

fn is_named(resource: &Resource) -> bool {
    kind_and_name(resource).is_some_and(|(_, name)| !name.is_empty())
}

/// An index for a plan that never becomes an entry: later than everything that is there.
pub(super) fn next(state: &ConfigState) -> LogIndex {
    LogIndex(state.catalog.version().0.max(state.index.0) + 1)
}

/// The resources of a request, and what is wrong with them by themselves. Those with problems are among them, without
/// their plain secrets, so that the rest of what is wrong can be seen.
struct Checked {
    puts: Vec<PutResource>,
    problems: Problems,
}

fn checked(resources: Vec<Resource>, state: &ConfigState, key: Option<&ClusterKey>) -> Checked {
    let mut problems = Problems::default();
    let mut puts = Vec::with_capacity(resources.len());
    let mut seen = HashMap::new();
    for (n, resource) in resources.into_iter().enumerate() {
        let Some((kind, metadata)) = identity(&resource) else {
            problems.push(problem(None, "", format!("resource {n} of the request is empty")));
            continue;
        };
        let name = metadata.map_or("", |metadata| metadata.name.as_str());
        if let Some(first) = seen.insert((kind, name.to_owned()), n).filter(|_| !name.is_empty()) {
            problems.push(problem(
                Some(kind),
                name,
                format!("is there twice: as resource {first} and {n} of the request"),
            ));
        }
        let expected_version = metadata.and_then(|metadata| metadata.resource_version);
        let current = state.catalog.get(kind, name).map(|stored| &stored.resource);
        let (prepared, found) = prepare(&resource, key, current);
        problems.extend(found);
        let resource = prepared.unwrap_or_else(|| secret::without_plain(resource));
        puts.push(PutResource { resource: Some(resource), expected_version });
    }
    Checked { puts, problems }
}

/// The resource as it would be stored, its secrets sealed and hashed, where they can be; and what is wrong with it.
fn prepare(resource: &Resource, key: Option<&ClusterKey>, current: Option<&Resource>) -> (Option<Resource>, Problems) {
    let mut problems = check(resource).err().unwrap_or_default();
    match secret::prepare(resource, key, current) {
        Ok(prepared) => (Some(prepared), problems),
        Err(more) => {
            let told = |field: &str| problems.iter().any(|problem| problem.field == field);
            let new = more.into_iter().filter(|problem| !told(&problem.field)).collect();
            problems.extend(Problems(new));
            (None, problems)
        }
    }
}

fn problem(kind: Option<Kind>, name: &str, message: String) -> tollgate_model::Problem {
    tollgate_model::Problem { kind, name: name.to_owned(), field: String::new(), message, at: None }
}

/// What a resource is, and its metadata.
pub(super) fn identity(resource: &Resource) -> Option<(Kind, Option<&Metadata>)> {
    Some(match resource.kind.as_ref()? {
        resource::Kind::Service(it) => (Kind::Service, it.metadata.as_ref()),
        resource::Kind::Provider(it) => (Kind::Provider, it.metadata.as_ref()),
        resource::Kind::Route(it) => (Kind::Route, it.metadata.as_ref()),
        resource::Kind::Tenant(it) => (Kind::Tenant, it.metadata.as_ref()),
        resource::Kind::Consumer(it) => (Kind::Consumer, it.metadata.as_ref()),
        resource::Kind::Limit(it) => (Kind::Limit, it.metadata.as_ref()),
        resource::Kind::Price(it) => (Kind::Price, it.metadata.as_ref()),
        resource::Kind::Certificate(it) => (Kind::Certificate, it.metadata.as_ref()),
    })
}

/// The outcome as an answer, or as the refusal that it is.
pub(super) fn accept(outcome: ConfigOutcome, refusal: Reason, call: &Call) -> Result<Vec<ResourceChange>, Status> {
    if outcome.problems.is_empty() && !outcome.conflict {
        return Ok(outcome.actions.into_iter().map(change).collect());
    }
    let reason = if outcome.conflict { Reason::Conflict } else { refusal };
    let problems: Vec<Problem> = from_state(outcome.problems);
    Err(refuse_all(reason, &summary(&problems), problems, call.details_limit))
}

fn change(ConfigAction { kind, name, action, resource_version }: ConfigAction) -> ResourceChange {
    ResourceChange { kind, name, action, resource_version }
}
