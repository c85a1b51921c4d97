//! Credit over the wire: once for each key, and shown to whom it belongs.

use tollgate_admin::Role;
use tollgate_proto::admin::v1::{
    ApplyRequest, CreditHistoryRequest, GrantCreditRequest, ShowCreditRequest,
    credit_service_client::CreditServiceClient,
};
use tonic::{Code, Status, transport::Channel};

use crate::server::{NARROWED, Server, secret, with};

const TENANT: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {timeZone: Europe/Berlin, billing: {mode: prepaid, currency: USD}}
"#;

async fn started() -> (Server, CreditServiceClient<Channel>) {
    let server = Server::start().await;
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", TENANT);
    assert!(problems.is_empty(), "{problems}");
    let resources = parsed.into_iter().map(|parsed| parsed.resource).collect();
    let request = ApplyRequest { resources, ..ApplyRequest::default() };
    server.config().apply(with(&secret(Role::Admin), request)).await.unwrap();
    let client = CreditServiceClient::new(server.channel.clone());
    (server, client)
}

/// Some of it is with a node that does not answer, and with one that is no member any more.
#[tokio::test]
async fn what_is_with_nodes_that_do_not_answer_is_in_suspense_and_in_no_balance() {
    let (server, mut client) = started().await;
    let (parsed, _) = tollgate_model::yaml::parse("test.yaml", &TENANT.replace("acme", "globex"));
    let resources = parsed.into_iter().map(|parsed| parsed.resource).collect();
    let request = ApplyRequest { resources, ..ApplyRequest::default() };
    server.config().apply(with(&secret(Role::Admin), request)).await.unwrap();
    let billing = &secret(Role::Billing);
    for (tenant, figures) in [("acme", ["10", "0", "1", "0", "9"]), ("globex", ["10", "0", "1", "2", "7"])] {
        let granted = GrantCreditRequest { tenant: tenant.into(), ..grant("10", "po-1") };
        let granted = client.grant(with(billing, granted)).await.unwrap().into_inner().credit.unwrap();
        let shown = client.show(with(billing, ShowCreditRequest { tenant: tenant.into() })).await.unwrap().into_inner();
        for it in [granted, shown.credit.unwrap()] {
            assert_eq!([it.granted, it.spent, it.held, it.suspense, it.balance], figures, "{tenant}");
        }
    }
}

fn grant(amount: &str, key: &str) -> GrantCreditRequest {
    GrantCreditRequest {
        tenant: "acme".into(),
        amount: amount.into(),
        key: key.into(),
        ..GrantCreditRequest::default()
    }
}

fn refused(status: &Status, code: Code, says: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(says), "{status:?} does not say {says:?}");
}

#[tokio::test]
async fn a_grant_is_made_once_and_its_answer_is_what_there_is() {
    let (_server, mut client) = started().await;
    let billing = &secret(Role::Billing);
    let first = client.grant(with(billing, grant("12.50", "po-1"))).await.unwrap().into_inner();
    let credit = first.credit.unwrap();
    assert_eq!((credit.granted.as_str(), credit.held.as_str(), credit.balance.as_str()), ("12.5", "1", "11.5"));
    assert_eq!((credit.currency.as_str(), credit.mode.as_str(), first.known), ("USD", "prepaid", false));
    let again = client.grant(with(billing, grant("12.5", "po-1"))).await.unwrap().into_inner();
    assert_eq!((again.known, again.event, again.index), (true, first.event, first.index));
    let other = client.grant(with(billing, grant("13", "po-1"))).await.unwrap_err();
    refused(&other, Code::Aborted, "`po-1` was used before, for 12.5 USD");

    let day = GrantCreditRequest { expires: "2027-03-28".into(), reason: "trial".into(), ..grant("1", "po-2") };
    client.grant(with(billing, day)).await.unwrap();
    let shown = client.show(with(NARROWED, ShowCreditRequest::default())).await.unwrap().into_inner().credit.unwrap();
    // The day ends in Berlin, after its clocks have gone forward.
    assert_eq!((shown.grants[0].key.as_str(), shown.grants[0].expires.as_str()), ("po-2", "2027-03-28T22:00:00Z"));
    assert_eq!((shown.grants[0].reason.as_str(), shown.grants[1].rest.as_str()), ("trial", "12.5"));
}

#[tokio::test]
async fn what_is_wrong_with_a_grant_is_said() {
    let (_server, mut client) = started().await;
    let billing = &secret(Role::Billing);
    let wrong = [
        (grant("1e3", "k"), Code::InvalidArgument, "amount: `1e3` is not a decimal"),
        (grant("1234567890123456789012345678901234567890", "k"), Code::InvalidArgument, "amount: "),
        (grant("18000000.01", "k"), Code::InvalidArgument, "the most that a tenant can have"),
        (grant("0", "k"), Code::FailedPrecondition, "amount: is 0"),
        (grant("-1", "k"), Code::FailedPrecondition, "reason: is missing"),
        (grant("1", ""), Code::InvalidArgument, "key: is missing"),
        (GrantCreditRequest { expires: "soon".into(), ..grant("1", "k") }, Code::InvalidArgument, "expires: `soon`"),
        (
            GrantCreditRequest { expires: "2020-01-01".into(), ..grant("1", "k") },
            Code::FailedPrecondition,
            "has passed",
        ),
        (GrantCreditRequest { tenant: "acne".into(), ..grant("1", "k") }, Code::NotFound, "acme"),
        (GrantCreditRequest { tenant: String::new(), ..grant("1", "k") }, Code::InvalidArgument, "tenant: is missing"),
    ];
    for (request, code, says) in wrong {
        refused(&client.grant(with(billing, request)).await.unwrap_err(), code, says);
    }
    let shown = client.show(with(billing, ShowCreditRequest { tenant: "acme".into() })).await.unwrap().into_inner();
    let credit = shown.credit.unwrap();
    assert_eq!((credit.granted.as_str(), credit.balance.as_str(), credit.currency.as_str()), ("0", "0", "USD"));
}

/// A dry run and a diff refuse what applying would.
#[tokio::test]
async fn a_currency_that_credit_is_in_does_not_change_and_a_dry_run_says_so() {
    let (server, mut client) = started().await;
    client.grant(with(&secret(Role::Billing), grant("3", "k"))).await.unwrap();
    let (parsed, _) = tollgate_model::yaml::parse("test.yaml", &TENANT.replace("USD", "EUR"));
    let resources: Vec<_> = parsed.into_iter().map(|parsed| parsed.resource).collect();
    let request = |dry_run| ApplyRequest { resources: resources.clone(), dry_run, ..ApplyRequest::default() };
    let admin = &secret(Role::Admin);
    let says = "spec.billing.currency: credit of 3 USD is there";
    refused(&server.config().apply(with(admin, request(true))).await.unwrap_err(), Code::InvalidArgument, says);
    refused(&server.config().diff(with(admin, request(false))).await.unwrap_err(), Code::InvalidArgument, says);
    refused(&server.config().apply(with(admin, request(false))).await.unwrap_err(), Code::InvalidArgument, says);
}

#[tokio::test]
async fn a_narrowed_token_sees_its_own_credit_and_no_other() {
    let (_server, mut client) = started().await;
    let other = client.show(with(NARROWED, ShowCreditRequest { tenant: "globex".into() })).await.unwrap_err();
    refused(&other, Code::PermissionDenied, "narrowed to tenant acme");
    let history = CreditHistoryRequest { tenant: "globex".into(), ..CreditHistoryRequest::default() };
    refused(&client.history(with(NARROWED, history)).await.unwrap_err(), Code::PermissionDenied, "narrowed");
    refused(&client.grant(with(NARROWED, grant("1", "k"))).await.unwrap_err(), Code::PermissionDenied, "");
}

#[tokio::test]
async fn history_pages_through_everything_and_says_who_did_it() {
    let (_server, mut client) = started().await;
    let billing = &secret(Role::Billing);
    for n in 1..=5 {
        client.grant(with(billing, grant("1", &format!("k{n}")))).await.unwrap();
    }
    let mut request = CreditHistoryRequest { tenant: "acme".into(), page_size: 2, ..CreditHistoryRequest::default() };
    let mut seen = Vec::new();
    loop {
        let page = client.history(with(billing, request.clone())).await.unwrap().into_inner();
        assert!(page.events.len() <= 2);
        seen.extend(page.events.into_iter().map(|event| {
            assert!(!event.actor.is_empty() && event.kind == "granted" && event.log_index > 0, "{event:?}");
            event.key
        }));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["k5", "k4", "k3", "k2", "k1"]);
    request.page_token = "x".into();
    refused(&client.history(with(billing, request)).await.unwrap_err(), Code::InvalidArgument, "page_token");
    let unknown = CreditHistoryRequest { tenant: "acne".into(), ..CreditHistoryRequest::default() };
    refused(&client.history(with(billing, unknown)).await.unwrap_err(), Code::NotFound, "acme");
}
