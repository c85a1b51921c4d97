//! A server for one test, and a client that sees every byte.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use tollgate_mock_llm::{Options, Record, Summary, serve};

/// Far more than anything here takes; whoever waits longer hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Mock {
    pub(crate) address: std::net::SocketAddr,
    _tasks: JoinSet<std::io::Result<()>>,
}

impl Mock {
    pub(crate) async fn start(options: Options) -> Mock {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, options, CancellationToken::new()));
        Mock { address, _tasks: tasks }
    }

    pub(crate) async fn post(&self, path: &str, headers: &str, body: &Value) -> Answer {
        self.send(&request("POST", path, headers, &body.to_string())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(&request("GET", path, "", "")).await
    }

    pub(crate) async fn send(&self, request: &str) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let end = time::timeout(DEADLINE, socket.read_to_end(&mut bytes)).await.expect("an end of the answer");
        Answer { bytes, reset: end.is_err() }
    }

    pub(crate) async fn witness(&self) -> Summary {
        serde_json::from_str(&self.get("/__mock/witness").await.body()).unwrap()
    }

    /// The records once none of them is active.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let settled = async {
            loop {
                if self.witness().await.total.active == 0 {
                    return serde_json::from_str(&self.get("/__mock/requests").await.body()).unwrap();
                }
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(DEADLINE, settled).await.expect("all calls end")
    }
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) reset: bool,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        String::from_utf8_lossy(&self.bytes).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn head(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        text.split_once("\r\n\r\n").map(|(head, _)| head.to_owned()).unwrap_or(text)
    }

    /// The body, with its chunks joined.
    pub(crate) fn body(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        if self.head().contains("transfer-encoding: chunked") { joined(&body) } else { body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body()).unwrap_or_else(|_| panic!("not JSON: {}", self.body()))
    }

    /// The data of each event.
    pub(crate) fn events(&self) -> Vec<String> {
        self.body().lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect()
    }

    /// Whether the chunks came to their end.
    pub(crate) fn is_complete(&self) -> bool {
        self.bytes.ends_with(b"\r\n0\r\n\r\n")
    }
}

fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 || rest.len() < size {
            break;
        }
        body.push_str(&rest[..size]);
        chunks = rest[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    body
}
