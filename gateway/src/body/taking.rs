//! Whether a client takes what it is sent (HTTP/2).
//!
//! Over HTTP/1 a client that takes nothing stops its socket, and `listener::socket` ends that. Over HTTP/2 it may keep the window of
//! one stream shut, or that of its connection, or open them by a byte now and then, and do all else that is asked of it: the socket
//! goes on, and a body is not looked at until there is a window for it. What there is a window of one byte for is handed to h2 whole.
//! So each piece that is handed over tells when some of it goes out, and `listener::streams` looks at that. An exchange lasts until
//! all of its answer is out, whoever has it: what h2 keeps for a client counts as what it keeps here.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::{
    task_local,
    time::{Instant, sleep, sleep_until},
};

use crate::{overload::Room, record::Record, timer::LazyTimer};

task_local! {
    /// Of the stream whose task this is: hyper calls the service in it, and sends the body of what that answers.
    static TAKING: Arc<Taking>;
}

/// While others of its connection are taken, a stream may wait so many times as long: over a slow line they take turns.
const TURNS: u32 = 5;
/// What a client has to take within that time, unless it takes all that is there. One that opens its windows by single bytes costs
/// as much with each as with thousands.
const AT_LEAST: u64 = 1_000;
/// A piece, at most: as much as HTTP/2 says in one frame.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// When something last moved.
#[derive(Debug)]
struct Moves {
    since: Instant,
    /// Milliseconds from `since`.
    at: AtomicU64,
}

impl Moves {
    fn new() -> Self {
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

/// The streams of one connection.
#[derive(Debug)]
pub(crate) struct Line {
    /// When some of their answers went out.
    moves: Moves,
    /// Bytes that did.
    taken: AtomicU64,
    /// Those that have ended for hyper before all of their answer was out.
    left: Mutex<Vec<Weak<Taking>>>,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self { moves: Moves::new(), taken: AtomicU64::new(0), left: Mutex::new(Vec::new()) }
    }

    fn went_out(&self, bytes: u64) {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if before / AT_LEAST < (before + bytes) / AT_LEAST {
            self.moves.moved();
        }
    }

    /// Nobody runs this stream any more: h2 alone has the rest of it.
    fn leave(&self, taking: &Arc<Taking>) {
        let mut left = self.left.lock();
        // Most are out by the time of the next: no more are kept than twice what really waits.
        if left.len() == left.capacity() {
            left.retain(|it| it.upgrade().is_some_and(|it| it.on_its_way() > 0));
        }
        left.push(Arc::downgrade(taking));
    }

    fn keeps_waiting(&self, within: Duration) -> bool {
        let mut left = self.left.lock();
        left.retain(|it| it.upgrade().is_some_and(|it| it.on_its_way() > 0));
        let now = Instant::now();
        left.iter().filter_map(Weak::upgrade).any(|it| it.taken_by(within).is_some_and(|by| by <= now))
    }

    /// Resolves once a client takes nothing of what is left of an answer. Its stream can't be reset any more: nobody has it.
    pub(crate) async fn not_taken(&self, within: Duration) {
        while !self.keeps_waiting(within) {
            sleep(within / 2).await;
        }
    }

    /// Resolves once nothing of any answer was taken for as long as a stream may wait for others.
    pub(crate) async fn still(&self, within: Duration) {
        loop {
            let by = self.moves.last() + within * TURNS;
            if by <= Instant::now() {
                return;
            }
            sleep_until(by).await;
        }
    }
}

/// How one stream's answer is taken. Written by the stream's task and, as pieces go out, by its connection's.
#[derive(Debug)]
pub(crate) struct Taking {
    /// Bytes that were handed over.
    given: AtomicU64,
    /// Bytes of them that went out, or never will.
    gone: AtomicU64,
    /// Bytes that went out.
    taken: AtomicU64,
    /// How many these were when something last moved.
    counted: AtomicU64,
    /// When a piece was handed over and none was on its way, or as much of some went out as has to.
    own: Moves,
    line: Arc<Line>,
    given_up: AtomicBool,
    end: Mutex<Waiting>,
}

/// Who waits for what was handed over to be gone.
#[derive(Debug, Default)]
struct Waiting {
    /// To tell the end of the answer.
    stream: Option<Waker>,
    /// To be over with it, with what is counted for it.
    exchange: Option<(Box<Record>, Option<Room>)>,
}

impl Taking {
    fn new(line: &Arc<Line>) -> Self {
        let [given, gone, taken, counted] = [0; 4].map(AtomicU64::new);
        let (own, line, given_up, end) = (Moves::new(), Arc::clone(line), AtomicBool::new(false), Mutex::default());
        Self { given, gone, taken, counted, own, line, given_up, end }
    }

    /// That of the stream whose task calls; none over HTTP/1.
    pub(crate) fn current() -> Option<Arc<Self>> {
        TAKING.try_with(Arc::clone).ok()
    }

    /// Bytes that were handed over, and are still here.
    fn on_its_way(&self) -> u64 {
        // What is gone was given before.
        let gone = self.gone.load(Ordering::Acquire);
        self.given.load(Ordering::Acquire).saturating_sub(gone)
    }

    /// Whether no more is on its way than may be when the end is told, as a stream that has ended can't be reset.
    pub(super) fn is_about_taken(&self) -> bool {
        self.on_its_way() <= PIECE_BYTES as u64
    }

    /// Ready once that is so.
    pub(super) fn poll_about_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_about_taken() {
            return Poll::Ready(());
        }
        self.end.lock().stream = Some(cx.waker().clone());
        // It may have become so meanwhile.
        if self.is_about_taken() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A piece is handed over.
    fn handed_over(&self, bytes: u64) {
        if self.on_its_way() == 0 {
            self.counts();
        }
        self.given.fetch_add(bytes, Ordering::Release);
    }

    /// So much will not be.
    pub(super) fn is_not_given(&self, bytes: u64) {
        self.given.fetch_add(bytes, Ordering::Release);
        self.gone.fetch_add(bytes, Ordering::AcqRel);
    }

    fn counts(&self) {
        self.counted.store(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
        self.own.moved();
    }

    fn went_out(&self, bytes: u64) {
        self.line.went_out(bytes);
        let taken = self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if taken - self.counted.load(Ordering::Relaxed) >= AT_LEAST {
            self.counts();
        }
        self.are_gone(bytes);
    }

    fn are_gone(&self, bytes: u64) {
        self.gone.fetch_add(bytes, Ordering::AcqRel);
        if !self.is_about_taken() {
            return;
        }
        let (stream, exchange) = {
            let mut end = self.end.lock();
            let is_over = self.on_its_way() == 0;
            (end.stream.take(), if is_over { end.exchange.take() } else { None })
        };
        stream.into_iter().for_each(Waker::wake);
        drop(exchange);
    }

    /// The stream has come to its end, or was let go; the exchange ends with the last of what is on its way.
    pub(super) fn ends_with(self: &Arc<Self>, record: Box<Record>, room: Option<Room>) {
        let mut end = self.end.lock();
        if self.on_its_way() > 0 && !self.given_up.load(Ordering::Relaxed) {
            end.exchange = Some((record, room));
            drop(end);
            self.line.leave(self);
        }
    }

    /// Until when enough of what waits for the client has to be taken.
    fn taken_by(&self, within: Duration) -> Option<Instant> {
        let (own, any) = (self.own.last(), self.line.moves.last());
        (self.on_its_way() > 0).then(|| (own.max(any) + within).min(own + within * TURNS))
    }

    /// What had gone out of an answer that was not taken to its end.
    pub(crate) fn taken_of_more(&self) -> Option<u64> {
        let taken = self.taken.load(Ordering::Relaxed);
        let is_less = self.given_up.load(Ordering::Relaxed) || taken < self.given.load(Ordering::Relaxed);
        is_less.then_some(taken)
    }
}

/// Runs a stream until it ends, or its client has taken nothing of its answer for so long, or next to nothing. What it holds is dropped
/// with it, and h2 resets what was dropped in the middle (`CANCEL`).
pub(crate) async fn while_taken(stream: impl Future, line: &Arc<Line>, within: Duration) {
    let taking = Arc::new(Taking::new(line));
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
        if let Some(taking) = taking {
            taking.handed_over(bytes.len() as u64);
        }
        Self { bytes, taking: taking.cloned() }
    }

    fn went_out(&self, bytes: usize) {
        if let Some(taking) = self.taking.as_ref().filter(|_| bytes > 0) {
            taking.went_out(bytes as u64);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(taking) = self.taking.as_ref().filter(|_| !self.bytes.is_empty()) {
            taking.are_gone(self.bytes.len() as u64);
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
        while_taken(stream, &Arc::new(Line::new()), WITHIN).await;
        (begun.elapsed().as_secs(), taking.and_then(|taking| taking.taken_of_more()))
    }

    fn piece(bytes: usize, taking: &Arc<Taking>) -> Piece {
        Piece::new(Bytes::from(vec![7; bytes]), Some(taking))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_which_nothing_is_taken_ends() {
        let stuck = async |taking: Arc<Taking>| {
            sleep(WITHIN * 10).await; // nothing is there that could be taken
            let _piece = piece(4, &taking);
            pending().await
        };
        assert_eq!(given_up(stuck).await, (660, Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_steadily_is_waited_for() {
        let slow = async |taking: Arc<Taking>| {
            let mut piece = piece(9_000, &taking);
            while piece.remaining() > 1_000 {
                sleep(WITHIN - Duration::from_secs(1)).await;
                piece.advance(1_000);
            }
            pending().await
        };
        assert_eq!(given_up(slow).await, (59 * 8 + 60, Some(8_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_is_as_nothing() {
        let dribble = async |taking: Arc<Taking>| {
            let mut piece = piece(9_000, &taking);
            loop {
                sleep(Duration::from_secs(1)).await;
                piece.advance(1);
            }
        };
        assert!(matches!(given_up(dribble).await, (60, Some(59 | 60))));
        // Unless that is all that there is.
        let events = async |taking: Arc<Taking>| {
            for _ in 0..200 {
                let mut event = piece(10, &taking);
                for _ in 0..10 {
                    sleep(Duration::from_secs(1)).await;
                    event.advance(1);
                }
            }
        };
        assert_eq!(given_up(events).await, (2_000, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_connection_is_busy_with_others_waits_longer_and_not_for_ever() {
        for (others_take, waits) in [(1_000, 300), (1, 60)] {
            let turns = async |taking: Arc<Taking>| {
                let _piece = piece(4, &taking);
                loop {
                    sleep(WITHIN / 2).await;
                    taking.line.went_out(others_take);
                }
            };
            assert_eq!(given_up(turns).await, (waits, Some(0)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_its_upstream_goes_on() {
        let quiet = async |taking: Arc<Taking>| {
            let mut piece = piece(4, &taking);
            sleep(WITHIN / 2).await;
            piece.advance(4);
            sleep(WITHIN * 10).await;
        };
        assert_eq!(given_up(quiet).await, (630, None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_told_once_what_is_on_its_way_is_a_piece() {
        let taking = Arc::new(Taking::new(&Arc::new(Line::new())));
        let (mut first, last) = (piece(PIECE_BYTES, &taking), piece(10, &taking));
        let told = async { poll_fn(|cx| taking.poll_about_taken(cx)).await };
        let takes = async {
            for _ in 0..9 {
                sleep(Duration::from_secs(1)).await;
                first.advance(1);
                assert!(!taking.is_about_taken());
            }
            sleep(Duration::from_secs(1)).await;
            first.advance(1);
        };
        let begun = Instant::now();
        tokio::join!(told, takes);
        assert_eq!(begun.elapsed().as_secs(), 10);
        drop((first, last));
        assert_eq!((taking.on_its_way(), taking.taken_of_more()), (0, Some(10)), "what was dropped was not taken");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stream_leaves_behind_is_waited_for_as_long() {
        let line = Arc::new(Line::new());
        let taking = Arc::new(Taking::new(&line));
        let mut left = piece(10_000, &taking);
        line.leave(&taking);
        let begun = Instant::now();
        let takes = async {
            for _ in 0..9 {
                sleep(WITHIN / 2).await;
                left.advance(1_000);
            }
        };
        tokio::select! { () = line.not_taken(WITHIN) => panic!("it is taken"), () = takes => {} }
        line.not_taken(WITHIN).await;
        assert!((330..=360).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        left.advance(1_000);
        assert!(tokio::time::timeout(WITHIN * 10, line.not_taken(WITHIN)).await.is_err(), "all of it is out");
    }

    #[test]
    fn streams_that_are_out_are_forgotten() {
        let line = Arc::new(Line::new());
        let waits = Arc::new(Taking::new(&line));
        let _left = piece(1, &waits);
        line.leave(&waits);
        for _ in 0..10_000 {
            line.leave(&Arc::new(Taking::new(&line)));
        }
        assert!(line.left.lock().len() < 10, "{}", line.left.lock().len());
        assert!(line.left.lock().iter().any(|it| it.ptr_eq(&Arc::downgrade(&waits))));
    }
}
