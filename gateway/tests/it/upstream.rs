//! Upstreams that do what a test tells them, on raw sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// What an upstream does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Sends this and keeps the connection.
    Keep(String),
    /// Sends this and closes.
    Close(String),
    /// Sends this and resets the connection.
    Reset(String),
    /// Sends this and then nothing, for as long as the other side stays.
    Hang(String),
    /// Sends the first and then the second again and again.
    Endless(String, String),
    /// The same, fifty times a second.
    Drip(String, String),
    /// Sends the first, then the others one after the other, each after that time, and keeps the connection.
    Paced(String, Vec<String>, std::time::Duration),
}

/// A running upstream.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// Requests, whole.
    pub(crate) received: Arc<Mutex<Vec<String>>>,
    /// Connections open now.
    pub(crate) open: Arc<AtomicUsize>,
    /// The most that were at once.
    pub(crate) most_open: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Upstream {
    /// Answers each request with what `reply` says to its text.
    pub(crate) async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), reply)
    }

    /// The same, where the test wants it.
    pub(crate) fn on(listener: TcpListener, reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let (received, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let tasks = TaskTracker::new();
        let most_open = Arc::new(AtomicUsize::new(0));
        let shared = (Arc::new(reply), Arc::clone(&received), Arc::clone(&open));
        let most = Arc::clone(&most_open);
        let connections = tasks.clone();
        let accepting = tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, received, open) = (Arc::clone(&shared.0), Arc::clone(&shared.1), Arc::clone(&shared.2));
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                connections.spawn(async move {
                    let _ = converse(stream, &*reply, &received).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, received, open, most_open, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The same answer to everything.
    pub(crate) async fn always(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.received.lock().clone()
    }
}

async fn converse(
    mut stream: TcpStream,
    reply: &(dyn Fn(&str) -> Reply + Send + Sync),
    received: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        while !is_whole(&buffer) {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let request = String::from_utf8_lossy(&std::mem::take(&mut buffer)).into_owned();
        received.lock().push(request.clone());
        match reply(&request) {
            Reply::Keep(text) => stream.write_all(text.as_bytes()).await?,
            Reply::Close(text) => {
                stream.write_all(text.as_bytes()).await?;
                return stream.shutdown().await;
            }
            Reply::Reset(text) => {
                stream.write_all(text.as_bytes()).await?;
                // Let it arrive before the reset overtakes it.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                return SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
            }
            Reply::Hang(text) => {
                stream.write_all(text.as_bytes()).await?;
                while stream.read_buf(&mut buffer).await? > 0 {}
                return Ok(());
            }
            Reply::Paced(head, pieces, every) => {
                stream.write_all(head.as_bytes()).await?;
                for piece in pieces {
                    tokio::time::sleep(every).await;
                    stream.write_all(piece.as_bytes()).await?;
                }
            }
            Reply::Drip(head, more) => {
                stream.write_all(head.as_bytes()).await?;
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    stream.write_all(more.as_bytes()).await?;
                }
            }
            Reply::Endless(head, more) => {
                stream.write_all(head.as_bytes()).await?;
                loop {
                    stream.write_all(more.as_bytes()).await?;
                }
            }
        }
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n") || body.contains("\r\n0\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    body.len() >= length.unwrap_or(0)
}

/// An HTTP answer with a length.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

pub(crate) fn json(body: &str) -> String {
    answer(200, "content-type: application/json\r\n", body)
}

/// The head of a stream and its events, each in a chunk of its own; without the last chunk.
pub(crate) fn events(events: &[&str]) -> String {
    let chunk = |event: &&str| format!("{:x}\r\n{event}\r\n", event.len());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    head.to_owned() + &events.iter().map(chunk).collect::<String>()
}
