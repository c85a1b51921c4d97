//! What connections to upstreams are made of: who connects, what drives them, and how many are kept.

use std::{
    error::Error,
    io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::client::conn::{http1, http2};
use hyper_util::{
    client::legacy::connect::HttpConnector,
    rt::{TokioIo, TokioTimer},
};
use tokio::net::TcpStream;
use tower_service::Service;

use super::{
    dns::{At, Lookup},
    error::find,
};
use crate::{
    body::BoxError,
    config::Bounds,
    overload::{Overload, Short},
    tracked::Tracked,
};

pub(super) type Tcp = TokioIo<TcpStream>;

/// A name must be resolved and an endpoint reached within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The head of an answer must fit; what is longer is no answer.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Noticing a dead endpoint without traffic, on HTTP/2 and below.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Answers on their way in one HTTP/2 stream, and in all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// The system, or the process, has all files open that it may (errno(3)).
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// What all connections of a gateway to upstreams share.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(super) tasks: Tracked,
    overload: Arc<Overload>,
    /// Of one endpoint.
    pub(super) max_idle: usize,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Tracked>,
}

impl Means {
    pub(crate) fn new(tasks: Tracked, overload: &Arc<Overload>, bounds: Bounds) -> Self {
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(tasks.clone()));
        http1.max_buf_size(MAX_HEAD_BYTES);
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEP_ALIVE);
        Self { tasks, overload: Arc::clone(overload), max_idle: bounds.max_idle(), http1, http2 }
    }

    /// For connections that go there.
    pub(super) fn connector(&self, clear_text_only: bool, at: &At) -> Connector {
        let mut tcp = HttpConnector::new_with_resolver(Lookup(at.clone()));
        tcp.enforce_http(clear_text_only);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        Connector { tcp, overload: Arc::clone(&self.overload) }
    }
}

/// Connects, and leaves the last files alone as the listeners do: they are for the log and the journal.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tcp: HttpConnector<Lookup>,
    overload: Arc<Overload>,
}

/// The connection was made, and closed at once; or there was no file for it to begin with.
#[derive(Debug, thiserror::Error)]
#[error("no file is left for a connection to an upstream: let the process open more (ulimit -n)")]
pub(super) struct NoFile;

/// What became of connecting, by the files that are left.
///
/// # Errors
/// [`NoFile`], which is counted; else as it came.
pub(super) fn within_files<T: AsRawFd, E: Error + Into<BoxError> + 'static>(
    made: Result<T, E>,
    overload: &Overload,
) -> Result<T, BoxError> {
    let is_short = match &made {
        Ok(tcp) => overload.is_short_of_files(tcp.as_raw_fd()),
        Err(error) => find::<io::Error>(error).is_some_and(|it| matches!(it.raw_os_error(), Some(ENFILE | EMFILE))),
    };
    if is_short {
        overload.shed(Short::Files);
        return Err(NoFile.into());
    }
    made.map_err(Into::into)
}

impl Service<Uri> for Connector {
    type Response = Tcp;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Tcp, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, overload) = (self.tcp.call(uri), Arc::clone(&self.overload));
        Box::pin(async move { within_files(connecting.await.map(TokioIo::into_inner), &overload).map(TokioIo::new) })
    }
}
