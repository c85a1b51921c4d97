//! Asking about limits, and forgiving.

use tollgate_admin::{
    backplane::BackplaneError,
    details::{Reason, reason_of},
};
use tollgate_model::yaml;
use tollgate_proto::admin::v1::{
    ApplyRequest, ExplainLimitsRequest, ResetLimitRequest, ShowLimitsRequest, limit_service_client::LimitServiceClient,
};
use tonic::{Code, transport::Channel};

use crate::server::{Server, admin};

const LIMIT: &str = "{apiVersion: tollgate/v1, kind: Limit, metadata: {name: tpm}, spec: {per: [consumer], unit: requests, limit: 10, window: 1h}}";

async fn server() -> (Server, LimitServiceClient<Channel>) {
    let server = Server::start().await;
    let (parsed, problems) = yaml::parse("test.yaml", LIMIT);
    assert!(problems.is_empty(), "{problems}");
    let resources = parsed.into_iter().map(|parsed| parsed.resource).collect();
    server.config().apply(admin(ApplyRequest { resources, ..ApplyRequest::default() })).await.unwrap();
    let limits = LimitServiceClient::new(server.channel.clone());
    (server, limits)
}

fn reset(account: &str) -> ResetLimitRequest {
    ResetLimitRequest { limit: "tpm".into(), account: account.into(), ..ResetLimitRequest::default() }
}

#[tokio::test]
async fn a_reset_goes_through_the_log_once_and_tells_what_it_forgave() {
    let (server, mut limits) = server().await;
    let request = ResetLimitRequest { request_id: vec![7; 16], ..reset("7") };
    *server.node.lose_next.lock().unwrap() = true;
    assert!(limits.reset(admin(request.clone())).await.is_err());
    let done = limits.reset(admin(request.clone())).await.unwrap().into_inner();
    let (before, after) = (done.before.unwrap(), done.after.unwrap());
    assert_eq!((before.limit.as_str(), before.account.as_str(), before.used, before.free), ("tpm", "7", 4, 6));
    assert_eq!((after.used, after.free), (0, 10));
    let resets = server.node.resets();
    assert_eq!(resets.len(), 1, "tried twice, done once");
    assert_eq!((resets[0].key.as_slice(), resets[0].actor.is_empty()), (["7".to_owned()].as_slice(), false));
    let other = ResetLimitRequest { account: "8".into(), ..request };
    assert_eq!(reason_of(&limits.reset(admin(other)).await.unwrap_err()), Some(Reason::RequestIdUsed));
}

#[tokio::test]
async fn what_can_not_be_reset_is_named() {
    let (server, mut limits) = server().await;
    let unknown = ResetLimitRequest { limit: "tmp".into(), ..reset("7") };
    let said = limits.reset(admin(unknown)).await.unwrap_err();
    assert!(said.code() == Code::NotFound && said.message().contains("did you mean `tpm`?"), "{said}");
    let said = limits.reset(admin(reset("nobody"))).await.unwrap_err();
    assert!(said.code() == Code::NotFound && said.message().starts_with("`nobody`: "), "{said}");
    let said = limits.reset(admin(reset("a/b"))).await.unwrap_err();
    assert!(said.code() == Code::FailedPrecondition && said.message().contains("[\"a\", \"b\"]"), "{said}");
    *server.node.refuse_next.lock().unwrap() = Some(BackplaneError::Unavailable("no leader".into()));
    assert_eq!(limits.reset(admin(reset("7"))).await.unwrap_err().code(), Code::Unavailable);
    let by_key = ResetLimitRequest { account: String::new(), key: vec!["7".into()], ..reset("") };
    assert_eq!(limits.reset(admin(by_key)).await.unwrap().into_inner().before.unwrap().account, "7");
}

#[tokio::test]
async fn limits_are_explained_for_a_consumer_that_there_is() {
    let (_server, mut limits) = server().await;
    let ask = |consumer: &str| ExplainLimitsRequest { consumer: consumer.into(), ..ExplainLimitsRequest::default() };
    let told = limits.explain(admin(ask("alice"))).await.unwrap().into_inner();
    assert_eq!(told.verdicts[0].verdict, "admits");
    assert_eq!(limits.explain(admin(ask("nobody"))).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_unknown_order_is_refused() {
    let (_server, mut limits) = server().await;
    let ask = |sort: &str| ShowLimitsRequest { sort: sort.into(), ..ShowLimitsRequest::default() };
    assert_eq!(limits.show(admin(ask("size"))).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(limits.show(admin(ask("utilisation"))).await.unwrap().into_inner().accounts.len(), 25);
}
