//! Months as they are billed: `ListPeriods`, `VerifyPeriod`, `GetStatementKey`, and what `ExportStatement` begins with.

use std::sync::Arc;

use tollgate_billing::{
    export::ExportError,
    ledger::{Keeper, Repriced},
    period::{Period, Standing},
    statement::{PublicKey, Statement, StatementFile, line},
};
use tollgate_model::{Month, Timestamp, secret::ClusterKey};
use tollgate_proto::admin::v1::{
    ExportStatementRequest, GetStatementKeyResponse, ListPeriodsRequest, ListPeriodsResponse, Period as Listed,
    PeriodTotal, RepricedTotal, VerifyPeriodRequest, VerifyPeriodResponse,
};
use tonic::Status;

use crate::{
    backplane::{Backplane, BillExport},
    call::{Call, refuse_unknown_tenant},
    details::{Reason, refuse},
    ledger::blocking,
    usage::tenant_of,
};

/// Months of one answer.
const PAGE: usize = 1_000;

/// The months of all tenants, or of one.
pub(crate) async fn list(
    backplane: &Arc<dyn Backplane>,
    call: &Call,
    request: ListPeriodsRequest,
) -> Result<ListPeriodsResponse, Status> {
    let tenant = tenant_of(&call.caller, request.tenant)?;
    let after = page_token(&request.page_token)?;
    backplane.read_barrier(call.deadline).await?;
    let now = backplane.now();
    let (periods, next_page_token) = backplane.ledger().look(|state| {
        let after = after.as_ref().map(|(tenant, month)| (tenant.as_str(), *month));
        let mut all = state.periods().list(tenant.as_deref(), after);
        let page: Vec<_> = all.by_ref().take(PAGE).map(|(tenant, period)| listed(tenant, period, now)).collect();
        let next = all.next().and_then(|_| page.last().map(|last| format!("{}/{}", last.period, last.tenant)));
        (page, next.unwrap_or_default())
    });
    let is_empty = periods.is_empty() && request.page_token.is_empty();
    refuse_unknown_tenant(&**backplane, tenant.as_deref(), is_empty)?;
    Ok(ListPeriodsResponse { periods, next_page_token })
}

/// The last month of the page before.
fn page_token(token: &str) -> Result<Option<(String, Month)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = token.split_once('/').and_then(|(month, tenant)| Some((tenant.to_owned(), Month::parse(month).ok()?)));
    read.map(Some).ok_or_else(|| refuse(Reason::Invalid, "page_token: is none of an earlier answer"))
}

fn listed(tenant: &str, period: &Period, now: Timestamp) -> Listed {
    let totals = period.totals().into_iter().map(|(currency, total)| PeriodTotal {
        currency: currency.to_string(),
        exact: total.exact.to_string(),
        rounding: total.rounding().to_string(),
        amount: total.amount.to_string(),
    });
    Listed {
        tenant: tenant.to_owned(),
        period: period.month.to_string(),
        state: period.standing(now).as_str().to_owned(),
        start: period.start.to_string(),
        end: period.end.to_string(),
        time_zone: period.zone.name().to_owned(),
        rows: period.tree.leaves(),
        corrections: period.corrections,
        totals: totals.collect(),
        closed_at: period.closed.as_ref().map_or_else(String::new, |closed| closed.now.to_string()),
    }
}

/// Whose month is asked for, and which.
fn asked(call: &Call, tenant: String, period: &str) -> Result<(String, Month), Status> {
    let invalid = |wrong: String| refuse(Reason::Invalid, wrong);
    let tenant = tenant_of(&call.caller, tenant)?.ok_or_else(|| invalid("tenant: is missing".to_owned()))?;
    let month = Month::parse(period).map_err(|wrong| invalid(format!("period: {wrong}")))?;
    Ok((tenant, month))
}

fn none(backplane: &dyn Backplane, tenant: &str, month: Month) -> Status {
    let unknown = refuse_unknown_tenant(backplane, Some(tenant), true).err();
    unknown.unwrap_or_else(|| refuse(Reason::NotFound, format!("period: {tenant} has nothing in {month}")))
}

/// A month priced again.
pub(crate) async fn reprice(
    backplane: &Arc<dyn Backplane>,
    call: &Call,
    request: VerifyPeriodRequest,
) -> Result<VerifyPeriodResponse, Status> {
    let (tenant, month) = asked(call, request.tenant, &request.period)?;
    backplane.read_barrier(call.deadline).await?;
    let (keeper, node) = (backplane.ledger(), backplane.node().0);
    let standing = standing(&keeper, &tenant, month, backplane.now());
    let of = tenant.clone();
    let repriced = blocking(move || keeper.reprice(&of, month)).await?;
    let (Some(standing), Some(repriced)) = (standing, repriced) else {
        return Err(none(&**backplane, &tenant, month));
    };
    let Repriced { rows, sums, problems } = repriced;
    let totals = sums.into_iter().map(|(currency, sums)| RepricedTotal {
        currency: currency.to_string(),
        billed: sums.billed.to_string(),
        repriced: sums.repriced.to_string(),
    });
    Ok(VerifyPeriodResponse { node, rows, totals: totals.collect(), problems, state: standing.as_str().to_owned() })
}

fn standing(keeper: &Keeper, tenant: &str, month: Month, now: Timestamp) -> Option<Standing> {
    keeper.look(|state| state.periods().get(tenant, month).map(|period| period.standing(now)))
}

/// The file of a statement, from its cursor on.
pub(crate) fn statement(
    backplane: &Arc<dyn Backplane>,
    key: Option<&ClusterKey>,
    call: &Call,
    request: ExportStatementRequest,
) -> Result<impl FnOnce() -> Result<BillExport, ExportError> + Send + 'static, Status> {
    let (tenant, month) = asked(call, request.tenant, &request.period)?;
    let key = key.ok_or_else(keyless)?;
    let keeper = backplane.ledger();
    let known = keeper.look(|state| {
        let period = state.periods().get(&tenant, month)?;
        Some((Statement::of(&tenant, period, state.chain()), period.standing(backplane.now()), period.end))
    });
    let (statement, standing, end) = known.ok_or_else(|| none(&**backplane, &tenant, month))?;
    let statement = statement.ok_or_else(|| {
        let what = format!("period: {month} of {tenant} is {}, and not closed: it ends {end}", standing.as_str());
        refuse(Reason::Refused, what)
    })?;
    let line = line(&statement, key);
    Ok(move || Ok(Box::new(StatementFile::open(keeper, &statement, line, &request.cursor)?) as BillExport))
}

/// By which key statements are signed.
pub(crate) fn statement_key(key: Option<&ClusterKey>) -> Result<GetStatementKeyResponse, Status> {
    let key = PublicKey(key.ok_or_else(keyless)?.statement_key());
    Ok(GetStatementKeyResponse { public_key: key.to_string(), fingerprint: key.fingerprint().to_string() })
}

fn keyless() -> Status {
    let what = "this node has no cluster key, which signs statements: set `[cluster] key_file` on every node";
    refuse(Reason::Refused, what)
}
