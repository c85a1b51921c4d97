//! `tollgate billing periods`, `key` and `reprice`.

use serde_json::{Value, json};
use tollgate_proto::admin::v1::{
    GetStatementKeyRequest, ListPeriodsRequest, Period, PeriodTotal, VerifyPeriodRequest, VerifyPeriodResponse,
};

use crate::cmd::client::{
    connection::Connection,
    failure::Told,
    output::{ListFormat, some, write_json, write_table},
    table::Table,
};

const COLUMNS: [&str; 9] =
    ["tenant", "period", "state", "rows", "corrections", "amount", "currency", "end", "timeZone"];

pub(super) async fn list(connection: &Connection, tenant: String, output: ListFormat) -> anyhow::Result<()> {
    let (mut periods, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListPeriodsRequest { tenant: tenant.clone(), page_token };
        let answer = connection.read(async |at| at.billing().list_periods(at.request(request.clone())).await);
        let answer = answer.await?.into_inner();
        periods.extend(answer.periods.iter().flat_map(rows));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    match output {
        ListFormat::Json => write_json(&Value::Array(periods)),
        ListFormat::Table => write_table(&Table::of(&COLUMNS, &periods)),
    }
}

/// A row for each currency; one where nothing is billed.
fn rows(period: &Period) -> Vec<Value> {
    let none = [PeriodTotal::default()];
    let totals = if period.totals.is_empty() { &none } else { &period.totals[..] };
    let row = |total: &PeriodTotal| {
        json!({
            "tenant": period.tenant,
            "period": period.period,
            "state": period.state,
            "start": period.start,
            "end": period.end,
            "timeZone": period.time_zone,
            "rows": period.rows,
            "corrections": period.corrections,
            "exact": some(&total.exact),
            "rounding": some(&total.rounding),
            "amount": some(&total.amount),
            "currency": some(&total.currency),
            "closedAt": some(&period.closed_at),
        })
    };
    totals.iter().map(row).collect()
}

pub(super) async fn key(connection: &Connection, output: ListFormat) -> anyhow::Result<()> {
    let answer =
        connection.read(async |at| at.billing().get_statement_key(at.request(GetStatementKeyRequest {})).await);
    let key = answer.await?.into_inner();
    let row = json!({"fingerprint": key.fingerprint, "publicKey": key.public_key});
    match output {
        ListFormat::Json => write_json(&Value::Array(vec![row])),
        ListFormat::Table => write_table(&Table::of(&["fingerprint", "publicKey"], &[row])),
    }
}

pub(super) async fn reprice(
    connection: &Connection,
    tenant: String,
    period: String,
    output: ListFormat,
) -> anyhow::Result<()> {
    let request = VerifyPeriodRequest { tenant, period };
    let answer = connection.read(async |at| at.billing().verify_period(at.request(request.clone())).await);
    let found = answer.await?.into_inner();
    let rows = repriced(&request, &found);
    match output {
        ListFormat::Json => write_json(&Value::Array(rows))?,
        ListFormat::Table => {
            let columns = ["tenant", "period", "state", "ok", "rows", "billed", "repriced", "currency", "node"];
            write_table(&Table::of(&columns, &rows))?;
        }
    }
    for problem in &found.problems {
        anstream::eprintln!("tollgate: {problem}");
    }
    if found.problems.is_empty() { Ok(()) } else { Err(Told.into()) }
}

fn repriced(asked: &VerifyPeriodRequest, found: &VerifyPeriodResponse) -> Vec<Value> {
    let row = |billed: Value, repriced: Value, currency: Value| {
        json!({
            "tenant": asked.tenant,
            "period": asked.period,
            "state": found.state,
            "ok": found.problems.is_empty(),
            "rows": found.rows,
            "billed": billed,
            "repriced": repriced,
            "currency": currency,
            "node": found.node,
            "problems": found.problems,
        })
    };
    match &found.totals[..] {
        [] => vec![row(Value::Null, Value::Null, Value::Null)],
        all => all
            .iter()
            .map(|it| row(it.billed.clone().into(), it.repriced.clone().into(), it.currency.clone().into()))
            .collect(),
    }
}
