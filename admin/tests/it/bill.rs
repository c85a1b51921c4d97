//! Bills as streams: whole, cut, refused.

use std::sync::Arc;

use tollgate_admin::{
    Role,
    details::{Reason, reason_of},
};
use tollgate_model::yaml;
use tollgate_proto::{
    admin::v1::{
        ApplyRequest, CreateTokenRequest, ExportBillChunk, ExportBillRequest, RevokeTokenRequest,
        billing_service_client::BillingServiceClient,
    },
    state::v1::LedgerRow,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    fake::Rows,
    server::{NARROWED, Server, admin, secret, with},
};

const AT: u64 = 1_793_491_200_000_000;
const TENANTS: &str = "{apiVersion: tollgate/v1, kind: Tenant, metadata: {name: acme}, spec: {billing: {mode: none}}}";

/// A ledger of so many rows, every third of `acme`.
fn rows(count: u64) -> Arc<Rows> {
    let tenant = |at| if at % 3 == 0 { "acme" } else { "globex" };
    let row = |at: u64| LedgerRow {
        seq: at << 16,
        request_id: format!("r-{at}"),
        admitted_us: AT + at,
        settled_us: AT + at,
        tenant: tenant(at).into(),
        input_tokens: at,
        ..LedgerRow::default()
    };
    Arc::new(Rows((1..=count).map(row).collect()))
}

async fn server(count: u64) -> (Server, BillingServiceClient<Channel>) {
    let server = Server::start().await;
    let (parsed, problems) = yaml::parse("test.yaml", TENANTS);
    assert!(problems.is_empty(), "{problems}");
    let resources = parsed.into_iter().map(|parsed| parsed.resource).collect();
    server.config().apply(admin(ApplyRequest { resources, ..ApplyRequest::default() })).await.unwrap();
    *server.node.rows.lock().unwrap() = rows(count);
    let billing = BillingServiceClient::new(server.channel.clone());
    (server, billing)
}

fn ask() -> ExportBillRequest {
    ExportBillRequest {
        from: "2026-11-01T00:00:00Z".into(),
        to: "2026-12-01T00:00:00Z".into(),
        format: "csv".into(),
        schema: "events".into(),
        ..ExportBillRequest::default()
    }
}

type Client = BillingServiceClient<Channel>;

async fn all(billing: &mut Client, token: &str, request: ExportBillRequest) -> Result<Vec<ExportBillChunk>, Status> {
    let mut stream = billing.export(with(token, request)).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await? {
        chunks.push(chunk);
    }
    assert!(chunks.last().is_some_and(|chunk| chunk.last), "an answer has a last chunk");
    Ok(chunks)
}

fn bytes(chunks: &[ExportBillChunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.data.clone()).collect()
}

#[tokio::test]
async fn a_bill_goes_on_at_the_cursor_of_any_chunk() {
    let (_server, mut billing) = server(5_000).await;
    let token = secret(Role::Viewer);
    let whole = all(&mut billing, &token, ask()).await.unwrap();
    assert!(whole.len() > 2, "{}", whole.len());
    assert_eq!(whole.last().unwrap().rows, 5_000);
    for (at, chunk) in whole.iter().enumerate() {
        let rest =
            all(&mut billing, &token, ExportBillRequest { cursor: chunk.cursor.clone(), ..ask() }).await.unwrap();
        assert!([bytes(&whole[..=at]), bytes(&rest)].concat() == bytes(&whole), "after chunk {at}");
    }
    let other = ExportBillRequest { cursor: whole[0].cursor.clone(), format: "jsonl".into(), ..ask() };
    let said = all(&mut billing, &token, other).await.unwrap_err();
    assert!(said.code() == Code::InvalidArgument && said.message().starts_with("cursor: is of an export"), "{said}");
}

#[tokio::test]
async fn a_narrowed_token_takes_its_own_bill_away_and_no_other() {
    let (_server, mut billing) = server(30).await;
    let own = all(&mut billing, NARROWED, ask()).await.unwrap();
    let named = ExportBillRequest { tenant: "acme".into(), ..ask() };
    assert_eq!(bytes(&own), bytes(&all(&mut billing, &secret(Role::Billing), named).await.unwrap()));
    let text = String::from_utf8(bytes(&own)).unwrap();
    assert_eq!((text.lines().count(), text.matches("globex").count()), (11, 0), "{text}");
    let others = ExportBillRequest { tenant: "globex".into(), ..ask() };
    assert_eq!(all(&mut billing, NARROWED, others).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_can_not_be_exported_is_named() {
    let (_server, mut billing) = server(3).await;
    let token = secret(Role::Admin);
    let turned = ExportBillRequest { to: "2026-10-01T00:00:00Z".into(), ..ask() };
    for (request, said) in [
        (turned, "from: 2026-11-01T00:00:00Z is after to: 2026-10-01T00:00:00Z"),
        (ExportBillRequest { from: String::new(), ..ask() }, "from: is missing"),
        (ExportBillRequest { schema: "bill".into(), ..ask() }, "schema: `bill` is none of"),
        (ExportBillRequest { format: "xls".into(), ..ask() }, "format: `xls` is none of"),
        (ExportBillRequest { focus_version: "1.3".into(), ..ask() }, "focus_version: "),
        (ExportBillRequest { issuer: "x".repeat(257), ..ask() }, "issuer: has 257 bytes"),
        (ExportBillRequest { cursor: "5".into(), ..ask() }, "cursor: is none"),
    ] {
        let refused = all(&mut billing, &token, request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with(said), "{refused}");
    }
    let unknown = ExportBillRequest { tenant: "acmee".into(), ..ask() };
    let refused = all(&mut billing, &token, unknown).await.unwrap_err();
    assert!(reason_of(&refused) == Some(Reason::NotFound) && refused.message().contains("`acme`"), "{refused}");
    let future = ExportBillRequest { to: "2999-01-01T00:00:00Z".into(), ..ask() };
    assert_eq!(all(&mut billing, &token, future).await.unwrap().last().unwrap().rows, 3);
    let gone = ExportBillRequest { tenant: "globex".into(), ..ask() };
    assert_eq!(
        all(&mut billing, &token, gone).await.unwrap().last().unwrap().rows,
        2,
        "what a tenant that is gone used"
    );
}

#[tokio::test]
async fn so_many_at_a_time_and_a_place_is_free_once_its_caller_has_left() {
    let (_server, mut billing) = server(200_000).await;
    let token = secret(Role::Viewer);
    let mut open = Vec::new();
    let refused = loop {
        match billing.export(with(&token, ask())).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(status) => break status,
        }
        assert!(open.len() < 100);
    };
    assert_eq!(reason_of(&refused), Some(Reason::Busy), "{refused}");
    assert!(open[0].message().await.unwrap().is_some());
    drop(open);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while billing.export(with(&token, ask())).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "no place is free again");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_export_ends_with_its_token_and_with_its_node() {
    let (server, mut billing) = server(200_000).await;
    let request = CreateTokenRequest { role: "viewer".into(), ..CreateTokenRequest::default() };
    let token = server.cluster().create_token(admin(request)).await.unwrap().into_inner();
    let id = token.token.as_ref().unwrap().id.clone();
    let mut of_token = billing.export(with(&token.secret, ask())).await.unwrap().into_inner();
    assert!(of_token.message().await.unwrap().is_some());
    let revoke = RevokeTokenRequest { id, request_id: Vec::new() };
    server.cluster().revoke_token(admin(revoke)).await.unwrap();
    let end = loop {
        match of_token.message().await {
            Ok(Some(chunk)) => assert!(!chunk.last, "it is cut"),
            end => break end.unwrap_err(),
        }
    };
    assert_eq!(end.code(), Code::Unauthenticated);
    let mut of_node = billing.export(admin(ask())).await.unwrap().into_inner();
    assert!(of_node.message().await.unwrap().is_some());
    server.drain.cancel();
    let end = loop {
        match of_node.message().await {
            Ok(Some(chunk)) => assert!(!chunk.last, "it is cut"),
            end => break end.unwrap_err(),
        }
    };
    assert_eq!(reason_of(&end), Some(Reason::NoLeader), "{end}: another node is asked");
}
