//! Calls of webhooks, signed as Standard Webhooks 1.0.0 has it.

use std::{error::Error, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioTimer,
};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use tollgate_model::Secret;
use tracing::warn;

/// From the first byte that is sent to the answer's end.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer's head, and of its body, which is read for good manners alone.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_BODY_BYTES: usize = 16 * 1024;
const SIGNATURE_VERSION: &str = "v1";

/// Why a call has told nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// This node can't make it.
    #[error("node: {0}")]
    Here(String),
    /// Nobody has answered.
    #[error("{0}")]
    NoAnswer(String),
    /// Somebody has, with another status than 2xx. A redirect is one of them.
    #[error("the receiver has answered {0}")]
    Status(u16),
    /// And wants to hear no more.
    #[error("the receiver has answered 410: it wants no more of this")]
    Gone,
}

/// What is told.
pub(super) struct Call<'a> {
    pub(super) id: &'a str,
    /// When this try was made, for receivers that refuse old ones.
    pub(super) at_seconds: u64,
    pub(super) body: String,
}

impl Call<'_> {
    fn signature(&self, key: &Secret<Vec<u8>>) -> String {
        let signed = format!("{}.{}.{}", self.id, self.at_seconds, self.body);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        format!("{SIGNATURE_VERSION},{}", STANDARD.encode(hmac::sign(&key, signed.as_bytes())))
    }

    fn request(&self, url: &Uri, key: &Secret<Vec<u8>>) -> Result<Request<Full<Bytes>>, CallError> {
        Request::post(url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", self.id)
            .header("webhook-timestamp", self.at_seconds)
            .header("webhook-signature", self.signature(key))
            .body(Full::new(Bytes::from(self.body.clone())))
            .map_err(|error| CallError::Here(error.to_string()))
    }
}

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes calls. Each has a connection of its own: they are rare.
pub(super) struct Caller {
    /// Made for the first call, as it reads the system's certificate authorities.
    http: OnceCell<Http>,
    tasks: TaskTracker,
}

impl Caller {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { http: OnceCell::new(), tasks }
    }

    /// Calls once, and does not follow where an answer points to.
    pub(super) async fn call(&self, url: &Uri, call: &Call<'_>, key: &Secret<Vec<u8>>) -> Result<(), CallError> {
        let request = call.request(url, key)?;
        let http = self.http.get_or_try_init(|| self.connector()).await?;
        let answered = tokio::time::timeout(CALL_TIMEOUT, send(http, request)).await;
        let too_late = |_| CallError::NoAnswer(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
        match answered.map_err(too_late)?? {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(CallError::Gone),
            status => Err(CallError::Status(status.as_u16())),
        }
    }

    async fn connector(&self) -> Result<Http, CallError> {
        let tls = tokio::task::spawn_blocking(tls).await;
        let tls = tls.map_err(|_| CallError::Here("the system's certificate authorities can't be read".into()))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let mut builder = Client::builder(Tracked(self.tasks.clone()));
        builder.timer(TokioTimer::new()).pool_max_idle_per_host(0).http1_max_buf_size(MAX_HEAD_BYTES);
        Ok(builder.build(https))
    }
}

/// Connections are tasks that somebody awaits.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

async fn send(http: &Http, request: Request<Full<Bytes>>) -> Result<StatusCode, CallError> {
    let answer = http.request(request).await.map_err(|error| CallError::NoAnswer(reason(&error)))?;
    let status = answer.status();
    // Whatever it says, and however much: the status has told.
    let _ = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
    Ok(status)
}

/// The innermost reason, which the others repeat.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let mut inner: &dyn Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if error.is_connect() { format!("can't be reached: {inner}") } else { format!("no answer: {inner}") }
}

fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        warn!(%error, "some of the system's certificate authorities can't be read");
    }
    roots.add_parsable_certificates(system.certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tollgate_model::signing_key;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn call() -> Call<'static> {
        let body = r#"{"test": 2432232314}"#.to_owned();
        Call { id: "msg_p5jXN8AQM9LWM0D4loKWxJek", at_seconds: 1_614_265_330, body }
    }

    /// The example that libraries of the specification are tested with.
    #[test]
    fn a_call_is_signed_as_the_specification_has_it() {
        let signature = call().signature(&signing_key(SECRET).unwrap());
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// Calls a receiver that answers so; what it has read of the call.
    async fn answered(answer: &str) -> (Result<(), CallError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/hook?x=1", listener.local_addr().unwrap()).parse().unwrap();
        let receiver = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
            while !read.ends_with(b"2432232314}") {
                let n = stream.read(&mut chunk).await.unwrap();
                assert!(n > 0, "the call ends early");
                read.extend_from_slice(&chunk[..n]);
            }
            let _ = stream.write_all(answer.as_bytes()).await;
            drop(stream);
            String::from_utf8(read).unwrap()
        };
        let tasks = TaskTracker::new();
        let caller = Caller::new(tasks);
        let (call, key) = (call(), signing_key(SECRET).unwrap());
        tokio::join!(caller.call(&url, &call, &key), receiver)
    }

    #[tokio::test]
    async fn only_a_success_has_told_somebody_and_no_redirect_is_followed() {
        let (told, read) = answered("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(told, Ok(()));
        assert!(read.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{read}");
        for head in ["webhook-id: msg_p5j", "webhook-timestamp: 1614265330", "webhook-signature: v1,g0hM9"] {
            assert!(read.contains(head), "{head}: {read}");
        }
        for (answer, error) in [
            ("302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0", CallError::Status(302)),
            ("500 Oh\r\ncontent-length: 0", CallError::Status(500)),
            ("410 Gone\r\ncontent-length: 0", CallError::Gone),
        ] {
            assert_eq!(answered(&format!("HTTP/1.1 {answer}\r\n\r\n")).await.0, Err(error));
        }
        let (told, _) = answered("nonsense\r\n\r\n").await;
        assert!(matches!(told, Err(CallError::NoAnswer(_))), "{told:?}");
    }

    #[tokio::test]
    async fn an_answer_of_any_length_is_read_up_to_a_bound() {
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 * MAX_BODY_BYTES));
        assert_eq!(answered(&endless).await.0, Ok(()));
    }

    #[tokio::test]
    async fn nobody_there_is_a_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        let told = Caller::new(TaskTracker::new()).call(&url, &call(), &signing_key(SECRET).unwrap()).await;
        assert!(told.unwrap_err().to_string().starts_with("can't be reached: "));
    }
}
