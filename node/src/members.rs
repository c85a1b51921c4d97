//! A member of the cluster as `cluster status` shows it.

use tollgate_consensus::{Live, MemberStatus, Role};
use tollgate_proto::admin::v1::NodeStatus;

/// State of a member that did not answer.
const UNREACHABLE: &str = "unreachable";

/// One row of `cluster status`.
pub(crate) fn node_status(status: MemberStatus) -> NodeStatus {
    let MemberStatus { member, live } = status;
    let role = match &live {
        Some(live) => live.role,
        None if member.voter => Role::Follower,
        None => Role::Learner,
    };
    let state = live.as_ref().map_or(UNREACHABLE, |live| &live.local.state).to_owned();
    let Live { term, last_log_index, applied_index, log_bytes, log_full, local, version, .. } =
        live.unwrap_or_default();
    NodeStatus {
        id: member.node,
        zone: member.zone,
        role: role.as_str().to_owned(),
        state,
        term,
        last_log_index,
        applied_index,
        log_bytes,
        log_full,
        served_index: local.served_index,
        http: member.http,
        admin: member.admin,
        peer: member.peer,
        version,
    }
}
