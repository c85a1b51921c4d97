//! The handshake.

use std::{io, sync::Arc, time::Duration};

use rustls::{HandshakeKind, ProtocolVersion, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tollgate_model::tls::Described;
use tracing::debug;

use super::{Agreed, Secured, Served, served};
use crate::{clock, gateway::Shared};

/// From the first byte to the last one of a handshake: as for a request's head.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once, some 40 KiB each. Others wait their turn; whoever has said nothing yet is not counted. So many,
/// as one that is begun and not ended has its place for the whole time: fewer would be taken too easily.
const MAX_HANDSHAKES: usize = 4096;

/// Bounds the handshakes of one listener.
pub(crate) struct Handshakes(Semaphore);

impl Default for Handshakes {
    fn default() -> Self {
        Self(Semaphore::new(MAX_HANDSHAKES))
    }
}

/// How a handshake ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Full,
    Resumed,
    /// It took too long.
    Timeout,
    /// The client left, or said what rustls does not take: no certificate of its own that is trusted, no common protocol.
    Failed,
    /// There is no certificate for the host that the client named.
    UnknownHost,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::UnknownHost => "unknown_host",
        }
    }
}

/// Makes a connection one over TLS; nothing where that fails, which is counted and, at `debug`, logged.
pub(crate) async fn accept<S>(
    shared: &Shared,
    handshakes: &Handshakes,
    stream: S,
    peer: std::net::SocketAddr,
) -> Option<(TlsStream<S>, Secured)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match handshake(shared, handshakes, stream).await {
        Ok((stream, secured, ended)) => {
            shared.metrics.handshake(ended.as_str());
            Some((stream, secured))
        }
        Err((ended, error)) => {
            shared.metrics.handshake(ended.as_str());
            debug!(%peer, %error, "TLS handshake failed");
            None
        }
    }
}

async fn handshake<S>(
    shared: &Shared,
    handshakes: &Handshakes,
    stream: S,
) -> Result<(TlsStream<S>, Secured, Ended), (Ended, io::Error)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let by = Instant::now() + HANDSHAKE_TIMEOUT;
    let failed = |error| (Ended::Failed, error);
    let late = |_| (Ended::Timeout, io::ErrorKind::TimedOut.into());
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start = timeout_at(by, hello).await.map_err(late)?.map_err(failed)?;
    let _turn = timeout_at(by, handshakes.0.acquire()).await.map_err(late)?.expect("the semaphore is never closed");
    let Some(served) = shared.certificate_for(start.client_hello().server_name()) else {
        let refused = timeout_at(by, start.into_stream(Arc::clone(&served::NONE))).await;
        let error = refused.map_or_else(|_| io::ErrorKind::TimedOut.into(), |ended| unserved(ended.err()));
        return Err((Ended::UnknownHost, error));
    };
    let stream = timeout_at(by, start.into_stream(Arc::clone(&served.config))).await.map_err(late)?.map_err(failed)?;
    let (_, session) = stream.get_ref();
    let client = client(&served, session.peer_certificates().and_then(<[_]>::first)).map_err(failed)?;
    let agreed = session.alpn_protocol().and_then(Agreed::of);
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    debug!(certificate = %served.name, tls13 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3), resumed, "TLS");
    let ended = if resumed { Ended::Resumed } else { Ended::Full };
    Ok((stream, Secured { served, client, agreed }, ended))
}

fn unserved(error: Option<io::Error>) -> io::Error {
    error.unwrap_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Who the client is. Its certificate was verified when its session began, which may have been hours ago: that it has not
/// ended since is looked at each time.
fn client(
    served: &Served,
    certificate: Option<&rustls_pki_types::CertificateDer<'_>>,
) -> io::Result<Option<Described>> {
    let Some(certificate) = certificate.filter(|_| served.client_auth.is_some()) else { return Ok(None) };
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let described = Described::read(certificate).map_err(invalid)?;
    if described.ends < clock::now() {
        return Err(invalid("the client's certificate has ended since its session began".to_owned()));
    }
    Ok(Some(described))
}
