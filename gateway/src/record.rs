//! What happened in one exchange, written down once when it ends, whichever way it ends.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tollgate_model::{Caller, Name};

use crate::{
    access_log,
    body::Taking,
    error::ErrorCode,
    gateway::Shared,
    listener::Connection,
    metrics::{HttpLabels, Label, Metrics, method_label},
    overload::Rank,
    request_id::RequestId,
    trace_context::Trace,
    upstream::Made,
    websocket::Tunnel,
};

/// The status of a request whose client left before its answer (nginx's number for it; nobody is sent it).
const CLIENT_GONE: u16 = 499;

/// One exchange from its head to its answer's end. Dropping it ends the exchange.
pub(crate) struct Record {
    pub(crate) request_id: RequestId,
    pub(crate) trace: Trace,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) route: Option<Name>,
    pub(crate) caller: Option<Caller>,
    pub(crate) upstream: Option<Name>,
    pub(crate) model: Option<String>,
    /// The limits that it went on without, as nobody could decide on them.
    pub(crate) unprotected: Option<String>,
    pub(crate) status: u16,
    pub(crate) error: Option<&'static str>,
    pub(crate) sent_bytes: u64,
    /// Of a WebSocket.
    pub(crate) received_bytes: Option<u64>,
    pub(crate) end: End,
    pub(crate) timing: Timing,
    started: Instant,
    /// What its answer switches the connection to.
    pub(crate) tunnel: Option<Box<Tunnel>>,
    /// How its answer is taken, over HTTP/2.
    pub(crate) taking: Option<Arc<Taking>>,
    /// As what it was let in, and counts among this node's requests.
    pub(crate) let_in: Option<Rank>,
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

/// What an exchange's time went to.
#[derive(Debug, Default)]
pub(crate) struct Timing {
    /// Until it was first sent on.
    pub(crate) queue: OnceLock<Duration>,
    /// Of the connection that was made for it first.
    pub(crate) connect: OnceLock<Duration>,
    /// Until its answer's head.
    pub(crate) first_byte: Option<Duration>,
}

/// How far the answer got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client left, so far.
    Open,
    /// Sent to its last byte.
    Complete,
    /// Given up in the middle by the upstream.
    Broken,
    /// A WebSocket, or a call of gRPC, that was silent, or lasted, for too long.
    TimedOut,
    /// A WebSocket that was ended here: this node stops, or others may have its permit.
    Cut,
}

impl Record {
    pub(crate) fn open<B>(shared: Arc<Shared>, connection: Arc<Connection>, request: &Request<B>) -> Box<Self> {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        shared.metrics.in_flight.inc();
        Box::new(Self {
            request_id: RequestId::generate(),
            trace: Trace::of(request.headers(), shared.config.trace_sample),
            method: request.method().clone(),
            path: access_log::path(request.uri().path()),
            route: None,
            caller: None,
            upstream: None,
            model: None,
            unprotected: None,
            status: CLIENT_GONE,
            error: None,
            sent_bytes: 0,
            received_bytes: None,
            end: End::Open,
            timing: Timing::default(),
            started: Instant::now(),
            tunnel: None,
            taking: Taking::current(),
            let_in: None,
            shared,
            connection,
        })
    }

    /// The head of the answer is decided.
    pub(crate) fn answered<B>(&mut self, response: &Response<B>, whole: bool) {
        self.timing.first_byte = Some(self.took());
        self.status = response.status().as_u16();
        self.error = response.extensions().get::<ErrorCode>().map(|code| code.0);
        if whole || response.status() == StatusCode::NO_CONTENT {
            self.end = End::Complete;
        }
    }

    /// It goes to an upstream now.
    pub(crate) fn is_sent_on(&self) {
        self.timing.queue.get_or_init(|| self.took());
    }

    /// An upstream has answered, over a connection that says when it was made.
    pub(crate) fn came_over(&self, connection: Option<Made>) {
        if let Some(made) = connection.filter(|made| made.at > self.started) {
            self.timing.connect.get_or_init(|| made.took);
        }
    }

    /// Whether somebody may ask what became of it.
    pub(crate) fn has_failed(&self) -> bool {
        // A refused call of gRPC has the status 200.
        self.status >= 400 || self.error.is_some() || self.end != End::Complete
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    pub(crate) fn completed(&mut self) {
        self.end = End::Complete;
    }

    pub(crate) fn broken(&mut self) {
        self.end = End::Broken;
    }

    pub(crate) fn timed_out(&mut self) {
        self.end = End::TimedOut;
    }

    /// What it was switched to is over.
    pub(crate) fn tunnel_ended(&mut self, end: End, received: u64, sent: u64) {
        (self.end, self.received_bytes, self.sent_bytes) = (end, Some(received), sent);
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(crate) fn took(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn connection_shared(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }

    /// Whether callers are told to go elsewhere, as this node's zone is drained.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.shared.leaving.borrow()
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Whoever does not take an answer has left it, though all of it was handed over.
        if let Some(taken) = self.taking.as_ref().and_then(|taking| taking.taken_of_more()) {
            self.sent_bytes = taken;
            if self.end == End::Complete {
                self.end = End::Open;
            }
        }
        if self.let_in.is_some() {
            self.shared.overload.ended();
        }
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.in_flight.dec();
        self.connection.answered();
        let labels = HttpLabels {
            method: method_label(&self.method),
            route: self.route.as_ref().map_or_else(|| Label::from(""), Label::from),
            status_code: self.status,
            error_type: self.error.unwrap_or_default(),
        };
        self.shared.metrics.http.get_or_create(&labels).observe(self.took().as_secs_f64());
        access_log::write(self, self.shared.config.access_log.as_ref());
    }
}
