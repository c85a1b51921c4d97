//! A service that speaks HTTP/2 in clear text, and trailers from end to end.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    clients::{get, raw},
    cluster::Cluster,
    http2::{self, connect},
    https::orders,
};

type Body = BoxBody<Bytes, Infallible>;

fn with_trailer(body: impl Into<Bytes>, name: &'static str, value: HeaderValue) -> Body {
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value)]);
    Full::new(body.into()).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()
}

/// Says what it got: the trailer `x-sum` comes back as `x-got`.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let te = head.headers.get("te").and_then(|te| te.to_str().ok()).unwrap_or("none");
    let told = format!("{:?} {} te={te} ", head.version, head.uri.path());
    let body = body.collect().await.unwrap();
    let sum = body.trailers().and_then(|trailers| trailers.get("x-sum").cloned());
    let whole = [told.as_bytes(), &body.to_bytes()].concat();
    let answer = with_trailer(whole, "x-got", sum.unwrap_or_else(|| HeaderValue::from_static("nothing")));
    Ok(Response::builder().header("trailer", "x-got").body(answer).unwrap())
}

async fn start() -> (Cluster, AbortOnDropHandle<()>) {
    let (address, upstream) = http2::served(echo, None).await;
    let resources = format!(
        "
kind: Service
metadata: {{name: echo}}
spec: {{protocol: h2c, endpoints: [{{address: '{address}'}}]}}
---
kind: Route
metadata: {{name: echo}}
spec: {{backends: [{{service: echo}}]}}
"
    );
    (Cluster::start(&resources).await, upstream)
}

#[tokio::test]
async fn trailers_pass_both_ways_between_http2_ends() {
    let (cluster, _upstream) = start().await;
    let (mut sender, _driving) = connect::<Body>(&cluster).await;
    sender.ready().await.unwrap();
    let request = Request::post("http://test/a/b").header("te", "trailers");
    let body = with_trailer("ping", "x-sum", HeaderValue::from_static("42"));
    let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().map(|trailers| trailers["x-got"].as_bytes()), Some(&b"42"[..]));
    assert_eq!(body.to_bytes(), "HTTP/2.0 /a/b te=trailers ping");
}

#[tokio::test]
async fn an_http1_client_is_served_by_an_h2c_upstream_with_trailers_where_it_takes_them() {
    let (cluster, _upstream) = start().await;
    let plain = get(cluster.address, "/x", "").await;
    assert_eq!((plain.status, plain.body.as_str()), (200, "HTTP/2.0 /x te=none "), "{}", plain.raw);
    assert_eq!((plain.header("trailer"), plain.raw.contains("x-got")), (None, false), "{}", plain.raw);
    let with = get(cluster.address, "/x", "te: trailers\r\n").await;
    assert_eq!(with.body, "HTTP/2.0 /x te=trailers ", "{}", with.raw);
    assert_eq!(with.header("trailer"), Some("x-got"), "{}", with.raw);
    assert!(with.raw.ends_with("0\r\nx-got: nothing\r\n\r\n"), "{}", with.raw);
}

/// Over HTTP/2 the sender of a body only hears that its stream was reset; nobody else is to blame for it.
#[tokio::test]
async fn a_body_that_is_too_large_is_the_clients_fault_over_http2_too() {
    let (cluster, _upstream) = start().await;
    let chunk = format!("{:x}\r\n{}\r\n", 8 << 20, "x".repeat(8 << 20));
    let head = "POST /x HTTP/1.1\r\nhost: test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let refused = raw(cluster.address, format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "request_too_large"), "{}", refused.head);
    let attempts = "tollgate_upstream_attempts_total{upstream=\"echo\",result=\"client\"} 1";
    assert!(cluster.metrics().contains(attempts), "{}", cluster.metrics());
}

/// What a client calls its body changes no bound of a service that knows nothing of gRPC.
#[tokio::test]
async fn a_body_is_bounded_whatever_it_is_called() {
    let (_upstream, resources) = orders().await;
    let cluster =
        Cluster::start(&resources.replace("[{service: orders}]", "[{service: orders}], bodyLimit: 10B")).await;
    let (mut sender, _driving) = connect::<Body>(&cluster).await;
    sender.ready().await.unwrap();
    let messages: Vec<u8> = [0, 0, 0, 0, 1, b'x'].repeat(3);
    let body = with_trailer(messages, "x-sum", HeaderValue::from_static("1"));
    let request = Request::post("http://test/x").header("content-type", "application/grpc").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.headers().get("grpc-status").and_then(|status| status.to_str().ok());
    assert_eq!(status, Some("8"), "RESOURCE_EXHAUSTED: {answer:?}");
}
