//! Statements: what a closed month of a tenant came to, signed, in one file with all its rows.
//!
//! The file is JSON lines: the statement first, then every row in the columns of the schema `events`, in the order of the ledger.
//! Whoever has it can check it without anybody's help ([`verify`]): the signature is over the statement's own bytes, the
//! statement names the root of the tree of its rows, and each row has its hash in its `event_id`. It is made of what the
//! replicated state has of a closed month, which never changes, so that it is the same bytes on every node at any time.

mod file;
mod input;
mod sign;
mod verify;

pub use file::{StatementFile, line};
pub use sign::{Fingerprint, PublicKey, Signer};
pub use verify::{Checked, VerifyError, Wrong, verify};

use serde::{Deserialize, Serialize};
use tollgate_model::{Currency, Money};

use crate::{
    ledger::Chain,
    period::{Closed, LineKey, LineSums, Period, Total, totals},
    round::rounded,
};

/// How statements are written. Those of closed months stay as they are whatever comes later.
const VERSION: u32 = 1;

/// What a closed month came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    /// How it is written.
    pub version: u32,
    /// Whose.
    pub tenant: String,
    /// `2026-11`.
    pub period: String,
    /// By whose clock.
    pub time_zone: String,
    /// Admitted from then on.
    pub start: String,
    /// And before then.
    pub end: String,
    /// Log time of the entry that closed it.
    pub closed_at: String,
    /// That entry.
    pub log_index: u64,
    /// Its first row, and its last; 0 where there is none.
    pub first_row: u64,
    /// See there.
    pub last_row: u64,
    /// How many there are.
    pub rows: u64,
    /// Of these, such that correct another or were too late for an earlier month.
    pub corrections: u64,
    /// What they add up to, by price.
    pub lines: Vec<StatementLine>,
    /// What the lines add up to, by currency.
    pub totals: Vec<StatementTotal>,
    /// Of the tree of all rows (RFC 6962, section 2.1).
    pub merkle_root: String,
    /// The roots of its whole subtrees, the greatest first.
    pub subtrees: Vec<String>,
    /// The segments of the ledger that hold the rows, as they were when it was closed.
    pub segments: Vec<StatementSegment>,
}

/// A line: all rows of one price, in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatementLine {
    /// `name@version`; none where there was none.
    pub price: Option<String>,
    /// Corrections, and what was too late for an earlier month.
    pub correction: bool,
    /// How many rows.
    pub rows: u64,
    /// Input tokens, without those below.
    pub input_tokens: u64,
    /// Read from a cache.
    pub cached_input_tokens: u64,
    /// Written to a cache.
    pub cache_write_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Of reasoning.
    pub reasoning_tokens: u64,
    /// None where nothing is billed.
    pub currency: Option<String>,
    /// The sum of the rows, to the last digit.
    pub exact: String,
    /// That, rounded half to even.
    pub amount: String,
}

/// All lines in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatementTotal {
    /// Which.
    pub currency: String,
    /// The sum of the rows.
    pub exact: String,
    /// What rounding has added: it goes to an account of its own.
    pub rounding: String,
    /// The sum of the rounded lines: what is to be paid.
    pub amount: String,
}

/// A segment of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatementSegment {
    /// From 1.
    pub segment: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Of its last record there, and so of all before it.
    pub hash: String,
}

impl Statement {
    /// That of a month; none while it is not closed.
    #[must_use]
    pub fn of(tenant: &str, period: &Period, chain: &Chain) -> Option<Self> {
        let closed = period.closed.as_ref()?;
        let mut lines: Vec<_> = period.lines.iter().collect();
        lines.sort_by_key(|(key, _)| (&key.currency, &key.price, key.version, key.correction));
        Some(Self {
            version: VERSION,
            tenant: tenant.to_owned(),
            period: period.month.to_string(),
            time_zone: period.zone.name().to_owned(),
            start: period.start.to_string(),
            end: period.end.to_string(),
            closed_at: closed.now.to_string(),
            log_index: closed.at.0,
            first_row: period.first_seq,
            last_row: period.last_seq,
            rows: period.tree.leaves(),
            corrections: period.corrections,
            lines: lines.into_iter().map(|(key, sums)| StatementLine::of(key, sums)).collect(),
            totals: period.totals().iter().map(|(currency, total)| StatementTotal::of(*currency, total)).collect(),
            merkle_root: hex(&period.tree.root()),
            subtrees: period.tree.subtrees().iter().map(|digest| hex(digest)).collect(),
            segments: segments(period, closed, chain),
        })
    }

    /// Its own bytes, which are signed.
    #[must_use]
    pub fn body(&self) -> String {
        serde_json::to_string(self).expect("it is made of text and numbers")
    }

    /// What is wrong with it by itself, if anything: lines, totals and counts.
    fn wrong(&self) -> Option<String> {
        let sum =
            |of: fn(&StatementLine) -> u64| self.lines.iter().try_fold(0_u64, |sum, line| sum.checked_add(of(line)));
        if sum(|line| line.rows) != Some(self.rows) {
            return Some(format!("rows: says {}, and its lines have others", self.rows));
        }
        if sum(|line| if line.correction { line.rows } else { 0 }) != Some(self.corrections) {
            return Some(format!("corrections: says {}, and its lines have others", self.corrections));
        }
        let mut exact = Vec::new();
        for (n, line) in self.lines.iter().enumerate() {
            match line.read() {
                Ok(Some((currency, amount))) => exact.push((currency, amount)),
                Ok(None) => {}
                Err(wrong) => return Some(format!("lines[{n}]: {wrong}")),
            }
        }
        let right: Vec<_> =
            totals(exact.into_iter()).iter().map(|(it, total)| StatementTotal::of(*it, total)).collect();
        (right != self.totals).then(|| "totals: are not what its lines add up to".to_owned())
    }
}

impl StatementLine {
    fn of(key: &LineKey, sums: &LineSums) -> Self {
        let [input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens] = sums.tokens;
        let amount = key.currency().map_or(Money(0), |currency| rounded(sums.amount, currency));
        let text = |text: String| (!text.is_empty()).then_some(text);
        Self {
            price: text(key.price_id()),
            correction: key.correction,
            rows: sums.rows,
            input_tokens,
            cached_input_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            currency: text(key.currency.clone()),
            exact: sums.amount.to_string(),
            amount: amount.to_string(),
        }
    }

    /// Its exact amount, if it is billed.
    fn read(&self) -> Result<Option<(Currency, Money)>, String> {
        let exact = Money::parse(&self.exact).map_err(|wrong| format!("exact: {wrong}"))?;
        let currency = self.currency.as_deref().map(Currency::parse).transpose();
        let currency = currency.map_err(|wrong| format!("currency: {wrong}"))?;
        let right = currency.map_or(Money(0), |currency| rounded(exact, currency)).to_string();
        if right != self.amount {
            return Err(format!("amount: {} is {exact} rounded to {right}", self.amount));
        }
        Ok(currency.map(|currency| (currency, exact)))
    }
}

impl StatementTotal {
    fn of(currency: Currency, total: &Total) -> Self {
        Self {
            currency: currency.to_string(),
            exact: total.exact.to_string(),
            rounding: total.rounding().to_string(),
            amount: total.amount.to_string(),
        }
    }
}

fn segments(period: &Period, closed: &Closed, chain: &Chain) -> Vec<StatementSegment> {
    let last = period.segments.last().map_or(0, |(_, last)| *last);
    let all = period.segments.iter().flat_map(|(first, last)| *first..=*last);
    all.filter_map(|segment| {
        let (bytes, hash) = match closed.tail.filter(|_| segment == last) {
            Some(tail) => tail,
            None => chain.extent(segment).map(|extent| (extent.bytes, extent.hash))?,
        };
        Some(StatementSegment { segment, bytes, hash: hex(&hash) })
    })
    .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect::<Option<Vec<u8>>>()?;
    if rest.is_empty() { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests;
