//! What a client is sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use tokio::sync::mpsc;

use super::{Piece, Taking, taking::PIECE_BYTES};
use crate::{
    ai::AiStream,
    overload::Room,
    record::Record,
    service::{OwnedRelay, Relay},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a client is given at once over HTTP/1 of an answer that is here already: whoever does not read keeps the rest here, and counted.
const WHOLE_PIECE_BYTES: usize = 64 * 1024;

/// An answer's body, and the record that is closed with it.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
    /// What is counted for it.
    room: Option<Room>,
    /// What of its last frame is still to be handed over (HTTP/2).
    rest: Bytes,
    /// Its end, which is told once nearly all is taken.
    end: Option<End>,
}

/// How a body ends.
#[derive(Debug)]
enum End {
    Trailers(HeaderMap),
    Nothing,
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
        let mut full = Self::full(bytes);
        full.room = Some(room);
        full
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
        Self { source, record: None, room: None, rest: Bytes::new(), end: None }
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

    /// The next of what it is made of.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let poll = match &mut self.source {
            Source::Full(rest) => Poll::Ready(next_piece(rest).map(|piece| Ok(Frame::data(piece)))),
            Source::Relay(relay) => relay.poll_frame(cx),
            Source::OwnedRelay(relay) => relay.poll_frame(cx),
            Source::Stream(stream) => stream.poll_data(cx).map(|data| data.map(|data| Ok(Frame::data(data)))),
            Source::Pieces(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        };
        if let Some(record) = &mut self.record {
            match &poll {
                // Nobody asks for more behind trailers.
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => self.source.ended(record),
                Poll::Ready(Some(Ok(frame))) => {
                    record.sent(frame.data_ref().map_or(0, Bytes::len));
                    // Nor behind what is known to be the last.
                    if self.source.is_end_stream() {
                        self.source.ended(record);
                    }
                }
                Poll::Ready(Some(Err(_))) => record.broken(),
                Poll::Ready(None) => self.source.ended(record),
                Poll::Pending => {}
            }
        }
        poll
    }

    /// The same over HTTP/2, in pieces, and the end once nearly all before it is taken: a stream that has ended can't be reset.
    fn poll_piece(&mut self, cx: &mut Context<'_>, taking: &Taking) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.rest.is_empty() && self.end.is_none() {
            // What has come to its end is asked no more: its time may be over by now.
            let next = if self.source.is_end_stream() { None } else { ready!(self.poll_source(cx)) };
            self.end = match next {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(data) => {
                        self.rest = data;
                        None
                    }
                    Err(frame) => frame.into_trailers().ok().map(End::Trailers),
                },
                None => Some(End::Nothing),
                error => return Poll::Ready(error),
            };
        }
        if self.rest.is_empty() {
            ready!(taking.poll_about_taken(cx));
            return Poll::Ready(match self.end.take() {
                Some(End::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(End::Nothing) | None => None,
            });
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(taking) = self.taking().cloned() else { return };
        drop(std::mem::replace(&mut self.source, Source::Full(Bytes::new()))); // settled before its exchange is over
        taking.is_not_given(self.rest.len() as u64);
        if let Some(record) = self.record.take() {
            taking.ends_with(record, self.room.take());
        }
    }
}

impl Body for ResponseBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = &mut *self;
        let taking = this.taking().cloned();
        let next = ready!(match &taking {
            Some(taking) => this.poll_piece(cx, taking),
            None => this.poll_source(cx),
        });
        Poll::Ready(next.map(|it| it.map(|frame| frame.map_data(|data| Piece::new(data, taking.as_ref())))))
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.rest.is_empty() && self.end.is_none() && self.source.is_end_stream();
        is_over && self.taking().is_none_or(|taking| taking.is_about_taken())
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
    let piece = rest.split_to(rest.len().min(WHOLE_PIECE_BYTES));
    Some(piece).filter(|piece| !piece.is_empty())
}
