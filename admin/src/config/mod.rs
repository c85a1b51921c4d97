//! `ConfigService`: declare, read, watch.

mod apply;
mod plan;
mod read;
mod watch;

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tollgate_model::secret::ClusterKey;
use tollgate_proto::admin::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, DiffResponse, ExportRequest, ExportResponse,
    GetRequest, GetResponse, NodeServed, StatusServedRequest, StatusServedResponse, WatchEvent, WatchRequest,
    config_service_server::ConfigService,
};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    backplane::{Backplane, ConfigState},
    call::Call,
};

pub(crate) use watch::Watchers;

/// The service.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) key: Option<Arc<ClusterKey>>,
    pub(crate) watchers: Watchers,
}

impl Config {
    /// The configuration with everything in it that was acknowledged before the call.
    async fn current(&self, call: &Call) -> Result<ConfigState, Status> {
        self.backplane.read_barrier(call.deadline).await?;
        Ok(self.here())
    }

    /// The configuration as this node has it, possibly behind.
    fn here(&self) -> ConfigState {
        self.backplane.config().borrow().clone()
    }
}

#[async_trait]
impl ConfigService for Config {
    type WatchStream = ReceiverStream<Result<WatchEvent, Status>>;

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let call = Call::of(&request)?;
        self.apply(&call, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let call = Call::of(&request)?;
        self.delete(&call, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let call = Call::of(&request)?;
        self.get(&call, request.into_inner()).await.map(Response::new)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&request)?;
        self.watch(&call, request.into_inner()).await.map(Response::new)
    }

    async fn diff(&self, request: Request<ApplyRequest>) -> Result<Response<DiffResponse>, Status> {
        let call = Call::of(&request)?;
        self.diff(&call, request.into_inner()).await.map(Response::new)
    }

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<ExportResponse>, Status> {
        let state = self.current(&Call::of(&request)?).await?;
        Ok(Response::new(ExportResponse { resources: state.catalog.export(), index: state.index.0 }))
    }

    async fn status_served(
        &self,
        request: Request<StatusServedRequest>,
    ) -> Result<Response<StatusServedResponse>, Status> {
        let members = self.backplane.members(Call::of(&request)?.deadline).await?;
        let served = members.into_iter().map(|node| NodeServed {
            id: node.id,
            reachable: node.state != crate::cluster::UNREACHABLE,
            index: node.served_index,
        });
        Ok(Response::new(StatusServedResponse { nodes: served.collect() }))
    }
}
