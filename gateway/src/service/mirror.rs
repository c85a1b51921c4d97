//! Copies of requests, sent beside them: what a service would do with real traffic, without anybody waiting for it.
//!
//! The request goes on as if there were no copy. Its body is kept as it goes by, and only when all of it has is the copy
//! sent, by a task of its own. What would be too much is not copied and counted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_model::{Mirror, Name, Percent};

use super::attempts;
use crate::{
    balance::Tried,
    body::{Kept, Replay, UpstreamRequestBody},
    exchange::Exchange,
    gateway::Shared,
    retry,
    upstream::{SendError, Taken, UpstreamBody, Wire},
};

static X_TOLLGATE_MIRRORED: HeaderName = HeaderName::from_static("x-tollgate-mirrored");

/// Of a body: what is longer is not copied.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Copies on their way, of all routes: 16 MiB of bodies.
const MAX_IN_FLIGHT: usize = 256;
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
    /// The request's own body did not come to its end.
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
pub(super) fn copy(exchange: &Exchange, mirror: &Mirror, body: &Replay) {
    if !mirror.percent.takes(rand::random_range(0..Percent::ROLLS)) {
        return;
    }
    let route = exchange.plan.route.name.clone();
    let told = Told { shared: Arc::clone(&exchange.shared), route };
    let mirrors = &exchange.shared.mirrors;
    let Ok(place) = Arc::clone(&mirrors.places).try_acquire_owned() else { return told.ended(Fate::TooMany) };
    let Some(kept) = body.keep(MAX_BODY_BYTES) else { return told.ended(Fate::TooLarge) };
    let Some(outgoing) = outgoing(exchange, mirror) else { return told.ended(Fate::Failed) };
    let whole_by = exchange.record.started() + exchange.plan.route.timeouts.request;
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

/// A copy without its body, and the endpoint that is asked.
struct Outgoing {
    wire: Wire,
    taken: Taken,
    request: Request<UpstreamRequestBody>,
}

fn outgoing(exchange: &Exchange, mirror: &Mirror) -> Option<Outgoing> {
    let service = exchange.compiled.services.get(&mirror.service)?;
    let draw = retry::draw(exchange, &service.endpoints);
    let taken = service.endpoints.take(&draw, &mut Tried::default()).ok()?;
    let mut request = attempts::request(exchange, service, &taken, UpstreamRequestBody::Whole(None))?;
    request.headers_mut().insert(&X_TOLLGATE_MIRRORED, HeaderValue::from_static("true"));
    Some(Outgoing { wire: service.wire(), taken, request })
}

async fn send(shared: &Shared, outgoing: Outgoing, kept: Kept, whole_by: Instant) -> Fate {
    let body = match kept {
        Kept::Whole(body) => body,
        Kept::Coming(coming) => match timeout_at(whole_by, coming).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Fate::TooLarge,
            Ok(Err(_)) | Err(_) => return Fate::Unfinished,
        },
    };
    let answer_by = Instant::now() + PATIENCE;
    let Some(answer) = ask(shared, outgoing, body, answer_by).await else { return Fate::Timeout };
    match answer {
        Ok((answer, _taken)) => timeout_at(answer_by, read(answer)).await.unwrap_or(Fate::Timeout),
        Err(_) => Fate::Failed,
    }
}

type Answer = Result<(Response<UpstreamBody>, Taken), SendError>;

/// The answer's head; none in time. How it went counts for the endpoint as any request's.
async fn ask(shared: &Shared, outgoing: Outgoing, body: Bytes, by: Instant) -> Option<Answer> {
    let Outgoing { wire, taken, request } = outgoing;
    let request = request.map(|_| UpstreamRequestBody::Whole(Some(body)));
    let place = shared.pool.place(wire, request.uri());
    let answer = timeout_at(by, shared.pool.send(wire, place, request)).await.ok();
    match &answer {
        Some(Ok(answer)) if !answer.status().is_server_error() => taken.is_fine(),
        _ => taken.has_failed(),
    }
    Some(answer?.map(|answer| (answer, taken)))
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
