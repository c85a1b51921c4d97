//! What of a chunk passes as it is, and what goes between and in place of it.

use bytes::Bytes;

use crate::emit::Emit;
use crate::sse::Framed;

/// Consecutive events of one chunk that pass unchanged, sent on as one slice of it.
pub(super) struct Run<'a> {
    chunk: &'a Bytes,
    start: usize,
    end: usize,
}

impl<'a> Run<'a> {
    pub(super) fn new(chunk: &'a Bytes) -> Run<'a> {
        Run { chunk, start: 0, end: 0 }
    }

    /// Passes an event that ends at `end` of the chunk.
    pub(super) fn pass(&mut self, end: usize, event: Framed, emit: &mut Emit) {
        if !event.is_slice {
            emit.add(event.bytes);
            self.start = end;
        }
        self.end = end;
    }

    pub(super) fn skip(&mut self, end: usize, event: &Framed, emit: &mut Emit) {
        if event.is_slice {
            self.flush(emit);
        }
        self.start = end;
        self.end = end;
    }

    /// Puts something between the last event and the next.
    pub(super) fn insert(&mut self, bytes: Bytes, emit: &mut Emit) {
        if !bytes.is_empty() {
            self.flush(emit);
            emit.add(bytes);
        }
    }

    /// Sends `bytes` in place of an event that ends at `end` of the chunk.
    pub(super) fn replace(&mut self, end: usize, event: &Framed, bytes: Bytes, emit: &mut Emit) {
        self.skip(end, event, emit);
        emit.add(bytes);
    }

    pub(super) fn flush(&mut self, emit: &mut Emit) {
        emit.add(self.chunk.slice(self.start..self.end));
        self.start = self.end;
    }
}
