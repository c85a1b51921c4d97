//! Who may call what, over the wire: every method, every role.

use bytes::Bytes;
use tollgate_admin::{Access, METHODS, Role};
use tollgate_proto::admin::v1::{GetRequest, QueryUsageRequest, usage_service_client::UsageServiceClient};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::server::{NARROWED, Server, secret, with};

/// A codec that sends an empty message and does not care for the answer.
#[derive(Default)]
struct Empty;

impl tonic::codec::Codec for Empty {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Empty {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl tonic::codec::Decoder for Empty {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let all = bytes::Buf::remaining(src);
        Ok(Some(bytes::Buf::copy_to_bytes(src, all)))
    }
}

/// The status of a call with an empty message; a stream counts by its beginning.
async fn status(server: &Server, path: &'static str, request: Request<()>) -> Status {
    let mut grpc = Grpc::new(server.channel.clone());
    grpc.ready().await.unwrap();
    let answer = grpc.server_streaming(request, path.parse().unwrap(), Empty).await;
    match answer {
        Err(status) => status,
        Ok(stream) if path.ends_with("/Watch") => drop_open(stream),
        Ok(stream) => stream.into_inner().message().await.map_or_else(|status| status, |_| Status::ok("")),
    }
}

async fn code(server: &Server, path: &'static str, request: Request<()>) -> Code {
    status(server, path, request).await.code()
}

fn drop_open<T>(stream: T) -> Status {
    drop(stream);
    Status::ok("")
}

/// Whether a service was reached: one that is not built yet says so itself.
fn passed(status: &Status) -> bool {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => false,
        Code::Unimplemented => status.message() == "not available yet",
        _ => true,
    }
}

#[tokio::test]
async fn every_method_is_open_to_exactly_the_roles_of_the_table() {
    let server = Server::start().await;
    for &(path, access) in METHODS {
        assert_eq!(code(&server, path, Request::new(())).await, Code::Unauthenticated, "{path} without a token");
        assert_eq!(code(&server, path, with("guess", ())).await, Code::Unauthenticated, "{path} with a wrong token");
        for role in Role::ALL {
            let status = status(&server, path, with(&secret(role), ())).await;
            assert_eq!(passed(&status), access.allows(role, false), "{path} as {role}: {status:?}");
        }
        let status = status(&server, path, with(NARROWED, ())).await;
        assert_eq!(passed(&status), access == Access::ReadTenant, "{path} narrowed: {status:?}");
    }
}

#[tokio::test]
async fn what_is_not_built_yet_is_known_and_says_so() {
    let server = Server::start().await;
    for path in ["/tollgate.admin.v1.ClusterService/Backup"] {
        let status = status(&server, path, with(&secret(Role::Admin), ())).await;
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, "not available yet"), "{path}");
    }
}

#[tokio::test]
async fn credit_is_granted_by_those_who_bill_and_not_by_those_who_look() {
    let server = Server::start().await;
    for (role, may) in [(Role::Billing, true), (Role::Viewer, false)] {
        let status = status(&server, "/tollgate.admin.v1.CreditService/Grant", with(&secret(role), ())).await;
        assert_eq!(status.code() == Code::InvalidArgument, may, "{role}: {status:?}");
    }
}

#[tokio::test]
async fn the_role_is_checked_before_the_message_is_read() {
    let server = Server::start().await;
    // Heads of a message of 4 MiB that never comes: an answer shows that nobody waited for it.
    let head = "POST /tollgate.admin.v1.ConfigService/Apply HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        content-type: application/grpc-web+proto\r\ncontent-length: 4194304\r\n\r\n";
    let answer = server.raw(head.as_bytes()).await;
    assert!(answer.to_lowercase().contains("grpc-status: 16"), "{answer}");
}

#[tokio::test]
async fn a_narrowed_token_sees_its_tenants_usage_only() {
    let server = Server::start().await;
    let mut usage = UsageServiceClient::new(server.channel.clone());
    let query = |tenant: &str| QueryUsageRequest {
        tenant: tenant.into(),
        by: vec!["tenant".into()],
        ..QueryUsageRequest::default()
    };
    let own = usage.query(with(NARROWED, query(""))).await.unwrap().into_inner();
    assert_eq!(own.rows[0].keys["tenant"], "acme");
    let other = usage.query(with(NARROWED, query("globex"))).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn health_needs_no_token_and_unknown_methods_are_unimplemented_for_those_who_have_one() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel.clone());
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(ask("")).await.unwrap().get_ref().status, 1);
    assert_eq!(health.check(ask("tollgate.admin.v1.ConfigService")).await.unwrap().get_ref().status, 1);
    assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    for path in ["/tollgate.admin.v1.ConfigService/Nothing", "/some.other.v1.Service/Get"] {
        assert_eq!(code(&server, path, Request::new(())).await, Code::Unauthenticated, "{path}");
        assert_eq!(code(&server, path, with("guess", ())).await, Code::Unauthenticated, "{path}");
        for secret in [&secret(Role::Viewer), NARROWED] {
            assert_eq!(code(&server, path, with(secret, ())).await, Code::Unimplemented, "{path}");
        }
    }
    let stale = GetRequest { stale: true, ..GetRequest::default() };
    assert!(server.config().get(with(&secret(Role::Viewer), stale)).await.is_ok());
}
