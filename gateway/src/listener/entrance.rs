//! What comes before HTTP on a connection: whom it is really from, and TLS.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;
use tracing::debug;

use super::{
    Connection,
    proxy::{self, Source},
    serve,
};
use crate::{
    gateway::{Shared, Shutdown},
    tls::{self, Handshakes},
};

/// How the connections of a listener begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entrance {
    /// With TLS, under the certificate of the host that the client names.
    pub tls: bool,
    /// Before that with a PROXY header, where they come from `trusted_proxies`; from nobody else it is taken.
    pub proxy_protocol: bool,
}

/// One listener's.
pub(super) struct Door {
    pub(super) entrance: Entrance,
    pub(super) handshakes: Handshakes,
}

impl Door {
    /// Whom a connection is from. Nobody may say so falsely, so what makes no sense ends it.
    async fn told(&self, shared: &Shared, stream: &mut TcpStream, peer: SocketAddr) -> Option<Source> {
        if !self.entrance.proxy_protocol || !shared.config.trusts(peer.ip()) {
            return Some(Source::Client(peer));
        }
        match proxy::read(stream).await {
            Ok(source) => Some(source),
            Err(error) => {
                shared.metrics.proxy_headers_refused.inc();
                debug!(%peer, %error, "a proxy's connection is closed");
                None
            }
        }
    }

    /// Serves a connection from its first byte on. One that is still at the door when the gateway stops is closed.
    pub(super) async fn serve(&self, shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, shutdown: Shutdown) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY was refused"); // the connection is gone already
        }
        let mut stream = stream;
        let told = tokio::select! {
            told = self.told(&shared, &mut stream, peer) => told,
            () = shutdown.stop.cancelled() => None,
        };
        let Some(source) = told else { return };
        let peer = if let Source::Client(client) = source { client } else { peer };
        let connection = |secured| match source {
            Source::Client(_) | Source::Proxy => Connection::new(peer, secured),
            Source::Unknown => Connection::new(peer, secured).of_nobody(),
        };
        if !self.entrance.tls {
            return serve::connection(shared, stream, connection(None), shutdown).await;
        }
        let accepted = tokio::select! {
            accepted = Box::pin(tls::accept(&shared, &self.handshakes, stream, peer)) => accepted,
            () = shutdown.stop.cancelled() => None,
        };
        if let Some((stream, secured)) = accepted {
            Box::pin(serve::connection(shared, stream, connection(Some(secured)), shutdown)).await;
        }
    }
}
