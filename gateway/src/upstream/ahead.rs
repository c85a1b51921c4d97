//! Connecting ahead: a request that may not be sent yet has its connection made meanwhile, where the pool has none to
//! spare.
//!
//! The pool does not say what it has, so it is counted here: connections that are open, and requests that have a [`Place`]
//! on one. A count that is wrong costs a connection too many, or one that is made later: what is sent, and when, does not
//! depend on it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Uri,
    uri::{Authority, Scheme},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    rt::{self, Executor as _},
};
use hyper_util::client::legacy::connect::{Connected, Connection};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tower_service::Service;

use super::Taken;
use crate::{body::BoxError, tracked::Tracked};

/// Names resolved, connected, and TLS agreed on, within this; who asked may wait for less.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

type Key = (Scheme, Authority);
type Connecting<I> = oneshot::Receiver<Result<Counted<I>, BoxError>>;

/// What there is of connections to one endpoint.
struct Lane<I> {
    open: usize,
    /// Of these, the ones that serve any number of requests at once.
    shared: usize,
    /// Requests that have, or wait for, a connection.
    busy: usize,
    /// Connections under way that nobody has taken yet, by the place that each was made for.
    ahead: VecDeque<(u64, Connecting<I>)>,
}

impl<I> Default for Lane<I> {
    fn default() -> Self {
        Self { open: 0, shared: 0, busy: 0, ahead: VecDeque::new() }
    }
}

/// All lanes of a connector. A lane that nothing is left of is forgotten.
struct Lanes<I> {
    of: Mutex<HashMap<Key, Lane<I>>>,
    next_place: AtomicU64,
    /// Every connection serves any number of requests.
    shares: bool,
}

impl<I> Lanes<I> {
    fn with<T>(&self, key: &Key, change: impl FnOnce(&mut Lane<I>) -> T) -> T {
        let mut lanes = self.of.lock();
        let mut entry = match lanes.entry(key.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Lane::default()),
        };
        let lane = entry.get_mut();
        let changed = change(lane);
        if lane.open == 0 && lane.busy == 0 && lane.ahead.is_empty() {
            entry.remove();
        }
        changed
    }
}

/// A connector that takes what was connected ahead.
pub(super) struct Ahead<C, I> {
    inner: C,
    lanes: Arc<Lanes<I>>,
}

impl<C: Clone, I> Clone for Ahead<C, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), lanes: Arc::clone(&self.lanes) }
    }
}

impl<C, I> Ahead<C, I>
where
    C: Service<Uri, Response = I> + Clone + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
    I: Connection + Send + 'static,
{
    /// `shares` says that one connection serves any number of requests.
    pub(super) fn new(inner: C, shares: bool) -> Self {
        let (of, next_place) = (Mutex::default(), AtomicU64::new(1));
        Self { inner, lanes: Arc::new(Lanes { of, next_place, shares }) }
    }

    /// A place on some connection to `uri`'s endpoint, for one request. None for what is no absolute URI.
    pub(super) fn place(&self, uri: &Uri) -> Option<Place> {
        let key = key(uri)?;
        let number = self.lanes.next_place.fetch_add(1, Ordering::Relaxed);
        self.lanes.with(&key, |lane| lane.busy += 1);
        let lanes = Arc::clone(&self.lanes);
        let leave = move || {
            // A connection that nobody has taken is closed when its lane may be locked again.
            let unused = lanes.with(&key, |lane| {
                lane.busy -= 1;
                let at = lane.ahead.iter().position(|(of, _)| *of == number)?;
                lane.ahead.remove(at)
            });
            drop(unused);
        };
        Some(Place { number, leave: Some(Box::new(leave)) })
    }

    /// Begins to connect for `place`, unless there are connections enough.
    pub(super) fn connect(&self, place: &Place, uri: &Uri, tasks: &Tracked) {
        let Some(key) = key(uri) else { return };
        let (tell, told) = oneshot::channel();
        let lacks = self.lanes.with(&key, |lane| {
            let ready = lane.open + lane.ahead.len();
            let lacks = if self.lanes.shares || lane.shared > 0 { ready == 0 } else { ready < lane.busy };
            if lacks {
                lane.ahead.push_back((place.number, told));
            }
            lacks
        });
        if lacks {
            tasks.execute(connect(self.connecting(uri.clone(), key), tell));
        }
    }

    fn connecting(
        &self,
        uri: Uri,
        key: Key,
    ) -> impl Future<Output = Result<Counted<I>, BoxError>> + Send + 'static + use<C, I> {
        let (mut inner, lanes) = (self.inner.clone(), Arc::clone(&self.lanes));
        async move {
            poll_fn(|cx| inner.poll_ready(cx)).await.map_err(Into::into)?;
            let begun = Instant::now();
            let io = inner.call(uri).await.map_err(Into::into)?;
            let made = Made { at: Instant::now(), took: begun.elapsed() };
            Ok(Counted::new(io, lanes, key, made))
        }
    }
}

/// Connects, unless nobody wants it any more.
async fn connect<T>(
    connecting: impl Future<Output = Result<T, BoxError>>,
    mut tell: oneshot::Sender<Result<T, BoxError>>,
) {
    let connected = tokio::select! {
        connected = timeout(CONNECT_WITHIN, connecting) => connected,
        () = tell.closed() => return,
    };
    // Who has gone just now does not want it.
    let _ = tell.send(connected.unwrap_or_else(|late| Err(late.into())));
}

fn key(uri: &Uri) -> Option<Key> {
    Some((uri.scheme()?.clone(), uri.authority()?.clone()))
}

impl<C, I> Service<Uri> for Ahead<C, I>
where
    C: Service<Uri, Response = I> + Clone + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
    I: Connection + Send + 'static,
{
    type Response = Counted<I>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Counted<I>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(key) = key(&uri) else {
            return Box::pin(std::future::ready(Err("the endpoint's address is not absolute".into())));
        };
        let ahead = self.lanes.with(&key, |lane| lane.ahead.pop_front());
        match ahead {
            Some((_, connecting)) => Box::pin(async move { connecting.await? }),
            None => Box::pin(self.connecting(uri, key)),
        }
    }
}

/// One request's place on a connection, until its answer has been read.
pub(crate) struct Place {
    number: u64,
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            leave();
        }
    }
}

/// An answer's body, which keeps its request's place, and its endpoint busy.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    inner: Incoming,
    _place: Option<Place>,
    _taken: Option<Taken>,
}

impl UpstreamBody {
    pub(crate) fn new(inner: Incoming, place: Option<Place>) -> Self {
        Self { inner, _place: place, _taken: None }
    }

    /// Its endpoint has this much to do until the body has been read.
    pub(crate) fn of(self, taken: Taken) -> Self {
        Self { _taken: Some(taken), ..self }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// When a connection was made, and what that took: an extension of each answer that comes over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
}

/// A connection that is counted as long as it is open.
pub(super) struct Counted<I> {
    inner: I,
    made: Made,
    lanes: Arc<Lanes<I>>,
    key: Key,
    shared: bool,
}

impl<I: Connection> Counted<I> {
    fn new(inner: I, lanes: Arc<Lanes<I>>, key: Key, made: Made) -> Self {
        let shared = inner.connected().is_negotiated_h2();
        lanes.with(&key, |lane| {
            lane.open += 1;
            lane.shared += usize::from(shared);
        });
        Self { inner, made, lanes, key, shared }
    }
}

impl<I> Drop for Counted<I> {
    fn drop(&mut self) {
        self.lanes.with(&self.key, |lane| {
            lane.open -= 1;
            lane.shared -= usize::from(self.shared);
        });
    }
}

impl<I: Connection> Connection for Counted<I> {
    /// In place of the addresses, which nobody asks for.
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.made);
        if self.inner.connected().is_negotiated_h2() { connected.negotiated_h2() } else { connected }
    }
}

impl<I: rt::Read + Unpin> rt::Read for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: rt::Write + Unpin> rt::Write for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, pieces)
    }
}
