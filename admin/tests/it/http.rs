//! Probes, metrics, bounds, and what is none of it.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollgate_admin::{MAX_APPLY_BYTES, METHODS, Role, backplane::Readiness};
use tollgate_proto::{
    admin::v1::{ApplyRequest, GetRequest, WatchRequest},
    v1::{DirectResponse, Resource, Route, RouteSpec, resource},
};
use tonic::Code;

use crate::server::{Server, admin, secret};

#[tokio::test]
async fn probes_tell_life_from_readiness() {
    let server = Server::start().await;
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
    assert!(server.get("/readyz", "").await.starts_with("HTTP/1.1 200"));
    server.node.readiness.send_replace(Readiness::NotReady("draining".into()));
    let answer = server.get("/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: draining\n"), "{answer}");
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn metrics_come_in_the_format_asked_for() {
    let server = Server::start().await;
    server.config().get(admin(GetRequest::default())).await.unwrap();
    let classic = server.get("/metrics", "").await;
    assert!(classic.contains("content-type: text/plain; version=0.0.4"), "{classic}");
    assert!(classic.contains("# TYPE tollgate_admin_calls_total counter\n"), "{classic}");
    assert!(
        classic.contains("tollgate_admin_calls_total{method=\"tollgate.admin.v1.ConfigService/Get\",code=\"Ok\"} 1\n"),
        "{classic}"
    );
    assert!(!classic.contains("# EOF"));
    let open = server.get("/metrics", "accept: application/openmetrics-text; version=1.0.0\r\n").await;
    assert!(open.contains("content-type: application/openmetrics-text") && open.ends_with("# EOF\n"), "{open}");
}

#[tokio::test]
async fn the_front_page_names_everything_that_the_port_has() {
    let server = Server::start().await;
    let page = server.get("/", "").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-type: text/plain"), "{page}");
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(page.contains(&format!("GET {path} ")), "{path}: {page}");
    }
    let services = METHODS.iter().map(|(path, _)| path.split('/').nth(1).unwrap());
    for service in services.chain(["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]) {
        assert!(page.contains(&format!("  {service}\n")), "{service}: {page}");
    }
}

#[tokio::test]
async fn a_message_that_is_none_is_the_callers_fault() {
    let server = Server::start().await;
    // A field of a wire type that there is not; a message that ends before its length says; none at all.
    for (body, code) in [
        (&b"\0\0\0\0\x02\xff\xff"[..], 3),
        (b"\0\0\0\0\x50abc", 3),
        (b"", 3),
        (b"\x01\0\0\0\x01a", 13), // gRPC's own rule for a compressed message of no encoding
    ] {
        let token = secret(Role::Admin);
        let head = format!(
            "POST /tollgate.admin.v1.ConfigService/Get HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
            authorization: Bearer {token}\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = server.raw(&[head.as_bytes(), body].concat()).await.to_lowercase();
        assert!(answer.contains(&format!("grpc-status: {code}\r\n")), "{body:?}: {answer}");
    }
}

#[tokio::test]
async fn everything_else_is_not_found() {
    let server = Server::start().await;
    for path in ["/console", "/metrics/", "/tollgate.admin.v1.ConfigService/Get", "/debug/pprof"] {
        assert!(server.get(path, "").await.starts_with("HTTP/1.1 404"), "{path}");
    }
    let posted =
        server.raw(b"POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let server = Server::start().await;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\0\0\0\0\0\0\0\0\r\n\r\n"]
    {
        let answer = server.raw(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    }
    assert!(server.get("/healthz", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_next_one_is_not() {
    let server = Server::start().await;
    let response = DirectResponse { body: "x".repeat(MAX_APPLY_BYTES), ..DirectResponse::default() };
    let spec = RouteSpec { response: Some(response), ..RouteSpec::default() };
    let route = Resource { kind: Some(resource::Kind::Route(Route { spec: Some(spec), ..Route::default() })) };
    let request = ApplyRequest { resources: vec![route], ..ApplyRequest::default() };
    let refused = server.config().apply(admin(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(server.config().get(admin(GetRequest::default())).await.is_ok());
}

#[tokio::test]
async fn grpc_web_gets_the_same_answers() {
    let server = Server::start().await;
    let head = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0";
    let answer = server.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("grpc-status:0"), "{answer:?}");
}

#[tokio::test]
async fn reflection_tells_the_services_in_both_versions() {
    let server = Server::start().await;
    // list_services: field 7, an empty string; as one message of a stream that then ends.
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
            content-type: application/grpc-web+proto\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02\x3a\0"
        );
        let answer = server.raw(head.as_bytes()).await;
        for service in [
            "tollgate.admin.v1.ConfigService",
            "tollgate.admin.v1.CreditService",
            "tollgate.admin.v1.UsageService",
            "tollgate.admin.v1.BillingService",
            "grpc.health.v1.Health",
        ] {
            assert!(answer.contains(service), "{version}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_drain_ends_watches_and_idle_connections_and_then_the_server() {
    let server = Server::start().await;
    let mut events = server.config().watch(admin(WatchRequest::default())).await.unwrap().into_inner();
    assert_eq!(events.message().await.unwrap().unwrap().action, "synced");
    let mut idle = tokio::net::TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    server.drain.cancel();
    assert_eq!(events.message().await.unwrap_err().code(), Code::Unavailable);
    drop(events);
    tokio::time::timeout(Duration::from_secs(20), server.served).await.unwrap().unwrap();
}
