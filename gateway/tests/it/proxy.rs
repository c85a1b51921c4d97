//! Connections through proxies that say whom they are from.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tollgate_gateway::Entrance;

use crate::{
    clients::{Answer, raw, read_all},
    cluster::Cluster,
    https::{client, connect, last, orders, resource},
    pki::Authority,
    upstream::Upstream,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";
const LINE: &str = "PROXY TCP4 203.0.113.9 192.0.2.2 56324 443\r\n";

/// A gateway that trusts proxies at these addresses, and where it takes connections of them.
async fn behind(trusted: &str, more: &str, tls: bool) -> (Upstream, Cluster, SocketAddr) {
    let (upstream, resources) = orders().await;
    let trusted = trusted.parse().unwrap();
    let cluster = Cluster::start_with(&(resources + more), |config| config.trusted_proxies = vec![trusted]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let entrance = Entrance { tls, proxy_protocol: true };
    TaskTracker::new().spawn(cluster.gateway.serve_from(listener, entrance, cluster.shutdown.clone()));
    (upstream, cluster, address)
}

fn version_2(command: u8, extra: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 9, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];
    let length = u16::try_from(addresses.len() + extra.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &length, &addresses, extra].concat()
}

/// Whom the upstream is told that the last request was from.
fn told(upstream: &Upstream) -> String {
    let request = upstream.requests().pop().unwrap().to_ascii_lowercase();
    let from = request.lines().find_map(|line| line.strip_prefix("x-forwarded-for: "));
    from.unwrap_or_else(|| panic!("{request}")).to_owned()
}

#[tokio::test]
async fn a_trusted_proxy_says_whom_a_connection_is_from() {
    let (upstream, _cluster, address) = behind("127.0.0.0/8", "", false).await;
    for (header, from) in [
        (LINE.as_bytes().to_vec(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n".to_vec(), "2001:db8::9"),
        (version_2(0x21, &[]), "203.0.113.9"),
        (version_2(0x21, &[4; 300]), "203.0.113.9"),
        // The proxy itself, which is trusted to say more.
        (version_2(0x20, &[]), "6.6.6.6, 127.0.0.1"),
        // Whom it does not know, it does not vouch for.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let answer = raw(address, [&header, GET.as_bytes()].concat()).await;
        assert_eq!(answer.status, 200, "{}", answer.raw);
        assert_eq!(told(&upstream), from, "{header:?}");
        // A byte at a time.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in header {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(Answer::parse(&read_all(&mut stream).await).status, 200);
        assert_eq!(told(&upstream), from);
    }
}

#[tokio::test]
async fn without_a_good_header_a_proxys_connection_is_closed_unanswered() {
    let (upstream, cluster, address) = behind("127.0.0.1/32", "", false).await;
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
    let mut oversized = version_2(0x21, &[]);
    oversized[14] = 0x40;
    let wrong = [
        GET.as_bytes().to_vec(),
        b"PROXY TCP4 203.0.113.9\r\n".to_vec(),
        long.into_bytes(),
        version_2(0x31, &[]),
        oversized,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ];
    for header in &wrong {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(&[header, GET.as_bytes()].concat()).await;
        let mut read = Vec::new();
        let _ = timeout(Duration::from_secs(4), stream.read_to_end(&mut read)).await.expect("it is closed at once");
        assert_eq!(read, b"", "{}", String::from_utf8_lossy(&read));
    }
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"PROXY TCP4 203").await.unwrap();
    let ended = timeout(Duration::from_secs(20), silent.read(&mut [0; 8])).await.expect("it stays open");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(upstream.requests().is_empty());
    let counted = format!("tollgate_proxy_headers_refused_total {}", wrong.len() + 1);
    assert!(cluster.metrics().contains(&counted), "{}", cluster.metrics());
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let (upstream, _cluster, address) = behind("10.0.0.0/8", "", false).await;
    let answer = raw(address, format!("{LINE}{GET}")).await;
    assert_eq!(answer.status, 400, "{}", answer.raw);
    let answer = raw(address, [&version_2(0x21, &[]), GET.as_bytes()].concat()).await;
    assert_eq!(answer.status, 400, "{}", answer.raw);
    assert_eq!(raw(address, GET).await.status, 200);
    assert_eq!((told(&upstream).as_str(), upstream.requests().len()), ("127.0.0.1", 1));
}

#[tokio::test]
async fn it_comes_before_tls() {
    let authority = Authority::new();
    let more = resource("a", "a.test", &authority.issue(&["a.test"]), "");
    let (upstream, _cluster, address) = behind("127.0.0.1/32", &more, true).await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(LINE.as_bytes()).await.unwrap();
    let mut stream = connect(tcp, &client(&authority, None), "a.test").await.unwrap();
    assert_eq!(last(&mut stream, GET.to_owned()).await.unwrap().status, 200);
    assert_eq!(told(&upstream), "203.0.113.9");
}
