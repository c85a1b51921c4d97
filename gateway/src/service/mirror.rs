//! Copies of requests, sent beside them: what a service would do with real traffic, without anybody waiting for it.
//!
//! The request goes on as if there were no copy. Its body is kept as it goes by, and only when all of it has is the copy
//! sent, by a task of its own. What would be too much is not copied and counted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt as _;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_model::{Mirror, Name, Percent};

use super::attempts;
use crate::{
    balance::{Draw, Tried},
    body::{Kept, Replay, UpstreamRequestBody},
    exchange::Exchange,
    gateway::Shared,
    retry,
    upstream::{ServiceUpstream, Taken, UpstreamBody},
};

static X_TOLLGATE_MIRRORED: HeaderName = HeaderName::from_static("x-tollgate-mirrored");

/// Of a body: what is longer is not copied.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Copies on their way, of all routes: 16 MiB of bodies.
const MAX_IN_FLIGHT: usize = 256;
/// For the rest of a body: who sends slowly keeps no place from others for longer.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// From the request's end to the last byte of the copy's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer: a connection whose answer was read to its end is used again.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// All copies of a gateway.
#[derive(Debug)]
pub(crate) struct Mirrors {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Mirrors {
    pub(crate) fn new() -> Self {
        let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Self { places, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Ends those that are on their way: nobody waits for what they bring.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Failed,
    Timeout,
    TooLarge,
    TooMany,
    /// The request's own body did not come to its end, or not soon enough.
    Unfinished,
}

impl Fate {
    const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::Unfinished => "unfinished",
        }
    }
}

/// Has a copy sent of this request, whose body is about to be sent, if it is one of those that are copied. Never waits.
pub(super) fn copy(exchange: &Exchange, body: &Replay) {
    let Some(mirror) = exchange.plan.route.traffic.as_ref().and_then(|traffic| traffic.mirror.as_ref()) else { return };
    // A mirror that leads back here would go on for ever.
    if exchange.head.headers.contains_key(&X_TOLLGATE_MIRRORED) {
        return;
    }
    if !mirror.percent.takes(rand::random_range(0..Percent::ROLLS)) {
        return;
    }
    let route = exchange.plan.route.name.clone();
    let told = Told { shared: Arc::clone(&exchange.shared), route };
    let mirrors = &exchange.shared.mirrors;
    if exchange.shared.overload.spares() {
        return told.ended(Fate::TooMany);
    }
    let Ok(place) = Arc::clone(&mirrors.places).try_acquire_owned() else { return told.ended(Fate::TooMany) };
    let Some(kept) = body.keep(MAX_BODY_BYTES) else { return told.ended(Fate::TooLarge) };
    let Some(outgoing) = outgoing(exchange, mirror) else { return told.ended(Fate::Failed) };
    let whole_by = Instant::now() + BODY_PATIENCE;
    let whole_by = whole_by.min(exchange.record.started() + exchange.plan.route.timeouts.request);
    let stop = mirrors.stop.clone();
    mirrors.tasks.spawn(async move {
        let fate = tokio::select! {
            fate = send(&told.shared, outgoing, kept, whole_by) => fate,
            () = stop.cancelled() => Fate::Unfinished,
        };
        told.ended(fate);
        drop(place);
    });
}

/// Who is to be told of a copy's fate.
struct Told {
    shared: Arc<Shared>,
    route: Name,
}

impl Told {
    fn ended(&self, fate: Fate) {
        self.shared.metrics.mirrored(&self.route, fate.label());
    }
}

/// A copy without its body. Which endpoint it is for is told when that is there: until then it is no load of any.
struct Outgoing {
    service: Arc<ServiceUpstream>,
    draw: Draw,
    method: Method,
    path: String,
    headers: HeaderMap,
}

fn outgoing(exchange: &Exchange, mirror: &Mirror) -> Option<Outgoing> {
    let service = Arc::clone(exchange.compiled.services.get(&mirror.service)?);
    let draw = retry::draw(exchange, &service.endpoints);
    let mut headers = attempts::outgoing_headers(exchange, &service)?;
    headers.insert(&X_TOLLGATE_MIRRORED, HeaderValue::from_static("true"));
    let method = exchange.head.method.clone();
    Some(Outgoing { service, draw, method, path: exchange.outgoing_path(), headers })
}

async fn send(shared: &Shared, outgoing: Outgoing, kept: Kept, whole_by: Instant) -> Fate {
    let body = match whole(kept, whole_by).await {
        Ok(body) => body,
        Err(fate) => return fate,
    };
    let Some((request, taken)) = addressed(&outgoing, body) else { return Fate::Failed };
    let asked = ask(shared, &outgoing.service, &taken, request);
    timeout_at(Instant::now() + PATIENCE, asked).await.unwrap_or(Fate::Timeout)
}

async fn whole(kept: Kept, by: Instant) -> Result<Bytes, Fate> {
    match kept {
        Kept::Whole(body) => Ok(body),
        Kept::Coming(coming) => match timeout_at(by, coming).await {
            Ok(Ok(Some(body))) => Ok(body),
            Ok(Ok(None)) => Err(Fate::TooLarge),
            Ok(Err(_)) | Err(_) => Err(Fate::Unfinished),
        },
    }
}

fn addressed(outgoing: &Outgoing, body: Bytes) -> Option<(Request<UpstreamRequestBody>, Taken)> {
    let taken = outgoing.service.endpoints.take(&outgoing.draw, &mut Tried::default()).ok()?;
    let mut request = Request::new(UpstreamRequestBody::Whole(Some(body)));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = taken.uri(&outgoing.path)?;
    *request.headers_mut() = outgoing.headers.clone();
    Some((request, taken))
}

/// How it goes does not count for the endpoint: what fails with copies alone, such as a new version's bugs, must not take
/// it from routes whose callers wait, and copies that go well must not hide that those fail.
async fn ask(shared: &Shared, service: &ServiceUpstream, taken: &Taken, request: Request<UpstreamRequestBody>) -> Fate {
    let place = shared.pool.place(&service.wire, request.uri(), taken.at());
    match shared.pool.send(place, request).await {
        Ok(answer) => read(answer).await,
        Err(_) => Fate::Failed,
    }
}

async fn read(answer: Response<UpstreamBody>) -> Fate {
    let mut body = answer.into_body();
    let mut left = MAX_ANSWER_BYTES;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Fate::Failed };
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            break;
        }
    }
    Fate::Answered
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_too_slowly_is_waited_for_no_longer() {
        let by = Instant::now() + BODY_PATIENCE;
        let (sender, coming) = oneshot::channel();
        assert_eq!(whole(Kept::Coming(coming), by).await, Err(Fate::Unfinished));
        assert!(sender.is_closed() && Instant::now() >= by);
    }
}
