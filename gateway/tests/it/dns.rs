//! Endpoints that are given by a name, and a name server that answers well, late, wrongly, or not at all.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, sleep},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_gateway::{DnsConfig, GatewayConfig};

use crate::{
    balancing::ROUTE,
    clients::{Answer, get, read_until},
    cluster::{Cluster, until},
    health::figure,
    upstream::{Reply, Upstream, answer},
};

/// What a name server says to whoever asks for an IPv4 address; there are no others, but where it says so.
#[derive(Debug, Clone)]
enum Says {
    /// With a TTL of a second.
    Addresses(Vec<Ipv4Addr>),
    Both(Vec<Ipv4Addr>, Vec<Ipv6Addr>),
    /// Over UDP that it is too long, over TCP these.
    Truncated(Vec<Ipv4Addr>),
    Late(Duration, Vec<Ipv4Addr>),
    Code(u8),
    Empty,
    Nothing,
    /// These, in an answer to what nobody has asked.
    OtherId(Vec<Ipv4Addr>),
    OtherQuestion(Vec<Ipv4Addr>),
    /// These, as another name's, in an answer to what was asked.
    OtherOwner(Vec<Ipv4Addr>),
    Garbage,
}

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl NameServer {
    async fn start(says: Says) -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (Arc::new(socket), listener);
            }
        };
        let (address, says) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(says)));
        let (asked, tasks) = (Arc::new(AtomicUsize::new(0)), TaskTracker::new());
        let (said, counted, answers) = (Arc::clone(&says), Arc::clone(&asked), tasks.clone());
        let serving = tasks.spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let told = tokio::select! {
                    Ok((length, from)) = socket.recv_from(&mut buffer) => Ok((length, from)),
                    Ok((stream, _)) = listener.accept() => Err(stream),
                    else => return,
                };
                let says = said.lock().clone();
                counted.fetch_add(1, Ordering::SeqCst);
                match told {
                    Ok((length, from)) => {
                        let (query, socket) = (buffer[..length].to_vec(), Arc::clone(&socket));
                        answers.spawn(async move {
                            if let Some(reply) = reply(&query, says, false).await {
                                let _ = socket.send_to(&reply, from).await;
                            }
                        });
                    }
                    Err(stream) => drop(answers.spawn(over_tcp(stream, says))),
                }
            }
        });
        Self { address, says, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    fn say(&self, says: Says) {
        *self.says.lock() = says;
    }

    /// Waits until it was asked again, so that what it said before is known.
    async fn asked_again(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        until("another question", || self.asked.load(Ordering::SeqCst) > before + 1).await;
    }
}

/// Records of these addresses, of the type that was asked for.
fn records(kind: &[u8], v4: &[Ipv4Addr], v6: &[Ipv6Addr]) -> Vec<Vec<u8>> {
    match kind {
        [0, 1] => v4.iter().map(|it| it.octets().to_vec()).collect(),
        _ => v6.iter().map(|it| it.octets().to_vec()).collect(),
    }
}

async fn reply(query: &[u8], says: Says, over_tcp: bool) -> Option<Vec<u8>> {
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let (question, kind) = (query.get(12..end + 4)?, query.get(end..end + 2)?);
    let message = |id: &[u8], flags: [u8; 2], question: &[u8], owner: &[u8], records: Vec<Vec<u8>>| {
        let count = u8::try_from(records.len()).unwrap();
        let mut message = [id, &flags, &[0, 1, 0, count, 0, 0, 0, 0], question].concat();
        for record in records {
            let length = u8::try_from(record.len()).unwrap();
            message.extend([owner, kind, &[0, 1, 0, 0, 0, 1, 0, length], &record].concat());
        }
        message
    };
    let (id, fine, same, other) = (&query[..2], [0x81, 0x80], &[0xc0, 12][..], &b"\x05other\x04test\0"[..]);
    let said = |v4: &[Ipv4Addr], v6: &[Ipv6Addr]| message(id, fine, question, same, records(kind, v4, v6));
    Some(match says {
        Says::Code(code) => message(id, [0x81, 0x80 | code], question, same, Vec::new()),
        Says::Nothing => return None,
        Says::Garbage => [id, &[0xff; 40]].concat(),
        Says::Addresses(v4) => said(&v4, &[]),
        Says::Both(v4, v6) => said(&v4, &v6),
        Says::Late(late, v4) => {
            if kind == [0, 1] {
                sleep(late).await;
            }
            said(&v4, &[])
        }
        Says::Truncated(v4) if over_tcp => said(&v4, &[]),
        Says::Truncated(_) => message(id, [0x83, 0x80], question, same, Vec::new()),
        Says::Empty => said(&[], &[]),
        Says::OtherId(v4) => message(&[!id[0], id[1]], fine, question, same, records(kind, &v4, &[])),
        Says::OtherQuestion(v4) => message(id, fine, &[other, kind, &[0, 1]].concat(), same, records(kind, &v4, &[])),
        Says::OtherOwner(v4) => message(id, fine, question, other, records(kind, &v4, &[])),
    })
}

/// One message each, with its length before it (RFC 1035 §4.2.2).
async fn over_tcp(mut stream: TcpStream, says: Says) -> io::Result<()> {
    let mut query = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut query).await?;
    let reply = reply(&query, says, true).await.unwrap_or_default();
    stream.write_u16(u16::try_from(reply.len()).unwrap()).await?;
    stream.write_all(&reply).await?;
    stream.read_u8().await.map(drop) // until it is closed
}

/// Hosts on the same port, each of which says its number; the last of `count` has nobody on it if `vacant`.
async fn hosts(count: u8, vacant: bool) -> (Vec<Upstream>, u16, Vec<Ipv4Addr>) {
    let addresses: Vec<Ipv4Addr> = (0..count).map(|n| Ipv4Addr::new(127, 0, 7, 10 + n)).collect();
    let taken = if vacant { &addresses[..addresses.len() - 1] } else { &addresses[..] };
    'port: loop {
        let first = TcpListener::bind((taken[0], 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut listeners = vec![first];
        for address in &taken[1..] {
            match TcpListener::bind((*address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'port,
            }
        }
        let says = |(n, listener): (usize, TcpListener)| {
            Upstream::on(listener, move |request: &str| match request.starts_with("GET /slow") {
                true => Reply::Paced(
                    "HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\n".to_owned(),
                    ["s", "l", "o", "w"].map(str::to_owned).to_vec(),
                    Duration::from_millis(1_200),
                ),
                false => Reply::Keep(answer(200, "", &n.to_string())),
            })
        };
        return (listeners.into_iter().enumerate().map(says).collect(), port, addresses);
    }
}

fn by(server: &NameServer) -> impl FnOnce(&mut GatewayConfig) {
    let (nameservers, timeout) = (vec![server.address], Some(Duration::from_millis(1_500)));
    move |config| config.dns = DnsConfig { nameservers, timeout, prefer_ipv6: false }
}

async fn start(server: &NameServer, port: u16, more: &str) -> Cluster {
    Cluster::start_with(&service(port, more), by(server)).await
}

fn service(port: u16, more: &str) -> String {
    let endpoints = format!("endpoints: [{{address: 'svc.test:{port}'}}]");
    format!("kind: Service\nmetadata: {{name: s}}\nspec: {{{endpoints}{more}}}\n{ROUTE}")
}

fn lookups(cluster: &Cluster, result: &str) -> u64 {
    figure(
        cluster,
        &format!("tollgate_upstream_dns_lookups_total{{upstream=\"s\",kind=\"service\",result=\"{result}\"}}"),
    )
}

fn stale(cluster: &Cluster) -> u64 {
    figure(cluster, "tollgate_upstream_dns_stale_names{upstream=\"s\",kind=\"service\"}")
}

fn fit(cluster: &Cluster) -> u64 {
    figure(cluster, "tollgate_upstream_endpoints{upstream=\"s\",kind=\"service\",state=\"fit\"}")
}

/// Who answers so many requests, each of which is answered well and soon.
async fn served(cluster: &Cluster, count: usize) -> Vec<String> {
    let mut served = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let answer: Answer = get(cluster.address, "/", "").await;
        assert_eq!(answer.status, 200, "{}", answer.raw);
        assert!(began.elapsed() < Duration::from_millis(1_200), "it waited for a name");
        served.push(answer.body);
    }
    served.sort();
    served.dedup();
    served
}

#[tokio::test]
async fn each_address_of_a_name_has_requests_until_the_answer_has_others() {
    let (upstreams, port, addresses) = hosts(3, false).await;
    let server = NameServer::start(Says::Addresses(addresses[..2].to_vec())).await;
    let cluster = start(&server, port, "").await;
    assert_eq!(get(cluster.address, "/", "").await.status, 200, "the first request waits for the first answer");
    until("both addresses", || fit(&cluster) == 2).await;
    assert_eq!(served(&cluster, 4).await, ["0", "1"]);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
        streams.push(stream);
    }
    for stream in &mut streams {
        read_until(stream, "\r\n\r\n").await;
    }
    server.say(Says::Addresses(addresses[1..].to_vec()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while served(&cluster, 4).await != ["1", "2"] {
        assert!(Instant::now() < deadline, "the answer is over for long");
    }
    let before = upstreams[0].requests().len();
    assert_eq!(served(&cluster, 10).await, ["1", "2"]);
    assert_eq!((upstreams[0].requests().len(), fit(&cluster)), (before, 2));
    for stream in &mut streams {
        assert!(read_until(stream, "w").await.ends_with("slow"), "what was under way ends well");
    }
    assert_eq!(stale(&cluster), 0);
}

#[tokio::test]
async fn what_is_known_of_a_name_is_kept_whatever_becomes_of_its_name_server() {
    let (_upstreams, port, addresses) = hosts(3, false).await;
    let (known, other) = (addresses[..2].to_vec(), addresses[2..].to_vec());
    let server = NameServer::start(Says::Addresses(known.clone())).await;
    let cluster = start(&server, port, "").await;
    until("both addresses", || fit(&cluster) == 2).await;
    let nowhere = Says::Addresses(vec![Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST]);
    for (says, result) in [
        (Says::Code(SERVFAIL), "failed"),
        (Says::Code(REFUSED), "failed"),
        (Says::Code(NXDOMAIN), "empty"),
        (Says::Empty, "empty"),
        (Says::Nothing, "failed"),
        (Says::Late(Duration::from_secs(5), other.clone()), "failed"),
        (Says::OtherId(other.clone()), "failed"),
        (Says::OtherQuestion(other.clone()), "failed"),
        (Says::OtherOwner(other.clone()), "empty"),
        (Says::Garbage, "failed"),
        (nowhere, "answered"),
    ] {
        let before = lookups(&cluster, result);
        server.say(says.clone());
        until(&format!("{says:?} to be known"), || stale(&cluster) == 1 && lookups(&cluster, result) > before).await;
        assert_eq!(served(&cluster, 6).await, ["0", "1"], "{says:?}");
        assert_eq!(fit(&cluster), 2, "{says:?}");
        server.say(Says::Addresses(known.clone()));
        until("a good answer", || stale(&cluster) == 0).await;
    }
    server.say(Says::Code(SERVFAIL));
    until("it to fail", || stale(&cluster) == 1).await;
    // A change of the configuration has nobody ask anew.
    cluster.apply(&service(port, ", loadBalancing: {policy: random}"));
    assert_eq!((served(&cluster, 20).await, stale(&cluster)), (vec!["0".to_owned(), "1".to_owned()], 1));
    server.say(Says::Addresses(other));
    until("another answer", || fit(&cluster) == 1).await;
    assert_eq!(served(&cluster, 4).await, ["2"]);
}

#[tokio::test]
async fn where_nobody_listens_on_an_address_the_others_take_over() {
    let (upstreams, port, addresses) = hosts(3, true).await;
    let server = NameServer::start(Says::Addresses(addresses)).await;
    let cluster = start(&server, port, ", outlierDetection: {consecutiveErrors: 3}").await;
    until("all addresses", || fit(&cluster) == 3).await;
    assert_eq!(served(&cluster, 12).await, ["0", "1"]);
    assert_eq!(fit(&cluster), 2, "and it is left alone");
    assert_eq!(upstreams.iter().map(|it| it.requests().len()).sum::<usize>(), 12);
}

#[tokio::test]
async fn a_request_waits_for_the_first_answer_and_no_longer_than_for_that() {
    let (_upstreams, port, addresses) = hosts(1, false).await;
    let server = NameServer::start(Says::Late(Duration::from_millis(150), addresses.clone())).await;
    let cluster = start(&server, port, "").await;
    assert_eq!(get(cluster.address, "/", "").await.body, "0");
    let server = NameServer::start(Says::Code(NXDOMAIN)).await;
    let cluster = start(&server, port, "").await;
    assert_eq!(get(cluster.address, "/", "").await.status, 502);
    // Nobody waits for what is known not to be there.
    until("it to be known", || lookups(&cluster, "empty") > 0).await;
    let began = Instant::now();
    assert_eq!(get(cluster.address, "/", "").await.status, 502);
    assert!(began.elapsed() < Duration::from_millis(1_200));
    server.say(Says::Addresses(addresses));
    until("an answer", || lookups(&cluster, "answered") > 0).await;
    assert_eq!(served(&cluster, 3).await, ["0"]);
}

#[tokio::test]
async fn nobody_asks_for_a_name_that_is_no_longer_there() {
    let (_upstreams, port, addresses) = hosts(1, false).await;
    let server = NameServer::start(Says::Addresses(addresses)).await;
    let cluster = start(&server, port, "").await;
    server.asked_again().await;
    cluster.apply(&format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{endpoints: [{{address: '127.0.0.1:{port}'}}]}}\n"
    ));
    let asked = server.asked.load(Ordering::SeqCst);
    sleep(Duration::from_millis(2_500)).await; // nothing is to happen
    assert!(server.asked.load(Ordering::SeqCst) <= asked + 1);
}

#[tokio::test]
async fn one_family_counts_where_a_name_has_both() {
    let (_v4, port, addresses) = hosts(1, false).await;
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.unwrap();
    let _v6 = Upstream::on(listener, |_: &str| Reply::Keep(answer(200, "", "v6")));
    for (v4, prefer_ipv6, expected) in [(&addresses[..], false, "0"), (&addresses, true, "v6"), (&[], false, "v6")] {
        let server = NameServer::start(Says::Both(v4.to_vec(), vec![Ipv6Addr::LOCALHOST])).await;
        let by_both = |config: &mut GatewayConfig| {
            by(&server)(config);
            config.dns.prefer_ipv6 = prefer_ipv6;
        };
        let cluster = Cluster::start_with(&service(port, ""), by_both).await;
        assert_eq!(served(&cluster, 4).await, [expected]);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_udp_comes_over_tcp() {
    let (_upstreams, port, addresses) = hosts(1, false).await;
    let server = NameServer::start(Says::Truncated(addresses)).await;
    let cluster = start(&server, port, "").await;
    assert_eq!(get(cluster.address, "/", "").await.body, "0");
    assert_eq!(lookups(&cluster, "failed"), 0);
}
