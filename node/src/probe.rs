//! Asks a node's admin port whether the node is ready.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// More than a status line needs.
const ANSWER_BYTES: usize = 64;

/// Whether `GET /readyz` answers 200. Any trouble on the way is a no; the caller sets the time limit.
pub(crate) async fn is_ready(admin: SocketAddr) -> bool {
    status_line(admin).await.is_ok_and(|line| line.starts_with(b"HTTP/1.1 200"))
}

async fn status_line(admin: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    let limit = u64::try_from(ANSWER_BYTES).expect("a small constant");
    stream.take(limit).read_to_end(&mut answer).await?;
    Ok(answer)
}
