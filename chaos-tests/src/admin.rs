//! The admin API as a program calls it: gRPC-Web, with messages written by hand, as the witness shares no code with what it judges.
//! A verb of the program takes some 50 ms to start; a storm of changes has no time for that.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use crate::client::{self, Client, LIMIT};

/// So long a call whose outcome is unknown is made again, by the same request id.
const TRIES_LAST: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// <https://grpc.io/docs/guides/status-codes/>
const ABORTED: u32 = 10;
const UNAVAILABLE: u32 = 14;
/// The flag of a frame that holds trailers (gRPC-Web).
const TRAILERS: u8 = 0x80;

/// A message of protobuf, field by field.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// None of its fields yet.
    pub fn new() -> Message {
        Message::default()
    }

    /// With a field of bytes, text or a message.
    #[must_use]
    pub fn with(mut self, field: u64, value: impl AsRef<[u8]>) -> Message {
        let value = value.as_ref();
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// With a field that is a number.
    #[must_use]
    pub fn number(mut self, field: u64, value: u64) -> Message {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, value);
        self
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        to.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.push(value.to_le_bytes()[0]);
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *from.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Numbers, and bytes, of one field in a message; what can't be read ends it.
fn fields(mut message: &[u8], wanted: u64) -> (Vec<u64>, Vec<&[u8]>) {
    let (mut numbers, mut parts) = (Vec::new(), Vec::new());
    while let Some(tag) = take_varint(&mut message) {
        let is_wanted = tag >> 3 == wanted;
        match tag & 7 {
            0 => match take_varint(&mut message) {
                Some(number) if is_wanted => numbers.push(number),
                Some(_) => {}
                None => break,
            },
            2 => {
                let size = take_varint(&mut message).and_then(|size| usize::try_from(size).ok());
                let Some(part) = size.and_then(|size| message.split_off(..size)) else { break };
                if is_wanted {
                    parts.push(part);
                }
            }
            _ => break,
        }
    }
    (numbers, parts)
}

/// The field's number; 0 where it is not there, as in proto3.
fn number(message: &[u8], field: u64) -> u64 {
    fields(message, field).0.last().copied().unwrap_or(0)
}

/// The kinds of resources; each is the field of `Resource` that it stands in.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Service = 1,
    Provider = 2,
    Route = 3,
    Tenant = 4,
    Consumer = 5,
    Limit = 6,
    Price = 7,
    Certificate = 8,
}

/// One resource, with whatever its metadata has besides the name.
pub fn resource(kind: Kind, name: &str, metadata: &Message, spec: &Message) -> Message {
    let metadata = [Message::new().with(1, name).as_ref(), metadata.as_ref()].concat();
    let body = Message::new().with(1, "tollgate/v1").with(2, format!("{kind:?}")).with(3, metadata).with(4, spec);
    Message::new().with(kind as u64, body)
}

/// What became of an apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is the change at this index of the log.
    At(u64),
    /// Another one came first.
    Conflict,
}

/// The admin API of one node.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    url: String,
    token: String,
}

impl Admin {
    /// That of the node at `url`, by this token.
    pub fn new(url: String, token: &str) -> Admin {
        Admin { client: Client::new(), url, token: token.to_owned() }
    }

    /// Applies resources: one atomic change.
    ///
    /// # Errors
    /// It is refused, or its outcome stays unknown.
    pub async fn apply(&self, resources: &[Message]) -> anyhow::Result<Applied> {
        let message = resources.iter().fold(Message::new(), |message, one| message.with(1, one));
        match self.call("ConfigService/Apply", message.with(6, request_id())).await? {
            Ok(answer) => Ok(Applied::At(number(&answer, 1))),
            Err((ABORTED, _)) => Ok(Applied::Conflict),
            Err((code, why)) => anyhow::bail!("apply: code {code}: {why}"),
        }
    }

    /// Deletes a resource; the index of that change.
    ///
    /// # Errors
    /// It is refused, or its outcome stays unknown.
    pub async fn delete(&self, kind: Kind, name: &str) -> anyhow::Result<u64> {
        let message = Message::new().with(1, format!("{kind:?}")).with(2, name).with(4, request_id());
        let answer = self.call("ConfigService/Delete", message).await?;
        answer.map(|answer| number(&answer, 1)).map_err(|(code, why)| anyhow::anyhow!("delete: code {code}: {why}"))
    }

    /// The version that a resource has now.
    ///
    /// # Errors
    /// There is no such resource, or no answer.
    pub async fn version(&self, kind: Kind, name: &str) -> anyhow::Result<u64> {
        let message = Message::new().with(1, format!("{kind:?}")).with(2, name);
        let answer = self.call("ConfigService/Get", message).await?;
        let answer = answer.map_err(|(code, why)| anyhow::anyhow!("get: code {code}: {why}"))?;
        let mut inner: &[u8] = &answer;
        for field in [1, kind as u64, 3] {
            inner = fields(inner, field).1.first().copied().with_context(|| format!("no {kind:?} {name}"))?;
        }
        Ok(number(inner, 3))
    }

    /// Drains a zone, or takes it back.
    ///
    /// # Errors
    /// It is refused, or its outcome stays unknown.
    pub async fn zone(&self, zone: &str, drained: bool) -> anyhow::Result<()> {
        let method = if drained { "ClusterService/DrainZone" } else { "ClusterService/UndrainZone" };
        let answer = self.call(method, Message::new().with(1, zone).with(2, request_id())).await?;
        answer.map(|_| ()).map_err(|(code, why)| anyhow::anyhow!("{method}: code {code}: {why}"))
    }

    /// Which log index of the configuration each reachable node serves.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn served(&self) -> anyhow::Result<Vec<(u64, u64)>> {
        let answer = self.call("ConfigService/StatusServed", Message::new()).await?;
        let answer = answer.map_err(|(code, why)| anyhow::anyhow!("served: code {code}: {why}"))?;
        let nodes = fields(&answer, 1).1.into_iter().filter(|node| number(node, 2) == 1);
        Ok(nodes.map(|node| (number(node, 1), number(node, 3))).collect())
    }

    /// The answer's message, or its status. What found nobody who could do it is tried again: it has its request id.
    async fn call(&self, method: &str, message: Message) -> anyhow::Result<Result<Bytes, (u32, String)>> {
        let deadline = Instant::now() + TRIES_LAST;
        loop {
            let told = self.once(method, &message).await;
            let again = match &told {
                Ok(Err((code, _))) => *code == UNAVAILABLE,
                Ok(Ok(_)) => false,
                Err(_) => true,
            };
            if !again || Instant::now() > deadline {
                return told;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn once(&self, method: &str, message: &Message) -> anyhow::Result<Result<Bytes, (u32, String)>> {
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.0.len())?.to_be_bytes());
        body.extend_from_slice(&message.0);
        let bearer = format!("Bearer {}", self.token);
        let headers = [("content-type", "application/grpc-web+proto"), ("authorization", bearer.as_str())];
        let url = format!("{}/tollgate.admin.v1.{method}", self.url);
        let answer = self.client.send(client::request(Method::POST, &url, &headers, body.into()), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{method}: {}: {}", answer.status, answer.text());
        let mut said = Bytes::new();
        let (mut status, mut why) = (answer.header("grpc-status").to_owned(), answer.header("grpc-message").to_owned());
        let mut rest = answer.body;
        while rest.len() >= 5 {
            let head = rest.split_to(5);
            let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let size = usize::try_from(size)?;
            anyhow::ensure!(rest.len() >= size, "{method}: half a frame");
            let frame = rest.split_to(size);
            if head[0] & TRAILERS == 0 {
                said = frame;
                continue;
            }
            for line in String::from_utf8_lossy(&frame).lines() {
                match line.split_once(':') {
                    Some(("grpc-status", value)) => status = value.trim().to_owned(),
                    Some(("grpc-message", value)) => why = value.trim().to_owned(),
                    _ => {}
                }
            }
        }
        let code: u32 = status.parse().with_context(|| format!("{method}: no status: {status:?}"))?;
        Ok(if code == 0 { Ok(said) } else { Err((code, why)) })
    }
}

fn request_id() -> [u8; 16] {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::new().number(1, 300).with(2, "text").number(3, u64::MAX);
        let outer = Message::new().with(16, &inner).with(16, Message::new().number(1, 0));
        let parts = fields(outer.as_ref(), 16).1;
        assert_eq!(parts.len(), 2);
        assert_eq!((number(parts[0], 1), number(parts[0], 3), number(parts[1], 1)), (300, u64::MAX, 0));
        assert_eq!(fields(parts[0], 2).1, [b"text"]);
        // https://protobuf.dev/programming-guides/encoding/#simple
        assert_eq!(Message::new().number(1, 150).as_ref(), [0x08, 0x96, 0x01]);
        assert_eq!(fields(&[0x82, 0x01, 0xff], 16).1.len(), 0, "half a message");
    }
}
