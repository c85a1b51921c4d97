//! `grpc.health.v1`: the same answer as `/readyz`, for every service of this port alike.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

use crate::{auth::METHODS, backplane::Readiness};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct NodeHealth {
    pub(crate) readiness: watch::Receiver<Readiness>,
    /// Ends every watch: a connection with one would never be idle.
    pub(crate) drain: CancellationToken,
}

fn answer(readiness: &Readiness) -> HealthCheckResponse {
    let status = match readiness {
        Readiness::Ready => ServingStatus::Serving,
        Readiness::NotReady(_) => ServingStatus::NotServing,
    };
    HealthCheckResponse { status: status.into() }
}

/// The empty name is the node itself.
fn is_known(service: &str) -> bool {
    let ours = |(path, _): &(&str, _)| path[1..].split('/').next() == Some(service);
    service.is_empty() || METHODS.iter().any(ours)
}

#[async_trait]
impl Health for NodeHealth {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(answer(&self.readiness.borrow())))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !is_known(&request.get_ref().service) {
            // By the protocol not an error: the service may come later.
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            let forever = futures_util::stream::once(async move { Ok(unknown) }).chain(futures_util::stream::pending());
            return Ok(Response::new(Box::pin(forever.take_until(self.drain.clone().cancelled_owned()))));
        }
        let changes = WatchStream::new(self.readiness.clone()).map(|readiness| Ok(answer(&readiness)));
        Ok(Response::new(Box::pin(changes.take_until(self.drain.clone().cancelled_owned()))))
    }
}
