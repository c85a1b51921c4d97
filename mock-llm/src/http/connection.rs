//! One connection: requests in, bytes out, and whether the client is still there.

use std::{future, io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use super::{
    reason,
    request::{Framing, Request},
};

/// The most bytes of a head.
const HEAD_BYTES: usize = 256 << 10;
/// The most bytes of a body: well over what a gateway lets through.
const BODY_BYTES: usize = 64 << 20;

/// The client is no longer there, or what it sent can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Gone {
        Gone
    }
}

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    /// Read, but not used yet.
    input: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(socket: TcpStream) -> io::Result<Connection> {
        socket.set_nodelay(true)?;
        Ok(Connection { socket, input: Vec::new() })
    }

    /// What is left of it once it is switched to another protocol, with what was read ahead.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.input)
    }

    /// The next request. `Ok(None)` when the client closed between two of them.
    pub(crate) async fn read_request(&mut self) -> Result<Option<Request>, Gone> {
        let end = loop {
            if let Some(at) = find(&self.input, b"\r\n\r\n") {
                break at + 4;
            }
            if self.input.len() > HEAD_BYTES {
                return Err(Gone);
            }
            if self.fill().await? == 0 {
                return if self.input.is_empty() { Ok(None) } else { Err(Gone) };
            }
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let mut request = Request::parse(&head).ok_or(Gone)?;
        let framing = request.framing().ok_or(Gone)?;
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body = match framing {
            Framing::Length(length) => self.take(usize::try_from(length).map_err(|_| Gone)?).await?,
            Framing::Chunked => self.read_chunks().await?,
        };
        Ok(Some(request))
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, Gone> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| Gone)?;
            if size == 0 {
                while !self.read_line().await?.is_empty() {}
                return Ok(body);
            }
            if body.len().saturating_add(size) > BODY_BYTES {
                return Err(Gone);
            }
            body.extend_from_slice(&self.take(size).await?);
            if !self.read_line().await?.is_empty() {
                return Err(Gone);
            }
        }
    }

    async fn read_line(&mut self) -> Result<String, Gone> {
        loop {
            if let Some(at) = find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).map_err(|_| Gone);
            }
            if self.input.len() > HEAD_BYTES || self.fill().await? == 0 {
                return Err(Gone);
            }
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Gone> {
        if length > BODY_BYTES {
            return Err(Gone);
        }
        while self.input.len() < length {
            if self.fill().await? == 0 {
                return Err(Gone);
            }
        }
        Ok(self.input.drain(..length).collect())
    }

    async fn fill(&mut self) -> Result<usize, Gone> {
        self.input.reserve(16 << 10);
        Ok(self.socket.read_buf(&mut self.input).await?)
    }

    /// Writes everything, or finds that the client is gone.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        Ok(self.socket.write_all(bytes).await?)
    }

    /// Waits, unless the client leaves first.
    pub(crate) async fn wait(&mut self, time: Duration) -> Result<(), Gone> {
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = time::sleep(time) => Ok(()),
            () = self.gone() => Err(Gone),
        }
    }

    /// Returns when the client has closed its side.
    pub(crate) async fn gone(&self) {
        let mut byte = [0];
        match self.socket.peek(&mut byte).await {
            Ok(0) | Err(_) => (),
            // A request sent ahead: as long as it lies there, a close behind it can't be seen.
            Ok(_) => future::pending().await,
        }
    }

    /// Writes an answer with a known length.
    pub(crate) async fn respond(&mut self, status: u16, headers: &str, body: &[u8]) -> Result<(), Gone> {
        let mut bytes = head(status, &format!("{headers}content-length: {}\r\n", body.len()));
        bytes.extend_from_slice(body);
        self.write(&bytes).await
    }

    /// Writes the head of an answer that comes in chunks.
    pub(crate) async fn begin_chunks(&mut self, status: u16, headers: &str) -> Result<(), Gone> {
        self.write(&head(status, &format!("{headers}transfer-encoding: chunked\r\n"))).await
    }

    /// Writes one chunk.
    pub(crate) async fn chunk(&mut self, data: &[u8]) -> Result<(), Gone> {
        let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\r\n");
        self.write(&bytes).await
    }

    /// Writes the end of an answer in chunks.
    pub(crate) async fn end_chunks(&mut self) -> Result<(), Gone> {
        self.write(b"0\r\n\r\n").await
    }

    /// Ends the connection with a reset; what the client has not read yet is lost.
    pub(crate) fn reset(self) {
        // Without it the close is an ordinary one, which the caller can't do anything about.
        let _ = self.socket.set_zero_linger();
    }

    /// Ends the connection in order: everything written arrives.
    pub(crate) async fn close(mut self) {
        let _ = self.socket.shutdown().await;
        // A close with unread bytes would be a reset, so read what the client still sends, for a moment.
        let rest = async { while matches!(self.socket.read(&mut [0; 4096]).await, Ok(1..)) {} };
        let _ = time::timeout(Duration::from_secs(1), rest).await;
    }
}

/// The head of an answer; `headers` are whole lines.
pub(crate) fn head(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} {}\r\n{headers}\r\n", reason(status)).into_bytes()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
