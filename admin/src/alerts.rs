//! Budgets that were passed, and who was told.

use std::sync::Arc;

use tollgate_model::{Money, Timestamp, month_name};
use tollgate_proto::{
    admin::v1::{BudgetAlert, ListAlertsRequest, ListAlertsResponse},
    state::v1::{BudgetAlertRow, BudgetAlertState},
};
use tonic::Status;

use crate::{
    backplane::Backplane,
    call::{Call, refuse_unknown_tenant},
    details::{Reason, refuse},
    usage::tenant_of,
};

const PAGE: usize = 1_000;

/// One page. A narrowed token is told of its own tenant's alone.
pub(crate) async fn list(
    backplane: &Arc<dyn Backplane>,
    call: &Call,
    request: ListAlertsRequest,
) -> Result<ListAlertsResponse, Status> {
    let tenant = tenant_of(&call.caller, request.tenant)?;
    let before = match request.page_token.as_str() {
        "" => None,
        token => {
            let wrong = |_| refuse(Reason::Invalid, "page_token: is none of an earlier answer");
            Some(token.parse::<u64>().map_err(wrong)?)
        }
    };
    backplane.read_barrier(call.deadline).await?;
    let asked = usize::try_from(request.page_size).unwrap_or(PAGE);
    let max = if asked == 0 { PAGE } else { asked.min(PAGE) };
    let mut alerts = backplane.budget_alerts(tenant.as_deref(), before, max + 1);
    refuse_unknown_tenant(&**backplane, tenant.as_deref(), alerts.is_empty())?;
    let is_more = alerts.len() > max;
    alerts.truncate(max);
    let next = alerts.last().filter(|_| is_more).map(|alert| alert.seq.to_string());
    let alerts = alerts.iter().map(|alert| told(alert)).collect();
    Ok(ListAlertsResponse { alerts, next_page_token: next.unwrap_or_default() })
}

fn told(alert: &BudgetAlertRow) -> BudgetAlert {
    let money = |bytes: &[u8]| bytes.try_into().map_or(Money(0), |bytes| Money(i128::from_be_bytes(bytes))).to_string();
    let state = match alert.state() {
        BudgetAlertState::Pending => "pending",
        BudgetAlertState::Delivered => "delivered",
        BudgetAlertState::Failed => "failed",
        BudgetAlertState::Listed | BudgetAlertState::Unspecified => "listed",
    };
    BudgetAlert {
        id: alert.id.clone(),
        tenant: alert.tenant.clone(),
        month: month_name(alert.month),
        threshold_percent: alert.percent,
        budget: money(&alert.budget),
        billed: money(&alert.billed),
        currency: alert.currency.clone(),
        raised: Timestamp(alert.raised_us).to_string(),
        state: state.to_owned(),
        tries: alert.tries,
        last_try: if alert.tries == 0 { String::new() } else { Timestamp(alert.tried_us).to_string() },
        problem: alert.problem.clone(),
    }
}
