//! What a client is sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use tokio::sync::mpsc;

use super::{Piece, Taking};
use crate::{
    ai::AiStream,
    overload::Room,
    record::Record,
    service::{OwnedRelay, Relay},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a client is given at once of an answer that is here already: whoever does not read keeps the rest here, and counted.
const PIECE_BYTES: usize = 64 * 1024;

/// An answer's body, and the record that is closed with it.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
    /// What is counted for it.
    _room: Option<Room>,
}

#[derive(Debug)]
enum Source {
    Full(Bytes),
    Relay(Box<Relay>),
    OwnedRelay(Box<OwnedRelay>),
    Stream(Box<AiStream>),
    Pieces(mpsc::Receiver<Bytes>),
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(rest) => rest.is_empty(),
            Self::Relay(relay) => relay.is_end_stream(),
            Self::OwnedRelay(relay) => relay.is_end_stream(),
            Self::Stream(_) | Self::Pieces(_) => false,
        }
    }

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
        Self::from(Source::Full(bytes))
    }

    /// The same, with the room that it takes until its client has nearly all of it.
    pub(crate) fn full_in(room: Room, bytes: Bytes) -> Self {
        Self { _room: Some(room), ..Self::full(bytes) }
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
        Self { source, record: None, _room: None }
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

    fn taking(&self) -> Option<&Arc<Taking>> {
        self.record.as_ref().and_then(|record| record.taking.as_ref())
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = &mut *self;
        this.taking().into_iter().for_each(|taking| taking.asked());
        let poll = match &mut this.source {
            Source::Full(rest) => Poll::Ready(next_piece(rest).map(|piece| Ok(Frame::data(piece)))),
            Source::Relay(relay) => relay.poll_frame(cx),
            Source::OwnedRelay(relay) => relay.poll_frame(cx),
            Source::Stream(stream) => stream.poll_data(cx).map(|data| data.map(|data| Ok(Frame::data(data)))),
            Source::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        };
        if let Some(record) = &mut this.record {
            match &poll {
                // Nobody asks for more behind trailers.
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => this.source.ended(record),
                Poll::Ready(Some(Ok(frame))) => {
                    record.sent(frame.data_ref().map_or(0, Bytes::len));
                    // Nor behind what is known to be the last.
                    if this.source.is_end_stream() {
                        this.source.ended(record);
                    }
                }
                Poll::Ready(Some(Err(_))) => record.broken(),
                Poll::Ready(None) => this.source.ended(record),
                Poll::Pending => {}
            }
        }
        let taking = this.taking();
        if let (Poll::Ready(Some(Ok(_))), Some(taking)) = (&poll, taking) {
            taking.handed_over();
        }
        poll.map(|frame| frame.map(|it| it.map(|frame| frame.map_data(|data| Piece::new(data, taking)))))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(rest) => SizeHint::with_exact(rest.len() as u64),
            Source::Relay(relay) => relay.size_hint(),
            Source::OwnedRelay(relay) => relay.size_hint(),
            Source::Stream(_) | Source::Pieces(_) => SizeHint::default(),
        }
    }
}

fn next_piece(rest: &mut Bytes) -> Option<Bytes> {
    let piece = rest.split_to(rest.len().min(PIECE_BYTES));
    Some(piece).filter(|piece| !piece.is_empty())
}
