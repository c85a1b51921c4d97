//! Months as key–value rows: `l` lines, `p` months, `r` what rounding has added.

use std::sync::Arc;

use prost::Message;
use tollgate_model::{Currency, LogIndex, Money, Month, TimeZone, Timestamp};
use tollgate_proto::state::v1::{PeriodClose, PeriodLabels, PeriodLineRow, PeriodRow, RoundingRow};

use super::{Closed, LineKey, LineSums, Period, Span, Tree};
use crate::amount::{bytes, pico};

const LINE: u8 = b'l';
const PERIOD: u8 = b'p';
const ROUNDING: u8 = b'r';

type Row = (Vec<u8>, Vec<u8>);
type Change = (Vec<u8>, Option<Vec<u8>>);

/// What a row says.
pub(super) enum Read {
    Period(String, Period),
    Line(String, Month, LineKey, LineSums),
    Rounding(Currency, Money),
}

/// Names of tenants have no NUL, and neither has a currency.
fn key(letter: u8, tenant: &str, month: Month) -> Vec<u8> {
    let mut key = vec![letter];
    key.extend(tenant.bytes());
    key.push(0);
    key.extend(month.number().to_be_bytes());
    key
}

fn line_key(tenant: &str, month: Month, line: &LineKey) -> Vec<u8> {
    let mut key = key(LINE, tenant, month);
    key.push(u8::from(line.correction));
    key.extend(line.version.to_be_bytes());
    key.extend(line.currency.bytes());
    key.push(0);
    key.extend(line.price.bytes());
    key
}

pub(super) fn put_period(tenant: &str, of: &Period) -> Change {
    let (key, value) = period(tenant, of);
    (key, Some(value))
}

pub(super) fn put_line(tenant: &str, month: Month, key: &LineKey, sums: &LineSums) -> Change {
    let (key, value) = line(tenant, month, key, sums);
    (key, Some(value))
}

pub(super) fn put_rounding(currency: Currency, amount: Money) -> Change {
    let (key, value) = rounding(currency, amount);
    (key, Some(value))
}

pub(super) fn lines(tenant: &str, of: &Period) -> Vec<Row> {
    of.lines.iter().map(|(key, sums)| line(tenant, of.month, key, sums)).collect()
}

fn line(tenant: &str, month: Month, key: &LineKey, sums: &LineSums) -> Row {
    let row = PeriodLineRow {
        tenant: tenant.to_owned(),
        month: month.number(),
        correction: key.correction,
        currency: key.currency.clone(),
        price: key.price.clone(),
        price_version: key.version,
        rows: sums.rows,
        tokens: sums.tokens.to_vec(),
        amount: bytes(sums.amount.0),
    };
    (line_key(tenant, month, key), row.encode_to_vec())
}

pub(super) fn period(tenant: &str, of: &Period) -> Row {
    let closed = of.closed.as_ref().map(|closed| {
        let (bytes, chain) = closed.tail.map_or((0, Vec::new()), |(bytes, hash)| (bytes, hash.to_vec()));
        let labels = closed.labels.as_ref().map(|labels| PeriodLabels { labels: (**labels).clone() });
        PeriodClose { log_index: closed.at.0, at_us: closed.now.0, bytes, chain, labels }
    });
    let row = PeriodRow {
        tenant: tenant.to_owned(),
        month: of.month.number(),
        start_us: of.start.0,
        end_us: of.end.0,
        time_zone: of.zone.name().to_owned(),
        rows: of.tree.leaves(),
        corrections: of.corrections,
        first_seq: of.first_seq,
        last_seq: of.last_seq,
        subtrees: of.tree.subtrees().concat(),
        segments: of.segments.iter().flat_map(|(first, last)| [*first, *last]).collect(),
        closed,
    };
    (key(PERIOD, tenant, of.month), row.encode_to_vec())
}

pub(super) fn rounding(currency: Currency, amount: Money) -> Row {
    let row = RoundingRow { currency: currency.to_string(), amount: bytes(amount.0) };
    ([&[ROUNDING], currency.as_str().as_bytes()].concat(), row.encode_to_vec())
}

/// Reads a row; none where it is no such row, or not where it should be.
pub(super) fn read(key: &[u8], value: &[u8]) -> Option<Read> {
    let (read, at) = match *key.first()? {
        LINE => {
            let row = PeriodLineRow::decode(value).ok()?;
            let month = Month::from_number(row.month)?;
            let line = LineKey {
                correction: row.correction,
                version: row.price_version,
                currency: row.currency,
                price: row.price,
            };
            let tokens = row.tokens.try_into().ok()?;
            let sums = LineSums { rows: row.rows, tokens, amount: Money(pico(&row.amount)?) };
            let at = line_key(&row.tenant, month, &line);
            (Read::Line(row.tenant, month, line, sums), at)
        }
        PERIOD => {
            let row = PeriodRow::decode(value).ok()?;
            let (tenant, period) = (row.tenant.clone(), read_period(row)?);
            let at = self::key(PERIOD, &tenant, period.month);
            (Read::Period(tenant, period), at)
        }
        ROUNDING => {
            let row = RoundingRow::decode(value).ok()?;
            let currency = Currency::parse(&row.currency).ok()?;
            (Read::Rounding(currency, Money(pico(&row.amount)?)), [&[ROUNDING], row.currency.as_bytes()].concat())
        }
        _ => return None,
    };
    (at == key).then_some(read)
}

fn read_period(row: PeriodRow) -> Option<Period> {
    let (subtrees, rest) = row.subtrees.as_chunks();
    rest.is_empty().then_some(())?;
    let closed = match row.closed {
        None => None,
        Some(closed) => {
            let tail = match closed.chain.is_empty() {
                true => None,
                false => Some((closed.bytes, (&*closed.chain).try_into().ok()?)),
            };
            let labels = closed.labels.map(|it| Arc::new(it.labels));
            Some(Closed { at: LogIndex(closed.log_index), now: Timestamp(closed.at_us), tail, labels })
        }
    };
    let (runs, rest) = row.segments.as_chunks::<2>();
    let month = Month::from_number(row.month)?;
    let span = Span { month, start: Timestamp(row.start_us), end: Timestamp(row.end_us) };
    let empty = Period::new(span, TimeZone::parse(&row.time_zone).ok()?);
    rest.is_empty().then_some(())?;
    Some(Period {
        corrections: row.corrections,
        first_seq: row.first_seq,
        last_seq: row.last_seq,
        tree: Tree::of(row.rows, subtrees.to_vec())?,
        segments: runs.iter().map(|[first, last]| (*first, *last)).collect(),
        closed,
        ..empty
    })
}
