//! Accepts client connections and serves each of them: HTTP/1.1 or, by its preface, HTTP/2, on one port.
//!
//! What always holds: connections are bounded, every one has an owner, and no byte reaches hyper that was not inspected
//! (`http1`, `http2`).

mod connection;
mod entrance;
mod frames;
mod framing;
mod head;
mod http1;
mod http2;
mod inspect;
mod proxy;
mod refusal;
mod refuse;
mod serve;
mod socket;
mod streams;
mod switch;

use std::{
    io,
    os::fd::AsRawFd as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub(crate) use connection::Connection;
use entrance::Door;
pub use entrance::Entrance;
pub(crate) use head::is_token;
pub(crate) use inspect::MAX_HEAD_BYTES;
pub(crate) use refusal::{Malformed, Refusal};

use self::refuse::Refusals;
use crate::{
    gateway::{Shared, Shutdown},
    overload::Short,
    tls::Handshakes,
};

/// Between attempts when the process is out of file descriptors or memory.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Accepts until `shutdown.stop`, then waits for the connections to end, at most until `shutdown.abort`.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener, entrance: Entrance, shutdown: Shutdown) {
    let tracker = TaskTracker::new();
    tokio::select! {
        () = accept(&shared, &listener, entrance, &shutdown, &tracker) => {}
        () = shutdown.stop.cancelled() => {}
    }
    drop(listener);
    tracker.close();
    tracker.wait().await; // each connection ends by itself, or at `abort`
    if shared.listeners.fetch_sub(1, Ordering::Relaxed) > 1 {
        return; // requests of other listeners may still begin
    }
    shared.mirrors.stop().await;
    shared.last_words.close();
    shared.last_words.wait().await; // what is read now of a caller who left is settled; within a second
}

async fn accept(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    entrance: Entrance,
    shutdown: &Shutdown,
    tracker: &TaskTracker,
) {
    let refusals = Refusals::new(tracker);
    let door = Arc::new(Door { entrance, handshakes: Handshakes::default() });
    loop {
        let (stream, peer) = next(|| listener.accept()).await;
        if shared.overload.is_short_of_files(stream.as_raw_fd()) {
            shared.overload.shed(Short::Files);
            continue; // closed at once: what it takes is what is short
        }
        let Ok(place) = Arc::clone(&shared.overload.places).try_acquire_owned() else {
            shared.overload.shed(Short::Connections);
            // A handshake only to say no is the work that is saved.
            if !entrance.tls {
                refusals.refuse(stream);
            }
            continue;
        };
        let (shared, door, shutdown) = (Arc::clone(shared), Arc::clone(&door), shutdown.clone());
        tracker.spawn(async move {
            door.serve(shared, stream, peer, shutdown).await;
            drop(place);
        });
    }
}

/// The next connection. While the process is out of what one takes, attempts are made ever less often.
async fn next<C, F: Future<Output = io::Result<C>>>(mut accept: impl FnMut() -> F) -> C {
    let mut backoff = BACKOFF_MIN;
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(error) if is_about_one_connection(&error) => debug!(%error, "connection lost before it was accepted"),
            Err(error) => {
                warn!(%error, "connections are not accepted, trying again");
                sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// `accept` reports errors of the connection it would have returned; the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused | Kind::Interrupted | Kind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    /// EMFILE: the process has no file descriptor left.
    const TOO_MANY_OPEN_FILES: i32 = 24;

    #[tokio::test(start_paused = true)]
    async fn without_file_descriptors_attempts_are_few_and_the_first_that_can_succeeds() {
        let (started, attempts) = (Instant::now(), Cell::new(0));
        let accept = || async {
            attempts.set(attempts.get() + 1);
            let exhausted = started.elapsed() < Duration::from_secs(60);
            if exhausted { Err(io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES)) } else { Ok("connection") }
        };
        assert_eq!(next(accept).await, "connection");
        assert!((60..=61).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        assert!((10..=70).contains(&attempts.get()), "{}", attempts.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_lost_does_not_delay_the_next() {
        let (started, attempts) = (Instant::now(), Cell::new(0));
        let accept = || async {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 100 { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
        };
        next(accept).await;
        assert_eq!((started.elapsed(), attempts.get()), (Duration::ZERO, 100));
    }
}
