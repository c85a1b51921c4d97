//! Asking about the billing ledger.

use tollgate_admin::Role;
use tollgate_proto::{
    admin::v1::{ShowLedgerRequest, VerifyLedgerRequest, billing_service_client::BillingServiceClient},
    state::v1::LedgerRow,
};
use tonic::{Code, transport::Channel};

use crate::server::{NARROWED, Server, secret, with};

const OURS: &str = "01a200fc-7064-73ea-b4c2-0b842b8c6d95";
const THEIRS: &str = "01a200fc-7065-73ea-b4c2-0b842b8c6d95";

fn row(seq: u64, request_id: &str, tenant: &str) -> LedgerRow {
    LedgerRow {
        seq,
        request_id: request_id.into(),
        settled_us: 1_800_000_000_000_000,
        tenant: tenant.into(),
        currency: "USD".into(),
        amount: 5_000_000_000_000_i128.to_be_bytes().to_vec(),
        ..LedgerRow::default()
    }
}

async fn server() -> (Server, BillingServiceClient<Channel>) {
    let server = Server::start().await;
    let rows = [(row(1 << 16, OURS, "acme"), None), (row(2 << 16, THEIRS, "globex"), None)];
    server.node.ledger.record(rows, &mut Vec::new());
    let billing = BillingServiceClient::new(server.channel.clone());
    (server, billing)
}

fn of(request_id: &str) -> ShowLedgerRequest {
    ShowLedgerRequest { request_id: request_id.into() }
}

#[tokio::test]
async fn a_row_is_explained_and_a_narrowed_token_sees_its_tenants_alone() {
    let (_server, mut billing) = server().await;
    let viewer = secret(Role::Viewer);
    let told = billing.show_ledger(with(&viewer, of(THEIRS))).await.unwrap().into_inner().rows;
    assert_eq!((told.len(), told[0].columns["cost"].as_str()), (1, "5"));
    let moves: Vec<_> = told[0].moves.iter().map(|it| (it.account.as_str(), it.balance.as_str())).collect();
    assert_eq!(moves, [("tenant:globex:consumed", "5"), ("provider:revenue", "-5")]);
    assert_eq!(billing.show_ledger(with(NARROWED, of(OURS))).await.unwrap().into_inner().rows.len(), 1);
    for (token, id) in [(NARROWED, THEIRS), (viewer.as_str(), "nobody"), (&viewer, "")] {
        assert_eq!(billing.show_ledger(with(token, of(id))).await.unwrap_err().code(), Code::NotFound, "{id}");
    }
}

#[tokio::test]
async fn a_ledger_is_read_through() {
    let (_server, mut billing) = server().await;
    let told = billing.verify_ledger(with(&secret(Role::Viewer), VerifyLedgerRequest {})).await.unwrap().into_inner();
    assert_eq!((told.rows, told.segments, told.problems.len(), told.hash.len()), (2, 1, 0, 64));
    let revenue = told.balances.iter().find(|it| it.account == "provider:revenue").unwrap();
    assert_eq!((revenue.balance.as_str(), revenue.currency.as_str()), ("-10", "USD"));
}
