//! `BillingService`: the ledger (`ledger.rs`), exports (`bill.rs`), months (`periods.rs`), what upstreams say (`reconcile.rs`), and
//! alerts of budgets (`alerts.rs`).

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tollgate_model::secret::ClusterKey;
use tollgate_proto::admin::v1::{
    ExportBillChunk, ExportBillRequest, ExportStatementRequest, GetStatementKeyRequest, GetStatementKeyResponse,
    ListAlertsRequest, ListAlertsResponse, ListPeriodsRequest, ListPeriodsResponse, ReconcileRequest,
    ReconcileResponse, ShowLedgerRequest, ShowLedgerResponse, VerifyLedgerRequest, VerifyLedgerResponse,
    VerifyPeriodRequest, VerifyPeriodResponse, billing_service_server::BillingService,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{alerts, backplane::Backplane, bill::Exports, call::Call, ledger, periods, reconcile::Reconciles};

/// The service.
#[derive(Clone)]
pub(crate) struct Money {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) exports: Exports,
    pub(crate) reconciles: Reconciles,
    pub(crate) key: Option<Arc<ClusterKey>>,
}

#[async_trait]
impl BillingService for Money {
    type ExportStream = ReceiverStream<Result<ExportBillChunk, Status>>;
    type ExportStatementStream = ReceiverStream<Result<ExportBillChunk, Status>>;

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

    async fn list_periods(
        &self,
        request: Request<ListPeriodsRequest>,
    ) -> Result<Response<ListPeriodsResponse>, Status> {
        let call = Call::of(&request)?;
        periods::list(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }

    async fn export_statement(
        &self,
        request: Request<ExportStatementRequest>,
    ) -> Result<Response<Self::ExportStatementStream>, Status> {
        let call = Call::of(&request)?;
        let of = self.exports.begin_statement(&self.backplane, self.key.as_deref(), &call, request.into_inner());
        of.await.map(Response::new)
    }

    async fn verify_period(
        &self,
        request: Request<VerifyPeriodRequest>,
    ) -> Result<Response<VerifyPeriodResponse>, Status> {
        let call = Call::of(&request)?;
        periods::reprice(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }

    async fn get_statement_key(
        &self,
        request: Request<GetStatementKeyRequest>,
    ) -> Result<Response<GetStatementKeyResponse>, Status> {
        Call::of(&request)?;
        periods::statement_key(self.key.as_deref()).map(Response::new)
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
