//! Which part answers: probes and metrics by path, gRPC by content type, nothing else.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower_service::Service;

use super::{AdminState, services};
use crate::{backplane::Readiness, metrics};

/// The gRPC half, behind its layers.
pub(super) type Grpc = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// For whoever opens the port in a browser. A test holds it to the services that there are.
const FRONT_PAGE: &str = "\
Tollgate: the admin port of one node.

GET /metrics   Prometheus metrics
GET /healthz   200 while the process lives
GET /readyz    200 while this node should get traffic

gRPC and gRPC-Web, with `authorization: Bearer TOKEN`:
  tollgate.admin.v1.ConfigService
  tollgate.admin.v1.ClusterService
  tollgate.admin.v1.LimitService
  tollgate.admin.v1.CreditService
  tollgate.admin.v1.BillingService
  tollgate.admin.v1.UsageService
and without a token:
  grpc.health.v1.Health
  grpc.reflection.v1.ServerReflection

`tollgate --help` has a verb for each of them.
";

/// Answers every request of the port.
#[derive(Clone)]
pub(super) struct Front {
    grpc: Grpc,
    registry: Arc<RwLock<Registry>>,
    readiness: watch::Receiver<Readiness>,
}

impl Front {
    pub(super) fn new(state: &AdminState, tasks: &TaskTracker, drain: &CancellationToken) -> Self {
        Self {
            grpc: services::all(state, tasks, drain),
            registry: Arc::clone(&state.registry),
            readiness: state.backplane.readiness(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if is_grpc(&request) {
            let Ok(answer) = self.grpc.clone().call(request.map(Body::new)).await;
            return answer;
        }
        let probe = match request.uri().path() {
            "/" => (StatusCode::OK, FRONT_PAGE.to_owned()),
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => return self.only_reading(&request, self.metrics(&request)),
            _ => return text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
        };
        self.only_reading(&request, text(probe.0, probe.1))
    }

    fn ready(&self) -> (StatusCode, String) {
        match &*self.readiness.borrow() {
            Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
            Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }

    fn metrics(&self, request: &Request<Incoming>) -> Response<Body> {
        match metrics::expose(&self.registry.read(), request.headers()) {
            Ok(metrics) => with_type(StatusCode::OK, HeaderValue::from_static(metrics.content_type), metrics.body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n".to_owned()),
        }
    }

    fn only_reading(&self, request: &Request<Incoming>, answer: Response<Body>) -> Response<Body> {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return answer;
        }
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        refused
    }
}

/// gRPC and gRPC-Web, whatever their path: an unknown one gets its answer in the same language.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    request.method() == Method::POST && content_type.is_some_and(|value| value.starts_with("application/grpc"))
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    with_type(status, TEXT, body)
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let front = self.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}
