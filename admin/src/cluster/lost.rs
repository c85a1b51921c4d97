//! `remove --lost`: a node that will never come back is taken out, and what it had in hand is written off.
//!
//! Two steps: it is removed, then the ledger is told. Whoever asks again, after a failure in between or for another write-off,
//! finds it removed and goes on with the second.

use prost::Message;
use tollgate_model::NodeId;
use tollgate_proto::{
    admin::v1::MembershipResponse,
    state::v1::{Command, NodeLost, NodeLostOutcome, WriteOff, command},
};
use tonic::{Response, Status};
use tracing::info;

use super::{Cluster, UNREACHABLE};
use crate::{
    backplane::MembershipChange,
    call::{Call, request_id_or_new, used_before},
    details::{Reason, refuse},
};

pub(super) fn write_off(text: &str) -> Result<WriteOff, Status> {
    match text {
        "" | "consume" => Ok(WriteOff::Consume),
        "hold" => Ok(WriteOff::Hold),
        "release" => Ok(WriteOff::Release),
        other => Err(refuse(Reason::Invalid, format!("write_off: `{other}` is unknown: consume | hold | release"))),
    }
}

impl Cluster {
    pub(super) async fn give_up(
        &self,
        call: &Call,
        request_id: &[u8],
        node: NodeId,
        write_off: WriteOff,
        change: MembershipChange,
    ) -> Result<Response<MembershipResponse>, Status> {
        let members = self.backplane.members(call.deadline).await?;
        let member = members.iter().find(|member| member.id == node.0);
        if let Some(member) = member.filter(|member| member.state != UNREACHABLE) {
            let message = format!(
                "node {} answers, it is {}: remove it without --lost, so that it gives back what it has in hand itself",
                node.0, member.state
            );
            return Err(refuse(Reason::Refused, message));
        }
        let removed = self.change(call, request_id, change).await;
        let mut told = match removed {
            Ok(removed) => removed.into_inner(),
            // It was removed before: by this very call, or without a word on what it had in hand.
            Err(_) if member.is_none() => MembershipResponse::default(),
            Err(refused) => return Err(refused),
        };
        self.backplane.read_barrier(call.deadline).await?;
        let Some(incarnation) = self.backplane.incarnation(node) else {
            return Ok(Response::new(told)); // it has never had anything in hand
        };
        let (write_off, actor) = (write_off.into(), call.caller.token.to_string());
        let lost = NodeLost { node: node.0, incarnation, write_off, actor };
        let command = Command { kind: Some(command::Kind::NodeLost(lost)), ..Command::default() };
        // To say it again does no harm, so it needs no request id of the caller's.
        let committed = self.backplane.propose(request_id_or_new(&[])?, command, call.deadline).await?;
        let outcome = NodeLostOutcome::decode(committed.outcome).map_err(|_| used_before())?;
        if !outcome.problem.is_empty() {
            return Err(refuse(Reason::Refused, outcome.problem));
        }
        let NodeLostOutcome { leases, orphaned, in_us, .. } = outcome;
        info!(index = committed.index.0, token = %call.caller.token, node = node.0, leases, orphaned, "node given up");
        (told.index, told.leases, told.orphaned) = (committed.index.0, leases, orphaned);
        told.write_off_in_ms = in_us.div_ceil(1_000);
        Ok(Response::new(told))
    }
}
