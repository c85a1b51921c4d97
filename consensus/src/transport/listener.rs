//! The peer plane's socket. A stranger gets as far as the TLS handshake, within a time and a number of their own.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_proto::peer::v1::peer_server::PeerServer;
use tonic::transport::Server;

use super::{PeerService, refusals::Refusals, tls::PeerAuth, wire::MAX_MESSAGE_BYTES};

/// A handshake that takes longer is of somebody who has no business here.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Handshakes at a time: peers need a handful, garbage shall not cost more.
const MAX_HANDSHAKES: usize = 64;

/// Connections that wait for the server to take them.
const ACCEPTED: usize = 16;

/// After an error of `accept`: mostly no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Peers that went away without a word.
const KEEPALIVE: Duration = Duration::from_secs(5);

const WINDOW_BYTES: u32 = 8 << 20;

/// Serves the peer plane until it is told to stop: then calls under way are finished, and connections closed.
pub(crate) fn serve(
    listener: TcpListener,
    auth: Arc<PeerAuth>,
    refusals: Arc<Refusals>,
    service: PeerService,
    tracker: &TaskTracker,
    stop: CancellationToken,
) {
    let (accepted, connections) = mpsc::channel(ACCEPTED);
    tracker.spawn(accept(listener, auth, refusals, accepted, tracker.clone(), stop.clone()));
    let service = PeerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service);
    tracker.spawn(async move {
        let connections = ReceiverStream::new(connections).map(Ok::<TlsStream<TcpStream>, Infallible>);
        if let Err(error) = server.serve_with_incoming_shutdown(connections, stop.cancelled_owned()).await {
            tracing::error!(%error, "peer plane ended");
        }
    });
}

async fn accept(
    listener: TcpListener,
    auth: Arc<PeerAuth>,
    refusals: Arc<Refusals>,
    accepted: mpsc::Sender<TlsStream<TcpStream>>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let tcp = tokio::select! {
            tcp = listener.accept() => tcp,
            () = stop.cancelled() => return,
        };
        let (tcp, from) = match tcp {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "peer plane can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            continue; // the socket is closed; a peer comes again
        };
        let (auth, refusals) = (Arc::clone(&auth), Arc::clone(&refusals));
        let (accepted, stop) = (accepted.clone(), stop.clone());
        tracker.spawn(async move {
            let shaken = tokio::select! {
                shaken = handshake(&auth, tcp) => shaken,
                () = stop.cancelled() => return,
            };
            drop(permit);
            match shaken {
                Ok(tls) => drop(accepted.send(tls).await),
                // Whoever dials has another port each time.
                Err(error) => refusals.tell(&from.ip().to_string(), &error),
            }
        });
    }
}

async fn handshake(auth: &PeerAuth, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let handshake = TlsAcceptor::from(auth.server()).accept(tcp);
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
