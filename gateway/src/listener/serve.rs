//! One client connection from its first byte to its last.

use std::{convert::Infallible, io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::Response;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    connection::Connection,
    frames::PREFACE,
    head::MAX_HEADERS,
    http1::{HEAD_TIMEOUT, Http1Io},
    http2::Http2Io,
    inspect::MAX_HEAD_BYTES,
    socket::Socket,
    streams::Streams,
};
use crate::{
    body::ResponseBody,
    exchange,
    gateway::{Shared, Shutdown},
    tls::Agreed,
};

/// Requests that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 200;
/// Answers buffered for one HTTP/2 stream: with `MAX_STREAMS` 12.5 MiB for a connection that reads nothing.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Request bodies on their way in one HTTP/2 stream, and in all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A dead HTTP/2 peer is noticed after both.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// An HTTP/2 connection to a node whose zone is drained is told to go elsewhere after so long, if it came that late: whoever opens one
/// has not heard yet that the node is unready.
const SINCE_LEAVING: Duration = Duration::from_secs(5);
/// h2 answers a longer header list itself, without a body; up to here the answer is ours, with a request id. A list lives
/// only until it is refused, so that this is not held for each stream.
const HEADER_LIST_BYTES: u32 = 256 * 1024;
/// hyper's read buffer: a whole head must fit, which never comes in more than one piece.
const READ_BUFFER: usize = MAX_HEAD_BYTES + 16 * 1024;

/// Serves one connection until it ends, is drained, or is aborted.
pub(super) async fn connection<S>(shared: Arc<Shared>, stream: S, connection: Connection, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(connection);
    let _open = Open::new(&shared);
    let abort = shutdown.abort.clone();
    let serve = async {
        let since = Instant::now();
        let mut stream = stream;
        let Ok((prefix, is_http2)) = sniff(&mut stream, since).await else { return };
        let agreed = connection.secured.as_ref().and_then(|secured| secured.agreed);
        if agreed == Some(Agreed::Http2) && !is_http2 {
            debug!(peer = %connection.peer, "HTTP/2 was agreed on, and is not spoken"); // RFC 9113 §3.4: no GOAWAY is needed
            return;
        }
        let is_http2 = is_http2 && agreed != Some(Agreed::Http1);
        let socket = Socket::new(stream, prefix, shared.config.bounds.taken_within);
        if is_http2 {
            serve_http2(shared, Http2Io::new(socket, since), &connection, &shutdown).await;
        } else {
            serve_http1(shared, Http1Io::new(socket, Arc::clone(&connection), since), &connection, &shutdown).await;
        }
    };
    tokio::select! {
        () = Box::pin(serve) => {}
        () = abort.cancelled() => debug!(peer = %connection.peer, "connection cut at the end of the drain"),
    }
    connection.switch.cut_tunnels().await;
}

/// Counts a connection while it lives.
struct Open(Gauge);

impl Open {
    fn new(shared: &Shared) -> Self {
        shared.metrics.connections.inc();
        Self(shared.metrics.connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Reads until the bytes are HTTP/2's preface or can't become it. A client that says too little in time is left to
/// HTTP/1's own answer.
async fn sniff<S: AsyncRead + Unpin>(stream: &mut S, since: Instant) -> io::Result<(Bytes, bool)> {
    let mut seen = BytesMut::with_capacity(1024);
    while seen.len() < PREFACE.len() && PREFACE.starts_with(&seen) {
        match timeout_at(since + HEAD_TIMEOUT, stream.read_buf(&mut seen)).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(read) => read?,
        };
    }
    let is_http2 = seen.starts_with(PREFACE);
    Ok((seen.freeze(), is_http2))
}

/// An exchange as hyper gets it: hyper moves it about before it begins, and has room for one in each connection, idle or not.
fn boxed(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    request: hyper::Request<Incoming>,
    shutdown: &Shutdown,
) -> Pin<Box<impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + use<>>> {
    let (shared, connection, draining) = (Arc::clone(shared), Arc::clone(connection), shutdown.draining.clone());
    Box::pin(async move { Ok(exchange::serve(shared, connection, request, draining).await) })
}

async fn serve_http1<S>(shared: Arc<Shared>, io: Http1Io<S>, connection: &Arc<Connection>, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| boxed(&shared, connection, request, shutdown));
    let mut builder = http1::Builder::new();
    // The head's time is kept by `Http1Io`, which can still answer 408.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(READ_BUFFER).max_headers(MAX_HEADERS);
    let ended = {
        let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = shutdown.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.as_mut().await
            }
        }
    }; // what hyper still promises is broken here, or kept
    log_end(connection, ended);
    connection.switch.close_unused().await;
    connection.switch.tunnels_ended().await;
}

async fn serve_http2<S>(shared: Arc<Shared>, io: Http2Io<S>, connection: &Arc<Connection>, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| boxed(&shared, connection, request, shutdown));
    let streams = Streams::new(shared.tasks.clone(), shared.config.bounds.taken_within);
    let (not_taken, nor_others) = streams.not_taken();
    let goes = CancellationToken::new();
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol() // RFC 8441
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
    let served = async {
        tokio::select! {
            ended = serving.as_mut() => return ended,
            () = told_to_leave(&shared, shutdown) => {}
            () = goes.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        serving.as_mut().await
    };
    let not_taken = async {
        not_taken.await;
        debug!(peer = %connection.peer, "the client takes nothing of an answer's end");
        goes.cancel(); // nothing new; what there is of others goes on
        nor_others.await;
    };
    tokio::select! {
        ended = served => log_end(connection, ended),
        () = not_taken => {}
    }
}

/// Resolves once the caller of an HTTP/2 connection is to go elsewhere: when that begins, and on one that came since, when nothing more is
/// accepted. To send a new one away with its first word would leave its caller with a request that was never taken.
async fn told_to_leave(shared: &Shared, shutdown: &Shutdown) {
    let mut leaving = shared.leaving.subscribe();
    let came_late = shutdown.draining.is_cancelled();
    if *leaving.borrow_and_update() || came_late {
        tokio::select! {
            () = shutdown.stop.cancelled() => {}
            () = shutdown.draining.cancelled(), if !came_late => {}
            () = sleep(SINCE_LEAVING), if !came_late => {}
        }
        return;
    }
    tokio::select! {
        () = shutdown.draining.cancelled() => {}
        _ = leaving.wait_for(|leaving| *leaving) => {} // its sender lives as long as `shared`
    }
}

fn log_end(connection: &Connection, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        debug!(peer = %connection.peer, %error, "connection ended early");
    }
}
