//! gRPC through services, between tonic's client and tonic's server.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{
    Code, Status, Streaming,
    server::StreamingService,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    cluster::Cluster,
    http2::{self, connect},
    pki::Authority,
    tls,
};

type Answers = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
type Served = Pin<Box<dyn Future<Output = Result<tonic::Response<Answers>, Status>> + Send>>;

/// A server whose methods are told apart by name.
struct Methods(String);

impl StreamingService<String> for Methods {
    type Response = String;
    type ResponseStream = Answers;
    type Future = Served;

    fn call(&mut self, request: tonic::Request<Streaming<String>>) -> Served {
        let method = self.0.clone();
        Box::pin(async move {
            let (metadata, _, messages) = request.into_parts();
            let said = |name: &str| metadata.get(name).map_or("none", |it| it.to_str().unwrap_or("?")).to_owned();
            let answers: Answers = match method.as_str() {
                "Echo" => Box::pin(messages.map(|message| message.map(|text| format!("echo {text}")))),
                "Count" => {
                    let count = messages.fold(0, |count, message| count + usize::from(message.is_ok()));
                    let (tell, told) = mpsc::channel(1);
                    TaskTracker::new().spawn(async move { tell.send(Ok(count.await.to_string())).await });
                    Box::pin(ReceiverStream::new(told))
                }
                "Told" => Box::pin(tokio_stream::once(Ok(format!("{} {}", said("te"), said("grpc-timeout"))))),
                "Fail" => return Err(Status::failed_precondition("not now")),
                "FailLate" => {
                    let end = Status::aborted("über 100 %");
                    Box::pin(tokio_stream::iter([Ok("first".to_owned()), Err(end)]))
                }
                "Silent" => Box::pin(tokio_stream::once(Ok("first".to_owned())).chain(tokio_stream::pending())),
                _ => std::future::pending().await,
            };
            let mut answer = tonic::Response::new(answers);
            answer.metadata_mut().insert("x-first", "1".parse().unwrap());
            Ok(answer)
        })
    }
}

async fn serve(request: Request<Incoming>) -> Result<Response<tonic::body::Body>, Infallible> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
    Ok(grpc.streaming(Methods(method), request).await)
}

pub(crate) async fn server() -> (SocketAddr, AbortOnDropHandle<()>) {
    http2::served(serve, None).await
}

/// A route for the server's methods, with more of its spec.
pub(crate) fn resources(address: SocketAddr, more: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: test}}\nspec: {{protocol: grpc, endpoints: [{{address: '{address}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: test}}\nspec: {{match: [{{grpc: {{service: test.v1.Test}}}}], \
         backends: [{{service: test}}]{more}}}\n"
    )
}

async fn client(cluster: &Cluster) -> tonic::client::Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address)).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.v1.Test/{method}").parse().unwrap()
}

fn codec() -> ProstCodec<String, String> {
    ProstCodec::default()
}

async fn unary(client: &mut tonic::client::Grpc<Channel>, method: &str) -> Result<String, Status> {
    client.ready().await.unwrap();
    let answer = client.unary(tonic::Request::new("hi".to_owned()), path(method), codec()).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn calls_of_all_four_kinds_go_through() {
    let (address, _server) = server().await;
    let cluster = Cluster::start(&resources(address, "")).await;
    let mut client = client(&cluster).await;
    assert_eq!(unary(&mut client, "Echo").await.unwrap(), "echo hi");
    let many = tokio_stream::iter(["a", "b", "c"].map(str::to_owned));
    client.ready().await.unwrap();
    let counted = client.client_streaming(tonic::Request::new(many), path("Count"), codec()).await.unwrap();
    assert_eq!(counted.metadata().get("x-first").map(|it| it.as_bytes()), Some(&b"1"[..]));
    assert_eq!(counted.into_inner(), "3");
    client.ready().await.unwrap();
    let late = client.server_streaming(tonic::Request::new("hi".to_owned()), path("FailLate"), codec()).await.unwrap();
    let mut late = late.into_inner();
    assert_eq!(late.message().await.unwrap().as_deref(), Some("first"));
    let end = late.message().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Aborted, "über 100 %"), "trailers behind messages");
    let failed = unary(&mut client, "Fail").await.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (Code::FailedPrecondition, "not now"), "trailers alone");
    assert!(unary(&mut client, "Told").await.unwrap().starts_with("trailers none"));
}

#[tokio::test]
async fn each_message_goes_through_at_once_both_ways() {
    let (address, _server) = server().await;
    let cluster = Cluster::start(&resources(address, "")).await;
    let mut client = client(&cluster).await;
    let (say, said) = mpsc::channel(1);
    let asked = tonic::Request::new(ReceiverStream::new(said));
    say.send("0".to_owned()).await.unwrap();
    let mut answers = client.streaming(asked, path("Echo"), codec()).await.unwrap().into_inner();
    for n in 1..=3 {
        assert_eq!(answers.message().await.unwrap(), Some(format!("echo {}", n - 1)));
        say.send(n.to_string()).await.unwrap();
    }
    drop(say);
    assert_eq!(answers.message().await.unwrap().as_deref(), Some("echo 3"));
    assert_eq!(answers.message().await.unwrap(), None);
}

/// A call of one message, as anybody could write it.
async fn raw(cluster: &Cluster, method: &str, headers: &[(&str, &str)], message: &[u8]) -> Response<Incoming> {
    let (mut sender, driving) = connect::<Full<Bytes>>(cluster).await;
    let request = Request::post(format!("http://test/test.v1.Test/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = sender.send_request(request.body(Full::from(framed(message))).unwrap()).await.unwrap();
    TaskTracker::new().spawn(async move {
        drop(driving.await); // until the answer's end
        drop(sender);
    });
    answer
}

pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    framed.freeze()
}

fn status(headers: &HeaderMap) -> &str {
    headers.get("grpc-status").map_or("none", |status| status.to_str().unwrap())
}

/// Of an answer of headers alone.
fn refused(answer: &Response<Incoming>) -> &str {
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].as_bytes()),
        (200, &b"application/grpc"[..])
    );
    assert!(hyper::body::Body::is_end_stream(answer.body()), "{answer:?}");
    assert!(answer.headers().contains_key("grpc-message") && answer.headers().contains_key("x-request-id"));
    status(answer.headers())
}

#[tokio::test]
async fn a_callers_deadline_is_kept_and_told() {
    let (address, _server) = server().await;
    let cluster = Cluster::start(&resources(address, ", timeouts: {request: 20s}")).await;
    let began = Instant::now();
    let hangs = raw(&cluster, "Hang", &[("grpc-timeout", "300m")], b"").await;
    assert_eq!((refused(&hangs), hangs.headers()["grpc-message"].is_empty()), ("4", false));
    let silent = raw(&cluster, "Silent", &[("grpc-timeout", "300m")], b"").await;
    assert_eq!(status(silent.headers()), "none");
    let body = silent.into_body().collect().await.unwrap();
    assert_eq!(status(body.trailers().unwrap()), "4", "behind what had come");
    assert!((600..10_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    // What is left of it, and of the route's where that is less.
    for (said, most) in [("10S", 10_000_000), ("1H", 20_000_000)] {
        let told = raw(&cluster, "Told", &[("grpc-timeout", said)], b"").await.into_body().collect().await.unwrap();
        let told = String::from_utf8_lossy(&told.to_bytes()).into_owned();
        let left: u64 = told.rsplit(' ').next().unwrap().trim_end_matches('u').parse().unwrap();
        assert!((1_000_000..=most).contains(&left), "{said}: {told}");
    }
}

#[tokio::test]
async fn routes_bound_calls_too_but_not_those_that_one_side_keeps_alive() {
    let (address, _server) = server().await;
    let cluster = Cluster::start(&resources(address, ", timeouts: {request: 400ms}")).await;
    assert_eq!(refused(&raw(&cluster, "Hang", &[], b"").await), "14");
    cluster.apply(&resources(address, ", timeouts: {idle: 2s}, bodyLimit: 10B"));
    let silent = raw(&cluster, "Silent", &[], b"").await.into_body().collect().await.unwrap();
    assert_eq!(status(silent.trailers().unwrap()), "14");
    let mut client = client(&cluster).await;
    let (say, said) = mpsc::channel(1);
    let talk = TaskTracker::new().spawn(async move {
        for n in 0..10 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            say.send(format!("no. {n}")).await.unwrap();
        }
    });
    let asked = tonic::Request::new(ReceiverStream::new(said));
    let counted = client.client_streaming(asked, path("Count"), codec()).await.unwrap();
    assert_eq!(counted.into_inner(), "10", "more than a body may be long, and longer than the answer may be silent");
    talk.await.unwrap();
    // Each of its messages is bounded.
    let large = client.ready().await;
    large.unwrap();
    let large = client.unary(tonic::Request::new("x".repeat(11)), path("Echo"), codec()).await.unwrap_err();
    assert_eq!(large.code(), Code::ResourceExhausted, "{large}");
}

/// Whoever streams for long has its permit for as long.
#[tokio::test]
async fn a_permit_is_held_until_the_call_ends() {
    let (address, _server) = server().await;
    let limit = "---\nkind: Limit\nmetadata: {name: one}\nspec: {per: [route], unit: concurrency, limit: 1}\n";
    let cluster = Cluster::start(&(resources(address, "") + limit)).await;
    let mut client = client(&cluster).await;
    let (say, said) = mpsc::channel(1);
    let asked = tonic::Request::new(ReceiverStream::new(said));
    say.send("a".to_owned()).await.unwrap();
    let mut answers = client.streaming(asked, path("Echo"), codec()).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().as_deref(), Some("echo a"));
    assert_eq!(refused(&raw(&cluster, "Told", &[], b"").await), "14");
    say.send("b".to_owned()).await.unwrap();
    assert_eq!(answers.message().await.unwrap().as_deref(), Some("echo b"));
    drop(say);
    assert_eq!(answers.message().await.unwrap(), None);
    for _ in 0..20 {
        assert!(unary(&mut client, "Echo").await.is_ok(), "one after the other is one at a time");
    }
}

#[tokio::test]
async fn a_call_that_loses_its_permit_to_the_clock_is_told_so_by_trailers() {
    let (address, _server) = server().await;
    let limit = "---\nkind: Limit\nmetadata: {name: one}\nspec: {per: [route], unit: concurrency, limit: 1}\n";
    let cluster = Cluster::start(&(resources(address, ", timeouts: {request: 600ms}") + limit)).await;
    for _ in 0..2 {
        let silent = raw(&cluster, "Silent", &[], b"").await.into_body().collect().await.unwrap();
        assert_eq!(status(silent.trailers().unwrap()), "4");
    }
}

#[tokio::test]
async fn refusals_are_told_as_grpc_tells_them() {
    let (address, _server) = server().await;
    let limit =
        "---\nkind: Limit\nmetadata: {name: one}\nspec: {per: [consumer], unit: requests, limit: 1, window: 1h}\n";
    let spec = ", auth: {required: true, allow: {consumers: [alice]}}";
    let cluster = Cluster::start(&(resources(address, spec) + limit)).await;
    assert_eq!(refused(&raw(&cluster, "Echo", &[], b"").await), "16");
    assert_eq!(refused(&raw(&cluster, "Echo", &[("x-api-key", "sk-bobby")], b"").await), "7");
    let alice = [("authorization", "Bearer sk-alice")];
    let served = raw(&cluster, "Echo", &alice, b"").await.into_body().collect().await.unwrap();
    assert_eq!(status(served.trailers().unwrap()), "0");
    let limited = raw(&cluster, "Echo", &alice, b"").await;
    assert_eq!((refused(&limited), limited.headers().contains_key("retry-after")), ("14", true), "{limited:?}");
    let mut other = client(&cluster).await;
    other.ready().await.unwrap();
    let unknown = other.unary(tonic::Request::new(String::new()), PathAndQuery::from_static("/other/Get"), codec());
    assert_eq!(unknown.await.unwrap_err().code(), Code::Unimplemented);
    let gone = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    cluster.apply(&resources(gone, ""));
    let failed = raw(&cluster, "Echo", &[], b"").await;
    assert_eq!(refused(&failed), "14");
    assert_eq!(failed.headers()["grpc-message"], "The upstream can't be reached.");
}

/// A service of HTTP/2 over TLS has calls like one in clear text: they are no bodies that are measured as a whole.
#[tokio::test]
async fn calls_of_a_service_over_tls_are_streams_too() {
    let authority = Authority::new();
    let mut config = tls::server(&authority, "127.0.0.1");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (address, _server) = http2::served(serve, Some(config)).await;
    let ca = serde_json::to_string(&authority.pem()).unwrap();
    let over_tls = format!("protocol: https, tls: {{ca: {ca}}},");
    let cluster = Cluster::start(&resources(address, ", bodyLimit: 10B").replace("protocol: grpc,", &over_tls)).await;
    let messages = tokio_stream::iter((0..10).map(|n| format!("no. {n}")));
    let counted = client(&cluster).await.client_streaming(tonic::Request::new(messages), path("Count"), codec()).await;
    assert_eq!(counted.unwrap().into_inner(), "10");
}
