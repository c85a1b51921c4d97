//! Adds up what a file says and what the ledger says, and tells where they differ.
//!
//! No more than so many sums are kept, those of the smallest keys. For the rest the same file is read once more, from where this
//! pass ended ([`Reconciled::next`]): memory is bounded, and nothing is written to a disk.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead},
    sync::Arc,
};

use tollgate_model::{Currency, Money, Timestamp};
use tollgate_proto::state::v1::LedgerRow;

use super::{
    bytes::{Bytes, Stop},
    csv::Csv,
    json::Json,
    line::{FIGURES, FileError, Line, undated},
};
use crate::{
    export::{Source, groups::Groups},
    ledger::{Attempt, attempts},
    price::Tariff,
};

/// Some 60 MB of keys and sums.
const MAX_KEYS: usize = 65_536;
/// Of one pass, so that an answer is no more than some megabytes.
const MAX_DIFFERENCES: usize = 5_000;
/// Rows of the ledger in memory at a time.
const READ_ROWS: usize = 1_024;
/// Price versions that are kept at hand.
const MAX_TARIFFS: usize = 1_024;
const DAY_US: u64 = 24 * 3_600_000_000;
/// The upstream's clock may say another day than ours: whatever request it names is looked for so far around.
const AROUND_US: u64 = DAY_US;

/// The request, or the day in microseconds since the epoch and the model.
type Key = (String, u64, String);

/// What is compared.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// With this upstream's costs alone. Lines that name another are passed over.
    pub provider: Option<String>,
    /// Admitted from then on; from the first day of the file when absent.
    pub from: Option<Timestamp>,
    /// And before this; the end of the file's last day when absent.
    pub to: Option<Timestamp>,
    /// [`Reconciled::next`] of the pass before; empty for the first.
    pub after: String,
}

/// What the ledger and the file say of one figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Empty where days are compared.
    pub request: String,
    /// The first instant of the day; none where requests are compared.
    pub day: Option<Timestamp>,
    /// Without its date.
    pub model: String,
    /// `input_tokens` and so on, or `cost`.
    pub figure: &'static str,
    /// In what, where it is the cost.
    pub currency: Option<Currency>,
    /// What the ledger says.
    pub ours: String,
    /// What it can be at least and at most, where the upstream has not told us.
    pub within: Option<(String, String)>,
    /// What the file says.
    pub theirs: String,
}

/// What a pass came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// In order: by request, or by day and model.
    pub differences: Vec<Difference>,
    /// Where the next pass begins; empty when all was compared.
    pub next: String,
    /// Lines of the file that were looked at.
    pub lines: u64,
    /// Attempts of the ledger that were looked at.
    pub attempts: u64,
    /// The time that was compared.
    pub from: Timestamp,
    /// And its end.
    pub to: Timestamp,
}

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// What the file says is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file or the ledger can't be read.
    #[error("it can't be read")]
    Source(#[from] io::Error),
    /// Not what a pass before gave.
    #[error("after: is none that a pass before gave")]
    After,
    /// The time is none.
    #[error("from: {0} is after to: {1}")]
    Inverted(Timestamp, Timestamp),
}

impl From<Stop> for ReconcileError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::File(error) => Self::File(error),
            Stop::Source(error) => Self::Source(error),
        }
    }
}

/// One figure: what it is as far as we know, the least and the most that it can be, and what the file says.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    known: i128,
    least: i128,
    most: i128,
    theirs: i128,
}

impl Sum {
    fn add(&mut self, known: i128, least: i128, most: i128) {
        self.known = self.known.saturating_add(known);
        self.least = self.least.saturating_add(least);
        self.most = self.most.saturating_add(most.max(known));
    }

    fn agrees(&self) -> bool {
        (self.least..=self.most).contains(&self.theirs)
    }
}

#[derive(Debug, Default)]
struct Sums {
    figures: [Sum; FIGURES.len()],
    costs: BTreeMap<Currency, Sum>,
}

/// A pass under way: first the file, then the ledger.
pub struct Reconciler {
    asked: Asked,
    groups: Groups<Key, Sums>,
    /// [`MAX_DIFFERENCES`], and fewer in tests.
    most: usize,
    /// Figures that the file has, and whether it has costs.
    has: [bool; FIGURES.len()],
    has_cost: bool,
    /// Whether its lines name their requests.
    by_request: Option<bool>,
    /// The first and the last time in it.
    span: Option<(Timestamp, Timestamp)>,
    lines: u64,
    attempts: u64,
    tariffs: HashMap<(String, u64), Option<Arc<Tariff>>>,
}

impl Reconciler {
    /// A pass.
    ///
    /// # Errors
    /// When the time is none, or no pass could be followed by this one.
    pub fn new(asked: Asked) -> Result<Self, ReconcileError> {
        Self::with_room(asked, MAX_KEYS, MAX_DIFFERENCES)
    }

    pub(super) fn with_room(asked: Asked, keys: usize, most: usize) -> Result<Self, ReconcileError> {
        if let (Some(from), Some(to)) = (asked.from, asked.to)
            && from > to
        {
            return Err(ReconcileError::Inverted(from, to));
        }
        let after = match &*asked.after {
            "" => None,
            text => Some(serde_json::from_str(text).map_err(|_| ReconcileError::After)?),
        };
        Ok(Self {
            asked,
            groups: Groups::beyond(keys, after),
            most,
            has: [false; FIGURES.len()],
            has_cost: false,
            by_request: None,
            span: None,
            lines: 0,
            attempts: 0,
            tariffs: HashMap::new(),
        })
    }

    /// Takes in the whole file.
    ///
    /// # Errors
    /// Names the line and the field; or the file can't be read.
    pub fn read(&mut self, file: impl BufRead) -> Result<(), ReconcileError> {
        let mut bytes = Bytes::new(file).map_err(Stop::Source)?;
        if matches!(bytes.skip_space().map_err(Stop::Source)?, Some(b'{' | b'[')) {
            let mut json = Json::new(bytes);
            while let Some(line) = json.next()? {
                self.take(&line)?;
            }
        } else {
            let mut csv = Csv::open(bytes)?;
            while let Some(line) = csv.next()? {
                self.take(&line)?;
            }
        }
        if self.lines == 0 && self.asked.provider.is_none() {
            return Err(FileError::new(1, "header", "says of nothing what was used").into());
        }
        Ok(())
    }

    fn take(&mut self, line: &Line) -> Result<(), FileError> {
        let is_other = |wanted: &String| line.provider.as_ref().is_some_and(|it| it != wanted);
        if self.asked.provider.as_ref().is_some_and(is_other) {
            return Ok(());
        }
        self.lines += 1;
        let by_request = line.request.is_some();
        if *self.by_request.get_or_insert(by_request) != by_request {
            let why = if by_request {
                "is given, and in the lines before it is not"
            } else {
                "is missing, and in the lines before it is not"
            };
            return Err(FileError::new(line.line, "request_id", why));
        }
        if let Some(at) = line.at {
            let (first, last) = self.span.unwrap_or((at, at));
            self.span = Some((first.min(at), last.max(at)));
            if self.asked.from.is_some_and(|from| at < from) || self.asked.to.is_some_and(|to| at >= to) {
                return Ok(());
            }
        }
        for (has, figure) in self.has.iter_mut().zip(&line.figures) {
            *has |= figure.is_some();
        }
        self.has_cost |= line.cost.is_some();
        let key = key(line.request.as_deref(), line.at, &line.model);
        let add = |sums: &mut Sums| {
            for (sum, figure) in sums.figures.iter_mut().zip(&line.figures) {
                sum.theirs = sum.theirs.saturating_add(figure.unwrap_or(0).into());
            }
            if let Some((currency, cost)) = line.cost {
                let theirs = &mut sums.costs.entry(currency).or_default().theirs;
                *theirs = theirs.saturating_add(cost.0);
            }
            Ok::<_, FileError>(())
        };
        self.groups.add(key, add)
    }

    /// The time that is compared: as asked for, else the days of the file; of a file without any time all there is.
    fn range(&self) -> (Timestamp, Timestamp) {
        let day = |at: Timestamp| at.0 - at.0 % DAY_US;
        let (first, last) = self.span.map_or((0, Timestamp::MAX.0), |(first, last)| (day(first), day(last) + DAY_US));
        let to = self.asked.to.unwrap_or(Timestamp(last));
        (self.asked.from.unwrap_or(Timestamp(first)).min(to), to)
    }

    /// Takes in what the ledger says of that time, until `stop` says so. Reading blocks.
    ///
    /// # Errors
    /// What the ledger says; `Interrupted` when it was stopped.
    pub fn compare(mut self, source: &dyn Source, stop: &dyn Fn() -> bool) -> Result<Reconciled, ReconcileError> {
        let (from, to) = self.range();
        let around = if self.by_request == Some(true) { AROUND_US } else { 0 };
        let (until, mut after) = (source.last(), source.before(Timestamp(from.0.saturating_sub(around)))?);
        while after < until {
            if stop() {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            let rows = source.rows(after, READ_ROWS)?;
            after = rows.last().map_or(until, |row| row.seq);
            for row in rows.iter().filter(|row| row.seq <= until) {
                let is_near =
                    from.0.saturating_sub(around) <= row.admitted_us && row.admitted_us < to.0.saturating_add(around);
                if is_near {
                    self.take_row(row, from.0 <= row.admitted_us && row.admitted_us < to.0, source)?;
                }
            }
        }
        Ok(self.finish(from, to))
    }

    /// A row that is near the time counts where the file names its request.
    fn take_row(&mut self, row: &LedgerRow, in_time: bool, source: &dyn Source) -> Result<(), ReconcileError> {
        for attempt in attempts(row) {
            if self.asked.provider.as_ref().is_some_and(|wanted| wanted != attempt.provider) {
                continue;
            }
            let request = (self.by_request == Some(true)).then_some(&*row.request_id);
            let key = key(request, Some(Timestamp(row.admitted_us)), undated(attempt.model));
            if !in_time && !self.groups.has(&key) {
                continue;
            }
            self.attempts += 1;
            let (is_added, cost) = (row.corrects != 0, self.cost(&attempt, source)?);
            self.groups.add(key, |sums| {
                sums.add(&attempt, is_added, cost);
                Ok::<_, ReconcileError>(())
            })?;
        }
        Ok(())
    }

    /// What an attempt costs: as far as we know, at least and at most.
    fn cost(&mut self, attempt: &Attempt<'_>, source: &dyn Source) -> io::Result<Option<(Currency, Sum)>> {
        let (Some(amount), Ok(currency)) = (attempt.amount(), Currency::parse(&attempt.cost.currency)) else {
            return Ok(None);
        };
        let exact = Sum { known: amount.0, least: amount.0, most: amount.0, theirs: 0 };
        if !attempt.is_bounded() || !self.has_cost {
            return Ok(Some((currency, exact)));
        }
        let (name, version) = (&attempt.cost.price, attempt.cost.price_version);
        let key = (name.clone(), version);
        if self.tariffs.len() >= MAX_TARIFFS && !self.tariffs.contains_key(&key) {
            self.tariffs.clear();
        }
        if !self.tariffs.contains_key(&key) {
            let version = source.price(name, version)?;
            let tariff = version.and_then(|version| Tariff::of(&version).ok()).map(Arc::new);
            self.tariffs.insert(key.clone(), tariff);
        }
        let [input, output] = at_most(attempt);
        let most = self.tariffs[&key].as_ref().map_or(amount, |tariff| tariff.most(input, output));
        Ok(Some((currency, Sum { least: 0, most: most.0.max(amount.0), ..exact })))
    }

    fn finish(mut self, from: Timestamp, to: Timestamp) -> Reconciled {
        let mut done = Reconciled { lines: self.lines, attempts: self.attempts, from, to, ..Reconciled::default() };
        let mut last = None;
        while done.differences.len() < self.most {
            let Some((key, sums)) = self.groups.take() else {
                let is_all = !self.groups.turn();
                done.next = if is_all { String::new() } else { place(last.as_ref()) };
                return done;
            };
            self.tell(&key, &sums, &mut done.differences);
            last = Some(key);
        }
        done.next = place(last.as_ref());
        done
    }

    fn tell(&self, key: &Key, sums: &Sums, into: &mut Vec<Difference>) {
        let (request, day, model) = key;
        let by_request = self.by_request == Some(true);
        let told = |figure, currency, sum: &Sum, text: &dyn Fn(i128) -> String| Difference {
            request: request.clone(),
            day: (!by_request).then_some(Timestamp(*day)),
            model: model.clone(),
            figure,
            currency,
            ours: text(sum.known),
            within: (sum.least != sum.most).then(|| (text(sum.least), text(sum.most))),
            theirs: text(sum.theirs),
        };
        let figures = FIGURES.iter().zip(&sums.figures).zip(self.has).filter(|((_, sum), has)| *has && !sum.agrees());
        into.extend(figures.map(|((figure, sum), _)| told(figure, None, sum, &|count| count.to_string())));
        let costs = sums.costs.iter().filter(|(_, sum)| self.has_cost && !sum.agrees());
        into.extend(costs.map(|(currency, sum)| told("cost", Some(*currency), sum, &|pico| Money(pico).to_string())));
    }
}

impl Sums {
    /// Adds an attempt; of a correction the figures alone, as it is no request.
    fn add(&mut self, attempt: &Attempt<'_>, is_added: bool, cost: Option<(Currency, Sum)>) {
        let usage = &attempt.usage;
        let [input, output] = at_most(attempt);
        let known = [
            (u64::from(!is_added), u64::from(!is_added)),
            (usage.input_tokens, input),
            (usage.cached_input_tokens, input),
            (usage.cache_write_tokens, input),
            (usage.output_tokens, output),
            (usage.reasoning_tokens, output),
        ];
        for (sum, (known, most)) in self.figures.iter_mut().zip(known) {
            match attempt.is_bounded() {
                true => sum.add(known.into(), 0, most.into()),
                false => sum.add(known.into(), known.into(), known.into()),
            }
        }
        if let Some((currency, cost)) = cost {
            self.costs.entry(currency).or_default().add(cost.known, cost.least, cost.most);
        }
    }
}

/// Input and output that an attempt can have had.
fn at_most(attempt: &Attempt<'_>) -> [u64; 2] {
    let usage = &attempt.usage;
    [usage.input_tokens.max(usage.input_at_most), usage.output_tokens.max(usage.output_at_most)]
}

fn key(request: Option<&str>, at: Option<Timestamp>, model: &str) -> Key {
    match request {
        Some(request) => (request.to_owned(), 0, model.to_owned()),
        None => (String::new(), at.map_or(0, |at| at.0 - at.0 % DAY_US), model.to_owned()),
    }
}

/// As [`Asked::after`] reads it.
fn place(key: Option<&Key>) -> String {
    key.map_or_else(String::new, |key| serde_json::json!(key).to_string())
}
