//! A client of the realtime API: its own frames, over HTTP/1.1 or as one stream of HTTP/2.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use hyper::{client, ext::Protocol, upgrade};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [7, 1, 250, 99];
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// What a server says.
#[derive(Debug)]
pub(super) enum Told {
    Event(Value),
    /// A close, with its code.
    Closed(u16),
    /// The connection has ended.
    Gone,
}

/// An open session.
pub(super) struct Socket {
    wire: Box<dyn Wire>,
    /// The head of the answer, in lower case.
    pub(super) head: String,
    _driving: JoinSet<()>,
}

impl Socket {
    /// Asks a node over HTTP/1.1, with more header lines; the answer's head where it does not agree.
    pub(super) async fn ask(address: SocketAddr, model: &str, lines: &str) -> anyhow::Result<Result<Socket, String>> {
        let mut stream = TcpStream::connect(address).await?;
        let asked = format!(
            "GET /v1/realtime?model={model} HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\nsec-websocket-extensions: permessage-deflate\r\n{lines}\r\n"
        );
        stream.write_all(asked.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await??);
        }
        let head = String::from_utf8(head)?.to_lowercase();
        if !head.starts_with("http/1.1 101 ") {
            return Ok(Err(head));
        }
        anyhow::ensure!(!head.contains("sec-websocket-extensions"), "{head}");
        Ok(Ok(Socket { wire: Box::new(stream), head, _driving: JoinSet::new() }))
    }

    /// One that is agreed to, for an API key.
    pub(super) async fn open(address: SocketAddr, model: &str, key: &str) -> anyhow::Result<Socket> {
        let asked = Socket::ask(address, model, &format!("authorization: Bearer {key}\r\n")).await?;
        asked.map_err(|head| anyhow::anyhow!("not agreed to: {head}"))
    }

    /// The same as one stream of HTTP/2 (RFC 8441).
    pub(super) async fn over_http2(address: SocketAddr, model: &str, key: &str) -> anyhow::Result<Socket> {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let mut driving = JoinSet::new();
        driving.spawn(async move { drop(connection.await) });
        // The server's settings allow it once they are here.
        let first = Request::get("http://test/v1/models").body(Empty::<Bytes>::new())?;
        timeout(PATIENCE, sender.send_request(first)).await??;
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("http://test/v1/realtime?model={model}"))
            .header("sec-websocket-version", "13")
            .header("authorization", format!("Bearer {key}"))
            .body(Empty::new())?;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let answer = timeout(PATIENCE, sender.send_request(request)).await??;
        anyhow::ensure!(answer.status() == 200, "{answer:?}");
        let head = format!("{:?}", answer.headers()).to_lowercase();
        let wire = Box::new(TokioIo::new(timeout(PATIENCE, upgrade::on(answer)).await??));
        driving.spawn(async move {
            let _kept = sender;
            std::future::pending::<()>().await;
        });
        Ok(Socket { wire, head, _driving: driving })
    }

    pub(super) async fn say(&mut self, event: &Value) -> anyhow::Result<()> {
        self.send(0x1, event.to_string().as_bytes()).await
    }

    pub(super) async fn send(&mut self, opcode: u8, data: &[u8]) -> anyhow::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match (u8::try_from(data.len()), u16::try_from(data.len())) {
            (Ok(short), _) if short < 126 => frame.push(0x80 | short),
            (_, Ok(medium)) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(data.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(data.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        Ok(timeout(PATIENCE, self.wire.write_all(&frame)).await??)
    }

    async fn exactly(&mut self, length: usize) -> anyhow::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; length];
        match timeout(PATIENCE, self.wire.read_exact(&mut bytes)).await? {
            Ok(_) => Ok(Some(bytes)),
            Err(_) => Ok(None),
        }
    }

    /// What comes next.
    pub(super) async fn hear(&mut self) -> anyhow::Result<Told> {
        let Some(head) = self.exactly(2).await? else { return Ok(Told::Gone) };
        anyhow::ensure!(head[1] & 0x80 == 0, "a server masks nothing");
        let wide = match head[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let told = self.exactly(wide).await?.unwrap_or_default();
        let length = told.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        let length = if wide == 0 { usize::from(head[1]) } else { usize::try_from(length)? };
        let Some(data) = self.exactly(length).await? else { return Ok(Told::Gone) };
        match head[0] {
            0x81 => Ok(Told::Event(serde_json::from_slice(&data)?)),
            0x88 => Ok(Told::Closed(data.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code)))),
            other => anyhow::bail!("a frame of kind {other:x}: {data:?}"),
        }
    }

    /// The next event of this type.
    pub(super) async fn until(&mut self, kind: &str) -> anyhow::Result<Value> {
        loop {
            match self.hear().await? {
                Told::Event(event) if event["type"] == kind => return Ok(event),
                Told::Event(event) => anyhow::ensure!(event["type"] != "error", "{event} instead of {kind}"),
                other => anyhow::bail!("{other:?} instead of {kind}"),
            }
        }
    }

    /// What the session is closed with, and the last error before it.
    pub(super) async fn until_closed(&mut self) -> anyhow::Result<(u16, Value)> {
        let mut error = Value::Null;
        loop {
            match self.hear().await? {
                Told::Event(event) if event["type"] == "error" => error = event["error"].clone(),
                Told::Event(_) => {}
                Told::Closed(code) => return Ok((code, error)),
                Told::Gone => anyhow::bail!("it is gone without a close"),
            }
        }
    }

    /// A message of the user's with so many words.
    pub(super) async fn write(&mut self, words: usize) -> anyhow::Result<()> {
        let content = json!([{"type": "input_text", "text": "word ".repeat(words)}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        self.say(&json!({"type": "conversation.item.create", "item": item})).await
    }

    /// So many times 100 ms of sound: silence, or speech.
    pub(super) async fn sound(&mut self, times: usize, speaks: bool) -> anyhow::Result<()> {
        let audio = if speaks { "//8A" } else { "AAAA" }.repeat(1_600);
        for _ in 0..times {
            self.say(&json!({"type": "input_audio_buffer.append", "audio": audio})).await?;
        }
        Ok(())
    }

    /// Asks for a response, with a name for the request and a bound, and waits for its end.
    pub(super) async fn respond(&mut self, max: u64) -> anyhow::Result<Value> {
        self.say(&json!({"type": "response.create", "response": {"max_output_tokens": max}})).await?;
        self.until("response.done").await
    }
}
