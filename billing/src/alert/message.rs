//! What an alert says to whoever is told.

use serde_json::json;
use tollgate_model::{Money, Timestamp, month_name};
use tollgate_proto::state::v1::BudgetAlertRow;

use crate::amount::pico;

/// What receivers know an alert by, whichever node tells of it and how often: a digest of all that it is about. It has no full stop,
/// which would make what is signed ambiguous.
pub(super) fn id(alert: &BudgetAlertRow) -> String {
    let mut digest = blake3::Hasher::new();
    for text in [&alert.tenant, &alert.currency] {
        digest.update(text.as_bytes()).update(&[0]);
    }
    digest.update(&alert.month.to_be_bytes()).update(&alert.percent.to_be_bytes());
    digest.update(&pico(&alert.budget).unwrap_or(0).to_be_bytes());
    digest.update(&alert.seq.to_be_bytes()).update(&alert.raised_us.to_be_bytes());
    let hex = digest.finalize().to_hex();
    format!("msg_{}", &hex[..32])
}

/// The body of a call that tells of an alert: the same bytes each time.
#[must_use]
pub fn alert_message(alert: &BudgetAlertRow) -> String {
    let money = |bytes: &[u8]| Money(pico(bytes).unwrap_or(0)).to_string();
    json!({
        "type": "budget.threshold_reached",
        "timestamp": Timestamp(alert.raised_us).to_string(),
        "data": {
            "tenant": alert.tenant,
            "month": month_name(alert.month),
            "thresholdPercent": alert.percent,
            "budget": money(&alert.budget),
            "billed": money(&alert.billed),
            "currency": alert.currency,
        },
    })
    .to_string()
}
