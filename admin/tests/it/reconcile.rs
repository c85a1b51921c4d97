//! An upstream's usage report, as it comes over the wire.

use tollgate_admin::{
    Role,
    details::{Reason, reason_of},
};
use tollgate_model::yaml;
use tollgate_proto::{
    admin::v1::{
        ApplyRequest, ReconcileRequest, ReconcileResponse, ShowLedgerRequest,
        billing_service_client::BillingServiceClient,
    },
    state::v1::{LedgerCost, LedgerRow},
};
use tonic::{Code, Status, transport::Channel};

use crate::server::{NARROWED, Server, secret, with};

/// 2026-11-01.
const AT: u64 = 1_793_491_200_000_000;
const REQUEST: &str = "01a200fc-7064-73ea-b4c2-0b842b8c6d95";
const FILE: &str = "date,model,requests,input_tokens,output_tokens\n2026-11-01,m,1,10,3\n";

/// A request that an upstream bills in another currency than its tenant pays in.
async fn server() -> (Server, BillingServiceClient<Channel>) {
    let server = Server::start().await;
    let cost = LedgerCost {
        price: "p".into(),
        currency: "EUR".into(),
        amount: 2_000_000_000_000_i128.to_be_bytes().to_vec(),
        ..LedgerCost::default()
    };
    let row = LedgerRow {
        seq: 1 << 16,
        request_id: REQUEST.into(),
        admitted_us: AT,
        settled_us: AT,
        tenant: "acme".into(),
        provider: "mock".into(),
        provider_model: "m".into(),
        input_tokens: 10,
        output_tokens: 3,
        currency: "USD".into(),
        amount: 5_000_000_000_000_i128.to_be_bytes().to_vec(),
        costs: vec![cost],
        ..LedgerRow::default()
    };
    server.node.ledger.record([(row, None)], &mut Vec::new());
    let billing = BillingServiceClient::new(server.channel.clone());
    (server, billing)
}

type Client = BillingServiceClient<Channel>;

async fn send(
    billing: &mut Client,
    token: &str,
    first: ReconcileRequest,
    file: &str,
    piece: usize,
) -> Result<ReconcileResponse, Status> {
    let rest = file
        .as_bytes()
        .chunks(piece)
        .map(|data| ReconcileRequest { data: data.to_vec(), ..ReconcileRequest::default() });
    let pieces: Vec<_> = std::iter::once(first).chain(rest).collect();
    Ok(billing.reconcile(with(token, tokio_stream::iter(pieces))).await?.into_inner())
}

fn of_mock() -> ReconcileRequest {
    ReconcileRequest { provider: "mock".into(), ..ReconcileRequest::default() }
}

#[tokio::test]
async fn a_report_is_compared_however_it_is_cut_into_pieces() {
    let (_server, mut billing) = server().await;
    let token = secret(Role::Viewer);
    for piece in [1, 7, 30_000] {
        let told = send(&mut billing, &token, of_mock(), FILE, piece).await.unwrap();
        assert_eq!((told.differences.len(), told.lines, told.attempts, told.next.as_str()), (0, 1, 1, ""));
        assert_eq!((told.from.as_str(), told.to.as_str()), ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"));
        let told = send(&mut billing, &token, of_mock(), &FILE.replace("10,3", "10,4"), piece).await.unwrap();
        let [one] = &told.differences[..] else { panic!("{told:?}") };
        let said =
            (one.period.as_str(), one.model.as_str(), one.figure.as_str(), one.ours.as_str(), one.theirs.as_str());
        assert_eq!(said, ("2026-11-01T00:00:00Z", "m", "output_tokens", "3", "4"));
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_and_a_tenant_compares_nothing() {
    let (_server, mut billing) = server().await;
    let token = secret(Role::Viewer);
    let (from, to) = ("2026-11-02T00:00:00Z".to_owned(), "2026-11-01T00:00:00Z".to_owned());
    // Much more than anybody reads of it.
    let many = format!("{}{}", FILE.replace("10,3", "many,3"), "2026-11-01,m,1,10,3\n".repeat(200_000));
    for (first, file, told) in [
        (of_mock(), many.as_str(), "line 2, field `input_tokens`: `many` is no whole number"),
        (of_mock(), "", "line 1, field `header`: is missing"),
        (ReconcileRequest { from, to, ..of_mock() }, FILE, "from: 2026-11-02T00:00:00Z is after to"),
        (ReconcileRequest { from: "soon".into(), ..of_mock() }, FILE, "from: `soon`"),
        (ReconcileRequest { after: "x".into(), ..of_mock() }, FILE, "after: "),
    ] {
        let said = send(&mut billing, &token, first, file, 30_000).await.unwrap_err();
        assert_eq!(reason_of(&said), Some(Reason::Invalid), "{said}");
        assert!(said.message().starts_with(told), "{said}");
    }
    let said = send(&mut billing, NARROWED, of_mock(), FILE, 100).await.unwrap_err();
    assert_eq!(said.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_provider_that_nobody_knows_agrees_with_nothing() {
    const PROVIDER: &str = "apiVersion: tollgate/v1\nkind: Provider\nmetadata: {name: openai}\n\
                            spec: {type: openai, endpoints: [{url: 'http://127.0.0.1:1/v1'}], keys: [{env: KEY}]}\n";
    let (server, mut billing) = server().await;
    let resources = yaml::parse("test.yaml", PROVIDER).0.into_iter().map(|it| it.resource).collect();
    let request = ApplyRequest { resources, ..ApplyRequest::default() };
    server.config().apply(with(&secret(Role::Admin), request)).await.unwrap();
    let token = secret(Role::Viewer);
    let of = |provider: &str| ReconcileRequest { provider: provider.into(), ..ReconcileRequest::default() };
    // The file says nothing of it, and neither does the ledger.
    let elsewhere = "date,provider,model,input_tokens\n2026-11-01,mock,m,10\n";
    for file in [FILE, elsewhere] {
        let said = send(&mut billing, &token, of("opnai"), file, 100).await.unwrap_err();
        assert_eq!(reason_of(&said), Some(Reason::NotFound), "{said}");
        assert_eq!(said.message(), "provider: there is no provider `opnai` (did you mean `openai`?)");
        // One that is declared may have had nothing to do, and one that is gone has what it had.
        assert!(send(&mut billing, &token, of("openai"), file, 100).await.is_ok());
    }
    let gone = send(&mut billing, &token, of_mock(), FILE, 100).await.unwrap();
    assert_eq!((gone.attempts, gone.differences.len()), (1, 0));
}

#[tokio::test]
async fn what_an_upstream_bills_is_shown_to_us_and_not_to_the_tenant() {
    let (_server, mut billing) = server().await;
    let of = ShowLedgerRequest { request_id: REQUEST.into() };
    let viewer = secret(Role::Viewer);
    for (token, costs, moves) in [(viewer.as_str(), 1, 4), (NARROWED, 0, 2)] {
        let told = billing.show_ledger(with(token, of.clone())).await.unwrap().into_inner().rows.remove(0);
        assert_eq!((told.costs.len(), told.moves.len(), told.margin.as_str()), (costs, moves, ""), "{told:?}");
    }
}
