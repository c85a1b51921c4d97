//! `LimitService`: what the accounts of limits hold.

use std::sync::Arc;

use tollgate_proto::admin::v1::{
    ExplainLimitsRequest, ExplainLimitsResponse, ResetLimitRequest, ResetLimitResponse, ShowLimitsRequest,
    ShowLimitsResponse, limit_service_server::LimitService,
};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    backplane::{AccountQuery, Backplane},
    call::{Call, not_available_yet, refuse_unknown_tenant},
};

/// Accounts on a page for a caller that names no number.
const DEFAULT_PAGE: u32 = 1_000;
/// A page of these is some 2 MB.
const MAX_PAGE: u32 = 10_000;

/// The service.
#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) backplane: Arc<dyn Backplane>,
}

#[async_trait]
impl LimitService for Limits {
    async fn show(&self, request: Request<ShowLimitsRequest>) -> Result<Response<ShowLimitsResponse>, Status> {
        let call = Call::of(&request)?;
        let ShowLimitsRequest { limit, tenant, page_size, page_token } = request.into_inner();
        let max = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
        let named = |name: String| (!name.is_empty()).then_some(name);
        let query = AccountQuery {
            limit: named(limit),
            tenant: named(tenant),
            after: page_token.clone(),
            max: usize::try_from(max).expect("a page fits"),
        };
        self.backplane.read_barrier(call.deadline).await?;
        let page = self.backplane.accounts(&query);
        let is_empty = page.accounts.is_empty() && page_token.is_empty();
        refuse_unknown_tenant(&*self.backplane, query.tenant.as_deref(), is_empty)?;
        Ok(Response::new(ShowLimitsResponse { accounts: page.accounts, next_page_token: page.next }))
    }

    async fn explain(&self, _: Request<ExplainLimitsRequest>) -> Result<Response<ExplainLimitsResponse>, Status> {
        Err(not_available_yet())
    }

    async fn reset(&self, _: Request<ResetLimitRequest>) -> Result<Response<ResetLimitResponse>, Status> {
        Err(not_available_yet())
    }
}
