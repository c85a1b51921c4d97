//! Raw HTTP/1 clients.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// As it was on the wire; chunks are joined.
    pub(crate) body: String,
    pub(crate) raw: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.raw))
    }

    /// The code of an error in either envelope.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn parse(raw: &[u8]) -> Self {
        let raw = String::from_utf8_lossy(raw).into_owned();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer in {raw:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { join(body) } else { body.to_owned() };
        Self { status, head: head.to_owned(), body, raw: raw.clone() }
    }
}

fn join(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || rest.len() < size + 2 {
            break;
        }
        body += &rest[..size];
        chunks = &rest[size + 2..];
    }
    body
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(request.as_ref()).await;
    Answer::parse(&read_all(&mut stream).await)
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let done = timeout(Duration::from_secs(30), stream.read_to_end(&mut read)).await;
    assert!(done.is_ok(), "the connection stays open after {:?}", String::from_utf8_lossy(&read));
    read
}

/// Reads until `needle` has come.
pub(crate) async fn read_until(stream: &mut TcpStream, needle: &str) -> String {
    let mut read = Vec::new();
    let wait = async {
        while !String::from_utf8_lossy(&read).contains(needle) {
            if stream.read_buf(&mut read).await.unwrap() == 0 {
                break;
            }
        }
    };
    let done = timeout(Duration::from_secs(20), wait).await;
    let text = String::from_utf8_lossy(&read).into_owned();
    assert!(done.is_ok() && text.contains(needle), "no {needle:?} in {text:?}");
    text
}

pub(crate) async fn get(address: SocketAddr, path: &str, headers: &str) -> Answer {
    raw(address, format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n")).await
}

pub(crate) fn post_text(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// A call of alice's.
pub(crate) async fn call(address: SocketAddr, path: &str, body: &str) -> Answer {
    raw(address, post_text(path, "authorization: Bearer sk-alice\r\n", body)).await
}
