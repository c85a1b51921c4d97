//! Server-sent events, one by one.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time;

use super::{CallError, broken};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its `event:` line; empty when there is none.
    pub name: String,
    /// Its data.
    pub data: String,
}

impl Event {
    /// The data as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or(Value::Null)
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it; whether the answer is complete, its events tell.
    Framed,
    /// In the middle.
    Broken(String),
    /// Nothing came for too long.
    Silent,
}

/// An answer that comes in pieces.
#[derive(Debug)]
pub struct EventStream {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    limit: Duration,
    buffer: Vec<u8>,
}

impl EventStream {
    pub(super) fn new(status: u16, headers: HeaderMap, body: Incoming, limit: Duration) -> EventStream {
        EventStream { status, headers, body, limit, buffer: Vec::new() }
    }

    /// The next event, or how the stream ended.
    ///
    /// # Errors
    /// There is none.
    pub async fn next(&mut self) -> Result<Event, End> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Ok(event);
            }
            match time::timeout(self.limit, self.frame()).await {
                Err(_) => return Err(End::Silent),
                Ok(Err(CallError::Broken(why))) => return Err(End::Broken(why)),
                Ok(Err(CallError::TimedOut)) => return Err(End::Silent),
                Ok(Ok(None)) => return Err(End::Framed),
                Ok(Ok(Some(data))) => self.buffer.extend_from_slice(&data),
            }
        }
    }

    /// All events that still come, and how the stream ended.
    pub async fn rest(mut self) -> (Vec<Event>, End) {
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Ok(event) => events.push(event),
                Err(end) => return (events, end),
            }
        }
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Cuts the first whole event off the buffer.
fn take_event(buffer: &mut Vec<u8>) -> Option<Event> {
    loop {
        let end = buffer.windows(2).position(|window| window == b"\n\n")?;
        let block: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&block).into_owned();
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        // A block without data is a comment that keeps the connection alive.
        if let Some(data) = field("data:") {
            return Some(Event { name: field("event:").unwrap_or_default(), data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_at_empty_lines_and_comments_are_none() {
        let mut buffer = b": ping\n\nevent: a\ndata: {\"x\":1}\n\ndata: [DONE]\n\ndata: ha".to_vec();
        let first = take_event(&mut buffer).unwrap();
        assert_eq!((first.name.as_str(), &first.json()["x"]), ("a", &Value::from(1)));
        assert_eq!(take_event(&mut buffer).unwrap().data, "[DONE]");
        assert_eq!(take_event(&mut buffer), None);
        assert_eq!(buffer, b"data: ha");
    }
}
