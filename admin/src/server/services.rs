//! Every gRPC service, behind gRPC-Web and the gate.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_proto::{
    FILE_DESCRIPTOR_SET,
    admin::v1::{
        billing_service_server::BillingServiceServer, cluster_service_server::ClusterServiceServer,
        config_service_server::ConfigServiceServer, credit_service_server::CreditServiceServer,
        limit_service_server::LimitServiceServer, usage_service_server::UsageServiceServer,
    },
};
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_web::GrpcWebLayer;
use tower::util::BoxCloneSyncService;
use tower_layer::Layer;

use super::{AdminState, http::Grpc};
use crate::{
    auth::{AuthLayer, Authenticator},
    bill::Exports,
    cluster::Cluster,
    config::{Config, Watchers},
    credits::Credits,
    health::NodeHealth,
    limits::Limits,
    money::Money,
    reconcile::Reconciles,
    usage::Usage,
};

/// The largest apply or diff: some 20,000 routes. More than a log entry takes is refused by the log itself.
pub const MAX_APPLY_BYTES: usize = 16 * 1024 * 1024;
/// The largest answer: a whole configuration.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// The largest of all other requests: names and filters.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

pub(super) fn all(state: &AdminState, tasks: &TaskTracker, drain: &CancellationToken) -> Grpc {
    let backplane = &state.backplane;
    let watchers = Watchers::new(tasks.clone(), drain.clone());
    let exports = Exports::new(tasks.clone(), drain.clone());
    let reconciles = Reconciles::new(drain.clone());
    let money = Money { backplane: Arc::clone(backplane), exports, reconciles, key: state.key.clone() };
    let config = Config { backplane: Arc::clone(backplane), key: state.key.clone(), watchers };
    let cluster = Cluster { backplane: Arc::clone(backplane), key: state.key.clone() };
    let health = NodeHealth { readiness: backplane.readiness(), drain: drain.clone() };
    let routes = Routes::new(
        ConfigServiceServer::new(config)
            .max_decoding_message_size(MAX_APPLY_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES),
    )
    .add_service(ClusterServiceServer::new(cluster).max_decoding_message_size(MAX_REQUEST_BYTES))
    .add_service(
        LimitServiceServer::new(Limits { backplane: Arc::clone(backplane), key: state.key.clone() })
            .max_decoding_message_size(MAX_REQUEST_BYTES),
    )
    .add_service(
        UsageServiceServer::new(Usage { backplane: Arc::clone(backplane) })
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES),
    )
    .add_service(
        CreditServiceServer::new(Credits { backplane: Arc::clone(backplane), key: state.key.clone() })
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES),
    )
    .add_service(BillingServiceServer::new(money).max_decoding_message_size(MAX_REQUEST_BYTES))
    .add_service(HealthServer::new(health).max_decoding_message_size(MAX_REQUEST_BYTES));
    let routes = with_reflection(routes).prepare();
    let authenticator = Authenticator::new(Arc::clone(backplane), state.key.clone());
    let gate = AuthLayer::new(authenticator, state.metrics.clone());
    BoxCloneSyncService::new(GrpcWebLayer::new().layer(gate.layer(routes)))
}

/// Both versions: `grpcurl` and friends differ in which one they ask for.
fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("tollgate.admin.v1.ConfigService")
            .with_service_name("tollgate.admin.v1.ClusterService")
            .with_service_name("tollgate.admin.v1.LimitService")
            .with_service_name("tollgate.admin.v1.CreditService")
            .with_service_name("tollgate.admin.v1.UsageService")
            .with_service_name("tollgate.admin.v1.BillingService")
            .with_service_name("grpc.health.v1.Health")
    };
    let v1 = builder().build_v1().expect("the built-in descriptors are complete");
    let v1alpha = builder().build_v1alpha().expect("the built-in descriptors are complete");
    routes.add_service(v1).add_service(v1alpha)
}
