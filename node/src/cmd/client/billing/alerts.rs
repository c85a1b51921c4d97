//! `tollgate billing alerts`: which budgets were passed.

use serde_json::{Value, json};
use tollgate_proto::admin::v1::{BudgetAlert, ListAlertsRequest};

use super::super::{
    connection::Connection,
    output::{ListFormat, write_list},
};

const COLUMNS: [&str; 11] =
    ["raised", "tenant", "month", "threshold", "budget", "billed", "currency", "state", "tries", "problem", "id"];
const PAGE: u32 = 1_000;

pub(super) async fn run(connection: &Connection, tenant: String, max: u32, output: ListFormat) -> anyhow::Result<()> {
    let mut request = ListAlertsRequest { tenant, ..ListAlertsRequest::default() };
    let (mut rows, mut left) = (Vec::new(), max);
    loop {
        request.page_size = left.min(PAGE);
        let page = connection.read(async |at| at.billing().list_alerts(at.request(request.clone())).await).await?;
        let page = page.into_inner();
        left = left.saturating_sub(u32::try_from(page.alerts.len()).unwrap_or(u32::MAX));
        rows.extend(page.alerts.into_iter().map(row));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || left == 0 {
            break;
        }
    }
    write_list(output, &COLUMNS, rows)?;
    if !request.page_token.is_empty() {
        anstream::eprintln!("there are more: raise --max");
    }
    Ok(())
}

fn row(alert: BudgetAlert) -> Value {
    let some = |text: String| (!text.is_empty()).then_some(text);
    json!({
        "raised": alert.raised,
        "tenant": alert.tenant,
        "month": alert.month,
        "threshold": alert.threshold_percent,
        "budget": alert.budget,
        "billed": alert.billed,
        "currency": alert.currency,
        "state": alert.state,
        "tries": alert.tries,
        "lastTry": some(alert.last_try),
        "problem": some(alert.problem),
        "id": alert.id,
    })
}
