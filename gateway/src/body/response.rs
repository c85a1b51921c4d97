//! What a client is sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use tokio::sync::mpsc;

use crate::{
    ai::AiStream,
    record::Record,
    service::{OwnedRelay, Relay},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An answer's body, and the record that is closed with it.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Source {
    Full(Option<Bytes>),
    Relay(Box<Relay>),
    OwnedRelay(Box<OwnedRelay>),
    Stream(Box<AiStream>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Source {
    /// Nothing more comes of it.
    fn ended(&self, record: &mut Record) {
        match self {
            Self::Relay(relay) if relay.is_cut() => record.timed_out(),
            Self::OwnedRelay(relay) if relay.is_cut() => record.timed_out(),
            _ => record.completed(),
        }
    }
}

impl ResponseBody {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::from(Source::Full(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    pub(crate) fn relay(relay: Relay) -> Self {
        Self::from(Source::Relay(Box::new(relay)))
    }

    pub(crate) fn owned_relay(relay: OwnedRelay) -> Self {
        Self::from(Source::OwnedRelay(Box::new(relay)))
    }

    pub(crate) fn stream(stream: AiStream) -> Self {
        Self::from(Source::Stream(Box::new(stream)))
    }

    /// What a task sends until it ends. Dropping the body tells it that nobody wants the rest.
    pub(crate) fn pieces(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self::from(Source::Pieces(pieces))
    }

    fn from(source: Source) -> Self {
        Self { source, record: None }
    }

    /// Whether all of it is here already.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.source, Source::Full(_))
    }

    /// The exchange ends when this body has ended, or is dropped.
    pub(crate) fn recorded(mut self, record: Box<Record>) -> Self {
        self.record = Some(record);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let poll = match &mut this.source {
            Source::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Relay(relay) => relay.poll_frame(cx),
            Source::OwnedRelay(relay) => relay.poll_frame(cx),
            Source::Stream(stream) => stream.poll_data(cx).map(|data| data.map(|data| Ok(Frame::data(data)))),
            Source::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        };
        if let Some(record) = &mut this.record {
            match &poll {
                // Nobody asks for more behind trailers.
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => this.source.ended(record),
                Poll::Ready(Some(Ok(frame))) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
                Poll::Ready(Some(Err(_))) => record.broken(),
                Poll::Ready(None) => this.source.ended(record),
                Poll::Pending => {}
            }
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Full(bytes) => bytes.is_none(),
            Source::Relay(relay) => relay.is_end_stream(),
            Source::OwnedRelay(relay) => relay.is_end_stream(),
            Source::Stream(_) | Source::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Relay(relay) => relay.size_hint(),
            Source::OwnedRelay(relay) => relay.size_hint(),
            Source::Stream(_) | Source::Pieces(_) => SizeHint::default(),
        }
    }
}
