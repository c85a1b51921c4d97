//! Zones over the wire. Nodes 1 of az-a, 2 and 4 of az-b are members; 2 does not answer.

use tollgate_proto::admin::v1::{ApplyRequest, RemoveNodeRequest, StatusZonesRequest, ZoneRequest, ZoneStatus};
use tonic::{Code, Status};

use crate::server::{Server, admin};

const UPSTREAMS: &str = r#"
apiVersion: tollgate/v1
kind: Service
metadata: {name: orders}
spec: {endpoints: [{address: "10.0.0.1:80", zone: az-a}, {address: "10.0.1.1:80", zone: az-c, weight: 0}]}
---
apiVersion: tollgate/v1
kind: Service
metadata: {name: stock}
spec: {endpoints: [{address: "10.0.0.2:80", zone: az-a}, {address: "10.0.1.2:80", zone: az-b}]}
---
apiVersion: tollgate/v1
kind: Provider
metadata: {name: openai}
spec: {type: openai, endpoints: [{url: "https://a.example.com/v1", zone: az-a}]}
---
apiVersion: tollgate/v1
kind: Provider
metadata: {name: anywhere}
spec: {type: openai, endpoints: [{url: "https://b.example.com/v1"}]}
---
apiVersion: tollgate/v1
kind: Service
metadata: {name: far}
spec: {endpoints: [{address: "10.0.3.1:80", zone: az-far}]}
"#;

async fn started() -> Server {
    let server = Server::start().await;
    *server.node.silent.lock().unwrap() = vec![2];
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", UPSTREAMS);
    assert!(problems.is_empty(), "{problems}");
    let resources = parsed.into_iter().map(|parsed| parsed.resource).collect();
    server.config().apply(admin(ApplyRequest { resources, ..ApplyRequest::default() })).await.unwrap();
    server
}

fn zone(zone: &str) -> ZoneRequest {
    ZoneRequest { zone: zone.to_owned(), ..ZoneRequest::default() }
}

async fn status(server: &Server) -> Vec<ZoneStatus> {
    server.cluster().status_zones(admin(StatusZonesRequest {})).await.unwrap().into_inner().zones
}

fn refused(status: &Status, code: Code, says: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(says), "{status:?} does not say {says:?}");
}

#[tokio::test]
async fn a_zone_is_drained_and_taken_back_by_name() {
    let server = started().await;
    let shown = |zones: &[ZoneStatus]| -> Vec<(String, bool, Vec<u64>, u64)> {
        zones.iter().map(|it| (it.zone.clone(), it.drained, it.nodes.clone(), it.endpoints)).collect()
    };
    let all = |drained| {
        let zone =
            |zone: &str, drained, nodes: &[u64], endpoints| (zone.to_owned(), drained, nodes.to_vec(), endpoints);
        vec![zone("az-a", drained, &[1], 3), zone("az-b", false, &[2, 4], 1), zone("az-far", false, &[], 1)]
    };
    assert_eq!(shown(&status(&server).await), all(false));
    let drained = server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap().into_inner();
    assert!(drained.changed);
    assert_eq!(drained.nowhere_else, ["service orders", "provider openai"], "one without weight takes nothing");
    let now = status(&server).await;
    assert_eq!(shown(&now), all(true));
    assert_eq!((now[0].drained_at.as_str(), now[0].drained_by.as_str()), ("2026-11-21T08:00:00Z", "id-secret-admin"));
    assert!(now[1].drained_at.is_empty() && now[1].drained_by.is_empty());
    assert!(!server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap().into_inner().changed, "it is");
    assert!(server.cluster().undrain_zone(admin(zone("az-a"))).await.unwrap().into_inner().changed);
    assert!(!server.cluster().undrain_zone(admin(zone("az-a"))).await.unwrap().into_inner().changed, "it is not");
    assert_eq!(shown(&status(&server).await), all(false));
}

#[tokio::test]
async fn what_would_leave_nobody_or_is_not_known_is_refused() {
    let server = started().await;
    let unknown = server.cluster().drain_zone(admin(zone("az-x"))).await.unwrap_err();
    refused(
        &unknown,
        Code::NotFound,
        "there is no zone `az-x`: no node and no endpoint is in it; there are az-a, az-b, az-far",
    );
    refused(&server.cluster().undrain_zone(admin(zone(""))).await.unwrap_err(), Code::NotFound, "there is no zone ``");
    server.cluster().drain_zone(admin(zone("az-b"))).await.unwrap();
    let last = server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap_err();
    refused(
        &last,
        Code::FailedPrecondition,
        "no node would get requests any more if az-a was drained: drained already: az-b",
    );
    let remove = |id| admin(RemoveNodeRequest { id, ..RemoveNodeRequest::default() });
    let without = server.cluster().remove(remove(1)).await.unwrap_err();
    refused(&without, Code::FailedPrecondition, "without node 1: undrain one of az-b first");
    server.cluster().remove(remove(2)).await.unwrap();
    server.cluster().undrain_zone(admin(zone("az-b"))).await.unwrap();
    server.cluster().remove(remove(1)).await.unwrap();
}

#[tokio::test]
async fn nodes_that_do_not_answer_are_nobody_who_stays() {
    let server = started().await;
    let remove = |id| admin(RemoveNodeRequest { id, ..RemoveNodeRequest::default() });
    *server.node.silent.lock().unwrap() = vec![2, 4];
    let drain = server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap_err();
    let says = "no node would get requests any more if az-a was drained: no other zone has nodes that answer";
    refused(&drain, Code::FailedPrecondition, says);
    let without = server.cluster().remove(remove(1)).await.unwrap_err();
    refused(&without, Code::FailedPrecondition, "requests any more without node 1: no other stays");
    server.cluster().drain_zone(admin(zone("az-b"))).await.unwrap();
    let drain = server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap_err();
    refused(&drain, Code::FailedPrecondition, "if az-a was drained: drained already: az-b; undrain one first");
    server.cluster().undrain_zone(admin(zone("az-b"))).await.unwrap();
    *server.node.silent.lock().unwrap() = vec![2];
    server.cluster().remove(remove(1)).await.unwrap();
    assert!(server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap().into_inner().changed, "node 4 answers");
}

#[tokio::test]
async fn a_request_that_comes_again_is_the_same_whatever_has_changed_meanwhile() {
    let server = started().await;
    let request = ZoneRequest { zone: "az-a".to_owned(), request_id: vec![7; 16] };
    *server.node.lose_next.lock().unwrap() = true;
    let lost = server.cluster().drain_zone(admin(request.clone())).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unknown);
    let index = server.node.log_index();
    assert!(server.cluster().drain_zone(admin(request.clone())).await.unwrap().into_inner().changed);
    assert_eq!(server.node.log_index(), index, "it was done once");
    let other = server.cluster().undrain_zone(admin(request)).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn nodes_that_stop_are_nobody_who_stays() {
    let server = started().await;
    let remove = |id| admin(RemoveNodeRequest { id, ..RemoveNodeRequest::default() });
    *server.node.leaving.lock().unwrap() = vec![4];
    let drain = server.cluster().drain_zone(admin(zone("az-a"))).await.unwrap_err();
    let says = "no node would get requests any more if az-a was drained: no other zone has nodes that answer";
    refused(&drain, Code::FailedPrecondition, says);
    let without = server.cluster().remove(remove(1)).await.unwrap_err();
    refused(&without, Code::FailedPrecondition, "requests any more without node 1: no other stays");
    // As one does that has not heard yet that its zone was taken back.
    let mut cluster = server.cluster();
    let (drained, ()) = tokio::join!(cluster.drain_zone(admin(zone("az-a"))), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        server.node.leaving.lock().unwrap().clear();
    });
    assert!(drained.unwrap().into_inner().changed);
}
