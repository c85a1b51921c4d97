//! The credit book as key–value rows: `a` accounts, `e` events, `g` grants of which something is left; then the tenant, a NUL, and a
//! number.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;
use tollgate_model::Currency;
use tollgate_proto::state::v1::{CreditAccountRow, CreditEventRow, CreditGrantRow};

use super::account::{Account, Sums, Touched, Turn, turn};
use crate::{
    Changes, RestoreError,
    amount::{bytes, pico},
};

const ACCOUNT: u8 = b'a';
const EVENT: u8 = b'e';
const GRANT: u8 = b'g';

/// Names of tenants have no NUL.
fn key(letter: u8, tenant: &str, number: Option<u64>) -> Vec<u8> {
    let mut key = vec![letter];
    key.extend(tenant.bytes());
    if let Some(number) = number {
        key.push(0);
        key.extend(number.to_be_bytes());
    }
    key
}

/// Hands out the rows that a change has touched.
pub(super) fn put(tenant: &str, account: &Account, touched: &mut Touched, changes: &mut Changes) {
    changes.push((key(ACCOUNT, tenant, None), Some(account_row(tenant, account))));
    touched.events.sort_unstable();
    touched.events.dedup();
    for event in &touched.events {
        changes.push((key(EVENT, tenant, Some(*event)), account.events.get(event).map(|row| row.encode_to_vec())));
    }
    touched.grants.sort_unstable();
    touched.grants.dedup();
    for grant in &touched.grants {
        let row = account.rests.get(grant).map(|rest| grant_row(tenant, grant, *rest));
        changes.push((key(GRANT, tenant, Some(grant.2)), row));
    }
}

/// Every row, in order of the keys.
pub(super) fn all(tenants: BTreeMap<String, Arc<Account>>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send {
    let (events, grants) = (tenants.clone(), tenants.clone());
    let accounts = tenants.into_iter().map(|(tenant, it)| (key(ACCOUNT, &tenant, None), account_row(&tenant, &it)));
    let events = events.into_iter().flat_map(|(tenant, it)| {
        let row = |(n, event): (&u64, &Arc<CreditEventRow>)| (key(EVENT, &tenant, Some(*n)), event.encode_to_vec());
        it.events.iter().map(row).collect::<Vec<_>>()
    });
    let grants = grants.into_iter().flat_map(|(tenant, it)| {
        let row = |(turn, rest): (&Turn, &i128)| (key(GRANT, &tenant, Some(turn.2)), grant_row(&tenant, turn, *rest));
        let mut rows: Vec<_> = it.rests.iter().map(row).collect();
        rows.sort_unstable();
        rows
    });
    accounts.chain(events).chain(grants)
}

fn account_row(tenant: &str, account: &Account) -> Vec<u8> {
    let Sums { currency, granted, spent, expired, corrected, pending, owed } = account.sums;
    CreditAccountRow {
        tenant: tenant.to_owned(),
        currency: currency.to_string(),
        granted: bytes(granted),
        spent: bytes(spent),
        expired: bytes(expired),
        corrected: bytes(corrected),
        pending: bytes(pending),
        owed: bytes(owed),
        events: account.last_event(),
    }
    .encode_to_vec()
}

fn grant_row(tenant: &str, &(_, amount, event): &Turn, rest: i128) -> Vec<u8> {
    CreditGrantRow { tenant: tenant.to_owned(), event, amount: bytes(amount), rest: bytes(rest) }.encode_to_vec()
}

/// # Errors
/// When a row cannot be read, or is of an account that is not there.
pub(super) fn read<E>(
    rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>,
) -> Result<BTreeMap<String, Account>, RestoreError>
where
    RestoreError: From<E>,
{
    let mut tenants = BTreeMap::new();
    for read in rows {
        let (key, value) = read?;
        let known = match key.first() {
            Some(&ACCOUNT) => take_account(&mut tenants, &value),
            Some(&EVENT) => take_event(&mut tenants, &value),
            Some(&GRANT) => take_grant(&mut tenants, &value),
            _ => None,
        };
        known.ok_or(RestoreError::Value { key })?;
    }
    Ok(tenants)
}

fn take_account(tenants: &mut BTreeMap<String, Account>, value: &[u8]) -> Option<()> {
    let row = CreditAccountRow::decode(value).ok()?;
    let mut account = Account::new(Currency::parse(&row.currency).ok()?);
    account.sums = Sums {
        granted: pico(&row.granted)?,
        spent: pico(&row.spent)?,
        expired: pico(&row.expired)?,
        corrected: pico(&row.corrected)?,
        pending: pico(&row.pending)?,
        owed: pico(&row.owed)?,
        ..account.sums
    };
    tenants.insert(row.tenant, account);
    Some(())
}

fn take_event(tenants: &mut BTreeMap<String, Account>, value: &[u8]) -> Option<()> {
    let row = CreditEventRow::decode(value).ok()?;
    pico(&row.amount)?;
    tenants.get_mut(&row.tenant)?.record(row, &mut Touched::default());
    Some(())
}

/// Of a grant its event knows the end.
fn take_grant(tenants: &mut BTreeMap<String, Account>, value: &[u8]) -> Option<()> {
    let row = CreditGrantRow::decode(value).ok()?;
    let account = tenants.get_mut(&row.tenant)?;
    let expires_us = account.events.get(&row.event)?.expires_us;
    account.rests.insert(turn(row.event, pico(&row.amount)?, expires_us), pico(&row.rest)?);
    Some(())
}
