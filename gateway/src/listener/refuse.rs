//! Connections beyond the bound: told so in a few bytes, whatever they would have asked for, and closed.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tollgate_llm::{ApiError, Dialect, code};

use crate::{overload::RETRY_AFTER, request_id::RequestId};

/// Told at once; more are closed without a word, as to tell them is work, too.
const AT_ONCE: usize = 256;
/// A client that writes is read for so long, or so much, as an answer is lost where a connection closes on what was not read.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_BYTES: usize = 64 * 1024;

/// Tells connections that there is no place for them.
pub(super) struct Refusals<'a> {
    places: Arc<Semaphore>,
    tasks: &'a TaskTracker,
}

impl<'a> Refusals<'a> {
    pub(super) fn new(tasks: &'a TaskTracker) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), tasks }
    }

    pub(super) fn refuse(&self, stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            let _ = timeout(PATIENCE, tell(stream)).await;
            drop(place);
        });
    }
}

/// However it goes, the connection ends.
async fn tell(mut stream: TcpStream) {
    let told = stream.write_all(answer().as_bytes()).await.is_ok() && stream.shutdown().await.is_ok();
    let (mut left, mut buffer) = (MOST_BYTES, [0; 1024]);
    while told && left > 0 {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => left = left.saturating_sub(read),
            _ => return,
        }
    }
}

fn answer() -> String {
    let message = "This gateway has as many connections as it takes: try again, or another one.";
    let body = ApiError::new(503, code::OVERLOADED, message).body(Dialect::OpenAi);
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nx-request-id: {}\r\nretry-after: {}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{}",
        RequestId::generate().as_str(),
        RETRY_AFTER.as_secs(),
        body.len(),
        String::from_utf8_lossy(&body),
    )
}
