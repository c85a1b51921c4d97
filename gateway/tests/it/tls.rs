//! Upstreams over TLS, with an authority that is known, and with one that is not.

use std::{net::SocketAddr, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    ai::completion,
    clients::{call, get},
    cluster::Cluster,
    pki::Authority,
    upstream::json,
};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

/// What a server needs that is called `name`.
fn server(authority: &Authority, name: &str) -> ServerConfig {
    let issued = authority.issue(&[name]);
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone()], issued.key())
        .unwrap()
}

/// An upstream that answers every request over TLS with a completion.
async fn serve(server: ServerConfig) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    let accepting = tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&read);
                    if text.starts_with("GET ") && text.ends_with("\r\n\r\n") || text.ends_with(BODY) {
                        let _ = stream.write_all(json(&completion(9, 3)).as_bytes()).await;
                        read.clear();
                    }
                }
            });
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

fn resources(address: SocketAddr) -> String {
    format!(
        "
kind: Provider
metadata: {{name: first}}
spec: {{type: openai, endpoints: [{{url: 'https://{address}/v1'}}]}}
---
kind: Service
metadata: {{name: orders}}
spec: {{protocol: https, endpoints: [{{address: '{address}'}}]}}
---
kind: Route
metadata: {{name: chat}}
spec: {{match: [{{path: {{prefix: /v1}}}}], backends: [{{provider: first}}]}}
---
kind: Route
metadata: {{name: orders}}
spec: {{match: [{{path: {{prefix: /orders}}}}], backends: [{{service: orders}}]}}
"
    )
}

#[tokio::test]
async fn upstreams_are_reached_over_tls_by_an_authority_that_is_configured() {
    let authority = Authority::new();
    let (address, _serving) = serve(server(&authority, "127.0.0.1")).await;
    let roots = vec![authority.certificate()];
    let cluster = Cluster::start_with(&resources(address), |config| config.extra_roots = roots).await;
    let ai = call(cluster.address, CHAT, BODY).await;
    assert_eq!((ai.status, ai.body), (200, completion(9, 3)), "{}", ai.raw);
    let service = get(cluster.address, "/orders/1", "").await;
    assert_eq!((service.status, service.body), (200, completion(9, 3)), "{}", service.raw);
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_not_trusted_or_not_its_own_is_a_clear_502() {
    let (known, foreign) = (Authority::new(), Authority::new());
    for config in [server(&foreign, "127.0.0.1"), server(&known, "elsewhere.test")] {
        let (address, _serving) = serve(config).await;
        let roots = vec![known.certificate()];
        let cluster = Cluster::start_with(&resources(address), |config| config.extra_roots = roots).await;
        for answer in [call(cluster.address, CHAT, BODY).await, get(cluster.address, "/orders/1", "").await] {
            assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_error"), "{}", answer.raw);
            assert!(answer.body.contains("certificate"), "{}", answer.raw);
        }
        let metrics = cluster.metrics();
        assert!(metrics.contains("result=\"tls_failure\""), "{metrics}");
        cluster.nothing_held().await;
    }
}
