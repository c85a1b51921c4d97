//! `CreditService` and `BillingService`: in the contract, in the table of methods and in reflection, and not built yet.
//! Whoever may call a method is told so; nobody else learns anything.

use tollgate_proto::admin::v1::{
    CreditHistoryRequest, CreditHistoryResponse, ExportBillChunk, ExportBillRequest, GrantCreditRequest,
    GrantCreditResponse, ReconcileRequest, ReconcileResponse, ShowCreditRequest, ShowCreditResponse, ShowLedgerRequest,
    ShowLedgerResponse, VerifyLedgerRequest, VerifyLedgerResponse, billing_service_server::BillingService,
    credit_service_server::CreditService,
};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::call::{Never, not_available_yet};

/// Both services.
#[derive(Clone)]
pub(crate) struct Money;

#[async_trait]
impl CreditService for Money {
    async fn grant(&self, _: Request<GrantCreditRequest>) -> Result<Response<GrantCreditResponse>, Status> {
        Err(not_available_yet())
    }

    async fn show(&self, _: Request<ShowCreditRequest>) -> Result<Response<ShowCreditResponse>, Status> {
        Err(not_available_yet())
    }

    async fn history(&self, _: Request<CreditHistoryRequest>) -> Result<Response<CreditHistoryResponse>, Status> {
        Err(not_available_yet())
    }
}

#[async_trait]
impl BillingService for Money {
    type ExportStream = Never<ExportBillChunk>;

    async fn export(&self, _: Request<ExportBillRequest>) -> Result<Response<Self::ExportStream>, Status> {
        Err(not_available_yet())
    }

    async fn reconcile(&self, _: Request<Streaming<ReconcileRequest>>) -> Result<Response<ReconcileResponse>, Status> {
        Err(not_available_yet())
    }

    async fn verify_ledger(&self, _: Request<VerifyLedgerRequest>) -> Result<Response<VerifyLedgerResponse>, Status> {
        Err(not_available_yet())
    }

    async fn show_ledger(&self, _: Request<ShowLedgerRequest>) -> Result<Response<ShowLedgerResponse>, Status> {
        Err(not_available_yet())
    }
}
