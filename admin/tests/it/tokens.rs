//! Tokens and members over the wire.

use tollgate_admin::{Role, backplane::MembershipChange};
use tollgate_model::{NodeId, yaml};
use tollgate_proto::admin::v1::{
    AddNodeRequest, ApplyRequest, CreateTokenRequest, GetRequest, ListTokensRequest, QueryUsageRequest,
    RemoveNodeRequest, RevokeTokenRequest, ShowLimitsRequest, limit_service_client::LimitServiceClient,
    usage_service_client::UsageServiceClient,
};
use tonic::Code;

use crate::{
    fake::IDLE,
    server::{Server, admin, secret, with},
};

fn viewer() -> CreateTokenRequest {
    CreateTokenRequest { role: "viewer".into(), request_id: vec![9; 16], ..CreateTokenRequest::default() }
}

#[tokio::test]
async fn a_token_works_until_it_is_revoked_and_a_retry_gives_the_same_one() {
    let server = Server::start().await;
    let made = server.cluster().create_token(admin(viewer())).await.unwrap().into_inner();
    let again = server.cluster().create_token(admin(viewer())).await.unwrap().into_inner();
    assert_eq!(made, again);
    let token = made.token.unwrap();
    assert_eq!((token.role.as_str(), token.created_at.as_str()), ("viewer", "2026-11-21T08:00:00Z"));
    assert!(server.config().get(with(&made.secret, GetRequest::default())).await.is_ok());
    let listed = server.cluster().list_tokens(admin(ListTokensRequest {})).await.unwrap();
    assert!(listed.get_ref().tokens.contains(&token));
    assert!(!format!("{listed:?}").contains(&made.secret));
    let revoke = RevokeTokenRequest { id: token.id, request_id: Vec::new() };
    server.cluster().revoke_token(admin(revoke.clone())).await.unwrap();
    let refused = server.config().get(with(&made.secret, GetRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(server.cluster().revoke_token(admin(revoke)).await.unwrap_err().message().contains("there is no token"));
}

#[tokio::test]
async fn a_token_that_makes_no_sense_is_refused() {
    let server = Server::start().await;
    let bad = [
        CreateTokenRequest { role: "root".into(), ..viewer() },
        CreateTokenRequest { ttl: "soon".into(), ..viewer() },
        CreateTokenRequest { ttl: "0s".into(), ..viewer() },
        CreateTokenRequest { tenant: "Not A Name".into(), ..viewer() },
        CreateTokenRequest { tenant: "nobody".into(), ..viewer() },
    ];
    for request in bad {
        let refused = server.cluster().create_token(admin(request.clone())).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{request:?}");
    }
}

#[tokio::test]
async fn a_token_is_narrowed_only_to_a_tenant_that_there_is() {
    let server = Server::start().await;
    let acme = "apiVersion: tollgate/v1\nkind: Tenant\nmetadata: {name: acme}\n";
    let resources = yaml::parse("test", acme).0.into_iter().map(|parsed| parsed.resource).collect();
    server.config().apply(admin(ApplyRequest { resources, ..ApplyRequest::default() })).await.unwrap();
    let narrowed = |tenant: &str| CreateTokenRequest { tenant: tenant.into(), ..viewer() };
    let refused = server.cluster().create_token(admin(narrowed("acne"))).await.unwrap_err();
    assert_eq!(refused.message(), "tenant: there is no tenant `acne` (did you mean `acme`?)");
    let made = server.cluster().create_token(admin(narrowed("acme"))).await.unwrap().into_inner();
    assert_eq!(made.token.unwrap().tenant, "acme");
}

#[tokio::test]
async fn a_request_id_of_another_command_makes_no_token_and_revokes_none() {
    let server = Server::start().await;
    let id = server.cluster().create_token(admin(viewer())).await.unwrap().into_inner().token.unwrap().id;
    let other = server.cluster().create_token(admin(CreateTokenRequest { request_id: Vec::new(), ..viewer() })).await;
    let other = other.unwrap().into_inner().token.unwrap().id;
    assert_ne!(id, other);
    let revoke = RevokeTokenRequest { id: other, request_id: viewer().request_id };
    let refused = server.cluster().revoke_token(admin(revoke)).await.unwrap_err();
    assert!(refused.message().contains("request id was used for another command"), "{refused}");
}

#[tokio::test]
async fn members_are_changed_as_asked() {
    let server = Server::start().await;
    let add = AddNodeRequest { id: 4, peer: "10.0.0.4:7000".into(), ..AddNodeRequest::default() };
    assert_eq!(server.cluster().add(admin(add)).await.unwrap().get_ref().leader, 1);
    let expected = MembershipChange::Add { node: NodeId(4), peer: "10.0.0.4:7000".into() };
    assert_eq!(*server.node.last_change.lock().unwrap(), Some(expected));
    let remove = RemoveNodeRequest { id: 4, lost: true, ..RemoveNodeRequest::default() };
    server.cluster().remove(admin(remove)).await.unwrap();
    let expected = MembershipChange::Remove { node: NodeId(4), lost: true };
    assert_eq!(*server.node.last_change.lock().unwrap(), Some(expected));
    let nobody = AddNodeRequest { id: 0, peer: "10.0.0.4:7000".into(), ..AddNodeRequest::default() };
    assert_eq!(server.cluster().add(admin(nobody)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn limits_come_in_pages() {
    let server = Server::start().await;
    let mut limits = LimitServiceClient::new(server.channel.clone());
    let mut request = ShowLimitsRequest { page_size: 10, ..ShowLimitsRequest::default() };
    let mut sizes = Vec::new();
    loop {
        let page = limits.show(admin(request.clone())).await.unwrap().into_inner();
        sizes.push(page.accounts.len());
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test]
async fn an_operator_makes_and_revokes_every_token_but_an_admins() {
    let server = Server::start().await;
    let operator = secret(Role::Operator);
    let create = |role: &str| CreateTokenRequest { role: role.into(), ..CreateTokenRequest::default() };
    let revoke = |id: &str| RevokeTokenRequest { id: id.into(), request_id: Vec::new() };
    for role in ["operator", "billing", "viewer"] {
        let made = server.cluster().create_token(with(&operator, create(role))).await.unwrap().into_inner();
        let id = made.token.unwrap().id;
        server.cluster().revoke_token(with(&operator, revoke(&id))).await.unwrap();
        let refused = server.config().get(with(&made.secret, GetRequest::default())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{role}");
    }
    let refused = server.cluster().create_token(with(&operator, create("admin"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "the role operator may not make a token of role admin");
    let other = server.cluster().create_token(admin(create("admin"))).await.unwrap().into_inner();
    let id = other.token.unwrap().id;
    let refused = server.cluster().revoke_token(with(&operator, revoke(&id))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "the role operator may not revoke a token of role admin");
    server.cluster().revoke_token(admin(revoke(&id))).await.unwrap();
}

#[tokio::test]
async fn an_operator_that_tries_again_hears_that_it_has_revoked() {
    let server = Server::start().await;
    let operator = secret(Role::Operator);
    let id = server.cluster().create_token(admin(viewer())).await.unwrap().into_inner().token.unwrap().id;
    let revoke = RevokeTokenRequest { id, request_id: vec![8; 16] };
    for _ in 0..2 {
        server.cluster().revoke_token(with(&operator, revoke.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn a_tenant_that_there_is_not_is_no_tenant_that_used_nothing() {
    let server = Server::start().await;
    let (mut limits, mut usage) =
        (LimitServiceClient::new(server.channel.clone()), UsageServiceClient::new(server.channel.clone()));
    let accounts = ShowLimitsRequest { tenant: IDLE.into(), ..ShowLimitsRequest::default() };
    let rows = QueryUsageRequest { tenant: IDLE.into(), ..QueryUsageRequest::default() };
    for refused in
        [limits.show(admin(accounts.clone())).await.unwrap_err(), usage.query(admin(rows.clone())).await.unwrap_err()]
    {
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, "there is no tenant `idle`"));
    }
    // One that is gone and has used something is told of.
    let gone = QueryUsageRequest { tenant: "gone".into(), ..QueryUsageRequest::default() };
    assert_eq!(usage.query(admin(gone)).await.unwrap().get_ref().rows.len(), 1);
    let idle = format!("apiVersion: tollgate/v1\nkind: Tenant\nmetadata: {{name: {IDLE}}}\n");
    let resources = yaml::parse("test", &idle).0.into_iter().map(|parsed| parsed.resource).collect();
    server.config().apply(admin(ApplyRequest { resources, ..ApplyRequest::default() })).await.unwrap();
    assert!(limits.show(admin(accounts)).await.unwrap().get_ref().accounts.is_empty());
    assert_eq!(usage.query(admin(rows)).await.unwrap().get_ref().rows.len(), 1);
}
