//! The admin plane of a fake node on a free port.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tollgate_admin::{AdminMetrics, AdminState, Role, Shutdown, serve};
use tollgate_model::secret::ClusterKey;
use tollgate_proto::{
    admin::v1::{cluster_service_client::ClusterServiceClient, config_service_client::ConfigServiceClient},
    state::v1::{TokenChange, TokenRecord, token_change},
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::fake::FakeNode;

pub(crate) struct Server {
    pub(crate) node: Arc<FakeNode>,
    pub(crate) address: SocketAddr,
    pub(crate) drain: CancellationToken,
    pub(crate) channel: Channel,
    pub(crate) served: JoinHandle<()>,
    _stop: tokio_util::sync::DropGuard,
}

/// The secret of the token that [`Server::start`] makes for a role.
pub(crate) fn secret(role: Role) -> String {
    format!("secret-{role}")
}

/// The secret of a viewer's token that is narrowed to tenant `acme`.
pub(crate) const NARROWED: &str = "secret-acme";

impl Server {
    pub(crate) async fn start() -> Server {
        let node = FakeNode::new();
        let (key, _) = ClusterKey::generate();
        for role in Role::ALL {
            node.change_token(token(&key, &secret(role), role, ""));
        }
        node.change_token(token(&key, NARROWED, Role::Viewer, "acme"));
        let mut registry = Registry::default();
        let metrics = AdminMetrics::register(&mut registry);
        let state = AdminState {
            backplane: Arc::clone(&node) as _,
            key: Some(Arc::new(key)),
            registry: Arc::new(RwLock::new(registry)),
            metrics,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let shutdown = Shutdown { drain: drain.clone(), stop: stop.clone() };
        #[expect(clippy::disallowed_methods, reason = "the test awaits it, or ends")]
        let served = tokio::spawn(serve(listener, state, shutdown));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().http2_max_header_list_size(1 << 20);
        let channel = endpoint.connect_lazy();
        Server { node, address, drain, channel, served, _stop: stop.drop_guard() }
    }

    pub(crate) fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    /// What comes back for these bytes until the server closes the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good an end as any.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn get(&self, path: &str, headers: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes()).await
    }
}

fn token(key: &ClusterKey, secret: &str, role: Role, tenant: &str) -> TokenChange {
    let hash = key.hash_token(secret).to_vec();
    let record = TokenRecord {
        id: format!("id-{secret}"),
        role: role.to_string(),
        tenant: tenant.into(),
        hash,
        ..TokenRecord::default()
    };
    TokenChange { kind: Some(token_change::Kind::Create(record)) }
}

/// A request of the holder of this secret.
pub(crate) fn with<T>(secret: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
    request
}

pub(crate) fn admin<T>(message: T) -> Request<T> {
    with(&secret(Role::Admin), message)
}
