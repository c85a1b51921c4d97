//! The connections to one endpoint: those that wait for requests, and requests that wait for one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Uri, uri::PathAndQuery};
use hyper::{client::conn::http2, rt::Executor as _};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    SendError,
    counted::{Counted, Counts},
    dns::At,
    http1::{Http1, Made},
    lanes::Dialer,
};
use crate::body::UpstreamRequestBody;

/// Names resolved, connected, and TLS agreed on, within this; who asked may wait for less.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Less than most upstreams keep an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// So many requests may have left before those that wait are counted anew.
const TIDY: usize = 32;

/// A connection for one request.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

/// One that serves any number of requests at once; a task drives it.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    number: u64,
    pub(super) sender: http2::SendRequest<UpstreamRequestBody>,
    pub(super) made: Made,
}

/// As a request gets it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) connection: Connection,
    /// It was there before: it may be dead without anybody knowing.
    pub(super) is_kept: bool,
}

type Dialed = Result<Connection, SendError>;

/// All that there is of one endpoint.
pub(super) struct Lane {
    dialer: Arc<Dialer>,
    /// Scheme and authority.
    endpoint: Uri,
    at: At,
    /// What HTTP/1.1 calls it.
    pub(super) host: HeaderValue,
    counts: Arc<Counts>,
    state: Mutex<State>,
    next_number: AtomicU64,
}

#[derive(Default)]
struct State {
    /// The one that was used last is used first, so that others are let go of.
    idle: Vec<Idle>,
    http2: Option<Http2>,
    /// When somebody last asked for that.
    http2_used: Option<Instant>,
    /// One that all will share is being made.
    dialing: bool,
    waiting: VecDeque<oneshot::Sender<Result<Given, SendError>>>,
    /// Who does not wait any longer is removed once there are so many.
    tidy_at: usize,
    /// Connections under way that nobody has taken yet, by the place that each was made for.
    ahead: VecDeque<(u64, oneshot::Receiver<Dialed>)>,
}

struct Idle {
    connection: Http1,
    since: Instant,
}

impl State {
    fn take(&mut self) -> Option<Connection> {
        if let Some(http2) = self.http2.take_if(|it| !it.sender.is_ready()) {
            drop(http2);
        }
        if let Some(http2) = &self.http2 {
            self.http2_used = Some(Instant::now());
            return Some(Connection::Http2(http2.clone()));
        }
        std::iter::from_fn(|| self.idle.pop()).map(|idle| idle.connection).find(Http1::is_ready).map(Connection::Http1)
    }

    fn wait(&mut self) -> oneshot::Receiver<Result<Given, SendError>> {
        if self.waiting.len() >= self.tidy_at {
            self.waiting.retain(|it| !it.is_closed());
            self.tidy_at = 2 * self.waiting.len() + TIDY;
        }
        let (tell, told) = oneshot::channel();
        self.waiting.push_back(tell);
        told
    }
}

impl Lane {
    pub(super) fn new(dialer: &Arc<Dialer>, (endpoint, at): (Uri, At), host: HeaderValue) -> Self {
        let (counts, state, next_number) = (Arc::default(), Mutex::default(), AtomicU64::new(1));
        Self { dialer: Arc::clone(dialer), endpoint, at, host, counts, state, next_number }
    }

    /// As HTTP/2 asks for a path.
    pub(super) fn uri(&self, path: PathAndQuery) -> Option<Uri> {
        let mut parts = self.endpoint.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).ok()
    }

    /// One that is there already.
    pub(super) fn take(&self) -> Option<Connection> {
        self.state.lock().take()
    }

    /// One that is made, or that another request no longer needs, whichever comes first.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Given, SendError> {
        if self.dialer.shares {
            return self.shared_connection().await;
        }
        // One that was made ahead may have waited for long.
        let (mut told, ahead) = {
            let mut state = self.state.lock();
            if let Some(connection) = state.take() {
                return Ok(Given { connection, is_kept: true });
            }
            (state.wait(), state.ahead.pop_front().map(|(_, coming)| coming))
        };
        let (lane, is_kept) = (Arc::clone(self), ahead.is_some());
        let mut dialing = Box::pin(async move {
            match ahead {
                Some(coming) => coming.await.unwrap_or(Err(SendError::Connect)),
                None => lane.dial().await,
            }
        });
        let dialed = tokio::select! {
            biased;
            Ok(given) = &mut told => {
                let lane = Arc::clone(self);
                self.dialer.means.tasks.execute(async move {
                    if let Ok(Connection::Http1(connection)) = dialing.await {
                        Self::give_back(&lane, connection);
                    }
                });
                return given;
            }
            dialed = &mut dialing => dialed,
        };
        told.close();
        match (dialed, told.try_recv()) {
            (Err(_), Ok(given)) => given,
            (dialed, given) => {
                if let Ok(Ok(Given { connection: Connection::Http1(connection), .. })) = given {
                    Self::give_back(self, connection);
                }
                dialed.map(|connection| Given { connection, is_kept })
            }
        }
    }

    async fn shared_connection(self: &Arc<Self>) -> Result<Given, SendError> {
        loop {
            let (told, begins) = {
                let mut state = self.state.lock();
                if let Some(connection) = state.take() {
                    return Ok(Given { connection, is_kept: true });
                }
                let begins = self.share(&mut state);
                (state.wait(), begins)
            };
            begins.into_iter().for_each(Dialing::run);
            // Who has come when that was over is told nothing, and asks again.
            if let Ok(given) = told.await {
                return given;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn waits(&self) -> oneshot::Receiver<Result<Given, SendError>> {
        self.state.lock().wait()
    }

    /// A connection is for others now, once it takes a request.
    pub(super) fn give_back(lane: &Arc<Self>, mut connection: Http1) {
        if !connection.is_ready() {
            connection.look(); // it may never have been driven
        }
        if connection.is_ready() {
            return lane.put(connection);
        }
        if connection.is_closed() {
            return;
        }
        // Some of its request is still to be sent, behind the answer: whoever does not take that for long need not have it.
        let (tasks, lane) = (&lane.dialer.means.tasks, Arc::clone(lane));
        connection.leave_to_a_task(tasks);
        tasks.execute(async move {
            match timeout(IDLE_TIMEOUT, connection.readies()).await {
                Ok(true) => lane.put(connection),
                Ok(false) => {}
                Err(_) => connection.close(),
            }
        });
    }

    fn put(&self, mut connection: Http1) {
        connection.rest();
        let mut state = self.state.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            let given = Given { connection: Connection::Http1(connection), is_kept: true };
            match waiting.send(Ok(given)) {
                Err(Ok(Given { connection: Connection::Http1(back), .. })) => connection = back,
                _ => return,
            }
        }
        if state.idle.len() < self.dialer.means.max_idle {
            state.idle.push(Idle { connection, since: Instant::now() });
        }
    }

    /// What turned out to be dead is given to nobody any more.
    pub(super) fn forget(&self, dead: &Http2) {
        drop(self.state.lock().http2.take_if(|it| it.number == dead.number));
    }

    async fn dial(&self) -> Dialed {
        timeout(CONNECT_WITHIN, self.dial_on()).await.unwrap_or(Err(SendError::Connect))
    }

    async fn dial_on(&self) -> Dialed {
        let (begun, Dialer { means, shares, .. }) = (Instant::now(), &*self.dialer);
        let (io, is_http2) = self.dialer.connect(self.endpoint.clone(), &self.at).await?;
        let made = Made { at: Instant::now(), took: begun.elapsed() };
        let is_http2 = *shares || is_http2;
        let io = Counted::new(io, &self.counts, is_http2);
        let failed = |_: hyper::Error| SendError::Connect;
        if !is_http2 {
            return Http1::new(io, &means.http1, made).await.map(Connection::Http1).map_err(failed);
        }
        let (sender, driver) = means.http2.handshake(io).await.map_err(failed)?;
        means.tasks.execute(async move { drop(driver.await) }); // how it ended is told to its requests
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        Ok(Connection::Http2(self.shared(Http2 { number, sender, made })))
    }

    /// The one that all have: this one, unless another was quicker.
    fn shared(&self, new: Http2) -> Http2 {
        let mut state = self.state.lock();
        let http2 = match &state.http2 {
            Some(there) if there.sender.is_ready() => there.clone(),
            _ => state.http2.insert(new).clone(),
        };
        state.http2_used = Some(Instant::now());
        for waiting in state.waiting.drain(..) {
            let connection = Connection::Http2(http2.clone());
            // Who does not wait any longer loses nothing.
            let _ = waiting.send(Ok(Given { connection, is_kept: false }));
        }
        http2
    }

    /// Makes the one that all share, unless that is being done.
    #[must_use = "it is run once the lane is not locked any more"]
    fn share(self: &Arc<Self>, state: &mut State) -> Option<Dialing> {
        let is_begun = std::mem::replace(&mut state.dialing, true);
        (!is_begun).then(|| Dialing(Arc::clone(self)))
    }

    /// No connection for all is being made any more: those who wait for it.
    fn over(&self) -> VecDeque<oneshot::Sender<Result<Given, SendError>>> {
        let mut state = self.state.lock();
        state.dialing = false;
        std::mem::take(&mut state.waiting)
    }

    /// Lets go of connections that are closed, or that nobody needed for long.
    pub(super) fn sweep(&self, now: Instant) {
        let mut state = self.state.lock();
        let (mut kept, mut gone) = (Vec::with_capacity(state.idle.len()), Vec::new());
        for mut idle in state.idle.drain(..) {
            idle.connection.look();
            let is_kept = idle.connection.is_ready() && now.saturating_duration_since(idle.since) < IDLE_TIMEOUT;
            if is_kept { &mut kept } else { &mut gone }.push(idle);
        }
        state.idle = kept;
        // Requests that it has are served to their end.
        let is_unused = state.http2_used.is_none_or(|used| now.saturating_duration_since(used) >= IDLE_TIMEOUT);
        let http2 = state.http2.take_if(|it| is_unused || !it.sender.is_ready());
        drop(state);
        drop((gone, http2)); // closing takes its time
    }

    /// Whether there is a connection.
    pub(super) fn has_any(&self) -> bool {
        let state = self.state.lock();
        !state.idle.is_empty() || state.http2.is_some()
    }
}

/// A connection for all is being made, until this is dropped.
struct Dialing(Arc<Lane>);

impl Dialing {
    fn run(self) {
        let tasks = self.0.dialer.means.tasks.clone();
        tasks.execute(async move {
            if let Err(error) = self.0.dial().await {
                // Who does not wait any longer need not know.
                self.0.over().into_iter().for_each(|it| drop(it.send(Err(error))));
            }
        });
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        drop(self.0.over());
    }
}

/// One request's place on a connection to an endpoint, until its answer has been read.
pub(crate) struct Place {
    pub(super) lane: Arc<Lane>,
    /// By which a connection is known that was made ahead for it; 0 where none was.
    number: AtomicU64,
}

impl Place {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        lane.counts.comes();
        Self { lane, number: AtomicU64::new(0) }
    }

    /// Begins to connect, unless there are connections enough: a request that may not be sent yet has its connection made meanwhile.
    pub(super) fn connect_ahead(&self) {
        let (lane, shares) = (&self.lane, self.lane.dialer.shares);
        let mut state = lane.state.lock();
        if !lane.counts.lacks(state.ahead.len(), shares) {
            return;
        }
        if shares {
            let begins = lane.share(&mut state);
            drop(state);
            return begins.into_iter().for_each(Dialing::run);
        }
        let (tell, told) = oneshot::channel();
        let number = lane.next_number.fetch_add(1, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        state.ahead.push_back((number, told));
        drop(state);
        lane.dialer.means.tasks.execute(dial_for(Arc::clone(lane), tell));
    }
}

/// Connects, unless nobody wants it any more.
async fn dial_for(lane: Arc<Lane>, mut tell: oneshot::Sender<Dialed>) {
    let dialed = tokio::select! {
        dialed = lane.dial() => dialed,
        () = tell.closed() => return,
    };
    // Who has gone just now does not want it.
    let _ = tell.send(dialed);
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("endpoint", &self.lane.endpoint).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane.counts.leaves();
        let number = *self.number.get_mut();
        if number == 0 {
            return;
        }
        let mut state = self.lane.state.lock();
        let at = state.ahead.iter().position(|(of, _)| *of == number);
        let unused = at.and_then(|at| state.ahead.remove(at));
        drop(state);
        // It is closed when its lane may be locked again.
        drop(unused);
    }
}
