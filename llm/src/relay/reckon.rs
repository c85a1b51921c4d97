//! What an answer has used so far, also one that is cut: the likely figures, and the most that it can have been.

use bytes::Bytes;

use super::{State, StreamRelay};
use crate::read::Seen;
use crate::sse::TooLarge;
use crate::usage::{AtMost, Usage, UsageSource};

/// A provider writes into the buffers on the way, and sees that nobody reads only when the reset has come back to it: its
/// next write still succeeds, one more may be under way.
const ON_THEIR_WAY: u64 = 2;

impl StreamRelay {
    /// What the call used so far: the provider's figures once they have come, else what was counted, by the model's
    /// tokenizer where it is known and loaded. Meant for the end of a stream, whichever way it ended.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let usage = self.tally.usage();
        if self.has_ended() {
            return usage;
        }
        // Some servers report as they go: of a stream that was cut, the last report may be from its beginning.
        let counted = self.tally.counter.total();
        let usage = Usage { clamped: self.tally.reported.nonsense, ..usage };
        if usage.output >= counted { usage } else { Usage { output: counted, source: UsageSource::Counted, ..usage } }
    }

    /// The most that the call can have used so far, of what the provider has not told; never more than the request allows.
    ///
    /// Of a whole stream all has gone by. Of one that was cut, here or there, more may have been written than has arrived:
    /// twice the largest chunk so far, as a provider goes on as it has begun. Where that says nothing (no text has come
    /// yet, what came can't be read, or it comes faster than it is read) it may have been anything.
    #[must_use]
    pub fn at_most(&self) -> AtMost {
        if self.has_ended() {
            return self.tally.at_most();
        }
        let known = self.largest_chunk > 0 && !self.is_unreadable && !self.is_out_of_sight;
        self.tally.at_most_of_cut(known.then(|| self.largest_chunk.saturating_mul(ON_THEIR_WAY)))
    }

    /// Takes the next bytes from the provider when nobody is sent anything any more, only to know what was used.
    pub fn read_on(&mut self, chunk: &Bytes) {
        let before = self.tally.counter.most_mixed();
        let mut rest = chunk.clone();
        while !self.is_over() {
            match self.framer.next(&mut rest) {
                Ok(Some(framed)) => match self.peek(&framed.bytes) {
                    Ok(Seen::Terminal) => self.was_read_to_its_end = true,
                    Ok(Seen::Error(message)) => self.state = State::Failed(message),
                    Ok(Seen::Content | Seen::UsageOnly | Seen::Nothing) => {}
                    Err(_) => self.is_unreadable = true,
                },
                Ok(None) => break,
                Err(TooLarge) => self.is_unreadable = true,
            }
        }
        self.note_chunk(before);
    }

    /// The provider writes faster than it is read: how much of its answer is on the way nobody can say.
    pub fn lose_sight(&mut self) {
        self.is_out_of_sight = true;
    }

    /// Whether [`read_on`](Self::read_on) has nothing more to tell: the stream has ended or can't be read, or the provider
    /// keeps to no bound, so that there is no end to wait for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.counted_output() > self.tally.most_allowed()
            || self.has_ended()
            || self.is_unreadable
            || matches!(self.state, State::Failed(_))
    }

    /// Whether the terminal event has come, to whomever.
    fn has_ended(&self) -> bool {
        self.is_complete() || self.was_read_to_its_end
    }

    /// Remembers what the latest chunk brought, by its text's bytes: a sum that no tokenizer corrects afterwards.
    pub(super) fn note_chunk(&mut self, before: u64) {
        let brought = self.tally.counter.most_mixed().saturating_sub(before);
        self.largest_chunk = self.largest_chunk.max(brought);
    }
}
