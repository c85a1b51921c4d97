//! Declaring, reading and watching.

use tollgate_admin::{
    backplane::BackplaneError,
    details::{Reason, details_of, reason_of},
};
use tollgate_model::yaml;
use tollgate_proto::{
    admin::v1::{
        ApplyRequest, CreateTokenRequest, DeleteRequest, ExportRequest, GetRequest, RevokeTokenRequest,
        StatusServedRequest, WatchEvent, WatchRequest,
    },
    v1::Resource,
};
use tonic::Code;

use crate::server::{Server, admin, with};

const TWO: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {timeZone: Europe/Berlin}
---
apiVersion: tollgate/v1
kind: Consumer
metadata: {name: alice}
spec: {tenant: acme, credentials: [{apiKey: sk-alice-plain}]}
"#;

fn resources(text: &str) -> Vec<Resource> {
    let (parsed, problems) = yaml::parse("test.yaml", text);
    assert!(problems.is_empty(), "{problems}");
    parsed.into_iter().map(|parsed| parsed.resource).collect()
}

fn apply(text: &str) -> ApplyRequest {
    ApplyRequest {
        resources: resources(text),
        request_id: rand::random::<[u8; 16]>().to_vec(),
        ..ApplyRequest::default()
    }
}

async fn actions(server: &Server, request: ApplyRequest) -> Vec<String> {
    let done = server.config().apply(admin(request)).await.unwrap().into_inner();
    done.changes.into_iter().map(|change| format!("{} {}", change.action, change.name)).collect()
}

#[tokio::test]
async fn an_apply_tells_created_from_updated_from_unchanged() {
    let server = Server::start().await;
    let dry = ApplyRequest { dry_run: true, ..apply(TWO) };
    let before = server.node.log_index();
    assert_eq!(actions(&server, dry).await.len(), 2);
    assert_eq!(server.node.log_index(), before, "a dry run writes nothing");
    let mut created = actions(&server, apply(TWO)).await;
    created.sort();
    assert_eq!(created, ["created acme", "created alice"]);
    let mut second = actions(&server, apply(&TWO.replace("Berlin", "Rome"))).await;
    second.sort();
    assert_eq!(second, ["unchanged alice", "updated acme"]);
}

#[tokio::test]
async fn no_answer_shows_a_plain_secret() {
    let server = Server::start().await;
    actions(&server, apply(TWO)).await;
    let got = server.config().get(admin(GetRequest::default())).await.unwrap();
    let exported = server.config().export(admin(ExportRequest {})).await.unwrap();
    let diff =
        server.config().diff(admin(apply(&TWO.replace("sk-alice-plain", "sk-alice-other-plain")))).await.unwrap();
    assert_eq!(got.get_ref().resources.len(), 2);
    assert_eq!(diff.get_ref().diffs.len(), 1);
    for text in [format!("{got:?}"), format!("{exported:?}"), format!("{diff:?}")] {
        assert!(!text.contains("plain"), "{text}");
    }
}

#[tokio::test]
async fn every_problem_is_told_at_once_with_its_field() {
    let server = Server::start().await;
    let wrong =
        TWO.replace("Europe/Berlin", "Europe/Berln").replace("[{apiKey: sk-alice-plain}]", "[{expiresAt: soon}]");
    let refused = server.config().apply(admin(apply(&wrong))).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::InvalidArgument, Some(Reason::Invalid)));
    let problems = details_of(&refused).unwrap().problems;
    assert!(
        problems.iter().any(|it| it.kind == "Tenant" && it.name == "acme" && it.field == "spec.timeZone"),
        "{problems:?}"
    );
    assert!(
        problems.iter().any(|it| it.kind == "Consumer" && it.field.starts_with("spec.credentials[0]")),
        "{problems:?}"
    );
    assert_eq!(server.node.config_len(), 0, "nothing was changed");
}

#[tokio::test]
async fn a_reference_to_nothing_is_refused_and_a_referenced_resource_stays() {
    let server = Server::start().await;
    let alone = TWO.split("---").nth(1).unwrap();
    let refused = server.config().apply(admin(apply(alone))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    actions(&server, apply(TWO)).await;
    let delete =
        |kind: &str, name: &str| DeleteRequest { kind: kind.into(), name: name.into(), ..DeleteRequest::default() };
    let refused = server.config().delete(admin(delete("tenant", "acme"))).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::Referenced));
    assert!(refused.message().contains("alice"), "{refused}");
    let missing = server.config().delete(admin(delete("tenants", "nobody"))).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(server.config().delete(admin(delete("CONSUMER", "alice"))).await.is_ok());
    assert!(server.config().delete(admin(delete("Tenant", "acme"))).await.is_ok());
}

#[tokio::test]
async fn an_older_version_is_a_conflict() {
    let server = Server::start().await;
    actions(&server, apply(TWO)).await;
    let old = TWO.replace("{name: acme}", "{name: acme, resourceVersion: 1}").replace("Berlin", "Rome");
    let refused = server.config().apply(admin(apply(&old))).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::Aborted, Some(Reason::Conflict)));
}

#[tokio::test]
async fn a_lost_outcome_is_unknown_and_the_same_request_id_gives_the_first_one() {
    let server = Server::start().await;
    let request = apply(TWO);
    *server.node.lose_next.lock().unwrap() = true;
    let lost = server.config().apply(admin(request.clone())).await.unwrap_err();
    assert_eq!((lost.code(), reason_of(&lost)), (Code::Unknown, Some(Reason::OutcomeUnknown)));
    assert!(lost.message().contains("retry with the same request id"), "{lost}");
    let mut again = actions(&server, request).await;
    again.sort();
    assert_eq!(again, ["created acme", "created alice"], "not unchanged: it is the first outcome");
}

#[tokio::test]
async fn a_request_id_that_was_used_for_something_else_is_refused() {
    let server = Server::start().await;
    let first = apply(TWO);
    actions(&server, first.clone()).await;
    // Sealed and hashed anew, it is the same request all the same.
    let mut again = actions(&server, first.clone()).await;
    again.sort();
    assert_eq!(again, ["created acme", "created alice"]);
    let other = ApplyRequest { request_id: first.request_id.clone(), ..apply(&TWO.replace("Berlin", "Rome")) };
    let delete = DeleteRequest {
        kind: "consumer".into(),
        name: "alice".into(),
        request_id: first.request_id,
        ..DeleteRequest::default()
    };
    let refusals = [
        server.config().apply(admin(other)).await.map(drop).unwrap_err(),
        server.config().delete(admin(delete)).await.map(drop).unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!((refused.code(), reason_of(&refused)), (Code::AlreadyExists, Some(Reason::RequestIdUsed)));
        assert_eq!(refused.message(), "the request id was used for another command");
    }
    assert_eq!(server.node.config_len(), 2, "nothing was deleted");
}

#[tokio::test]
async fn a_full_disk_is_named_and_may_be_asked_again() {
    let server = Server::start().await;
    let full = BackplaneError::DiskFull("the disk of node 2, which leads, is full".into());
    *server.node.refuse_next.lock().unwrap() = Some(full);
    let request = apply(TWO);
    let refused = server.config().apply(admin(request.clone())).await.unwrap_err();
    assert_eq!((refused.code(), reason_of(&refused)), (Code::ResourceExhausted, Some(Reason::DiskFull)));
    assert!(refused.message().contains("the disk of node 2"), "{refused}");
    assert_eq!(actions(&server, request).await.len(), 2);
}

#[tokio::test]
async fn prune_needs_a_scope() {
    let server = Server::start().await;
    let refused = server.config().apply(admin(ApplyRequest { prune: true, ..apply(TWO) })).await.unwrap_err();
    assert!(refused.message().contains("prune needs a selector or an apply_set"), "{refused}");
    let short = ApplyRequest { request_id: vec![1; 3], ..apply(TWO) };
    assert_eq!(server.config().apply(admin(short)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_every_change() {
    let server = Server::start().await;
    actions(&server, apply(TWO)).await;
    let request = WatchRequest { kind: "tenants".into(), ..WatchRequest::default() };
    let mut events = server.config().watch(admin(request)).await.unwrap().into_inner();
    let mut next = async || events.message().await.unwrap().unwrap().action;
    assert_eq!(next().await, "present");
    assert_eq!(next().await, "synced");
    actions(&server, apply(&TWO.replace("Berlin", "Rome"))).await;
    assert_eq!(next().await, "updated");
    for (kind, name) in [("consumer", "alice"), ("tenant", "acme")] {
        let delete = DeleteRequest { kind: kind.into(), name: name.into(), ..DeleteRequest::default() };
        server.config().delete(admin(delete)).await.unwrap();
    }
    assert_eq!(next().await, "deleted");
}

#[tokio::test]
async fn what_each_node_serves_is_told() {
    let server = Server::start().await;
    let served = server.config().status_served(admin(StatusServedRequest {})).await.unwrap().into_inner();
    let nodes: Vec<_> = served.nodes.iter().map(|node| (node.id, node.reachable, node.index)).collect();
    assert_eq!(nodes, [(1, true, 1), (2, false, 2), (4, false, 4)]);
}

#[tokio::test]
async fn references_are_looked_at_beside_what_is_wrong_otherwise() {
    let server = Server::start().await;
    let text = TWO.replace("Europe/Berlin", "Europe/Berln").replace("tenant: acme", "tenant: acmee")
        + "---\napiVersion: tollgate/v1\nkind: Provider\nmetadata: {name: p}\n\
           spec: {type: openai, endpoints: [{url: 'http://a/v1'}], keys: [{value: sk-plain, env: X}]}\n\
           ---\napiVersion: tollgate/v1\nkind: Route\nmetadata: {name: r}\nspec: {backends: [{provider: p}, {provider: q}], bodyLimit: 1}\n";
    for request in [apply(&text), ApplyRequest { dry_run: true, ..apply(&text) }] {
        let refused = server.config().apply(admin(request)).await.unwrap_err();
        assert_eq!(reason_of(&refused), Some(Reason::Invalid));
        let problems = details_of(&refused).unwrap().problems;
        let found: Vec<_> = problems.iter().map(|it| format!("{} {}", it.name, it.field)).collect();
        let expected = [
            "acme spec.timeZone",
            "p spec.keys[0]",
            "p spec.keys[0].value",
            "r spec.bodyLimit",
            "alice spec.tenant",
            "r spec.backends[1].provider",
        ];
        let mut sorted = found.clone();
        sorted.sort();
        let mut wanted = expected.to_vec();
        wanted.sort_unstable();
        assert_eq!(sorted, wanted, "{problems:#?}");
    }
    let diff = server.config().diff(admin(apply(&text))).await.unwrap_err();
    assert_eq!(details_of(&diff).unwrap().problems.len(), 6);
}

#[tokio::test]
async fn an_outcome_of_another_command_is_not_taken_for_ones_own() {
    let server = Server::start().await;
    actions(&server, apply(TWO)).await;
    let id = vec![7; 16];
    let first = ApplyRequest { request_id: id.clone(), ..apply(&TWO.replace("Berlin", "Rome")) };
    actions(&server, first.clone()).await;
    assert_eq!(actions(&server, first).await, ["updated acme", "unchanged alice"], "the same command again");
    let delete = DeleteRequest {
        kind: "Consumer".into(),
        name: "alice".into(),
        request_id: id.clone(),
        ..DeleteRequest::default()
    };
    let refused = server.config().delete(admin(delete)).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::RequestIdUsed), "{refused}");
    let other = ApplyRequest { request_id: id, ..apply(&TWO.replace("acme", "globex")) };
    let refused = server.config().apply(admin(other)).await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::RequestIdUsed), "{refused}");
    let delete = DeleteRequest { kind: "consumers".into(), name: "alice".into(), ..DeleteRequest::default() };
    let done = server.config().delete(admin(delete)).await.unwrap().into_inner().change.unwrap();
    assert_eq!((done.action.as_str(), done.kind.as_str(), done.name.as_str()), ("deleted", "Consumer", "alice"));
}

#[tokio::test]
async fn a_key_that_this_node_lacks_is_a_warning_and_no_refusal() {
    let server = Server::start().await;
    let text = "apiVersion: tollgate/v1\nkind: Provider\nmetadata: {name: openai}\n\
        spec: {type: openai, endpoints: [{url: 'http://a/v1'}], keys: [{value: sk-1}, {env: TOLLGATE_TEST_NO_SUCH_KEY}]}\n";
    let dry = ApplyRequest { dry_run: true, ..apply(text) };
    for request in [dry, apply(text), apply(text)] {
        let done = server.config().apply(admin(request)).await.unwrap().into_inner();
        assert_eq!(done.changes.len(), 1);
        let [warning] = &done.warnings[..] else { panic!("{:?}", done.warnings) };
        assert_eq!((warning.node, warning.kind.as_str(), warning.name.as_str()), (1, "Provider", "openai"));
        assert_eq!(warning.field, "spec.keys[1].env");
        assert!(warning.message.contains("TOLLGATE_TEST_NO_SUCH_KEY"), "{warning:?}");
    }
    let done = server.config().apply(admin(apply(TWO))).await.unwrap().into_inner();
    assert_eq!(done.warnings, []);
}

#[tokio::test]
async fn what_is_not_done_yet_has_no_version() {
    let server = Server::start().await;
    actions(&server, apply(TWO)).await;
    let changed = TWO.replace("Berlin", "Rome");
    let dry = ApplyRequest { dry_run: true, ..apply(&changed) };
    for change in server.config().apply(admin(dry)).await.unwrap().into_inner().changes {
        assert_eq!(change.resource_version == 0, change.action == "updated", "{change:?}");
    }
    let diffs = server.config().diff(admin(apply(&changed))).await.unwrap().into_inner().diffs;
    assert_eq!(diffs.len(), 1);
    let text = yaml::to_yaml(&[diffs[0].after.clone().unwrap()]);
    assert!(text.contains("Rome") && !text.contains("resourceVersion"), "{text}");
    assert_eq!(diffs[0].change.as_ref().unwrap().resource_version, 0);
}

#[tokio::test]
async fn a_shared_api_key_is_told_at_its_place_whatever_else_is_wrong() {
    let server = Server::start().await;
    let consumer = |name: &str, keys: &str| {
        format!(
            "---\napiVersion: tollgate/v1\nkind: Consumer\nmetadata: {{name: {name}}}\n\
             spec: {{tenant: acme, credentials: [{keys}]}}\n"
        )
    };
    let key = "{apiKey: sk-one-and-the-same}";
    let text = TWO.to_owned() + &consumer("x", &format!("{key}, {key}")) + &consumer("y", key);
    let refused = server.config().apply(admin(apply(&text))).await.unwrap_err();
    let problems = details_of(&refused).unwrap().problems;
    let told: Vec<_> = problems.iter().map(|it| format!("{} {}: {}", it.name, it.field, it.message)).collect();
    assert_eq!(
        told,
        ["x spec.credentials[1]: is there twice", "y spec.credentials[0]: has an API key that consumer `x` has"]
    );
}

/// A watch of the holder of a new token, past its beginning; and the token's id.
async fn watch(server: &Server, ttl: &str) -> (tonic::Streaming<WatchEvent>, String) {
    let request = CreateTokenRequest { role: "viewer".into(), ttl: ttl.into(), ..CreateTokenRequest::default() };
    let made = server.cluster().create_token(admin(request)).await.unwrap().into_inner();
    let request = with(&made.secret, WatchRequest::default());
    let mut events = server.config().watch(request).await.unwrap().into_inner();
    while events.message().await.unwrap().unwrap().action != "synced" {}
    (events, made.token.unwrap().id)
}

/// How a stream that has nothing more to tell ends.
async fn end(events: &mut tonic::Streaming<WatchEvent>) -> tonic::Status {
    let next = tokio::time::timeout(std::time::Duration::from_secs(10), events.message());
    next.await.expect("the stream ends").unwrap_err()
}

#[tokio::test]
async fn a_watch_ends_when_its_token_is_revoked_or_expires() {
    let server = Server::start().await;
    let (mut silent, id) = watch(&server, "").await;
    let (mut other, _) = watch(&server, "").await;
    let revoke = RevokeTokenRequest { id, request_id: Vec::new() };
    server.cluster().revoke_token(admin(revoke)).await.unwrap();
    // Not even the change that comes right after is told to whoever may not read it.
    actions(&server, apply(TWO)).await;
    assert_eq!(end(&mut silent).await.code(), Code::Unauthenticated);
    assert_eq!(other.message().await.unwrap().unwrap().action, "created");
    let (mut aged, _) = watch(&server, "90d").await;
    server.node.pass(91 * 24 * 3_600);
    assert_eq!(end(&mut aged).await.code(), Code::Unauthenticated);
}
