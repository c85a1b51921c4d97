//! `BillingService`: the ledger (`ledger.rs`), exports (`bill.rs`), what upstreams say (`reconcile.rs`), and alerts of budgets
//! (`alerts.rs`).

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tollgate_proto::admin::v1::{
    ExportBillChunk, ExportBillRequest, ListAlertsRequest, ListAlertsResponse, ReconcileRequest, ReconcileResponse,
    ShowLedgerRequest, ShowLedgerResponse, VerifyLedgerRequest, VerifyLedgerResponse,
    billing_service_server::BillingService,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{alerts, backplane::Backplane, bill::Exports, call::Call, ledger, reconcile::Reconciles};

/// The service.
#[derive(Clone)]
pub(crate) struct Money {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) exports: Exports,
    pub(crate) reconciles: Reconciles,
}

#[async_trait]
impl BillingService for Money {
    type ExportStream = ReceiverStream<Result<ExportBillChunk, Status>>;

    async fn export(&self, request: Request<ExportBillRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let call = Call::of(&request)?;
        self.exports.begin(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }

    async fn reconcile(
        &self,
        request: Request<Streaming<ReconcileRequest>>,
    ) -> Result<Response<ReconcileResponse>, Status> {
        let call = Call::of(&request)?;
        self.reconciles.run(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }

    async fn verify_ledger(
        &self,
        request: Request<VerifyLedgerRequest>,
    ) -> Result<Response<VerifyLedgerResponse>, Status> {
        let call = Call::of(&request)?;
        ledger::verify(&self.backplane, &call).await.map(Response::new)
    }

    async fn show_ledger(&self, request: Request<ShowLedgerRequest>) -> Result<Response<ShowLedgerResponse>, Status> {
        let call = Call::of(&request)?;
        ledger::show(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Result<Response<ListAlertsResponse>, Status> {
        let call = Call::of(&request)?;
        alerts::list(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }
}
