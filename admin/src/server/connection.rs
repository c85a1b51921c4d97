//! One connection: HTTP/2 by prior knowledge or HTTP/1.1, told apart by its first bytes.

use std::{io, pin::pin, time::Duration};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::http::Front;

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First bytes, and then each request's head, must be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The contract's bound on headers.
const MAX_HEADERS_BYTES: usize = 64 * 1024;
/// Calls at a time on one connection: the console and the CLI need a handful, a watcher of everything some more.
const MAX_STREAMS: u32 = 128;
/// A caller that is gone without a word is noticed within twice this.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Serves the connection until it ends, or until its calls have ended once `drain` is cancelled.
pub(super) async fn run(stream: TcpStream, front: Front, drain: CancellationToken) {
    // A small answer must not wait for a full packet; where that can't be set, it waits.
    let _ = stream.set_nodelay(true);
    let first = tokio::select! {
        first = timeout(HEAD_TIMEOUT, sniff(stream)) => first,
        () = drain.cancelled() => return,
    };
    let Ok(Ok((is_http2, stream))) = first else { return };
    let ended =
        if is_http2 { serve_http2(stream, front, drain).await } else { serve_http1(stream, front, drain).await };
    if let Err(error) = ended {
        debug!(%error, "admin connection ended");
    }
}

/// Reads until the protocol is certain; what was read is read again by whoever speaks it.
async fn sniff(mut stream: TcpStream) -> io::Result<(bool, impl AsyncRead + AsyncWrite + Unpin)> {
    let mut first = [0; PREFACE.len()];
    let mut read = 0;
    while read < first.len() && first[..read] == PREFACE[..read] {
        match stream.read(&mut first[read..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read += n,
        }
    }
    let (reader, writer) = stream.into_split();
    let again = io::Cursor::new(first[..read].to_vec()).chain(reader);
    Ok((first[..read] == PREFACE[..], tokio::io::join(again, writer)))
}

async fn serve_http1<I>(stream: I, front: Front, drain: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEADERS_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), front));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2<I>(stream: I, front: Front, drain: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADERS_BYTES).expect("a small constant"))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), front));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
