//! The tower layer that refuses a call by its path and headers alone.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::{Code, Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;

use super::{Authenticator, Rule, rule};
use crate::metrics::AdminMetrics;

/// Calls at a time on one node: each may hold a message and a place in the log's queue. More are refused.
const MAX_CALLS: usize = 256;
/// The longest that a call may take until its answer begins: longer than every deadline within, so that it ends only
/// those whose message never comes.
const MAX_CALL: Duration = Duration::from_secs(75);

/// Puts authentication, a bound on calls and metrics before a service.
#[derive(Clone)]
pub(crate) struct AuthLayer {
    gate: Arc<Gate>,
}

struct Gate {
    authenticator: Authenticator,
    calls: Arc<Semaphore>,
    metrics: AdminMetrics,
}

impl AuthLayer {
    pub(crate) fn new(authenticator: Authenticator, metrics: AdminMetrics) -> Self {
        Self { gate: Arc::new(Gate { authenticator, calls: Arc::new(Semaphore::new(MAX_CALLS)), metrics }) }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService { gate: Arc::clone(&self.gate), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct AuthService<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        // The service that was polled ready is the one to call; the clone takes its place.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move { Ok(gate.pass(request, inner).await) })
    }
}

impl Gate {
    async fn pass<S>(&self, request: Request<Body>, inner: S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let began = Instant::now();
        let path = request.uri().path().to_owned();
        let response = match self.admit(request).await {
            Ok(request) => self.run(request, inner).await,
            Err(status) => status.into_http(),
        };
        self.metrics.called(&path, &response, began.elapsed());
        response
    }

    async fn admit(&self, mut request: Request<Body>) -> Result<Request<Body>, Status> {
        match rule(request.uri().path()) {
            Rule::Open => Ok(request),
            Rule::Unknown => {
                // What there is and what there is not is told to those who have a token.
                self.authenticator.authenticate(request.headers()).await?;
                Err(Status::unimplemented("there is no such method"))
            }
            Rule::Token(access) => {
                let caller = self.authenticator.authorize(request.headers(), access).await?;
                request.extensions_mut().insert(caller);
                Ok(request)
            }
        }
    }

    async fn run<S>(&self, request: Request<Body>, mut inner: S) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let Ok(_permit) = self.calls.try_acquire() else {
            return Status::resource_exhausted("too many calls at a time on this node").into_http();
        };
        match tokio::time::timeout(MAX_CALL, inner.call(request)).await {
            Ok(Ok(response)) => blamed(response),
            Ok(Err(never)) => match never {},
            Err(_) => Status::deadline_exceeded("the message did not come in time").into_http(),
        }
    }
}

/// What the codec says of bytes that are no message.
const MALFORMED: [&str; 3] =
    ["failed to decode Protobuf message", "Unexpected EOF decoding stream.", "Missing request message."];

/// The codec calls a message that can't be read an internal error, as if the server were at fault, and as if another try
/// could help.
fn blamed(response: Response<Body>) -> Response<Body> {
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    let malformed = status.code() == Code::Internal && MALFORMED.iter().any(|said| status.message().starts_with(said));
    if malformed { Status::invalid_argument(status.message()).into_http() } else { response }
}
