//! Months of tenants: which rows of the ledger are on which bill, and when nothing more is added to it.
//!
//! A month begins and ends on its tenant's clock. It is open until its end, then closing, as what was admitted in it may still be
//! settled, and closed once log time has passed its end by the tenant's grace, in the very entry that is the first to know.
//! What comes later goes to the first month that is not closed, and says which it was late for. The months of a tenant follow one
//! another without a gap or an overlap: where one begins and ends is set when it is begun, so a change of the tenant's
//! zone moves the end of the next one. So each row is on one bill: it says itself on which. What a bill says of its tenant's labels
//! is set when it is closed.
//!
//! Pure, and a part of [`crate::ledger::State`]. Sums are kept as rows come; what is hashed of them is the tree in `tree.rs`, so
//! that no row is read again to close a month.

mod book;
mod currency;
mod rows;
mod span;
mod tree;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) use book::Touched;
pub use book::{Periods, Placed};
pub use span::{Months, Span, month_at};
use tollgate_model::{Billing, Currency, LogIndex, Money, Month, TimeZone, Timestamp};
use tollgate_proto::state::v1::LedgerRow;
pub(crate) use tree::leaf;
pub use tree::{Digest, Tree};

use crate::{ledger::Hash, ledger::amount_of, round::rounded};

/// By what a tenant's months go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Its clock.
    pub zone: TimeZone,
    /// From a month's end until it is closed.
    pub grace: Duration,
    /// What its bills are labelled with.
    pub labels: Labels,
}

/// The labels of a tenant, by name.
pub type Labels = Arc<BTreeMap<String, String>>;

impl Default for Terms {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, grace: Billing::GRACE, labels: Labels::default() }
    }
}

/// A month of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Period {
    /// Its name.
    pub month: Month,
    /// Admitted from then on.
    pub start: Timestamp,
    /// And before then.
    pub end: Timestamp,
    /// By whose clock.
    pub zone: TimeZone,
    /// Of its rows, such that correct another or are late for another month.
    pub corrections: u64,
    /// Its first row, and its last; 0 while there is none.
    pub first_seq: u64,
    /// See there.
    pub last_seq: u64,
    /// Its rows.
    pub tree: Tree,
    /// Segments of the ledger that hold them: runs, each from the first to the last.
    pub segments: Vec<(u64, u64)>,
    /// What they add up to.
    pub lines: BTreeMap<LineKey, LineSums>,
    /// Nothing is added any more.
    pub closed: Option<Closed>,
}

/// What a line of a bill is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey {
    /// Rows that correct another, or are late for another month.
    pub correction: bool,
    /// The version of the price; 0 where there is none.
    pub version: u64,
    /// Empty where nothing is billed.
    pub currency: String,
    /// Empty where there is none.
    pub price: String,
}

/// What the rows of a line add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineSums {
    /// How many there are.
    pub rows: u64,
    /// Input, cached input, cache write, output, reasoning.
    pub tokens: [u64; 5],
    /// Exact.
    pub amount: Money,
}

/// When a month was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// By this entry.
    pub at: LogIndex,
    /// Its log time.
    pub now: Timestamp,
    /// Bytes and hash of the last of its segments by then, where that was open still.
    pub tail: Option<(u64, Hash)>,
    /// Its tenant's, by then; none where it was closed before they were kept.
    pub labels: Option<Labels>,
}

/// How a month stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It goes on.
    Open,
    /// It is over, and waits for what was admitted in it.
    Closing,
    /// It is what it is.
    Closed,
}

impl Standing {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// A sum of lines in one currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Before rounding.
    pub exact: Money,
    /// Of the rounded lines: what is to be paid.
    pub amount: Money,
}

impl Total {
    /// What rounding has added.
    #[must_use]
    pub fn rounding(&self) -> Money {
        Money(self.amount.0.saturating_sub(self.exact.0))
    }
}

impl LineKey {
    fn of(row: &LedgerRow) -> Self {
        Self {
            correction: row.corrects != 0 || row.late_for != 0,
            version: row.price_version,
            currency: row.currency.clone(),
            price: row.price.clone(),
        }
    }

    /// The price as bills name it; empty where there is none.
    #[must_use]
    pub fn price_id(&self) -> String {
        if self.price.is_empty() { String::new() } else { format!("{}@{}", self.price, self.version) }
    }

    /// What its amount is in; none where nothing is billed.
    #[must_use]
    pub fn currency(&self) -> Option<Currency> {
        Currency::parse(&self.currency).ok()
    }
}

impl LineSums {
    fn add(&mut self, row: &LedgerRow) {
        let tokens = [
            row.input_tokens,
            row.cached_input_tokens,
            row.cache_write_tokens,
            row.output_tokens,
            row.reasoning_tokens,
        ];
        self.add_up(tokens, amount_of(row).unwrap_or_default());
    }

    /// Adds one row's figures.
    pub(crate) fn add_up(&mut self, tokens: [u64; 5], amount: Money) {
        self.rows += 1;
        for (sum, tokens) in self.tokens.iter_mut().zip(tokens) {
            *sum = sum.saturating_add(tokens);
        }
        self.amount = Money(self.amount.0.saturating_add(amount.0));
    }
}

impl Period {
    fn new(Span { month, start, end }: Span, zone: TimeZone) -> Self {
        Self {
            month,
            start,
            end,
            zone,
            corrections: 0,
            first_seq: 0,
            last_seq: 0,
            tree: Tree::default(),
            segments: Vec::new(),
            lines: BTreeMap::new(),
            closed: None,
        }
    }

    fn add(&mut self, row: &LedgerRow, digest: Digest, segment: u64) -> LineKey {
        let key = LineKey::of(row);
        self.tree.add(digest);
        self.corrections += u64::from(key.correction);
        self.first_seq = if self.first_seq == 0 { row.seq } else { self.first_seq };
        self.last_seq = row.seq;
        match self.segments.last_mut() {
            Some((_, last)) if *last == segment => {}
            Some((_, last)) if *last + 1 == segment => *last = segment,
            _ => self.segments.push((segment, segment)),
        }
        if !self.lines.contains_key(&key) {
            self.lines.insert(key.clone(), LineSums::default());
        }
        self.lines.get_mut(&key).expect("it is there").add(row);
        key
    }

    /// From when to when it is.
    #[must_use]
    pub fn span(&self) -> Span {
        Span { month: self.month, start: self.start, end: self.end }
    }

    /// How it stands by then.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        match (&self.closed, now < self.end) {
            (Some(_), _) => Standing::Closed,
            (None, true) => Standing::Open,
            (None, false) => Standing::Closing,
        }
    }

    /// What it comes to, by currency.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<Currency, Total> {
        totals(self.lines.iter().filter_map(|(key, sums)| Some((key.currency()?, sums.amount))))
    }
}

/// Adds lines up, each rounded for itself.
pub(crate) fn totals(lines: impl Iterator<Item = (Currency, Money)>) -> BTreeMap<Currency, Total> {
    let mut totals: BTreeMap<Currency, Total> = BTreeMap::new();
    for (currency, exact) in lines {
        let total = totals.entry(currency).or_default();
        total.exact = Money(total.exact.0.saturating_add(exact.0));
        total.amount = Money(total.amount.0.saturating_add(rounded(exact, currency).0));
    }
    totals
}
