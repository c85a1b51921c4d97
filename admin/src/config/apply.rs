//! Writing: apply and delete, each one log entry; and what an apply would do.

use std::{collections::BTreeSet, str::FromStr};

use bytes::Bytes;
use prost::Message;
use tollgate_model::{
    Kind, LogIndex, Problems, catalog::without_version, keys_missing_here, kind_and_name, tls::ended,
};
use tollgate_proto::{
    admin::v1::{
        ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, DiffResponse, Problem, ResourceChange,
        ResourceDiff, Warning,
    },
    state::v1::{Command, ConfigAction, ConfigChange, ConfigOutcome, DeleteResource, command},
    v1::Resource,
};
use tonic::Status;
use tracing::info;

use super::{
    Config,
    plan::{Plan, accept, plan},
};
use crate::{
    backplane::{ConfigState, RequestId},
    call::{Call, asked, request_id, request_id_or_new, used_before},
    details::{Reason, from_model, refuse},
};

impl Config {
    /// One atomic change, planned here so that what can't be done never reaches the log.
    pub(super) async fn apply(&self, call: &Call, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        let id = request_id(&request.request_id)?;
        let asked = asked(self.key.as_deref(), "apply", &ApplyRequest { request_id: Vec::new(), ..request.clone() });
        let dry_run = request.dry_run;
        let state = self.current(call).await?;
        let plan = self.plan(request, &state, call)?;
        let with_keys = plan.change.puts.iter().filter_map(|put| put.resource.as_ref()).filter(|it| has_keys(it));
        let with_keys: Vec<_> = with_keys.cloned().collect();
        let mut done = if dry_run {
            predicted(answer(state.index, plan.decision.outcome, call)?)
        } else {
            self.commit(call, id, asked, plan, &state).await?
        };
        done.warnings = self.warnings(with_keys).await?;
        Ok(done)
    }

    /// What the change would do, by all that has a say in it: a dry run refuses what the log would.
    fn plan(&self, request: ApplyRequest, state: &ConfigState, call: &Call) -> Result<Plan, Status> {
        let mut plan = plan(request, state, self.key.as_deref(), call)?;
        let problems = self.backplane.problems(&plan.change);
        if !problems.is_empty() {
            plan.decision.changes.clear();
            plan.decision.outcome.actions.clear();
            plan.decision.outcome.problems.extend(problems);
        }
        Ok(plan)
    }

    async fn commit(
        &self,
        call: &Call,
        id: Option<RequestId>,
        asked: Bytes,
        Plan { change, decision }: Plan,
        state: &ConfigState,
    ) -> Result<ApplyResponse, Status> {
        if decision.changes.is_empty() {
            return match self.first_outcome(call, id, &asked).await? {
                Some((index, outcome)) => answer(index, strictly(outcome, &change)?, call),
                None => answer(state.index, decision.outcome, call),
            };
        }
        let (index, outcome) = self.propose(call, id.unwrap_or_else(rand::random), asked, change.clone()).await?;
        answer(index, strictly(outcome, &change)?, call)
    }

    /// What this node can't do with resources that are accepted: the keys that it should have, and does not; and certificates
    /// that no client will take.
    async fn warnings(&self, resources: Vec<Resource>) -> Result<Vec<Warning>, Status> {
        let now = self.backplane.now();
        let wrong = move |resource: &Resource| {
            let mut found = keys_missing_here(resource);
            found.extend(ended(resource, now));
            found
        };
        let missing = move || resources.iter().flat_map(wrong).collect::<Vec<_>>();
        let missing = tokio::task::spawn_blocking(missing).await;
        let missing = missing.map_err(|_| Status::internal("the keys of this node can't be looked at"))?;
        let node = self.backplane.node().0;
        let warning = |Problem { kind, name, field, message }| Warning { node, kind, name, field, message };
        Ok(from_model(Problems(missing)).into_iter().map(warning).collect())
    }

    /// What an earlier try with this request id came to: it may be the very reason why nothing is left to change, or
    /// why a version does not match any more. An empty change asks the log, which knows every recent id.
    async fn first_outcome(
        &self,
        call: &Call,
        id: Option<RequestId>,
        asked: &Bytes,
    ) -> Result<Option<(LogIndex, ConfigOutcome)>, Status> {
        let Some(id) = id else { return Ok(None) };
        let (index, outcome) = self.propose(call, id, asked.clone(), ConfigChange::default()).await?;
        Ok((outcome != ConfigOutcome::default()).then_some((index, outcome)))
    }

    pub(super) async fn delete(&self, call: &Call, request: DeleteRequest) -> Result<DeleteResponse, Status> {
        let kind = parse_kind(&request.kind)?;
        let id = request_id_or_new(&request.request_id)?;
        let asked = asked(self.key.as_deref(), "delete", &DeleteRequest { request_id: Vec::new(), ..request.clone() });
        let delete = DeleteResource {
            kind: kind.to_string(),
            name: request.name.clone(),
            expected_version: request.resource_version,
        };
        let known = self.current(call).await?.catalog.get(kind, &request.name).is_some();
        let refusal = if known { Reason::Referenced } else { Reason::NotFound };
        let change = ConfigChange { deletes: vec![delete], ..ConfigChange::default() };
        let (index, outcome) = self.propose(call, id, asked, change.clone()).await?;
        let change = accept(strictly(outcome, &change)?, refusal, call)?.pop();
        Ok(DeleteResponse { index: index.0, change })
    }

    pub(super) async fn diff(&self, call: &Call, request: ApplyRequest) -> Result<DiffResponse, Status> {
        let state = self.current(call).await?;
        let Plan { decision, .. } = self.plan(request, &state, call)?;
        let actions = predicted(answer(state.index, decision.outcome, call)?).changes;
        let diffs = decision.changes.into_iter().map(|change| ResourceDiff {
            change: actions.iter().find(|action| is_of(action, change.kind, &change.name)).cloned(),
            before: change.before.map(|stored| stored.resource.clone()),
            after: change.after.map(|stored| without_version(&stored.resource)),
        });
        Ok(DiffResponse { diffs: diffs.collect() })
    }

    async fn propose(
        &self,
        call: &Call,
        id: RequestId,
        asked: Bytes,
        change: ConfigChange,
    ) -> Result<(LogIndex, ConfigOutcome), Status> {
        let command = Command { kind: Some(command::Kind::Config(change)), asked };
        let committed = self.backplane.propose(id, command, call.deadline).await?;
        let outcome = ConfigOutcome::decode(committed.outcome).map_err(|_| used_before())?;
        match outcome.problems.is_empty() && !outcome.conflict {
            true => info!(index = committed.index.0, token = %call.caller.token, "configuration change committed"),
            false => {
                info!(index = committed.index.0, token = %call.caller.token, problems = outcome.problems.len(), "configuration change refused")
            }
        }
        Ok((committed.index, outcome))
    }
}

fn answer(index: LogIndex, outcome: ConfigOutcome, call: &Call) -> Result<ApplyResponse, Status> {
    Ok(ApplyResponse { index: index.0, changes: accept(outcome, Reason::Invalid, call)?, warnings: Vec::new() })
}

/// The outcome, if it can be this change's: a request id that was used for another one gives that one's.
fn strictly(outcome: ConfigOutcome, change: &ConfigChange) -> Result<ConfigOutcome, Status> {
    if !outcome.problems.is_empty() || outcome.conflict {
        return Ok(outcome);
    }
    let puts = change.puts.iter().filter_map(|put| kind_and_name(put.resource.as_ref()?));
    let puts = puts.map(|(kind, name)| (kind.as_str(), name, false));
    let deletes = change.deletes.iter().map(|delete| (delete.kind.as_str(), delete.name.as_str(), true));
    let wanted: BTreeSet<_> = puts.chain(deletes).collect();
    let is_deleted = |action: &ConfigAction| action.action == "deleted";
    let done: BTreeSet<_> =
        outcome.actions.iter().map(|it| (it.kind.as_str(), it.name.as_str(), is_deleted(it))).collect();
    // What is pruned is known to the log alone.
    let mut more = done.difference(&wanted);
    let ours = wanted.is_subset(&done) && more.all(|(_, _, deleted)| change.prune && *deleted);
    if ours { Ok(outcome) } else { Err(used_before()) }
}

fn has_keys(resource: &Resource) -> bool {
    kind_and_name(resource)
        .is_some_and(|(kind, _)| matches!(kind, Kind::Service | Kind::Provider | Kind::Tenant | Kind::Certificate))
}

/// What would be done has no version yet.
fn predicted(mut response: ApplyResponse) -> ApplyResponse {
    for change in response.changes.iter_mut().filter(|change| change.action != "unchanged") {
        change.resource_version = 0;
    }
    response
}

fn is_of(action: &ResourceChange, kind: Kind, name: &str) -> bool {
    action.kind == kind.as_str() && action.name == name
}

/// A kind as a person writes it.
pub(super) fn parse_kind(text: &str) -> Result<Kind, Status> {
    Kind::from_str(text).map_err(|unknown| refuse(Reason::Invalid, unknown.to_string()))
}
