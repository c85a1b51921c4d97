//! Asking endpoints whether they are well, while they are in the configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Collected, Limited};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_model::{HealthCheck, Kind, Name, Question};
use tracing::error;

use super::{Endpoints, Origin, SendError, Wire, Within};
use crate::{balance, body::UpstreamRequestBody, compiled::Compiled, gateway::Shared};

const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Of an answer's body so much is read, that its connection may be used again.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longer than timers are late.
const A_MOMENT: Duration = Duration::from_millis(20);

/// One task for each upstream that has checks. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Checkers {
    tasks: TaskTracker,
    runtime: Handle,
    running: Mutex<HashMap<(Kind, Name), Running>>,
}

#[derive(Debug)]
struct Running {
    of: Arc<Endpoints>,
    _task: AbortOnDropHandle<()>,
}

impl Checkers {
    /// They run there: a connection is driven where it was made, and callers come over those that checks have made.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { tasks: TaskTracker::new(), runtime, running: Mutex::default() }
    }

    /// Checks what this configuration has, and nothing else. What did not change goes on.
    pub(crate) fn follow(&self, shared: &Arc<Shared>, compiled: &Compiled) {
        let providers =
            compiled.providers.iter().map(|(name, it)| ((Kind::Provider, name.clone()), (&it.endpoints, &it.wire)));
        let services =
            compiled.services.iter().map(|(name, it)| ((Kind::Service, name.clone()), (&it.endpoints, &it.wire)));
        let mut running = self.running.lock();
        let mut before = std::mem::take(&mut *running);
        for (key, (endpoints, wire)) in providers.chain(services) {
            let Some(terms) = endpoints.health_check() else { continue };
            let known = before.remove(&key).filter(|known| Arc::ptr_eq(&known.of, endpoints));
            let begin = || {
                let checking = check_all(Arc::downgrade(shared), Arc::clone(endpoints), wire.clone(), terms.clone());
                let task = AbortOnDropHandle::new(self.tasks.spawn_on(checking, &self.runtime));
                Running { of: Arc::clone(endpoints), _task: task }
            };
            running.insert(key, known.unwrap_or_else(begin));
        }
    }
}

/// All endpoints of one upstream, each at its own pace, for as long as the gateway is there.
async fn check_all(shared: Weak<Shared>, endpoints: Arc<Endpoints>, wire: Wire, terms: HealthCheck) {
    let mut checking = JoinSet::new();
    for (index, origin) in endpoints.origins().enumerate() {
        let (shared, endpoints) = (Weak::clone(&shared), Arc::clone(&endpoints));
        checking.spawn(check_one(shared, endpoints, index, (wire.clone(), origin.clone()), terms.clone()));
    }
    while let Some(ended) = checking.join_next().await {
        if let Err(error) = ended {
            error!(%error, upstream = %endpoints.upstream, "an endpoint is no longer asked whether it is well");
        }
    }
}

async fn check_one(
    shared: Weak<Shared>,
    endpoints: Arc<Endpoints>,
    index: usize,
    (wire, origin): (Wire, Origin),
    terms: HealthCheck,
) {
    let mut due = Instant::now();
    loop {
        sleep_until(due).await;
        let Some(shared) = shared.upgrade() else { return };
        let is_good = ask(&shared, &wire, &origin, &terms).await;
        drop(shared);
        if let Some(is_good) = is_good {
            endpoints.checked(index, is_good);
        }
        // Not from the last time it was due: after a pause of the machine nothing has to be made up for.
        due = Instant::now() + balance::jittered(terms.interval, rand::random());
    }
}

/// Whether it answers as it should. A kept connection may have died since it was used: that says nothing, so it is asked once
/// more. None where it can't be asked, as this node has no file for it, or the upstream no connection free.
async fn ask(shared: &Shared, wire: &Wire, origin: &Origin, terms: &HealthCheck) -> Option<bool> {
    let by = Instant::now() + terms.timeout;
    // Who stood in line for a connection has as long again.
    let once = || ask_once(shared, wire, origin, terms, Within::new(Some(terms.timeout), by + terms.timeout));
    let asked = async {
        match once().await {
            Err(SendError::Reset | SendError::Refused) => once().await,
            told => told,
        }
    };
    // Whoever waits for a connection says first that none was free.
    match timeout_at(by + terms.timeout + A_MOMENT, asked).await {
        Ok(Err(error)) if error.is_ours() => None,
        told => Some(matches!(told, Ok(Ok(true)))),
    }
}

async fn ask_once(
    shared: &Shared,
    wire: &Wire,
    origin: &Origin,
    terms: &HealthCheck,
    mut within: Within,
) -> Result<bool, SendError> {
    let request = match &terms.question {
        Question::Tcp => {
            return timeout_at(within.by(), origin.takes_connections(&shared.overload)).await.unwrap_or(Ok(false));
        }
        Question::Http(path) => origin.at(path.clone()).map(get),
        Question::Grpc => origin.at(PathAndQuery::from_static(GRPC_CHECK)).map(grpc),
    };
    let Some(request) = request else { return Ok(false) };
    let place = shared.pool.place(wire, request.uri(), Some(&origin.at));
    let answer = shared.pool.send_by(&mut within, place, request, None).await?;
    let (is_success, headers) = (answer.status().is_success(), answer.headers().clone());
    // What is not read is closed, and so is what is too long to be read.
    let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
    Ok(is_success && (terms.question != Question::Grpc || body.is_ok_and(|body| is_serving(&headers, body))))
}

fn get(uri: Uri) -> Request<UpstreamRequestBody> {
    let mut request = Request::new(UpstreamRequestBody::Whole(None));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    request
}

/// About the whole server: the message is empty.
fn grpc(uri: Uri) -> Request<UpstreamRequestBody> {
    let mut request = Request::new(UpstreamRequestBody::Whole(Some(Bytes::from_static(&[0; 5]))));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = [(header::CONTENT_TYPE, "application/grpc"), (header::TE, "trailers")];
    request.headers_mut().extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
    request
}

/// One message, not compressed, whose first field says `SERVING`; and it ended well.
fn is_serving(headers: &HeaderMap, body: Collected<Bytes>) -> bool {
    let is_ok = |headers: &HeaderMap| headers.get("grpc-status").is_some_and(|status| status == "0");
    let ended_well = is_ok(body.trailers().unwrap_or(headers));
    let message = body.to_bytes();
    ended_well && message.first() == Some(&0) && message.get(5..).is_some_and(|message| message.starts_with(&[0x08, 1]))
}
