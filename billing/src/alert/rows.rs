//! Budgets as key–value rows: `a` and a number for alerts; `m`, the tenant, a NUL, the month and the currency for sums.

use std::collections::BTreeMap;

use prost::Message;
use tollgate_model::Currency;
use tollgate_proto::state::v1::{BudgetAlertRow, BudgetMonthRow, BudgetRaised};

use super::{
    book::{Key, Month},
    outbox::Outbox,
};
use crate::{
    RestoreError,
    amount::{bytes, pico},
};

const ALERT: u8 = b'a';
const MONTH: u8 = b'm';

type Change = (Vec<u8>, Option<Vec<u8>>);

pub(super) fn alert(seq: u64, alert: Option<&BudgetAlertRow>) -> Change {
    let mut key = vec![ALERT];
    key.extend(seq.to_be_bytes());
    (key, alert.map(Message::encode_to_vec))
}

/// Names of tenants have no NUL.
pub(super) fn month(key: &Key, month: Option<&Month>) -> Change {
    let (tenant, number, currency) = key;
    let mut bytes = vec![MONTH];
    bytes.extend(tenant.bytes());
    bytes.push(0);
    bytes.extend(number.to_be_bytes());
    bytes.extend(currency.as_str().bytes());
    (bytes, month.map(|month| month_row(key, month)))
}

fn month_row((tenant, month, currency): &Key, sum: &Month) -> Vec<u8> {
    let raised = sum.raised.iter();
    BudgetMonthRow {
        tenant: tenant.clone(),
        month: *month,
        currency: currency.to_string(),
        billed: bytes(sum.billed),
        raised: raised.map(|(percent, of)| BudgetRaised { percent: *percent, budget: bytes(*of) }).collect(),
    }
    .encode_to_vec()
}

/// Every row, in order of the keys.
pub(super) fn all(outbox: Outbox, months: BTreeMap<Key, Month>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send {
    let alerts: Vec<_> = outbox.all().cloned().collect();
    let alerts = alerts.into_iter().map(|row| alert(row.seq, Some(&row)));
    let months = months.into_iter().map(|(key, sum)| month(&key, Some(&sum)));
    alerts.chain(months).filter_map(|(key, value)| Some((key, value?)))
}

/// # Errors
/// When a row cannot be read.
pub(super) fn read<E>(
    rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>,
) -> Result<(Outbox, BTreeMap<Key, Month>), RestoreError>
where
    RestoreError: From<E>,
{
    let (mut outbox, mut months) = (Outbox::default(), BTreeMap::new());
    for read in rows {
        let (key, value) = read?;
        let known = match key.first() {
            Some(&ALERT) => take_alert(&mut outbox, &value),
            Some(&MONTH) => take_month(&mut months, &value),
            _ => None,
        };
        known.ok_or(RestoreError::Value { key })?;
    }
    Ok((outbox, months))
}

fn take_alert(outbox: &mut Outbox, value: &[u8]) -> Option<()> {
    let row = BudgetAlertRow::decode(value).ok()?;
    pico(&row.budget)?;
    pico(&row.billed)?;
    outbox.take(row);
    Some(())
}

fn take_month(months: &mut BTreeMap<Key, Month>, value: &[u8]) -> Option<()> {
    let row = BudgetMonthRow::decode(value).ok()?;
    let raised = row.raised.iter().map(|it| Some((it.percent, pico(&it.budget)?))).collect::<Option<_>>()?;
    let key = (row.tenant, row.month, Currency::parse(&row.currency).ok()?);
    months.insert(key, Month { billed: pico(&row.billed)?, raised });
    Some(())
}
