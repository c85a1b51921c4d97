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
use hyper::rt::Executor as _;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    SendError,
    breaker::{Breaker, Permit},
    counted::{Counted, Counts},
    dns::At,
    http1::{Http1, Made},
    http2::{Http2, Shared, Stream},
    lanes::Dialer,
    peer::Watched,
};

/// Names resolved, connected, and TLS agreed on, within this; who asked may wait for less.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Less than most upstreams keep an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// So many requests may have left before those that wait are counted anew.
const TIDY: usize = 32;
/// That requests share. A peer that lets a connection have few streams is asked over no more than that.
const MAX_SHARED: usize = 256;
/// No further one is made for that long after one could not be.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// A connection for one request.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1),
    Http2(Http2),
}

/// As a request gets it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) connection: Connection,
    /// It was there before: it may be dead without anybody knowing.
    pub(super) is_kept: bool,
}

pub(super) type Told = oneshot::Receiver<Result<Given, SendError>>;
pub(super) type Dialed = Result<Fresh, SendError>;

/// A connection that has just been made.
#[derive(Debug)]
pub(super) enum Fresh {
    Http1(Http1),
    Http2(Shared),
}

/// All that there is of one endpoint.
pub(super) struct Lane {
    pub(super) dialer: Arc<Dialer>,
    /// Scheme and authority.
    pub(super) endpoint: Uri,
    at: At,
    /// What HTTP/1.1 calls it.
    pub(super) host: HeaderValue,
    pub(super) counts: Arc<Counts>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) state: Mutex<State>,
    pub(super) next_number: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    /// The one that was used last is used first, so that others are let go of.
    idle: Vec<Idle>,
    /// The first that has room is used, so that others are let go of.
    pub(super) shared: Vec<Shared>,
    /// What was last agreed on, where that is agreed on.
    speaks_http2: bool,
    /// So many streams one of those had when it was last said.
    each: Option<usize>,
    /// So many that requests will share are being made.
    pub(super) dialing: usize,
    failed: Option<Instant>,
    waiting: VecDeque<Waiting>,
    /// Who does not wait any longer is removed once there are so many.
    tidy_at: usize,
    /// Connections under way that nobody has taken yet, by the place that each was made for.
    pub(super) ahead: VecDeque<(u64, oneshot::Receiver<Dialed>)>,
}

struct Waiting {
    tell: oneshot::Sender<Result<Given, SendError>>,
    /// It stands in line for leave to connect, too, and would lose its place.
    stands_in_line: bool,
}

struct Idle {
    connection: Http1,
    since: Instant,
}

/// What has to come before one more request gets a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacks {
    /// There will be enough.
    Nothing,
    Connection,
    /// Of a connection that is there: no more are made for now.
    Stream,
}

impl State {
    pub(super) fn take(&mut self, lane: &Arc<Lane>) -> Option<Connection> {
        if !self.shared.is_empty()
            && let Some(http2) = self.take_stream(lane)
        {
            return Some(Connection::Http2(http2));
        }
        std::iter::from_fn(|| self.idle.pop()).map(|idle| idle.connection).find(Http1::is_ready).map(Connection::Http1)
    }

    fn take_stream(&mut self, lane: &Arc<Lane>) -> Option<Http2> {
        self.shared.retain(Shared::is_there);
        let shared = self.shared.iter_mut().find(|it| it.has_room())?;
        (shared.streams, shared.used) = (shared.streams + 1, Instant::now());
        let stream = Stream::new(lane, shared.number);
        Some(Http2 { sender: shared.sender.clone(), made: shared.made, stream })
    }

    pub(super) fn wait(&mut self, stands_in_line: bool) -> Told {
        if self.waiting.len() >= self.tidy_at {
            self.waiting.retain(|it| !it.tell.is_closed());
            self.tidy_at = 2 * self.waiting.len() + TIDY;
        }
        let (tell, told) = oneshot::channel();
        self.waiting.push_back(Waiting { tell, stands_in_line });
        told
    }

    /// For `more` requests beside those that wait.
    pub(super) fn lacks(&self, more: usize) -> Lacks {
        let there = || self.shared.iter().filter(|it| it.is_there());
        let coming = self.dialing + there().filter(|it| it.peer.most().is_none()).count();
        let streams = coming.saturating_mul(self.each.map_or(usize::MAX, |each| each.max(1)));
        let live = || self.waiting.iter().filter(|it| !it.tell.is_closed()).count();
        if coming > 0 && (streams >= self.waiting.len() + more || streams >= live() + more) {
            return Lacks::Nothing;
        }
        let has_failed = self.failed.is_some_and(|failed| failed.elapsed() < AFTER_A_FAILURE);
        let wants_none = there().any(|it| it.peer.most() == Some(0));
        let count = there().count();
        match count + self.dialing >= MAX_SHARED || wants_none || count > 0 && has_failed {
            true => Lacks::Stream,
            false => Lacks::Connection,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.shared.iter().any(|it| it.is_there() && it.has_room())
    }

    /// Requests that wait.
    #[cfg(test)]
    pub(super) fn waits(&self) -> usize {
        self.waiting.iter().filter(|it| !it.tell.is_closed()).count()
    }

    fn pop_idle(&mut self) -> Option<Popped> {
        if !self.idle.is_empty() {
            return Some(Popped::Http1(self.idle.remove(0).connection));
        }
        let at = self.shared.iter().position(|it| it.streams == 0)?;
        Some(Popped::Http2(self.shared.remove(at)))
    }
}

/// Closed once the lane is not locked any more.
enum Popped {
    Http1(Http1),
    Http2(Shared),
}

impl Lane {
    pub(super) fn new(dialer: &Arc<Dialer>, (endpoint, at): (Uri, At), host: HeaderValue) -> Self {
        let (counts, state, next_number) = (Arc::default(), Mutex::default(), AtomicU64::new(1));
        let breaker = dialer.breaker.clone().unwrap_or_else(Breaker::new);
        Self { dialer: Arc::clone(dialer), endpoint, at, host, counts, breaker, state, next_number }
    }

    /// As HTTP/2 asks for a path.
    pub(super) fn uri(&self, path: PathAndQuery) -> Option<Uri> {
        let mut parts = self.endpoint.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).ok()
    }

    /// One that is there already.
    pub(super) fn take(self: &Arc<Self>) -> Option<Connection> {
        self.state.lock().take(self)
    }

    /// By which others of its upstream are told from it.
    pub(super) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether connections are HTTP/2, as far as is known.
    pub(super) fn shares(&self, state: &State) -> bool {
        self.dialer.shares || state.speaks_http2
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
        if !self.breaker.is_overdue(self.id()) {
            while let Some(waiting) = state.waiting.pop_front() {
                let given = Given { connection: Connection::Http1(connection), is_kept: true };
                match waiting.tell.send(Ok(given)) {
                    Err(Ok(Given { connection: Connection::Http1(back), .. })) => connection = back,
                    _ => return,
                }
            }
        }
        if state.idle.len() < self.dialer.means.max_idle {
            state.idle.push(Idle { connection, since: Instant::now() });
        }
        drop(state);
        // Not before: who came meanwhile has seen it, or is seen here.
        if self.breaker.wants_room() {
            self.close_idle();
        }
    }

    /// Closes a connection that nobody has. Whether there was one.
    pub(super) fn close_idle(&self) -> bool {
        let popped = self.state.lock().pop_idle();
        match popped {
            Some(Popped::Http1(connection)) => connection.close(),
            Some(Popped::Http2(shared)) => drop(shared),
            None => return false,
        }
        true
    }

    /// A request has no stream on that connection any more.
    pub(super) fn stream_is_over(self: &Arc<Self>, number: u64) {
        let mut state = self.state.lock();
        let Some(shared) = state.shared.iter_mut().find(|it| it.number == number) else { return };
        (shared.streams, shared.used) = (shared.streams.saturating_sub(1), Instant::now());
        let (is_idle, is_waited_for) = (shared.streams == 0, !state.waiting.is_empty());
        drop(state);
        if is_waited_for {
            self.hand_out();
        }
        if is_idle && self.breaker.wants_room() {
            self.close_idle();
        }
    }

    /// Gives streams to those who wait for one, as long as there are any.
    fn hand_out(self: &Arc<Self>) {
        let mut spare = None;
        loop {
            let mut state = self.state.lock();
            if state.waiting.is_empty() {
                break;
            }
            let given = spare.take().or_else(|| {
                let connection = Connection::Http2(state.take_stream(self)?);
                Some(Given { connection, is_kept: true })
            });
            let Some((given, waiting)) = given.and_then(|given| Some((given, state.waiting.pop_front()?))) else {
                break;
            };
            drop(state);
            // Who does not wait any longer leaves it to the next one.
            spare = waiting.tell.send(Ok(given)).err().and_then(Result::ok);
        }
    }

    /// Something has changed for connections that are shared: one is there, or goes, or its peer has said how many streams it takes.
    pub(super) fn look_again(self: &Arc<Self>) {
        self.hand_out();
        let mut state = self.state.lock();
        let gone: Vec<Shared> = state.shared.extract_if(.., |it| !it.is_there()).collect();
        state.each = state.shared.iter().filter_map(|it| it.peer.most()).max().or(state.each);
        let mut asked_again = VecDeque::new();
        if !state.waiting.is_empty() && state.lacks(0) != Lacks::Nothing {
            let (stay, go) = std::mem::take(&mut state.waiting).into_iter().partition(|it| it.stands_in_line);
            (state.waiting, asked_again) = (stay, go);
        }
        drop(state);
        drop((gone, asked_again)); // who is told nothing asks again
    }

    /// What turned out to be dead is given to nobody any more.
    pub(super) fn forget(self: &Arc<Self>, number: u64) {
        let dead: Vec<Shared> = self.state.lock().shared.extract_if(.., |it| it.number == number).collect();
        drop(dead);
        self.look_again();
    }

    pub(super) async fn dial(self: &Arc<Self>, permit: Permit) -> Dialed {
        timeout(CONNECT_WITHIN, self.dial_on(permit)).await.unwrap_or(Err(SendError::Connect))
    }

    async fn dial_on(self: &Arc<Self>, permit: Permit) -> Dialed {
        let (begun, Dialer { means, shares, .. }) = (Instant::now(), &*self.dialer);
        let (io, is_http2) = self.dialer.connect(self.endpoint.clone(), &self.at).await?;
        let made = Made { at: Instant::now(), took: begun.elapsed() };
        let is_http2 = *shares || is_http2;
        let io = Counted::new(io, &self.counts, permit);
        let failed = |_: hyper::Error| SendError::Connect;
        if !is_http2 {
            return Http1::new(io, &means.http1, made).await.map(Fresh::Http1).map_err(failed);
        }
        let peer = Arc::default();
        let io = TokioIo::new(Watched::new(TokioIo::new(io), &peer, self));
        let (sender, driver) = means.http2.handshake(io).await.map_err(failed)?;
        means.tasks.execute(async move { drop(driver.await) }); // how it ended is told to its requests
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        Ok(Fresh::Http2(Shared { number, sender, made, peer, streams: 0, used: made.at }))
    }

    /// For the request that it was made for. One that can be shared is for others, too; it is let go of where one of theirs has room,
    /// unless it `is_wanted` anyway.
    pub(super) fn keep(self: &Arc<Self>, fresh: Fresh, is_wanted: bool) -> Option<Connection> {
        let mut state = self.state.lock();
        match fresh {
            Fresh::Http1(connection) => {
                state.speaks_http2 = false;
                Some(Connection::Http1(connection))
            }
            Fresh::Http2(shared) => {
                (state.speaks_http2, state.failed) = (true, None);
                let there = if is_wanted { None } else { state.take_stream(self) };
                if there.is_none() {
                    state.shared.push(shared);
                }
                there.or_else(|| state.take_stream(self)).map(Connection::Http2)
            }
        }
    }

    /// Makes one that all share.
    #[must_use = "it is run once the lane is not locked any more"]
    pub(super) fn begin(self: &Arc<Self>, state: &mut State, permit: Permit) -> Dialing {
        state.dialing += 1;
        Dialing { lane: Arc::clone(self), permit: Some(permit) }
    }

    /// Lets go of connections that are closed, or that nobody needed for long.
    pub(super) fn sweep(self: &Arc<Self>, now: Instant) {
        let mut state = self.state.lock();
        let (mut kept, mut gone) = (Vec::with_capacity(state.idle.len()), Vec::new());
        for mut idle in state.idle.drain(..) {
            idle.connection.look();
            let is_kept = idle.connection.is_ready() && now.saturating_duration_since(idle.since) < IDLE_TIMEOUT;
            if is_kept { &mut kept } else { &mut gone }.push(idle);
        }
        state.idle = kept;
        // Requests that it has are served to their end.
        let is_unused = |it: &Shared| it.streams == 0 && now.saturating_duration_since(it.used) >= IDLE_TIMEOUT;
        let mut shared: Vec<Shared> = state.shared.extract_if(.., |it| is_unused(it) || !it.is_there()).collect();
        if self.breaker.is_overdue(self.id()) && !state.shared.is_empty() {
            shared.push(state.shared.remove(0)); // it is never idle, and others wait for it to end
        }
        let had_any = !state.shared.is_empty() || !shared.is_empty();
        let is_waited_for = had_any && !state.waiting.is_empty();
        drop(state);
        drop((gone, shared)); // closing takes its time
        if is_waited_for {
            self.look_again();
        }
    }

    /// Whether there is a connection.
    pub(super) fn has_any(&self) -> bool {
        let state = self.state.lock();
        !state.idle.is_empty() || !state.shared.is_empty()
    }

    #[cfg(test)]
    pub(super) fn waits(&self) -> Told {
        self.state.lock().wait(false)
    }
}

/// A connection for all is being made, until this is dropped.
pub(super) struct Dialing {
    lane: Arc<Lane>,
    permit: Option<Permit>,
}

impl Dialing {
    pub(super) fn run(mut self) {
        let tasks = self.lane.dialer.means.tasks.clone();
        tasks.execute(async move {
            let Some(permit) = self.permit.take() else { return };
            match self.lane.dial(permit).await {
                // Somebody took the connection who is not there.
                Ok(Fresh::Http2(shared)) if !shared.is_there() => self.fails(SendError::Connect),
                Ok(fresh) => match self.lane.keep(fresh, true) {
                    Some(Connection::Http1(connection)) => Lane::give_back(&self.lane, connection),
                    // Whoever waits has it when this is dropped.
                    connection => drop(connection),
                },
                Err(error) => self.fails(error),
            }
        });
    }

    /// Where no other connection is there, those who wait hear of it.
    pub(super) fn fails(&self, error: SendError) {
        let mut state = self.lane.state.lock();
        state.failed = Some(Instant::now());
        if state.shared.iter().any(Shared::is_there) {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        // Who does not wait any longer need not know.
        waiting.into_iter().for_each(|it| drop(it.tell.send(Err(error))));
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.lane.state.lock().dialing -= 1;
        self.lane.look_again();
    }
}
