//! Connections to peers.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tollgate_proto::peer::v1::peer_client::PeerClient;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    refusals::Refusals,
    tls::{self, PeerAuth, Validity},
    wire::{Envelope, MAX_MESSAGE_BYTES},
};
use crate::identity::Id;

/// For TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection on which nothing comes back is closed after the sum of both, so that a peer that came back is found.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Of each stream and connection: a whole append fits, so that it is never sent by halves.
const WINDOW_BYTES: u32 = 8 << 20;

/// What a connection is for. Each has its own, so that a heartbeat waits neither for an append nor for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Append,
    Heartbeat,
    Snapshot,
    Control,
}

/// In place of a node id where only an address is known: any node of the cluster may answer there.
pub(crate) const ANY_NODE: u64 = 0;

/// Where a node is to be found: its certificate must name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) address: String,
}

/// The connections of this node, made when they are first used and made again when they break.
pub(crate) struct Peers {
    auth: Arc<PeerAuth>,
    refusals: Arc<Refusals>,
    channels: Mutex<HashMap<(Peer, Lane), Channel>>,
}

/// How many connections are kept before those of former members are forgotten: 50 peers with all their lanes.
const MAX_CHANNELS: usize = 200;

impl Peers {
    pub(crate) fn new(auth: Arc<PeerAuth>) -> Arc<Self> {
        Arc::new(Self { auth, refusals: Arc::default(), channels: Mutex::default() })
    }

    /// What became of connections, in either direction.
    pub(crate) fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// What the other nodes make of this node's certificate.
    pub(crate) fn validity(&self) -> Validity {
        self.auth.validity()
    }

    pub(crate) fn client(&self, peer: &Peer, lane: Lane) -> Result<PeerClient<Channel>, String> {
        let mut channels = self.channels.lock();
        let key = (peer.clone(), lane);
        if !channels.contains_key(&key) {
            if channels.len() >= MAX_CHANNELS {
                channels.clear();
            }
            channels.insert(key.clone(), self.channel(peer)?);
        }
        let client = PeerClient::new(channels[&key].clone());
        Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    fn channel(&self, peer: &Peer) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", peer.address)).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let (auth, refusals, peer) = (Arc::clone(&self.auth), Arc::clone(&self.refusals), peer.clone());
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (auth, refusals, peer) = (Arc::clone(&auth), Arc::clone(&refusals), peer.clone());
            async move {
                let connected = connect(&auth, &peer).await;
                refusals.note(&peer.address, &connected);
                connected.inspect_err(|error| refusals.tell(&peer.address, error)).map(TokioIo::new)
            }
        })))
    }
}

async fn connect(auth: &PeerAuth, peer: &Peer) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(&peer.address).await?;
    tcp.set_nodelay(true)?;
    let config = if peer.node == ANY_NODE { auth.any_client() } else { auth.client() };
    TlsConnector::from(config).connect(tls::server_name(peer.node), tcp).await
}

/// Who is called, as whom.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) peer: Peer,
    pub(crate) envelope: Envelope,
}

impl Target {
    pub(crate) fn new(cluster: Id, from: u64, to: u64, address: &str) -> Self {
        let peer = Peer { node: crate::ids::node_of(to), address: address.to_owned() };
        Self { peer, envelope: Envelope { cluster, from, to } }
    }
}
