//! A stream whose hold grows as it goes (QUOTA.md 3.5, R9).
//!
//! It is read by a task of its own, whether its caller takes anything or not: what a provider has written is used, and if
//! nobody looked it could be more than what is held. What cannot be held in time ends the stream, cleanly, as if the model
//! had come to its bound; the call is then settled at what the provider had written by the time it was let go.
//!
//! A stream that has a permit of a concurrency limit is read so, too: it ends before others are given its permit (R12), and
//! a caller who takes nothing would not let it.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tollgate_llm::{ApiError, Emit, code};
use tollgate_quota::{HeldPart, Touch, Written};
use tracing::debug;

use super::{
    admit::LONGEST_STREAM,
    answer::sentence,
    holding::{Holding, Step},
    leave::Source,
    pace::REACTION,
};
use crate::{
    filters::{
        admit::{PERMIT_LOST, permit_lost},
        output::OutputPath,
    },
    gateway::Shared,
    metrics::{CUT_BY_CALLER, CUT_BY_ISOLATION, CUT_BY_LIMIT, CUT_BY_TIME},
};

/// Pieces on their way to a caller who takes them; what waits longer is counted in bytes.
const PIECES: usize = 8;
/// What may wait for a caller who takes nothing while its provider writes on. Beyond that the provider has to wait, which
/// does not stop it at once: all that it may write is held first, or the stream ends.
const MAX_WAITING_BYTES: usize = 256 * 1024;
/// The log decides in milliseconds; a leader that died is replaced within two seconds.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);
/// Others ask at the same time, so what was left may be gone.
const TRIES: usize = 3;
/// Who was refused for what others hold asks again after this: they may have come to their ends.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How the hold of one stream grows.
pub(super) struct Growth {
    shared: Arc<Shared>,
    holding: Holding,
    path: OutputPath,
    hold_for: Duration,
}

impl Growth {
    pub(super) fn new(shared: Arc<Shared>, holding: Holding, path: OutputPath, hold_for: Duration) -> Self {
        Self { shared, holding, path, hold_for }
    }

    /// Asks for so much more; for what is left of it, if that is at least `least`.
    fn ask(&self, amount: u64, least: u64) -> Asking {
        let (shared, path, hold_for) = (Arc::clone(&self.shared), self.path.clone(), self.hold_for);
        let held = self.holding.held();
        Box::pin(async move {
            let deadline = Instant::now() + DECIDED_WITHIN;
            let (mut amount, mut others_hold) = (amount, false);
            for _ in 0..TRIES {
                match path.clone().hold(&shared, held, amount, hold_for, deadline).await {
                    Ok(part) => return Ok((part, amount)),
                    Err(no_more) => {
                        others_hold = no_more.others_hold;
                        let left = no_more.left.filter(|left| (least..amount).contains(left));
                        let Some(left) = left else { break };
                        amount = left;
                    }
                }
            }
            Err(Refused { others_hold })
        })
    }
}

/// On what terms a stream goes on.
pub(super) struct Terms {
    pub(super) growth: Option<Growth>,
    pub(super) permit: Option<Arc<Touch>>,
}

type Asking = Pin<Box<dyn Future<Output = Result<(HeldPart, u64), Refused>> + Send>>;

/// More that can't be held now.
struct Refused {
    /// Others hold it: they may give it back in time.
    others_hold: bool,
}

/// What the caller gets of `source`, after its `first` words. `ends_by` is for the whole of it, where the route names a
/// time.
pub(super) fn relay(
    mut source: Source,
    first: Emit,
    terms: Terms,
    idle: Duration,
    ends_by: Option<Instant>,
) -> mpsc::Receiver<Bytes> {
    let (tell, told) = mpsc::channel(PIECES);
    let ends_by = ends_by.unwrap_or_else(|| Instant::now() + LONGEST_STREAM);
    let tasks = source.call().map(|call| call.last_words().clone()).unwrap_or_default();
    let (waiting_bytes, heard_at) = (first.byte_len(), Instant::now());
    let Terms { growth, permit } = terms;
    let relay = Relay {
        source,
        growth,
        permit_lost: Box::pin(async move { permit_lost(permit.as_deref()).await }),
        asking: None,
        ask_again_at: None,
        undecided_by: None,
        written: None,
        queue: first.into_iter().collect(),
        waiting_bytes,
        heard_at,
        tell,
        idle,
        ends_by,
    };
    tasks.spawn(relay.run());
    told
}

/// How a stream ends, beside its caller's leaving.
enum End {
    /// As it should.
    Whole(Emit),
    /// No more can be held.
    Cut,
    /// Others may be given its permit.
    OutOfTouch,
    Failed(String),
    TimedOut(&'static str),
    /// The caller has left.
    Left,
}

struct Relay {
    source: Source,
    growth: Option<Growth>,
    permit_lost: Pin<Box<dyn Future<Output = ()> + Send>>,
    asking: Option<Asking>,
    /// While others hold what it was refused.
    ask_again_at: Option<Instant>,
    /// While more must be held before the stream may go on: it is cut then.
    undecided_by: Option<Instant>,
    /// What the caller has not been sent yet waits for it.
    written: Option<Written>,
    /// What the caller has not been sent yet, and how much that is.
    queue: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// When the provider was last heard, or was kept waiting.
    heard_at: Instant,
    tell: mpsc::Sender<Bytes>,
    idle: Duration,
    ends_by: Instant,
}

/// What a stream may do until something happens.
struct Turn {
    reads: bool,
    sends: bool,
    /// While more must be held.
    cut_at: Option<Instant>,
    /// While others hold it.
    ask_again_at: Option<Instant>,
}

impl Relay {
    async fn run(mut self) {
        let end = loop {
            if let Some(end) = self.step().await {
                break end;
            }
        };
        let Self { mut source, mut queue, mut written, tell, .. } = self;
        match end {
            End::Whole(emit) => {
                queue.extend(emit);
                source.settle().await;
            }
            End::Failed(message) => {
                queue.push_back(source.relay.fail(&ApiError::new(502, code::UPSTREAM_ERROR, &message)));
                source.settle().await;
            }
            End::Cut | End::OutOfTouch => {
                let is_limit = matches!(end, End::Cut);
                let by = if is_limit { CUT_BY_LIMIT } else { CUT_BY_ISOLATION };
                source.call().into_iter().for_each(|call| call.cut(by));
                let error = if is_limit {
                    let message = "The limits hold no more for this stream.";
                    ApiError::new(429, code::RATE_LIMIT_EXCEEDED, message)
                } else {
                    source.lose_sight();
                    ApiError::new(503, code::QUOTA_UNAVAILABLE, PERMIT_LOST)
                };
                queue.push_back(source.relay.cut(&error));
                let written = source.settle();
                drop(source); // the provider is let go at once
                written.await;
            }
            End::TimedOut(message) => {
                queue.push_back(source.relay.fail(&ApiError::new(504, code::UPSTREAM_TIMEOUT, message)));
                source.leave(CUT_BY_TIME);
            }
            End::Left => return source.leave(CUT_BY_CALLER),
        }
        end_written(&mut written).await;
        for piece in queue.into_iter().filter(|piece| !piece.is_empty()) {
            if tell.send(piece).await.is_err() {
                return; // the caller has left
            }
        }
    }

    /// The next thing that happens; how the stream ends, if it does.
    async fn step(&mut self) -> Option<End> {
        let turn = match self.turn() {
            Ok(Some(turn)) => turn,
            Ok(None) => return None,
            Err(end) => return Some(end),
        };
        if turn.sends && self.source.relay.is_complete() && self.source.call().is_some() {
            // Callers take the terminal event for the end, whenever the connection ends. Nothing more is asked for from here on.
            self.written = Some(self.source.settle());
            self.growth = None;
            return None;
        }
        let next = self.queue.front().cloned().unwrap_or_default();
        let sends = turn.sends && self.written.is_none() && !self.queue.is_empty();
        let silent_by = (self.heard_at + self.idle).min(self.ends_by);
        tokio::select! {
            biased;
            () = self.tell.closed() => Some(End::Left),
            () = &mut self.permit_lost => Some(End::OutOfTouch),
            more = answer(&mut self.asking), if self.asking.is_some() => {
                self.decided(more);
                None
            }
            () = sleep_until(turn.cut_at.unwrap_or(self.ends_by)), if turn.cut_at.is_some() => Some(End::Cut),
            () = sleep_until(turn.ask_again_at.unwrap_or(self.ends_by)), if turn.ask_again_at.is_some() => None,
            () = end_written(&mut self.written), if self.written.is_some() => None,
            sent = self.tell.send(next), if sends => {
                self.waiting_bytes -= self.queue.pop_front().map_or(0, |piece| piece.len());
                sent.is_err().then_some(End::Left)
            }
            frame = self.source.body.frame(), if turn.reads => self.take(frame),
            () = sleep_until(silent_by) => Some(self.time_out()),
        }
    }

    /// What may be done now. None when more has just been asked for: then look again.
    fn turn(&mut self) -> Result<Option<Turn>, End> {
        let is_full = self.waiting_bytes >= MAX_WAITING_BYTES;
        let most = self.most();
        let Some(growth) = &mut self.growth else {
            if is_full {
                self.heard_at = Instant::now();
            }
            return Ok(Some(Turn { reads: !is_full, sends: true, cut_at: None, ask_again_at: None }));
        };
        if self.ask_again_at.take_if(|at| *at <= Instant::now()).is_some() {
            growth.holding.try_again();
        }
        let is_used_up = match growth.holding.step(most) {
            Step::GoOn => false,
            Step::Wait => true,
            Step::Cut if self.ask_again_at.is_some() => true,
            Step::Ask(amount) => {
                self.asking = Some(growth.ask(amount, 1));
                return Ok(None);
            }
            Step::Cut => return Err(End::Cut),
        };
        let has_all = growth.holding.has_all();
        if is_full && !has_all && self.asking.is_none() {
            let rest = growth.holding.ask_for_all().ok_or(End::Cut)?;
            self.asking = Some(growth.ask(rest, rest));
            return Ok(None);
        }
        // Only a provider that is held for whole may be kept waiting.
        let reads = !(is_full && has_all);
        if !reads {
            self.heard_at = Instant::now();
            self.source.fall_behind();
        }
        let is_undecided = is_used_up || is_full && !has_all;
        let cut_at = is_undecided.then(|| self.undecided_by.unwrap_or_else(|| Instant::now() + REACTION));
        self.undecided_by = cut_at;
        Ok(Some(Turn { reads, sends: !is_used_up, cut_at, ask_again_at: self.ask_again_at }))
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> Option<End> {
        let now = Instant::now();
        let waited = now.duration_since(std::mem::replace(&mut self.heard_at, now));
        match frame {
            Some(Ok(frame)) => self.push(&frame.into_data().unwrap_or_default(), waited),
            Some(Err(error)) if !self.source.relay.is_complete() => {
                debug!(%error, "a provider's stream was cut");
                Some(End::Failed("The provider's stream was cut in the middle.".to_owned()))
            }
            Some(Err(_)) | None => Some(self.finish()),
        }
    }

    /// The most output that has come: closely only where it matters.
    fn most(&self) -> u64 {
        let most = self.source.relay.most_output();
        if self.growth.as_ref().is_none_or(|growth| growth.holding.is_far(most)) {
            most
        } else {
            self.source.relay.most_output_exactly()
        }
    }

    fn push(&mut self, data: &Bytes, waited: Duration) -> Option<End> {
        match self.source.push(data, waited) {
            Ok(emit) => {
                self.waiting_bytes += emit.byte_len();
                self.queue.extend(emit);
                None
            }
            Err(error) => Some(End::Failed(sentence(&error))),
        }
    }

    fn finish(&mut self) -> End {
        match self.source.relay.finish() {
            Ok(emit) => End::Whole(emit),
            Err(error) => End::Failed(sentence(&error)),
        }
    }

    /// A stream whose last event has come has not failed, whatever its connection does.
    fn time_out(&mut self) -> End {
        if self.source.relay.is_complete() {
            return self.finish();
        }
        let late = Instant::now() >= self.ends_by;
        End::TimedOut(if late {
            "The provider's stream took longer than it may take here."
        } else {
            "The provider's stream stopped in the middle."
        })
    }

    fn decided(&mut self, more: Result<(HeldPart, u64), Refused>) {
        (self.asking, self.ask_again_at) = (None, None);
        let Some(growth) = &mut self.growth else { return };
        match (more, self.source.call()) {
            (Ok((part, amount)), Some(call)) => {
                call.grow(part, amount);
                growth.holding.granted(amount);
            }
            (more, _) => {
                growth.holding.refused();
                let others_hold = more.is_err_and(|refused| refused.others_hold);
                self.ask_again_at = others_hold.then(|| Instant::now() + ASK_AGAIN);
            }
        }
    }
}

/// Resolves once it is written down; then nothing waits for it.
async fn end_written(written: &mut Option<Written>) {
    if let Some(written) = written {
        written.await;
    }
    *written = None;
}

/// What the log says to what was asked; never, where nothing was.
async fn answer(asking: &mut Option<Asking>) -> Result<(HeldPart, u64), Refused> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}
