//! Accepts connections and answers one request after the other on each.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    control, exchange,
    exchange::Next,
    http::{Connection, Gone},
    knobs::Knobs,
    options::Options,
    realtime,
    witness::Witness,
};

/// How long to wait after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) witness: Arc<Witness>,
    knobs: Mutex<Knobs>,
}

impl Shared {
    pub(crate) fn knobs(&self) -> Knobs {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_knobs(&self, knobs: Knobs) {
        *self.knobs.lock().unwrap_or_else(PoisonError::into_inner) = knobs;
    }
}

/// Serves until `shutdown` is cancelled; connections still open then are closed at once.
///
/// # Errors
/// The listener's address can't be told any more: it is broken. A single accept that fails is not an error.
pub async fn serve(listener: TcpListener, options: Options, shutdown: CancellationToken) -> io::Result<()> {
    listener.local_addr()?;
    let witness = Witness::new(options.records);
    let knobs = Mutex::new(options.knobs.clone());
    let shared = Arc::new(Shared { options, witness, knobs });
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
                    connections.spawn(async move {
                        if let Ok(connection) = Connection::new(socket) {
                            shutdown.run_until_cancelled(serve_connection(connection, shared)).await;
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "accept failed");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

async fn serve_connection(mut connection: Connection, shared: Arc<Shared>) {
    shared.witness.connected();
    loop {
        let request = match connection.read_request().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(Gone) => {
                shared.witness.unreadable();
                let _ = connection.respond(400, "connection: close\r\n", b"").await;
                return connection.close().await;
            }
        };
        if realtime::is_asked_for(&request) {
            let _ = realtime::serve(connection, &request, &shared).await; // whoever left has left
            return;
        }
        let answered = if request.path().starts_with("/__mock/") {
            control::answer(&mut connection, &request, &shared).await.map(|()| Next::Request)
        } else {
            exchange::answer(&mut connection, &request, &shared).await
        };
        match answered {
            Ok(Next::Request) if request.keeps_alive() => (),
            Ok(Next::Request | Next::Close) => return connection.close().await,
            Ok(Next::Reset) => return connection.reset(),
            Err(Gone) => return,
        }
    }
}
