//! An answer that holds something, relayed by a task of its own.
//!
//! A body is looked at only while its client takes something. What is held must not last as long as a client likes that takes
//! nothing: others may be given its permit, its time is over, or nobody is there any more. So a task reads it, and looks.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::mpsc::{self, OwnedPermit, Receiver, Sender},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::Relay;
use crate::body::BoxError;

/// Pieces on their way to a client who takes them, beside the last.
const PIECES: usize = 4;
/// A client shows that it is there by taking one.
const PIECE_BYTES: usize = 16 * 1024;

#[derive(Debug)]
enum Piece {
    More(Frame<Bytes>),
    /// The end, and what came with it.
    End(Option<Frame<Bytes>>),
    /// The end before the answer's own, as its caller is told.
    Cut(Result<Frame<Bytes>, BoxError>),
}

/// What the client gets of it.
#[derive(Debug)]
pub(crate) struct OwnedRelay {
    pieces: Receiver<Piece>,
    /// Where the length was told.
    left: Option<u64>,
    is_over: bool,
    is_cut: bool,
}

impl OwnedRelay {
    /// `tasks` owns the task. It ends with its body, at the latest. It ends early where the client takes nothing for so long.
    pub(super) fn spawn(relay: Relay, taken_within: Option<Duration>, tasks: &TaskTracker) -> Self {
        let (left, is_over) = (relay.size_hint().exact(), relay.is_end_stream());
        let (tell, pieces) = mpsc::channel(PIECES + 1);
        // There is always a place for the end: nobody waits to tell it.
        let end = tell.clone().try_reserve_owned().ok();
        if !is_over {
            tasks.spawn(run(relay, taken_within, tell, end));
        }
        Self { pieces, left, is_over, is_cut: false }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        self.is_over = !matches!(piece, Some(Piece::More(_)));
        let frame = match piece {
            Some(Piece::More(frame)) => Some(Ok(frame)),
            Some(Piece::End(frame)) => frame.map(Ok),
            Some(Piece::Cut(end)) => {
                self.is_cut = end.is_ok();
                Some(end)
            }
            None => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
        };
        if let (Some(left), Some(Ok(frame))) = (&mut self.left, &frame) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(frame)
    }

    /// Whether it was ended before its end, and said so.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.is_over
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

async fn run(mut relay: Relay, within: Option<Duration>, tell: Sender<Piece>, end: Option<OwnedPermit<Piece>>) {
    let ended = tokio::select! {
        biased;
        () = tell.closed() => return, // the client has left
        ended = pass(&mut relay, within, &tell) => ended,
    };
    drop(relay); // before the client can know, and come again
    if let Some(end) = end {
        end.send(ended);
    }
}

/// Passes all of it on but how it ends.
async fn pass(relay: &mut Relay, taken_within: Option<Duration>, tell: &Sender<Piece>) -> Piece {
    loop {
        let mut frame = match poll_fn(|cx| relay.poll_frame(cx)).await {
            None => return Piece::End(None),
            Some(end) if end.is_err() || relay.is_cut() => return Piece::Cut(end),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Piece::Cut(Err(error)),
        };
        loop {
            let rest = split(&mut frame);
            if rest.is_none() && (frame.is_trailers() || relay.is_end_stream()) {
                return Piece::End(Some(frame));
            }
            let by = taken_within.map(|within| Instant::now() + within);
            let place = tokio::select! {
                biased;
                place = tell.reserve() => place,
                cut = poll_fn(|cx| relay.poll_kept_waiting(cx, by)) => return Piece::Cut(cut),
            };
            let Ok(place) = place else { return Piece::End(None) };
            place.send(Piece::More(frame));
            match rest {
                Some(rest) => frame = rest,
                None => break,
            }
        }
    }
}

/// Leaves a piece of it, and gives what is behind that.
fn split(frame: &mut Frame<Bytes>) -> Option<Frame<Bytes>> {
    let data = frame.data_mut().filter(|data| data.len() > PIECE_BYTES)?;
    Some(Frame::data(data.split_off(PIECE_BYTES)))
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::sleep,
    };

    use super::*;
    use crate::upstream::UpstreamBody;

    const TAKEN_WITHIN: Duration = Duration::from_secs(60);
    const LONG: Duration = Duration::from_secs(3_600);
    const PIPE: usize = 1024 * 1024;

    /// An answer with this body, its upstream's end of the connection, and the tasks that it comes by.
    async fn answer(head: &str, body: &[u8]) -> (OwnedRelay, DuplexStream, TaskTracker) {
        answer_to(head, body, Some(TAKEN_WITHIN)).await
    }

    async fn answer_to(
        head: &str,
        body: &[u8],
        taken_within: Option<Duration>,
    ) -> (OwnedRelay, DuplexStream, TaskTracker) {
        let (near, mut upstream) = duplex(PIPE);
        let tasks = TaskTracker::new();
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.expect("it asks nothing");
        tasks.spawn(async move { drop(connection.await) });
        let request = http::Request::new(Empty::<Bytes>::new());
        let (answer, ()) = tokio::join!(sender.send_request(request), async {
            assert!(upstream.read(&mut [0; 1_024]).await.is_ok_and(|read| read > 0));
            let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
            upstream.write_all(&[head.as_bytes(), body].concat()).await.expect("there is room");
        });
        let answer = answer.expect("it is answered");
        let relay = Relay::new(UpstreamBody::new(answer.into_body(), None), LONG, None, false);
        (OwnedRelay::spawn(relay, taken_within, &tasks), upstream, tasks)
    }

    async fn is_let_go(mut upstream: DuplexStream) {
        let mut asked = Vec::new();
        drop(upstream.read_to_end(&mut asked).await);
    }

    async fn rest(relay: &mut OwnedRelay) -> Result<usize, BoxError> {
        let mut taken = 0;
        while let Some(frame) = poll_fn(|cx| relay.poll_frame(cx)).await {
            taken += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(taken)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_for_a_minute_is_gone() {
        let body = vec![b'x'; PIPE / 2];
        let (mut relay, upstream, _tasks) = answer("content-length: 9999999", &body).await;
        let begun = Instant::now();
        sleep(TAKEN_WITHIN - Duration::from_secs(1)).await;
        let piece = poll_fn(|cx| relay.poll_frame(cx)).await;
        assert!(matches!(&piece, Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.len() <= PIECE_BYTES)));
        is_let_go(upstream).await;
        assert_eq!(begun.elapsed().as_secs(), 119, "it had taken something");
        assert!(rest(&mut relay).await.is_err(), "it is told that this is not all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_time_gets_all_of_it() {
        let body = vec![b'x'; PIPE / 2];
        let (mut relay, _upstream, _tasks) = answer(&format!("content-length: {}", body.len()), &body).await;
        assert_eq!(relay.size_hint().exact(), Some(body.len() as u64));
        let mut taken = 0;
        while !relay.is_end_stream() {
            sleep(TAKEN_WITHIN - Duration::from_secs(1)).await;
            let frame = poll_fn(|cx| relay.poll_frame(cx)).await.expect("it is not over").expect("it is whole");
            taken += frame.data_ref().map_or(0, Bytes::len);
            assert_eq!(relay.size_hint().exact(), Some((body.len() - taken) as u64));
        }
        assert_eq!(taken, body.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_nobody_waiting_may_pause() {
        let body = vec![b'x'; PIPE / 2];
        let (mut relay, _upstream, _tasks) = answer_to(&format!("content-length: {}", body.len()), &body, None).await;
        sleep(LONG * 10).await;
        assert_eq!(rest(&mut relay).await.expect("it is whole"), body.len());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_cut_by_its_upstream_never_looks_whole() {
        let (mut relay, upstream, _tasks) = answer("transfer-encoding: chunked", b"3\r\nabc\r\n").await;
        drop(upstream);
        assert!(rest(&mut relay).await.is_err());
        let (mut relay, _upstream, _tasks) = answer("transfer-encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n").await;
        assert_eq!(rest(&mut relay).await.expect("it is whole"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_is_let_go_with_the_client() {
        let (relay, upstream, _tasks) = answer("content-length: 9", b"some").await;
        drop(relay);
        is_let_go(upstream).await;
    }
}
