//! An answer's body.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    Taken,
    http1::{Http1, Made},
    http2::Stream,
    lane::Lane,
    place::Place,
};

/// It keeps its request's place, its connection until it has ended, and its endpoint busy.
#[derive(Debug)]
pub(crate) struct UpstreamBody {
    /// There until it is dropped.
    inner: Option<Incoming>,
    over: Option<Http1>,
    /// Behind the body: what is left of that is reset before another request gets the stream.
    stream: Option<Arc<Stream>>,
    made: Option<Made>,
    place: Option<Place>,
    taken: Option<Taken>,
}

impl UpstreamBody {
    /// One that is bound to nothing.
    pub(crate) fn new(inner: Incoming, place: Option<Place>) -> Self {
        Self { inner: Some(inner), over: None, stream: None, made: None, place, taken: None }
    }

    /// One that has a stream of a connection that others have as well.
    pub(super) fn on(stream: Arc<Stream>, inner: Incoming, place: Place) -> Self {
        let mut body = Self::new(inner, Some(place));
        if !body.is_end_stream() {
            body.stream = Some(stream);
        }
        body
    }

    /// One that has its connection for itself.
    pub(super) fn over(connection: Http1, inner: Incoming, place: Place) -> Self {
        let mut body = Self::new(inner, Some(place)).made(connection.made);
        body.over = Some(connection);
        if body.is_end_stream() {
            body.ended();
        }
        body
    }

    pub(super) fn made(mut self, made: Made) -> Self {
        self.made = Some(made);
        self
    }

    /// Its endpoint has this much to do until the body has been read.
    pub(crate) fn of(mut self, taken: Taken) -> Self {
        self.taken = Some(taken);
        self
    }

    /// When the connection that it comes over was made.
    pub(crate) fn connection(&self) -> Option<Made> {
        self.made
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let Some(connection) = self.over.as_mut().filter(|it| it.is_driven_here()) else {
            return Pin::new(inner).poll_frame(cx);
        };
        // Nobody but its connection brings anything, and that is driven here.
        let nobody = &mut Context::from_waker(Waker::noop());
        connection.mute();
        match Pin::new(&mut *inner).poll_frame(nobody) {
            Poll::Pending => {
                connection.drive(cx);
                Pin::new(inner).poll_frame(nobody)
            }
            ready => ready,
        }
    }

    /// Its connection is for others now.
    fn ended(&mut self) {
        self.stream = None;
        let Some(mut connection) = self.over.take() else { return };
        if !connection.is_ready() {
            connection.look();
        }
        if let Some(place) = &self.place {
            Lane::give_back(&place.lane, connection);
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        let Some(mut connection) = self.over.take() else { return };
        self.inner = None;
        // What is left of it may be here already. Else nobody waits for it: the connection is closed.
        connection.look();
        let lane = self.place.as_ref().map(|place| Arc::clone(&place.lane));
        if let Some(lane) = lane.filter(|_| connection.is_ready() || !connection.is_driven_here()) {
            Lane::give_back(&lane, connection);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = self.poll_inner(cx);
        match &polled {
            Poll::Ready(None) => self.ended(),
            Poll::Ready(Some(Err(_))) => (self.over, self.stream) = (None, None),
            Poll::Ready(Some(Ok(_))) if self.is_end_stream() => self.ended(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
