//! What a peer with a good certificate and bad manners is answered.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};
use tollgate_consensus::{PeerTls, node_dns_name, raft_id};
use tollgate_proto::peer::v1::{RaftMessage, peer_client::PeerClient};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::cluster::{Cluster, LONG};

/// As `tls` says, at `address`, where node `to` must be.
fn connect(tls: &PeerTls, address: String, to: u64) -> PeerClient<Channel> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.ca).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_file(&tls.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&tls.key).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (config, address) = (Arc::clone(&config), address.clone());
        async move {
            let name = ServerName::try_from(node_dns_name(to)).unwrap();
            let tls = TlsConnector::from(config).connect(name, TcpStream::connect(address).await?).await;
            tls.map(TokioIo::new)
        }
    }));
    PeerClient::new(channel).max_encoding_message_size(usize::MAX)
}

/// What the one message on an append stream is answered, by whoever takes node 2 for its sender.
async fn appended(cluster: &Cluster, body: Vec<u8>) -> Status {
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    let mut client = connect(&two.tls, one.address.clone(), 1);
    let mut request = Request::new(futures_util::stream::iter([RaftMessage { body: body.into() }]));
    let metadata = request.metadata_mut();
    metadata.insert("tollgate-cluster", one.get().status().cluster.parse().unwrap());
    metadata.insert("tollgate-from", raft_id(2, 1).into());
    metadata.insert("tollgate-to", one.get().status().raft_id.into());
    let answered = tokio::time::timeout(LONG, async {
        let mut answers = client.append(request).await?.into_inner();
        answers.message().await.map(|answer| assert!(answer.is_none(), "{answer:?}"))
    });
    answered.await.expect("in time").expect_err("an error")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_append_ends_the_stream_with_an_error() {
    let cluster = Cluster::start(3).await;
    assert_eq!(appended(&cluster, b"garbage".to_vec()).await.code(), Code::InvalidArgument);
    assert_eq!(appended(&cluster, Vec::new()).await.code(), Code::InvalidArgument);
    // A length prefix over the limit is refused before anything is read.
    assert_eq!(appended(&cluster, vec![0; 33 << 20]).await.code(), Code::OutOfRange);
    // A vote of node 3, one of a term that cannot be, one that was not won, and an entry that follows nothing.
    let vote = |term: u64, node: u64, won: bool| (term, raft_id(node, 1), won);
    let nothing = (None::<()>, Vec::<()>::new(), None::<()>);
    let message = |vote: (u64, u64, bool)| encode(&(vote, &nothing));
    assert_eq!(appended(&cluster, message(vote(1, 3, true))).await.code(), Code::PermissionDenied);
    assert_eq!(appended(&cluster, message(vote(u64::MAX, 2, true))).await.code(), Code::InvalidArgument);
    assert_eq!(appended(&cluster, message(vote(1, 2, false))).await.code(), Code::InvalidArgument);
    cluster.write(1, "a=1").await;
    cluster.check_everywhere("a", "1").await;
}

/// As the nodes write their messages. `AppendEntriesRequest` is a vote, the previous log id, the entries and the commit.
fn encode(message: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap()
}
