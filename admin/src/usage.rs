//! `UsageService`: what was used, added up by whatever is asked for.

mod range;

use std::sync::Arc;

use tollgate_billing::{Column, Query, UsageLine};
use tollgate_proto::admin::v1::{QueryUsageRequest, QueryUsageResponse, UsageRow, usage_service_server::UsageService};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    auth::Caller,
    backplane::Backplane,
    call::{Call, refuse_unknown_tenant},
    details::{Reason, refuse},
};

/// More rows than anybody reads: some 20 MB of answer.
const MAX_ROWS: usize = 100_000;

/// The service.
#[derive(Clone)]
pub(crate) struct Usage {
    pub(crate) backplane: Arc<dyn Backplane>,
}

#[async_trait]
impl UsageService for Usage {
    async fn query(&self, request: Request<QueryUsageRequest>) -> Result<Response<QueryUsageResponse>, Status> {
        let call = Call::of(&request)?;
        let QueryUsageRequest { tenant, by, from, to } = request.into_inner();
        let tenant = tenant_of(&call.caller, tenant)?;
        let invalid = |wrong: String| refuse(Reason::Invalid, wrong);
        let (from, to) = range::range(&from, &to, self.backplane.now()).map_err(invalid)?;
        let by = columns(&by).map_err(invalid)?;
        self.backplane.read_barrier(call.deadline).await?;
        let query = Query { by, from: Some(from), to: Some(to), tenant, max: Some(MAX_ROWS) };
        let (backplane, asked) = (Arc::clone(&self.backplane), query.tenant.clone());
        // Months of hours are added up: too long for a thread that serves others.
        let read = tokio::task::spawn_blocking(move || {
            let lines = backplane.usage(&query);
            (lines.len() <= MAX_ROWS).then(|| lines.into_iter().map(|line| row(&query.by, line)).collect())
        });
        let rows: Option<Vec<UsageRow>> = read.await.map_err(|_| Status::internal("reading usage failed"))?;
        let too_many = || format!("more than {MAX_ROWS} rows: ask for a shorter time, one tenant, or fewer columns");
        let rows = rows.ok_or_else(|| refuse(Reason::TooLarge, too_many()))?;
        let nothing = rows.iter().all(|row| row.requests == 0); // a sum of nothing is a row too
        refuse_unknown_tenant(&*self.backplane, asked.as_deref(), nothing)?;
        Ok(Response::new(QueryUsageResponse { rows }))
    }
}

fn columns(names: &[String]) -> Result<Vec<Column>, String> {
    let mut columns = Vec::new();
    for name in names {
        let column: Column = name.parse().map_err(|wrong| format!("by: {wrong}"))?;
        if columns.contains(&column) {
            return Err(format!("by: `{name}` is named twice"));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn row(by: &[Column], line: UsageLine) -> UsageRow {
    let keys = by.iter().map(|column| column.as_str().to_owned()).zip(line.by).collect();
    UsageRow {
        keys,
        requests: line.totals.requests,
        input_tokens: line.totals.input_tokens,
        cached_input_tokens: line.totals.cached_input_tokens,
        output_tokens: line.totals.output_tokens,
        reasoning_tokens: line.totals.reasoning_tokens,
        cost: if line.currency.is_empty() { String::new() } else { line.totals.cost.to_string() },
        currency: line.currency,
        unpriced_requests: line.totals.unpriced,
    }
}

/// Whose usage, or bill: a narrowed token sees its own tenant's, whether it names it or not.
pub(crate) fn tenant_of(caller: &Caller, asked: String) -> Result<Option<String>, Status> {
    match &caller.tenant {
        Some(own) if asked.is_empty() || asked == *own => Ok(Some(own.clone())),
        Some(own) => Err(Status::permission_denied(format!("this token is narrowed to tenant {own}"))),
        None => Ok((!asked.is_empty()).then_some(asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Role;

    #[test]
    fn a_column_must_exist_and_come_once() {
        let columns = |names: &[&str]| columns(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(columns(&["day", "tenant"]).unwrap(), [Column::Day, Column::Tenant]);
        assert!(columns(&["colour"]).unwrap_err().starts_with("by: `colour`"));
        assert_eq!(columns(&["day", "day"]).unwrap_err(), "by: `day` is named twice");
    }

    #[test]
    fn a_narrowed_token_sees_its_own_tenant_and_no_other() {
        let narrowed = Caller { token: "t".into(), role: Role::Billing, tenant: Some("acme".into()) };
        assert_eq!(tenant_of(&narrowed, String::new()).unwrap().as_deref(), Some("acme"));
        assert_eq!(tenant_of(&narrowed, "acme".into()).unwrap().as_deref(), Some("acme"));
        assert_eq!(tenant_of(&narrowed, "globex".into()).unwrap_err().code(), tonic::Code::PermissionDenied);
        let wide = Caller { tenant: None, ..narrowed };
        assert_eq!(tenant_of(&wide, String::new()).unwrap(), None);
        assert_eq!(tenant_of(&wide, "globex".into()).unwrap().as_deref(), Some("globex"));
    }
}
