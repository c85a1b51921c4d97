//! `BillingService`: the ledger (`ledger.rs`) and exports (`bill.rs`). To reconcile is in the contract, in the table of methods and
//! in reflection, and not built yet. Whoever may call a method is told so; nobody else learns anything.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tollgate_proto::admin::v1::{
    ExportBillChunk, ExportBillRequest, ReconcileRequest, ReconcileResponse, ShowLedgerRequest, ShowLedgerResponse,
    VerifyLedgerRequest, VerifyLedgerResponse, billing_service_server::BillingService,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{
    backplane::Backplane,
    bill::Exports,
    call::{Call, not_available_yet},
    ledger,
};

/// The service.
#[derive(Clone)]
pub(crate) struct Money {
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) exports: Exports,
}

#[async_trait]
impl BillingService for Money {
    type ExportStream = ReceiverStream<Result<ExportBillChunk, Status>>;

    async fn export(&self, request: Request<ExportBillRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let call = Call::of(&request)?;
        self.exports.begin(&self.backplane, &call, request.into_inner()).await.map(Response::new)
    }

    async fn reconcile(&self, _: Request<Streaming<ReconcileRequest>>) -> Result<Response<ReconcileResponse>, Status> {
        Err(not_available_yet())
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
}
