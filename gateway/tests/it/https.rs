//! Clients over TLS: which certificate they are served, how they are known, and what that lets them do.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tollgate_gateway::{FileCertificate, TlsFiles};

use crate::{
    clients::{Answer, get, raw},
    cluster::Cluster,
    pki::{Authority, Issued},
    upstream::{Reply, Upstream},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const ROUTE: &str = "
kind: Route
metadata: {name: all}
spec: {backends: [{service: orders}]}
---
kind: Route
metadata: {name: moved}
spec: {match: [{path: {prefix: /moved}}], redirect: {host: b.test, path: /new}}
";

pub(crate) async fn orders() -> (Upstream, String) {
    let upstream = Upstream::always(Reply::Keep(OK.into())).await;
    let service = format!(
        "
kind: Service
metadata: {{name: orders}}
spec: {{endpoints: [{{address: '{}'}}]}}
---
",
        upstream.address
    );
    (upstream, format!("{service}{ROUTE}"))
}

/// A certificate as a resource; `more` is the rest of its spec.
pub(crate) fn resource(name: &str, hosts: &str, issued: &Issued, more: &str) -> String {
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let (pem, key) = (quoted(&issued.pem), quoted(&issued.key_pem));
    format!(
        "
---
kind: Certificate
metadata: {{name: {name}}}
spec: {{hosts: [{hosts}], certificate: {pem}, key: {{value: {key}}}{more}}}
"
    )
}

/// The same with its key in a file.
fn of_file(name: &str, hosts: &str, issued: &Issued, key: &Path, more: &str) -> String {
    let quoted = serde_json::to_string(&issued.key_pem).unwrap();
    resource(name, hosts, issued, more)
        .replace(&format!("{{value: {quoted}}}"), &format!("{{file: {}}}", key.display()))
}

fn asks(clients: &Authority, mode: &str) -> String {
    format!(", clientAuth: {{ca: {}, mode: {mode}}}", serde_json::to_string(&clients.pem()).unwrap())
}

/// What a client has that trusts `authority`, and shows what it was given, if anything.
pub(crate) fn client(authority: &Authority, shows: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match shows {
        None => builder.with_no_client_auth(),
        Some(shows) => builder.with_client_auth_cert(vec![shows.der.clone()], shows.key()).unwrap(),
    }
}

pub(crate) async fn connect(
    tcp: TcpStream,
    config: &ClientConfig,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config.clone())).connect(name, tcp).await
}

fn head(host: &str, path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n")
}

/// Asks and reads to a proper end: one that is only cut is an error here.
pub(crate) async fn last(stream: &mut TlsStream<TcpStream>, request: String) -> std::io::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut read)).await.expect("the connection stays open")?;
    Ok(Answer::parse(&read))
}

/// One request by a connection that stays.
async fn next(stream: &mut TlsStream<TcpStream>, request: String) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"ok") {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
    }
    String::from_utf8(read).unwrap()
}

async fn dial(address: SocketAddr, config: &ClientConfig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    connect(TcpStream::connect(address).await?, config, name).await
}

async fn ask(
    address: SocketAddr,
    config: &ClientConfig,
    name: &str,
    host: &str,
    headers: &str,
) -> std::io::Result<Answer> {
    let mut stream = dial(address, config, name).await?;
    last(&mut stream, head(host, "/", &format!("connection: close\r\n{headers}"))).await
}

/// The certificate that a host is served.
async fn served(cluster: &Cluster, config: &ClientConfig, name: &str) -> Vec<u8> {
    let stream = dial(cluster.tls, config, name).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_client_over_tls_is_served_as_one_in_clear_text_and_upstreams_are_told_https() {
    let (upstream, resources) = orders().await;
    let authority = Authority::new();
    let issued = authority.issue(&["a.test"]);
    let cluster = Cluster::start(&(resources + &resource("a", "a.test", &issued, ""))).await;
    let mut config = client(&authority, None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = dial(cluster.tls, &config, "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = dial(cluster.tls, &config, "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let spoofed = "x-forwarded-proto: http\r\nconnection: close\r\n";
    let answer = last(&mut stream, head("a.test:443", "/x", spoofed)).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{}", answer.raw);
    assert!(answer.header("x-request-id").is_some());
    let seen = upstream.requests().pop().unwrap().to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-proto: https\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-host: a.test\r\n"), "the default port says nothing: {seen}");
    let mut stream = dial(cluster.tls, &config, "a.test").await.unwrap();
    let moved = last(&mut stream, head("a.test", "/moved", "connection: close\r\n")).await.unwrap();
    assert_eq!((moved.status, moved.header("location")), (302, Some("//b.test/new")), "{}", moved.raw);
    get(cluster.address, "/", "").await;
    let seen = upstream.requests().pop().unwrap().to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
}

#[tokio::test]
async fn http2_over_tls_is_served() {
    let (upstream, resources) = orders().await;
    let authority = Authority::new();
    let cluster = Cluster::start(&(resources + &resource("a", "a.test", &authority.issue(&["a.test"]), ""))).await;
    let mut config = client(&authority, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = dial(cluster.tls, &config, "a.test").await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(connection);
    let request = http::Request::get("https://a.test/x").body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    let seen = upstream.requests().pop().unwrap().to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-proto: https\r\n"), "{seen}");
}

#[tokio::test]
async fn what_is_ambiguous_is_refused_over_tls_as_well() {
    let (upstream, resources) = orders().await;
    let authority = Authority::new();
    let cluster = Cluster::start(&(resources + &resource("a", "a.test", &authority.issue(&["a.test"]), ""))).await;
    let config = client(&authority, None);
    for wrong in [
        "content-length: 1\r\ncontent-length: 2\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 2\r\n",
        "x : y\r\n",
    ] {
        let mut stream = dial(cluster.tls, &config, "a.test").await.unwrap();
        let answer = last(&mut stream, head("a.test", "/", wrong)).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{wrong}: {}", answer.raw);
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_never_ends_its_handshake_is_let_go_after_ten_seconds() {
    let (_upstream, resources) = orders().await;
    let authority = Authority::new();
    let cluster = Cluster::start(&(resources + &resource("a", "a.test", &authority.issue(&["a.test"]), ""))).await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(cluster.tls).await.unwrap();
    let mut halfway = TcpStream::connect(cluster.tls).await.unwrap();
    halfway.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap(); // a ClientHello that stops
    for stream in [&mut silent, &mut halfway] {
        let ended = timeout(Duration::from_secs(30), stream.read(&mut [0; 64])).await.expect("it stays open");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    assert!((9..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(cluster.metrics().contains("tollgate_tls_handshakes_total{result=\"timeout\"} 2"), "{}", cluster.metrics());
}

#[tokio::test]
async fn each_host_is_served_its_certificate_and_others_the_nodes_own_or_none() {
    let (_upstream, resources) = orders().await;
    let authority = Authority::new();
    let [a, wild, deep, own] =
        [&["a.test"][..], &["*.b.test"], &["x.b.test"], &["node.test", "c.test"]].map(|it| authority.issue(it));
    let dir = tempfile::tempdir().unwrap();
    let files = write(&dir, &own, None);
    let resources = resources
        + &resource("a", "a.test", &a, "")
        + &resource("wild", "'*.b.test'", &wild, "")
        + &resource("deep", "x.b.test", &deep, "");
    let config = client(&authority, None);
    let without = Cluster::start(&resources).await;
    let own_certificate = Arc::new(FileCertificate::load(files).unwrap());
    let with = Cluster::start_with(&resources, |config| config.certificate = Some(own_certificate)).await;
    for cluster in [&without, &with] {
        assert_eq!(served(cluster, &config, "a.test").await, a.der.to_vec());
        assert_eq!(served(cluster, &config, "y.b.test").await, wild.der.to_vec());
        assert_eq!(served(cluster, &config, "x.b.test").await, deep.der.to_vec(), "an exact name before a wildcard");
        assert_eq!(served(cluster, &config, "A.Test").await, a.der.to_vec());
    }
    assert_eq!(served(&with, &config, "c.test").await, own.der.to_vec());
    let refused = dial(without.tls, &config, "c.test").await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
    assert!(without.metrics().contains("tollgate_tls_handshakes_total{result=\"unknown_host\"} 1"));
}

#[tokio::test]
async fn a_replaced_certificate_is_served_at_once_and_open_connections_live_on() {
    let (_upstream, resources) = orders().await;
    let authority = Authority::new();
    let [before, after] = [(), ()].map(|()| authority.issue(&["a.test"]));
    let cluster = Cluster::start(&(resources + &resource("a", "a.test", &before, ""))).await;
    let config = client(&authority, None);
    let mut open = dial(cluster.tls, &config, "a.test").await.unwrap();
    next(&mut open, head("a.test", "/", "")).await;
    for n in 0..20 {
        let (now, is) = if n % 2 == 0 { (&after, "after") } else { (&before, "before") };
        cluster.apply(&resource("a", "a.test", now, ""));
        assert_eq!(served(&cluster, &config, "a.test").await, now.der.to_vec(), "{is}");
        let answer = next(&mut open, head("a.test", "/", "")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_verified_of_a_client_is_passed_on_and_cannot_be_forged() {
    let (upstream, resources) = orders().await;
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let [a, b, c] = ["a.test", "b.test", "c.test"].map(|name| authority.issue(&[name]));
    let resources = resources
        + &resource("a", "a.test", &a, &asks(&clients, "required"))
        + &resource("b", "b.test", &b, &asks(&clients, "optional"))
        + &resource("c", "c.test", &c, "");
    let cluster = Cluster::start(&resources).await;
    let alice = clients.client("alice, \"admin\"", "spiffe://acme/alice");
    let (known, nobody, stranger) = (
        client(&authority, Some(&alice)),
        client(&authority, None),
        client(&authority, Some(&others.client("eve", "x:y"))),
    );
    let forged = "x-forwarded-client-cert: Subject=\"CN=root\"\r\nx_forwarded_client_cert: Subject=\"CN=root\"\r\n";
    for (name, config, expected) in [
        ("a.test", &known, Some(true)),
        ("a.test", &nobody, None),
        ("a.test", &stranger, None),
        ("b.test", &known, Some(true)),
        ("b.test", &nobody, Some(false)),
        ("b.test", &stranger, None),
        ("c.test", &known, Some(false)),
        ("c.test", &nobody, Some(false)),
    ] {
        let answer = ask(cluster.tls, config, name, name, forged).await;
        let Some(is_known) = expected else {
            assert!(answer.is_err(), "{name}: {answer:?}");
            continue;
        };
        assert_eq!(answer.unwrap().status, 200, "{name}");
        let seen = upstream.requests().pop().unwrap();
        assert!(!seen.contains("CN=root"), "{seen}");
        let told = seen.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
        assert_eq!(told.is_some(), is_known, "{name}: {seen}");
        let Some(told) = told else { continue };
        assert!(told.starts_with("Hash="), "{told}");
        assert!(told.ends_with(r#";Subject="CN=alice\2C \22admin\22,O=Acme";URI="spiffe://acme/alice""#), "{told}");
    }
    assert_eq!(upstream.requests().len(), 5, "nobody was let in who is not known");
}

#[tokio::test]
async fn a_host_that_asks_for_certificates_is_not_had_by_a_connection_to_another() {
    let (upstream, resources) = orders().await;
    let (authority, of_a, of_b) = (Authority::new(), Authority::new(), Authority::new());
    let [a, b, c, d] = ["a.test", "b.test", "c.test", "d.test"].map(|name| authority.issue(&[name]));
    let resources = resources
        + &resource("a", "a.test", &a, &asks(&of_a, "required"))
        + &resource("b", "b.test", &b, &asks(&of_b, "optional"))
        + &resource("c", "c.test", &c, "")
        + &resource("d", "d.test", &d, "");
    let cluster = Cluster::start(&resources).await;
    let alice = client(&authority, Some(&of_a.client("alice", "x:a")));
    let nobody = client(&authority, None);
    for (config, name, host, status) in [
        (&alice, "a.test", "a.test", 200),
        (&alice, "a.test", "A.test.:443", 200),
        (&alice, "a.test", "b.test", 421),
        (&alice, "a.test", "c.test", 421),
        (&alice, "a.test", "unknown.test", 421),
        (&nobody, "c.test", "a.test", 421),
        (&nobody, "c.test", "a.test.", 421),
        (&nobody, "c.test", "b.test", 421),
        (&nobody, "c.test", "d.test", 200),
        (&nobody, "c.test", "unknown.test", 200),
        (&nobody, "b.test", "b.test", 200),
        (&nobody, "b.test", "a.test", 421),
        (&nobody, "b.test", "c.test", 421),
    ] {
        let answer = ask(cluster.tls, config, name, host, "").await.unwrap();
        assert_eq!(answer.status, status, "{host} by a connection to {name}: {}", answer.raw);
        if status == 421 {
            assert_eq!(answer.code(), "misdirected_request");
        }
    }
    for (host, status) in [("a.test", 421), ("b.test", 200), ("c.test", 200)] {
        let answer = raw(cluster.address, head(host, "/", "connection: close\r\n")).await;
        assert_eq!(answer.status, status, "{host} in clear text: {}", answer.raw);
    }
    assert_eq!(upstream.requests().len(), 7);
    // Whoever was let in by authorities that are not asked any more comes anew.
    let mut open = dial(cluster.tls, &alice, "a.test").await.unwrap();
    next(&mut open, head("a.test", "/", "")).await;
    cluster.apply(&resource("a", "a.test", &a, &asks(&of_b, "required")));
    let answer = last(&mut open, head("a.test", "/", "connection: close\r\n")).await.unwrap();
    assert_eq!(answer.status, 421, "{}", answer.raw);
}

/// Without its rules nobody could be told apart, so a host that has them is closed, and not open, where its key is missing.
#[tokio::test]
async fn a_host_that_asks_for_certificates_is_closed_where_its_own_can_not_be_served() {
    let (_upstream, resources) = orders().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let [a, b, c, d] = ["a.test", "b.test", "c.test", "d.test"].map(|name| authority.issue(&[name]));
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("d.key");
    fs::write(&key, &d.key_pem).unwrap();
    fs::write(dir.path().join("a.key"), &a.key_pem).unwrap();
    let resources = resources
        + &resource("a", "a.test", &a, &asks(&clients, "required"))
        + &resource("b", "b.test", &b, &asks(&clients, "optional"))
        + &resource("c", "c.test", &c, "")
        + &resource("d", "d.test", &d, &asks(&clients, "required"))
        + &of_file("d-next", "d.test", &d, &key, &asks(&clients, "required"))
        + &of_file("a-open", "a.test", &a, &dir.path().join("a.key"), "");
    let cluster = Cluster::start(&resources).await;
    let nobody = client(&authority, None);
    let mut open = dial(cluster.tls, &nobody, "c.test").await.unwrap();
    assert!(next(&mut open, head("c.test", "/", "")).await.contains(" 200 "));
    cluster.change_cluster_key();
    for name in ["a.test", "b.test", "c.test"] {
        assert!(dial(cluster.tls, &nobody, name).await.is_err(), "{name}");
    }
    // One under the very same rules can stand in.
    let alice = client(&authority, Some(&clients.client("alice", "x:a")));
    assert_eq!(ask(cluster.tls, &alice, "d.test", "d.test", "").await.unwrap().status, 200);
    assert!(ask(cluster.tls, &nobody, "d.test", "d.test", "").await.is_err());
    assert!(next(&mut open, head("c.test", "/", "")).await.contains(" 200 "), "what is open lives on");
    let misdirected = last(&mut open, head("a.test", "/", "")).await.unwrap();
    assert_eq!((misdirected.status, misdirected.header("connection")), (421, Some("close")), "{}", misdirected.raw);
    for (host, status) in [("a.test", 421), ("b.test", 200), ("c.test", 200)] {
        let answer = raw(cluster.address, head(host, "/", "connection: close\r\n")).await;
        assert_eq!(answer.status, status, "{host} in clear text: {}", answer.raw);
    }
}

/// A client that offers what it was given by one host to any other: what no good client does.
#[derive(Default)]
struct Careless {
    tickets: Mutex<Vec<Tls13ClientSessionValue>>,
    session: Mutex<Option<Tls12ClientSessionValue>>,
}

impl fmt::Debug for Careless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Careless")
    }
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *self.session.lock() = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.session.lock().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tickets.lock().push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().pop()
    }
}

async fn resumed(cluster: &Cluster, config: &ClientConfig, name: &str) -> bool {
    let mut stream = dial(cluster.tls, config, name).await.unwrap();
    let answer = last(&mut stream, head(name, "/", "connection: close\r\n")).await.unwrap(); // tickets have come by now
    assert_eq!(answer.status, 200, "{}", answer.raw);
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

#[tokio::test]
async fn sessions_are_resumed_under_the_certificate_that_they_began_under_and_no_other() {
    let (upstream, resources) = orders().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let both = authority.issue(&["a.test", "b.test", "c.test", "d.test"]);
    let certificates = |mode: &str| {
        resource("a", "a.test, d.test", &both, &asks(&clients, mode))
            + &resource("b", "b.test", &both, "")
            + &resource("c", "c.test", &both, &asks(&clients, mode))
    };
    let cluster = Cluster::start(&(resources + &certificates("optional"))).await;
    let alice = clients.client("alice", "x:a");
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let store = Arc::new(Careless::default());
        let with = |shows: Option<&Issued>, resumption: Resumption| {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
            let builder = builder.with_root_certificates(roots);
            let mut config = match shows {
                Some(shows) => builder.with_client_auth_cert(vec![shows.der.clone()], shows.key()).unwrap(),
                None => builder.with_no_client_auth(),
            };
            config.resumption = resumption;
            config
        };
        let good = with(Some(&alice), Resumption::store(Arc::new(ClientSessionMemoryCache::new(64))));
        assert!(!resumed(&cluster, &good, "a.test").await);
        assert!(resumed(&cluster, &good, "a.test").await);
        let seen = upstream.requests().pop().unwrap();
        assert!(seen.contains("CN=alice"), "a resumed session is still alice's: {seen}");
        // Another host's certificate, and another host of the same certificate: neither takes what was given for the first.
        for other in ["b.test", "c.test", "d.test"] {
            let careless = with(Some(&alice), Resumption::store(Arc::clone(&store) as Arc<dyn ClientSessionStore>));
            resumed(&cluster, &careless, "a.test").await;
            assert!(!resumed(&cluster, &careless, other).await, "{other}");
        }
        // Of a change of who is asked, nothing is taken over.
        assert!(resumed(&cluster, &good, "a.test").await);
        cluster.apply(&certificates("required"));
        assert!(!resumed(&cluster, &good, "a.test").await);
        cluster.apply(&certificates("optional"));
        resumed(&cluster, &good, "a.test").await;
        // An apply that changes nothing of it leaves sessions alone.
        cluster.apply(&resource("e", "e.test", &authority.issue(&["e.test"]), ""));
        assert!(resumed(&cluster, &good, "a.test").await);
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_once_its_clients_certificate_has_ended() {
    let (_upstream, resources) = orders().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let a = authority.issue(&["a.test"]);
    let cluster = Cluster::start(&(resources + &resource("a", "a.test", &a, &asks(&clients, "required")))).await;
    let config = client(&authority, Some(&clients.client_for(Duration::from_secs(6))));
    assert!(!resumed(&cluster, &config, "a.test").await);
    assert!(resumed(&cluster, &config, "a.test").await);
    let began = Instant::now();
    while ask(cluster.tls, &config, "a.test", "a.test", "").await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "it goes on and on");
    }
    assert!(cluster.metrics().contains("tollgate_tls_handshakes_total{result=\"failed\"} 1"), "{}", cluster.metrics());
}

#[tokio::test]
async fn an_older_tls_than_a_certificate_takes_is_refused() {
    let (_upstream, resources) = orders().await;
    let authority = Authority::new();
    let [a, b] = ["a.test", "b.test"].map(|name| authority.issue(&[name]));
    let resources = resources + &resource("a", "a.test", &a, ", minVersion: '1.3'") + &resource("b", "b.test", &b, "");
    let cluster = Cluster::start(&resources).await;
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    let old = old.with_root_certificates(roots).with_no_client_auth();
    let refused = dial(cluster.tls, &old, "a.test").await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    assert_eq!(ask(cluster.tls, &old, "b.test", "b.test", "").await.unwrap().status, 200);
    assert_eq!(ask(cluster.tls, &client(&authority, None), "a.test", "a.test", "").await.unwrap().status, 200);
}

#[tokio::test]
async fn how_long_each_certificate_is_good_for_is_a_metric() {
    let (_upstream, resources) = orders().await;
    let authority = Authority::new();
    let (ended, later) = (authority.issue_until("a.test", 2020), authority.issue_until("b.test", 2400));
    let resources = resources + &resource("a", "a.test", &ended, "") + &resource("b", "b.test", &later, "");
    let cluster = Cluster::start(&resources).await;
    let metrics = cluster.metrics();
    let of = |name: &str| {
        let begins = format!("tollgate_certificate_expiry_seconds{{certificate=\"{name}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&begins)).unwrap_or_else(|| panic!("{metrics}"));
        line.parse::<i64>().unwrap()
    };
    assert!(of("a") < -86_400 && of("b") > 86_400 * 365 * 100, "{metrics}");
}

fn write(dir: &tempfile::TempDir, issued: &Issued, ca: Option<&Authority>) -> TlsFiles {
    let path = |name: &str| dir.path().join(name);
    fs::write(path("cert.pem"), &issued.pem).unwrap();
    fs::write(path("key.pem"), &issued.key_pem).unwrap();
    let ca = ca.map(|ca| {
        fs::write(path("ca.pem"), ca.pem()).unwrap();
        path("ca.pem")
    });
    TlsFiles { cert: path("cert.pem"), key: path("key.pem"), ca }
}

#[tokio::test]
async fn files_are_read_again_and_a_key_that_does_not_fit_changes_nothing() {
    let (_upstream, resources) = orders().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    let [before, after] = [(), ()].map(|()| authority.issue(&["a.test"]));
    let dir = tempfile::tempdir().unwrap();
    let files = write(&dir, &before, Some(&clients));
    let certificate = Arc::new(FileCertificate::load(files.clone()).unwrap());
    let of_node = Arc::clone(&certificate);
    let cluster = Cluster::start_with(&resources, |config| config.certificate = Some(of_node)).await;
    let alice = client(&authority, Some(&clients.client("alice", "x:a")));
    assert_eq!(ask(cluster.tls, &alice, "a.test", "a.test", "").await.unwrap().status, 200);
    assert!(ask(cluster.tls, &client(&authority, None), "a.test", "a.test", "").await.is_err());
    assert!(!certificate.reload().unwrap(), "nothing has changed");
    fs::write(&files.cert, &after.pem).unwrap();
    let error = certificate.reload().unwrap_err();
    assert_eq!(
        (error.path.as_path(), error.problem.as_str()),
        (files.key.as_path(), "is not the key of the certificate")
    );
    assert_eq!(served(&cluster, &alice, "a.test").await, before.der.to_vec());
    fs::write(&files.key, &after.key_pem).unwrap();
    assert!(certificate.reload().unwrap());
    assert_eq!(served(&cluster, &alice, "a.test").await, after.der.to_vec());
    fs::write(&files.cert, "no certificate").unwrap();
    assert!(certificate.reload().unwrap_err().problem.contains("holds no certificate"));
    assert_eq!(served(&cluster, &alice, "a.test").await, after.der.to_vec());
}
