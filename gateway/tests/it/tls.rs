//! Upstreams over TLS, with an authority that is known, and with one that is not.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use rustls::{RootCertStore, ServerConfig, pki_types::CertificateDer, server::WebPkiClientVerifier};
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
    pki::{Authority, Issued},
    upstream::json,
};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

/// What a server needs that is called `name`.
pub(crate) fn server(authority: &Authority, name: &str) -> ServerConfig {
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

/// What an upstream saw of a connection: the name that it was asked for by, and whose certificate it was shown.
type Seen = Arc<Mutex<Vec<(Option<String>, Option<CertificateDer<'static>>)>>>;

/// An upstream over TLS that takes only whom `clients` vouch for, and answers in the protocol that was agreed on.
async fn strict(
    authority: &Authority,
    name: &str,
    clients: &Authority,
    alpn: &[&[u8]],
) -> (SocketAddr, Seen, AbortOnDropHandle<()>) {
    let mut roots = RootCertStore::empty();
    roots.add(clients.certificate()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let issued = authority.issue(&[name]);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.der.clone()], issued.key())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|it| it.to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, seen, tasks) = (TlsAcceptor::from(Arc::new(config)), Seen::default(), TaskTracker::new());
    let (told, connections) = (Arc::clone(&seen), tasks.clone());
    let accepting = tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (_, session) = stream.get_ref();
                let shown = session.peer_certificates().and_then(<[_]>::first).cloned();
                told.lock().push((session.server_name().map(str::to_owned), shown));
                let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let body = format!("{:?}", request.version());
                    Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<bytes::Bytes>::from(
                        body,
                    )))
                });
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                let io = hyper_util::rt::TokioIo::new(stream);
                if is_http2 {
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    (address, seen, AbortOnDropHandle::new(accepting))
}

/// A service with its own TLS; the parts that are `None` are left out.
fn own(
    address: SocketAddr,
    protocol: &str,
    ca: Option<&Authority>,
    name: Option<&str>,
    shown: Option<&Issued>,
) -> String {
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let ca = ca.map(|ca| format!("ca: {}, ", quoted(&ca.pem()))).unwrap_or_default();
    let name = name.map(|name| format!("serverName: {name}, ")).unwrap_or_default();
    let shown =
        shown.map(|it| format!("certificate: {{chain: {}, key: {{value: {}}}}}", quoted(&it.pem), quoted(&it.key_pem)));
    let shown = shown.unwrap_or_default();
    format!(
        "
kind: Service
metadata: {{name: orders}}
spec: {{protocol: {protocol}, endpoints: [{{address: '{address}'}}], tls: {{{ca}{name}{shown}}}}}
"
    )
}

const ORDERS: &str = "---
kind: Route
metadata: {name: orders}
spec: {backends: [{service: orders}]}
";

#[tokio::test]
async fn an_upstream_may_have_authorities_a_name_and_a_certificate_of_ours_of_its_own() {
    let (authority, clients, foreign) = (Authority::new(), Authority::new(), Authority::new());
    let us = clients.client("tollgate", "x:us");
    let (address, seen, _serving) = strict(&authority, "orders.internal", &clients, &[]).await;
    let of = |ca, name, shown| own(address, "https", ca, name, shown);
    let cluster = Cluster::start(&(of(Some(&authority), Some("orders.internal"), Some(&us)) + ORDERS)).await;
    let answer = get(cluster.address, "/", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "HTTP/1.1"), "{}", answer.raw);
    let told = seen.lock().pop().unwrap();
    assert_eq!(told, (Some("orders.internal".to_owned()), Some(us.der.clone())));
    let theirs = foreign.client("eve", "x:eve");
    for (what, resources) in [
        ("unknown to the system", of(None, Some("orders.internal"), Some(&us))),
        ("of another authority", of(Some(&foreign), Some("orders.internal"), Some(&us))),
        ("of another name", of(Some(&authority), None, Some(&us))),
        ("shown nothing", of(Some(&authority), Some("orders.internal"), None)),
        ("shown what it does not trust", of(Some(&authority), Some("orders.internal"), Some(&theirs))),
    ] {
        cluster.apply(&resources);
        let answer = get(cluster.address, "/", "").await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_error"), "{what}: {}", answer.raw);
    }
    assert!(seen.lock().is_empty());
    // A renewed certificate is shown from then on; what changes nothing of it leaves connections alone.
    let renewed = clients.client("tollgate", "x:us");
    let resources = of(Some(&authority), Some("orders.internal"), Some(&renewed));
    cluster.apply(&resources);
    for _ in 0..5 {
        assert_eq!(get(cluster.address, "/", "").await.status, 200);
        cluster.apply(&resources.replace("endpoints:", "circuitBreaker: {maxRequests: 100}, endpoints:"));
    }
    let shown: Vec<_> = seen.lock().iter().map(|(_, shown)| shown.clone()).collect();
    assert_eq!(shown, [Some(renewed.der.clone())], "one connection, with the new one");
}

#[tokio::test]
async fn a_provider_may_be_shown_a_certificate_too() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let us = clients.client("tollgate", "x:us");
    let (address, seen, _serving) = strict(&authority, "llm.internal", &clients, &[]).await;
    let service = own(address, "https", Some(&authority), Some("llm.internal"), Some(&us));
    let provider = service
        .replace("kind: Service", "kind: Provider")
        .replace("protocol: https", "type: openai")
        .replace(&format!("address: '{address}'"), &format!("url: 'https://{address}/v1'"));
    let route = ORDERS.replace("service: orders", "provider: orders");
    let cluster = Cluster::start(&(provider + &route)).await;
    call(cluster.address, CHAT, BODY).await;
    let told = seen.lock().pop().unwrap();
    assert_eq!(told, (Some("llm.internal".to_owned()), Some(us.der.clone())));
}

#[tokio::test]
async fn h2_is_http2_over_tls_and_nothing_else() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let us = clients.client("tollgate", "x:us");
    let (both, only): (&[&[u8]], &[&[u8]]) = (&[b"http/1.1", b"h2"], &[b"http/1.1"]);
    for (alpn, protocol, expected) in
        [(both, "h2", (200, "HTTP/2.0")), (both, "https", (200, "HTTP/1.1")), (only, "h2", (502, ""))]
    {
        let (address, seen, _serving) = strict(&authority, "orders.internal", &clients, alpn).await;
        let resources = own(address, protocol, Some(&authority), Some("orders.internal"), Some(&us)) + ORDERS;
        let cluster = Cluster::start(&resources).await;
        for _ in 0..3 {
            let answer = get(cluster.address, "/", "").await;
            assert_eq!(answer.status, expected.0, "{protocol}: {}", answer.raw);
            assert!(answer.status != 200 || answer.body == expected.1, "{protocol}: {}", answer.raw);
        }
        assert_eq!(seen.lock().len(), usize::from(expected.0 == 200), "{protocol}: one connection");
    }
}
