//! `tollgate usage`: what was used.

use std::str::FromStr;

use clap::Args;
use serde_json::{Map, Value, json};
use tollgate_billing::Column;
use tollgate_proto::admin::v1::{QueryUsageRequest, UsageRow};

use super::{
    connection::{Connection, ConnectionArgs},
    output::{ListFormat, write_list},
};

/// Figures of every row, after the columns that it is added up by.
const FIGURES: [&str; 8] = [
    "requests",
    "inputTokens",
    "cachedInputTokens",
    "outputTokens",
    "reasoningTokens",
    "cost",
    "currency",
    "unpricedRequests",
];

/// Show what was used, added up.
///
/// Usage is kept by the hour: an hour that the time asked for touches counts as a whole.
#[derive(Args, Debug)]
#[command(after_help = "Example: tollgate usage --by tenant,model --from 2026-11-01")]
pub(crate) struct UsageArgs {
    /// Only this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// A row for each combination of these: tenant, consumer, route, provider, model, providerModel, hour, day.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', value_parser = column)]
    by: Vec<String>,
    /// From then on: 2026-11-01 or 2026-11-01T08:00:00Z; since the month began when absent.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,
    /// Until then; now when absent.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListFormat,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// For clap: a column by which usage can be added up.
fn column(text: &str) -> Result<String, String> {
    Column::from_str(text).map(|column| column.as_str().to_owned())
}

/// For clap: a day of UTC, or an instant.
pub(super) fn time(text: &str) -> Result<String, String> {
    let day = text.len() == 10 && !text.contains('T');
    let instant = if day { format!("{text}T00:00:00Z") } else { text.to_owned() };
    tollgate_model::Timestamp::parse(&instant).map(|_| instant)
}

pub(super) async fn run(args: UsageArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    let request = QueryUsageRequest {
        tenant: args.tenant.unwrap_or_default(),
        by: args.by.clone(),
        from: args.from.unwrap_or_default(),
        to: args.to.unwrap_or_default(),
    };
    let answer = connection.read(async |at| at.usage().query(at.request(request.clone())).await).await?;
    let columns: Vec<&str> = args.by.iter().map(String::as_str).chain(FIGURES).collect();
    write_list(args.output, &columns, answer.into_inner().rows.into_iter().map(|usage| row(&args.by, usage)).collect())
}

/// `cost` and `currency` are null where nothing is billed.
fn row(by: &[String], mut usage: UsageRow) -> Value {
    let mut row = Map::new();
    for column in by {
        row.insert(column.clone(), usage.keys.remove(column).unwrap_or_default().into());
    }
    let priced = |text: String| (!text.is_empty()).then_some(text);
    let figures = json!({
        "requests": usage.requests,
        "inputTokens": usage.input_tokens,
        "cachedInputTokens": usage.cached_input_tokens,
        "outputTokens": usage.output_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "cost": priced(usage.cost),
        "currency": priced(usage.currency),
        "unpricedRequests": usage.unpriced_requests,
    });
    if let Value::Object(figures) = figures {
        row.extend(figures);
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_an_instant_too() {
        assert_eq!(time("2026-11-01").unwrap(), "2026-11-01T00:00:00Z");
        assert_eq!(time("2026-11-01T08:00:00+02:00").unwrap(), "2026-11-01T08:00:00+02:00");
        assert!(time("2026-13-01").is_err() && time("yesterday").is_err());
    }

    #[test]
    fn a_row_has_the_columns_asked_for_and_then_the_figures() {
        let usage = UsageRow { keys: [("model".into(), "m".into())].into(), requests: 2, ..UsageRow::default() };
        let row = row(&["model".into()], usage);
        let fields: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, [&["model"][..], &FIGURES].concat());
        assert_eq!((row["requests"].as_u64(), &row["cost"]), (Some(2), &Value::Null));
    }
}
