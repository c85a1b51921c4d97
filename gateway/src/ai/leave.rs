//! What a provider has written and nobody will read, when a stream is left in the middle.
//!
//! The provider goes on writing until it sees that nobody reads: what it has written is in the buffers on the way, and
//! it bills for all of it. A limit that was charged only what had been read would give the rest to others.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tollgate_llm::{Emit, StreamError, StreamRelay};
use tollgate_quota::{Outcome, Written};

use super::{
    pace::Pace,
    quiet::{Silence, TICK, Tick},
    settle::{Call, Used},
};
use crate::upstream::UpstreamBody;

/// The provider is let go within a second of the caller, however much it writes. Of one that is not quiet by then, and not
/// known to write slowly, there is no telling how much is on the way.
const LONGEST: Duration = Duration::from_millis(500);

/// A provider's stream and the call that it answers. Dropping it ends both: the provider is let go, and the call is settled
/// at what has been read, and at most at what may have been written.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) body: UpstreamBody,
    pub(super) relay: StreamRelay,
    pace: Pace,
    /// Until it is settled.
    call: Option<Call>,
}

impl Source {
    pub(super) fn new(body: UpstreamBody, relay: StreamRelay, call: Call) -> Self {
        let mut pace = Pace::default();
        pace.note(Duration::ZERO, relay.counted_output());
        Self { body, relay, pace, call: Some(call) }
    }

    /// What the caller gets of the provider's next bytes, which were `waited` for.
    pub(super) fn push(&mut self, data: &Bytes, waited: Duration) -> Result<Emit, StreamError> {
        let emit = self.relay.push(data);
        self.pace.note(waited, self.relay.counted_output());
        emit
    }

    /// Nobody has read for a while.
    pub(super) fn fall_behind(&mut self) {
        self.pace.fall_behind();
    }

    /// The call, until it is settled.
    pub(super) fn call(&mut self) -> Option<&mut Call> {
        self.call.as_mut()
    }

    /// Nobody wants the rest, as it ends early `by` this. What of it is there already is read, to know what was used; should
    /// the usage block be in it, that is the truth.
    pub(super) fn leave(self, by: &'static str) {
        self.call.iter().filter(|_| !self.relay.is_complete()).for_each(|call| call.cut(by));
        if let (false, Some(call), Ok(runtime)) = (self.relay.is_over(), &self.call, Handle::try_current()) {
            let tasks = call.last_words().clone();
            tasks.spawn_on(self.read_on(), &runtime);
        }
    }

    async fn read_on(mut self) {
        let end = Instant::now() + LONGEST;
        let (read_before, mut silence) = (self.relay.counted_output(), Silence::default());
        // What comes after that, the relay's margin is for.
        while !self.relay.is_over() && !silence.is_quiet() {
            let due = end.min(Instant::now() + TICK);
            let tick = match timeout_at(due, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    self.relay.read_on(&frame.into_data().unwrap_or_default());
                    Tick::Heard
                }
                Ok(Some(Err(_)) | None) => return,
                Err(_) => Tick::Silent { late: Instant::now() - due },
            };
            silence = silence.and(tick);
            if Instant::now() >= end && !silence.is_quiet() {
                let has_written = self.relay.counted_output() > read_before;
                self.give_up(has_written, silence.is_blind());
                return;
            }
        }
    }

    /// It is let go as it is, whatever is on the way.
    pub(super) fn lose_sight(&mut self) {
        self.give_up(true, false);
    }

    /// It is let go in the middle of what it writes, or of what this node did not get to read.
    fn give_up(&mut self, has_written: bool, is_blind: bool) {
        let is_slow = self.call.as_ref().is_some_and(Call::is_known_to_be_slow);
        if is_blind || has_written && !is_slow {
            self.relay.lose_sight();
        }
    }
}

impl Source {
    /// Settles the call, unless it is.
    pub(super) fn settle(&mut self) -> Written {
        let outcome = if self.relay.is_complete() { Outcome::Settled } else { Outcome::Partial };
        let used = Used { usage: self.relay.usage(), at_most: self.relay.at_most() };
        self.call.iter().for_each(|call| call.learn(&self.pace, self.relay.most_output_exactly()));
        self.call.iter().filter(|_| self.relay.is_complete()).for_each(|call| call.learn_length(used.usage.output));
        self.call.take().map(|call| call.settle(used, outcome, 200)).unwrap_or_default()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        drop(self.settle());
    }
}
