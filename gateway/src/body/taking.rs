//! Whether a client takes what it is sent (HTTP/2).
//!
//! Over HTTP/1 a client that takes nothing stops its socket, and `listener::socket` ends that. Over HTTP/2 it may keep the window of
//! one stream shut, or that of its connection, and do all else that is asked of it: the socket goes on, and a body is not looked at
//! until there is a window for it. So what is handed over tells when some of it goes, and `listener::streams` looks at that.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{task_local, time::Instant};

use crate::timer::LazyTimer;

task_local! {
    /// Of the stream whose task this is: hyper calls the service in it, and sends the body of what that answers.
    static TAKING: Arc<Taking>;
}

/// While others of its connection are taken, a stream may wait so many times as long: over a slow line they take turns.
const TURNS: u32 = 5;

/// When something last moved.
#[derive(Debug)]
pub(crate) struct Moves {
    since: Instant,
    /// Milliseconds from `since`.
    at: AtomicU64,
}

impl Moves {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), at: AtomicU64::new(0) }
    }

    fn moved(&self) {
        let at = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(at, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.since + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }
}

/// How one stream's answer is taken. Written by the stream's task and, as pieces go out, by its connection's.
#[derive(Debug)]
pub(crate) struct Taking {
    /// Whether a piece was handed over, and no more was asked for yet: what is waited for is the client.
    is_awaited: AtomicBool,
    /// When a piece was handed over, or some of one went out.
    own: Moves,
    /// When some of any stream of its connection did.
    connection: Arc<Moves>,
    /// Bytes that went out.
    taken: AtomicU64,
    given_up: AtomicBool,
}

impl Taking {
    fn new(connection: &Arc<Moves>) -> Self {
        let (own, connection) = (Moves::new(), Arc::clone(connection));
        let (is_awaited, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { is_awaited, own, connection, taken: AtomicU64::new(0), given_up }
    }

    /// That of the stream whose task calls; none over HTTP/1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        TAKING.try_with(Arc::clone).ok()
    }

    /// More is asked for: there is room for what was handed over.
    pub(super) fn asked(&self) {
        self.is_awaited.store(false, Ordering::Relaxed);
    }

    /// A piece is handed over.
    pub(super) fn handed_over(&self) {
        self.own.moved();
        self.is_awaited.store(true, Ordering::Relaxed);
    }

    fn went_out(&self, bytes: usize) {
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        self.own.moved();
        self.connection.moved();
    }

    /// Until when something of what waits for the client has to be taken.
    fn taken_by(&self, within: Duration) -> Option<Instant> {
        let is_awaited = self.is_awaited.load(Ordering::Relaxed);
        let (own, any) = (self.own.last(), self.connection.last());
        is_awaited.then(|| (own.max(any) + within).min(own + within * TURNS))
    }

    /// What had gone out when the client was given up, if it was.
    pub(crate) fn taken_when_given_up(&self) -> Option<u64> {
        self.given_up.load(Ordering::Relaxed).then(|| self.taken.load(Ordering::Relaxed))
    }
}

/// Runs a stream until it ends, or its client has taken nothing of its answer for so long. What it holds is dropped with it, and
/// h2 resets what was dropped in the middle (`CANCEL`).
pub(crate) async fn while_taken(stream: impl Future, connection: &Arc<Moves>, within: Duration) {
    let taking = Arc::new(Taking::new(connection));
    let (mut stream, mut timer) = (pin!(stream), LazyTimer::default());
    let watched = poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(by) = taking.taken_by(within) else { return Poll::Pending };
        timer.poll(cx, by).map(|()| taking.given_up.store(true, Ordering::Relaxed))
    });
    TAKING.scope(Arc::clone(&taking), watched).await;
}

/// Some of an answer's body on its way out.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    taking: Option<Arc<Taking>>,
}

impl Piece {
    pub(super) fn new(bytes: Bytes, taking: Option<&Arc<Taking>>) -> Self {
        Self { bytes, taking: taking.cloned() }
    }

    fn went_out(&self, bytes: usize) {
        if let Some(taking) = self.taking.as_ref().filter(|_| bytes > 0) {
            taking.went_out(bytes);
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.went_out(bytes);
    }

    fn copy_to_bytes(&mut self, bytes: usize) -> Bytes {
        let copied = self.bytes.copy_to_bytes(bytes);
        self.went_out(bytes);
        copied
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(60);

    /// Seconds until a stream is given up that does this, and what went out of it by then.
    async fn given_up(stream: impl AsyncFnOnce(Arc<Taking>)) -> (u64, Option<u64>) {
        let (begun, mut taking) = (Instant::now(), None);
        let stream = async {
            let own = Taking::current().expect("it is within a stream");
            taking = Some(Arc::clone(&own));
            stream(own).await;
        };
        while_taken(stream, &Arc::new(Moves::new()), WITHIN).await;
        (begun.elapsed().as_secs(), taking.and_then(|taking| taking.taken_when_given_up()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_which_nothing_is_taken_ends() {
        let stuck = async |taking: Arc<Taking>| {
            sleep(WITHIN * 10).await; // nothing is there that could be taken
            taking.handed_over();
            pending().await
        };
        assert_eq!(given_up(stuck).await, (660, Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_little_and_steadily_is_waited_for() {
        let slow = async |taking: Arc<Taking>| {
            taking.handed_over();
            let mut piece = Piece::new(Bytes::from_static(&[7; 64]), Some(&taking));
            while piece.has_remaining() {
                sleep(WITHIN - Duration::from_secs(1)).await;
                piece.advance(8);
            }
            pending().await
        };
        assert_eq!(given_up(slow).await, (59 * 8 + 60, Some(64)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_connection_is_busy_with_others_waits_longer_and_not_for_ever() {
        let turns = async |taking: Arc<Taking>| {
            taking.handed_over();
            loop {
                sleep(WITHIN / 2).await;
                taking.connection.moved();
            }
        };
        assert_eq!(given_up(turns).await, (300, Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_its_upstream_goes_on() {
        let quiet = async |taking: Arc<Taking>| {
            taking.handed_over();
            sleep(WITHIN / 2).await;
            taking.asked();
            sleep(WITHIN * 10).await;
        };
        assert_eq!(given_up(quiet).await, (630, None));
    }
}
