//! `ClusterService`: members, leadership, admin tokens, zones.

mod lost;
mod token;
mod zone;

use std::sync::Arc;

use tollgate_model::{NodeId, secret::ClusterKey};
use tollgate_proto::admin::v1::{
    AddNodeRequest, BackupChunk, BackupRequest, ClusterStatusRequest, ClusterStatusResponse, CreateTokenRequest,
    CreateTokenResponse, ListTokensRequest, ListTokensResponse, MembershipResponse, PromoteNodeRequest,
    RemoveNodeRequest, RestoreResponse, RevokeTokenRequest, RevokeTokenResponse, StatusZonesRequest,
    StatusZonesResponse, TransferLeaderRequest, ZoneRequest, ZoneResponse, cluster_service_server::ClusterService,
};
use tonic::{Request, Response, Status, Streaming, async_trait};
use tracing::info;

use crate::{
    backplane::{Backplane, MembershipChange},
    call::{Call, Never, not_available_yet, request_id_or_new},
    details::{Reason, refuse},
};

/// What [`NodeStatus::state`](tollgate_proto::admin::v1::NodeStatus) says of a member that did not answer.
pub(crate) const UNREACHABLE: &str = "unreachable";
/// State of one that stops, or whose zone is drained.
const DRAINING: &str = "draining";
/// Node ids are kept in 32 bits beside their incarnation.
const MAX_NODE_ID: u64 = u32::MAX as u64;

/// The service.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) key: Option<Arc<ClusterKey>>,
}

impl Cluster {
    async fn change(
        &self,
        call: &Call,
        request_id: &[u8],
        change: MembershipChange,
    ) -> Result<Response<MembershipResponse>, Status> {
        let id = request_id_or_new(request_id)?;
        let done = self.backplane.change_membership(id, change.clone(), call.deadline).await?;
        info!(index = done.index.0, token = %call.caller.token, change = ?change, "membership changed");
        let leader = done.leader.map_or(0, |leader| leader.0);
        Ok(Response::new(MembershipResponse { index: done.index.0, leader, ..MembershipResponse::default() }))
    }
}

fn node_id(id: u64) -> Result<NodeId, Status> {
    if (1..=MAX_NODE_ID).contains(&id) {
        return Ok(NodeId(id));
    }
    Err(refuse(Reason::Invalid, format!("{id} is no node id: it must be 1 to {MAX_NODE_ID}")))
}

fn peer_address(text: &str) -> Result<String, Status> {
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        return Ok(text.to_owned());
    }
    Err(refuse(Reason::Invalid, format!("`{text}` is not the host:port of a peer plane")))
}

#[async_trait]
impl ClusterService for Cluster {
    async fn status(&self, request: Request<ClusterStatusRequest>) -> Result<Response<ClusterStatusResponse>, Status> {
        let nodes = self.backplane.members(Call::of(&request)?.deadline).await?;
        Ok(Response::new(ClusterStatusResponse { nodes }))
    }

    async fn add(&self, request: Request<AddNodeRequest>) -> Result<Response<MembershipResponse>, Status> {
        let call = Call::of(&request)?;
        let AddNodeRequest { id, peer, request_id } = request.into_inner();
        let change = MembershipChange::Add { node: node_id(id)?, peer: peer_address(&peer)? };
        self.change(&call, &request_id, change).await
    }

    async fn promote(&self, request: Request<PromoteNodeRequest>) -> Result<Response<MembershipResponse>, Status> {
        let call = Call::of(&request)?;
        let PromoteNodeRequest { id, request_id } = request.into_inner();
        self.change(&call, &request_id, MembershipChange::Promote(node_id(id)?)).await
    }

    async fn remove(&self, request: Request<RemoveNodeRequest>) -> Result<Response<MembershipResponse>, Status> {
        let call = Call::of(&request)?;
        let RemoveNodeRequest { id, lost, request_id, write_off } = request.into_inner();
        let node = node_id(id)?;
        self.check_zones_without(&call, node).await?;
        let change = MembershipChange::Remove { node, lost };
        if lost {
            return self.give_up(&call, &request_id, node, lost::write_off(&write_off)?, change).await;
        }
        if !write_off.is_empty() {
            return Err(refuse(Reason::Invalid, "write_off: is for a node that is lost".to_owned()));
        }
        self.change(&call, &request_id, change).await
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let call = Call::of(&request)?;
        let TransferLeaderRequest { to, request_id } = request.into_inner();
        let to = if to == 0 { None } else { Some(node_id(to)?) };
        self.change(&call, &request_id, MembershipChange::TransferLeader(to)).await
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let call = Call::of(&request)?;
        self.create_token(&call, request.into_inner()).await.map(Response::new)
    }

    async fn list_tokens(&self, request: Request<ListTokensRequest>) -> Result<Response<ListTokensResponse>, Status> {
        self.list_tokens(&Call::of(&request)?).await.map(Response::new)
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let call = Call::of(&request)?;
        self.revoke_token(&call, request.into_inner()).await.map(Response::new)
    }

    type BackupStream = Never<BackupChunk>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        Err(not_available_yet())
    }

    async fn restore(&self, _: Request<Streaming<BackupChunk>>) -> Result<Response<RestoreResponse>, Status> {
        Err(not_available_yet())
    }

    async fn drain_zone(&self, request: Request<ZoneRequest>) -> Result<Response<ZoneResponse>, Status> {
        let call = Call::of(&request)?;
        self.change_zone(&call, request.into_inner(), true).await.map(Response::new)
    }

    async fn undrain_zone(&self, request: Request<ZoneRequest>) -> Result<Response<ZoneResponse>, Status> {
        let call = Call::of(&request)?;
        self.change_zone(&call, request.into_inner(), false).await.map(Response::new)
    }

    async fn status_zones(
        &self,
        request: Request<StatusZonesRequest>,
    ) -> Result<Response<StatusZonesResponse>, Status> {
        self.status_zones(&Call::of(&request)?).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_address_has_a_host_and_a_port() {
        for good in ["10.0.0.1:7000", "node-1.example.com:7000", "[::1]:7000"] {
            assert!(peer_address(good).is_ok(), "{good}");
        }
        for bad in ["", "10.0.0.1", ":7000", "host:0", "host:70000", "http://host:7000", "host:"] {
            assert!(peer_address(bad).is_err(), "{bad}");
        }
        assert!(node_id(0).is_err() && node_id(MAX_NODE_ID + 1).is_err());
        assert_eq!(node_id(3).unwrap(), NodeId(3));
    }
}
