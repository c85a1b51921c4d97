//! Alerts of budgets over the wire: in pages, and to whom they belong.

use tollgate_admin::Role;
use tollgate_proto::admin::v1::{ListAlertsRequest, billing_service_client::BillingServiceClient};
use tonic::Code;

use crate::server::{NARROWED, Server, secret, with};

#[tokio::test]
async fn alerts_are_listed_in_pages_and_say_what_was_passed() {
    let server = Server::start().await;
    let mut client = BillingServiceClient::new(server.channel.clone());
    let viewer = &secret(Role::Viewer);
    let mut request = ListAlertsRequest { page_size: 2, ..ListAlertsRequest::default() };
    let mut all = Vec::new();
    loop {
        let page = client.list_alerts(with(viewer, request.clone())).await.unwrap().into_inner();
        assert!(page.alerts.len() <= 2);
        all.extend(page.alerts);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let ids: Vec<_> = all.iter().map(|alert| alert.id.as_str()).collect();
    assert_eq!(ids, ["msg_5", "msg_4", "msg_3", "msg_2", "msg_1"]);
    let first = &all[0];
    assert_eq!((first.tenant.as_str(), first.month.as_str(), first.threshold_percent), ("acme", "2026-11", 80));
    assert_eq!((first.budget.as_str(), first.billed.as_str()), ("100", "81.000000000001"));
    assert_eq!((first.state.as_str(), first.tries, first.last_try.as_str()), ("pending", 0, ""));
    assert_eq!((all[1].state.as_str(), all[1].last_try.as_str()), ("delivered", all[1].raised.as_str()));
    request.page_token = "x".into();
    let refused = client.list_alerts(with(viewer, request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

#[tokio::test]
async fn a_narrowed_token_is_told_of_its_own_tenants_alerts_alone() {
    let server = Server::start().await;
    let mut client = BillingServiceClient::new(server.channel.clone());
    let own = client.list_alerts(with(NARROWED, ListAlertsRequest::default())).await.unwrap().into_inner();
    assert_eq!(own.alerts.len(), 3);
    assert!(own.alerts.iter().all(|alert| alert.tenant == "acme"), "{own:?}");
    let other = ListAlertsRequest { tenant: "globex".into(), ..ListAlertsRequest::default() };
    let refused = client.list_alerts(with(NARROWED, other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
}
