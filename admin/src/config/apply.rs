//! Writing: apply and delete, each one log entry; and what an apply would do.

use std::str::FromStr;

use prost::Message;
use tollgate_model::{Kind, LogIndex};
use tollgate_proto::{
    admin::v1::{
        ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, DiffResponse, ResourceChange, ResourceDiff,
    },
    state::v1::{Command, ConfigChange, ConfigOutcome, DeleteResource, command},
};
use tonic::Status;
use tracing::info;

use super::{
    Config,
    plan::{Plan, accept, plan},
};
use crate::{
    backplane::RequestId,
    call::{Call, request_id, request_id_or_new},
    details::{Reason, refuse},
};

impl Config {
    /// One atomic change, planned here so that what can't be done never reaches the log.
    pub(super) async fn apply(&self, call: &Call, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        let id = request_id(&request.request_id)?;
        let dry_run = request.dry_run;
        let state = self.current(call).await?;
        let Plan { change, decision } = plan(request, &state, self.key.as_deref(), call)?;
        if dry_run {
            return answer(state.index, decision.outcome, call);
        }
        let changes_nothing = decision.changes.is_empty();
        if changes_nothing && let Some(first) = self.first_outcome(call, id).await? {
            return answer(first.0, first.1, call);
        }
        if changes_nothing {
            return answer(state.index, decision.outcome, call);
        }
        let (index, outcome) = self.propose(call, id.unwrap_or_else(rand::random), change).await?;
        answer(index, outcome, call)
    }

    /// What an earlier try with this request id came to: it may be the very reason why nothing is left to change, or
    /// why a version does not match any more. An empty change asks the log, which knows every recent id.
    async fn first_outcome(
        &self,
        call: &Call,
        id: Option<RequestId>,
    ) -> Result<Option<(LogIndex, ConfigOutcome)>, Status> {
        let Some(id) = id else { return Ok(None) };
        let (index, outcome) = self.propose(call, id, ConfigChange::default()).await?;
        Ok((outcome != ConfigOutcome::default()).then_some((index, outcome)))
    }

    pub(super) async fn delete(&self, call: &Call, request: DeleteRequest) -> Result<DeleteResponse, Status> {
        let kind = parse_kind(&request.kind)?;
        let id = request_id_or_new(&request.request_id)?;
        let delete = DeleteResource {
            kind: kind.to_string(),
            name: request.name.clone(),
            expected_version: request.resource_version,
        };
        let known = self.current(call).await?.catalog.get(kind, &request.name).is_some();
        let refusal = if known { Reason::Referenced } else { Reason::NotFound };
        let change = ConfigChange { deletes: vec![delete], ..ConfigChange::default() };
        let (index, outcome) = self.propose(call, id, change).await?;
        accept(outcome, refusal, call)?;
        Ok(DeleteResponse { index: index.0 })
    }

    pub(super) async fn diff(&self, call: &Call, request: ApplyRequest) -> Result<DiffResponse, Status> {
        let state = self.current(call).await?;
        let Plan { decision, .. } = plan(request, &state, self.key.as_deref(), call)?;
        let actions = accept(decision.outcome, Reason::Invalid, call)?;
        let diffs = decision.changes.into_iter().map(|change| ResourceDiff {
            change: actions.iter().find(|action| is_of(action, change.kind, &change.name)).cloned(),
            before: change.before.map(|stored| stored.resource.clone()),
            after: change.after.map(|stored| stored.resource.clone()),
        });
        Ok(DiffResponse { diffs: diffs.collect() })
    }

    async fn propose(
        &self,
        call: &Call,
        id: RequestId,
        change: ConfigChange,
    ) -> Result<(LogIndex, ConfigOutcome), Status> {
        let command = Command { kind: Some(command::Kind::Config(change)) };
        let committed = self.backplane.propose(id, command, call.deadline).await?;
        let outcome = ConfigOutcome::decode(committed.outcome).map_err(|_| {
            Status::internal("the request id was used for something else, or nodes of different versions disagree")
        })?;
        info!(index = committed.index.0, token = %call.caller.token, refused = !outcome.problems.is_empty(), "configuration change committed");
        Ok((committed.index, outcome))
    }
}

fn answer(index: LogIndex, outcome: ConfigOutcome, call: &Call) -> Result<ApplyResponse, Status> {
    Ok(ApplyResponse { index: index.0, changes: accept(outcome, Reason::Invalid, call)? })
}

fn is_of(action: &ResourceChange, kind: Kind, name: &str) -> bool {
    action.kind == kind.as_str() && action.name == name
}

/// A kind as a person writes it.
pub(super) fn parse_kind(text: &str) -> Result<Kind, Status> {
    Kind::from_str(text).map_err(|unknown| refuse(Reason::Invalid, unknown.to_string()))
}
