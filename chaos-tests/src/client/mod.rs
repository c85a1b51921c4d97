//! A small HTTP client: whole answers, streams of events, deadlines on everything.

mod events;

use std::{fmt, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time;

pub use events::{End, Event, EventStream};

/// A whole answer takes no longer, unless a test says so.
pub const LIMIT: Duration = Duration::from_secs(30);
/// A connection to loopback takes no longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nobody listens, or the connection ended before an answer.
    Broken(String),
    /// The deadline passed.
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Broken(why) => write!(f, "no answer: {why}"),
            CallError::TimedOut => f.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for CallError {}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("status {}, not JSON: {}", self.status, self.text()))
    }

    /// A header as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Pools connections; clones share the pool.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Client {
    /// A client with a pool of its own.
    pub fn new() -> Client {
        Client { inner: legacy::Client::builder(TokioExecutor::new()).build(connector()) }
    }

    /// The same, and a request that finds its connection closed has failed: nothing is repeated behind the test's back.
    pub fn that_tries_once() -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        Client { inner: builder.retry_canceled_requests(false).build(connector()) }
    }

    /// Speaks HTTP/2 by prior knowledge. What a GOAWAY says was never taken is sent on another connection (RFC 9113 §6.8).
    pub fn of_http2() -> Client {
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        Client { inner: builder.http2_only(true).build(connector()) }
    }

    /// GET.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer, CallError> {
        self.send(request(Method::GET, url, headers, Bytes::new()), LIMIT).await
    }

    /// POST of JSON.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], body: &Value) -> Result<Answer, CallError> {
        self.send(request(Method::POST, url, headers, body.to_string().into()), LIMIT).await
    }

    /// Sends a request and reads its whole answer before `limit` has passed.
    ///
    /// # Errors
    /// There was no answer, or not all of it.
    pub async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Answer, CallError> {
        let answer = async {
            let response = self.inner.request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        time::timeout(limit, answer).await.unwrap_or(Err(CallError::TimedOut))
    }

    /// Sends a request and gives its answer as a stream; `limit` is for the head alone, and then for each event.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn open(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<EventStream, CallError> {
        let head = self.inner.request(request);
        let response = time::timeout(limit, head).await.map_err(|_| CallError::TimedOut)?;
        let (head, body) = response.map_err(|error| broken(&error))?.into_parts();
        Ok(EventStream::new(head.status.as_u16(), head.headers, body, limit))
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector
}

/// A request; JSON unless a header says otherwise.
///
/// # Panics
/// The URL or a header is not valid.
pub fn request(method: Method, url: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(url);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        builder = builder.header("content-type", "application/json");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(body)).expect("a test writes valid requests")
}

fn broken(error: &(dyn std::error::Error + 'static)) -> CallError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CallError::Broken(text)
}
