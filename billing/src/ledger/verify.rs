//! Reads a ledger through, from its first record: the chain, each row against the price that it names, and the sums.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use tollgate_model::Money;
use tollgate_proto::state::v1::{LedgerRecord, LedgerRow, ledger_record::Kind};

use super::{
    Attempt, Books, Broken, Hash, Keeper, Missing, Records, State, amount_of, attempts,
    chain::genesis,
    cost_of,
    reader::{extents, next},
    segment::Why,
};
use crate::{
    Changes,
    price::{Line, Quantities, Tariff},
};

/// What is wrong is told so often; beyond it there is only more.
const MAX_PROBLEMS: usize = 100;
const SUFFIX: &str = "seg";

/// What a ledger was found to be.
#[derive(Debug, Default)]
pub struct Verified {
    /// Rows that were read.
    pub rows: u64,
    /// Records, prices too.
    pub records: u64,
    /// Segments.
    pub segments: u64,
    /// The last row.
    pub last_seq: u64,
    /// Of the last record, and so of all.
    pub hash: Hash,
    /// The balances, made anew from the rows.
    pub books: Books,
    /// What is wrong, the first of it first; nothing where all is well.
    pub problems: Vec<String>,
    /// Segments that are not what the cluster wrote.
    pub broken: Vec<u64>,
    tariffs: BTreeMap<(String, u64), Tariff>,
}

impl Verified {
    fn problem(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(what);
        }
    }

    fn take(&mut self, record: LedgerRecord) {
        self.records += 1;
        match record.kind {
            Some(Kind::Price(version)) => match Tariff::of(&version) {
                Ok(tariff) => drop(self.tariffs.insert((tariff.name.to_string(), tariff.version.0), tariff)),
                Err(why) => self.problem(format!("a price after row {} is none: {why}", self.last_seq)),
            },
            Some(Kind::Row(row)) => self.take_row(&row),
            None => self.problem(format!("a record after row {} is of a kind that is not known", self.last_seq)),
        }
    }

    fn take_row(&mut self, row: &LedgerRow) {
        (self.rows, self.last_seq) = (self.rows + 1, row.seq);
        self.books.post(row, &mut Changes::new());
        let row_itself = format!("row {} (request {})", row.seq, row.request_id);
        let is_added = row.corrects != 0;
        let wrong = self.misprices((&row.price, row.price_version), is_added, row.into(), amount_of(row));
        if let Some(wrong) = wrong {
            self.problem(format!("{row_itself} {wrong}"));
        }
        for attempt in attempts(row) {
            let (cost, used) = (attempt.cost, Quantities::from(&attempt.usage));
            let wrong = self.misprices((&cost.price, cost.price_version), is_added, used, cost_of(cost));
            if let Some(wrong) = wrong {
                self.problem(format!("{row_itself}, attempt {} at {}, {wrong}", attempt.number, attempt.provider));
            }
        }
    }

    /// What is wrong with an amount, by the price that is named; a correction's is none of its own quantities.
    fn misprices(
        &self,
        (price, version): (&str, u64),
        is_added: bool,
        used: Quantities,
        amount: Option<Money>,
    ) -> Option<String> {
        let Some(amount) = amount else { return Some("has no amount that can be read".to_owned()) };
        if price.is_empty() || is_added {
            return None;
        }
        let id = format!("{price}@{version}");
        let Some(tariff) = self.tariffs.get(&(price.to_owned(), version)) else {
            return Some(format!("names the price {id}, which is not in the ledger before it"));
        };
        let right = tariff.amount(used);
        (right != amount).then(|| format!("amounts to {amount}, and by its price {id} it is {right}"))
    }

    fn broke(&mut self, broken: &Broken) {
        self.broken.push(broken.segment);
        self.problem(broken.to_string());
    }

    /// What the sums should be, as the state has them.
    fn compare(&mut self, state: &State) {
        if !self.broken.is_empty() {
            return;
        }
        if self.records != state.chain().records() {
            self.problem(format!("there are {} records, and should be {}", self.records, state.chain().records()));
        }
        let theirs: BTreeMap<_, _> = state.books().balances().map(|(it, currency, is)| ((it, currency), is)).collect();
        let ours: BTreeMap<_, _> = self.books.balances().map(|(it, currency, is)| ((it, currency), is)).collect();
        let all = theirs.keys().chain(ours.keys()).collect::<std::collections::BTreeSet<_>>();
        let differ = all.into_iter().filter(|key| theirs.get(key) != ours.get(key));
        let told: Vec<String> = differ
            .map(|key| {
                let [rows, state] = [&ours, &theirs].map(|of| of.get(key).copied().unwrap_or_default());
                format!("the rows make {rows} {} of {}, and the books say {state}", key.1, key.0)
            })
            .collect();
        told.into_iter().for_each(|what| self.problem(what));
    }

    fn trial(&mut self) {
        if let Err((currency, sum)) = self.books.trial() {
            self.problem(format!("all accounts together have {sum} {currency}, and should have nothing"));
        }
    }
}

impl Keeper {
    /// Reads all of it, against the state as of now: what was recorded since is not looked at. Takes long.
    ///
    /// # Errors
    /// `WouldBlock` where something is still fetched; what else the file system says.
    pub fn verify(&self) -> io::Result<Verified> {
        let state = self.look(State::clone);
        let mut verified = Verified { hash: genesis(), ..Verified::default() };
        for of in extents(&state) {
            let segment = of.extent.segment;
            verified.segments += 1;
            match self.verify_segment(&of, &mut verified) {
                Ok(hash) if hash == of.extent.hash => verified.hash = hash,
                Ok(_) => {
                    let why = Why::Hash;
                    let after_seq = verified.last_seq;
                    verified.broke(&Broken { segment, offset: of.extent.bytes, after_seq, why });
                }
                Err(error) => match error.downcast::<Broken>() {
                    Ok(broken) => verified.broke(&broken),
                    Err(error) => return Err(error),
                },
            }
        }
        verified.compare(&state);
        verified.trial();
        Ok(verified)
    }

    fn verify_segment(&self, of: &Missing, verified: &mut Verified) -> io::Result<Hash> {
        let mut records = self.reading(of)?;
        while let Some(record) = next(&mut records, &of.extent)? {
            verified.take(record);
        }
        Ok(records.hash())
    }
}

/// Reads the files in a directory through, of a node that does not run: the chain from its beginning, prices and sums. How far
/// it should go, only a node that runs can say.
///
/// # Errors
/// What the file system says.
pub fn verify_files(dir: &Path) -> io::Result<Verified> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|it| it == SUFFIX);
        let number = path.file_stem().and_then(|it| it.to_str()).and_then(|it| it.parse::<u64>().ok());
        files.extend(number.filter(|_| is_segment).map(|number| (number, path)));
    }
    files.sort();
    let mut verified = Verified { hash: genesis(), ..Verified::default() };
    for (at, (number, path)) in (1..).zip(files) {
        if number != at {
            verified.problem(format!("segment {at} is not there: it was removed, or is still to be fetched"));
            break;
        }
        verified.segments = at;
        if let Err(broken) = verified.read_file(number, File::open(path)?) {
            verified.broke(&broken);
            break;
        }
    }
    verified.trial();
    Ok(verified)
}

impl Verified {
    fn read_file(&mut self, segment: u64, file: File) -> Result<(), Broken> {
        let mut records = Records::open(BufReader::new(file), segment, self.hash, self.last_seq)?;
        for record in &mut records {
            self.take(record?);
        }
        self.hash = records.hash();
        Ok(())
    }
}

/// What makes up a row's amount, by the price that it names.
///
/// # Errors
/// Why the price can't be read.
pub fn lines(row: &LedgerRow, price: &tollgate_proto::state::v1::PriceVersionRow) -> Result<Vec<Line>, String> {
    Ok(Tariff::of(price)?.lines(row.into()).collect())
}

/// What makes up what an upstream bills for an attempt, by the price that its cost names.
///
/// # Errors
/// Why the price can't be read.
pub fn cost_lines(
    attempt: &Attempt<'_>,
    price: &tollgate_proto::state::v1::PriceVersionRow,
) -> Result<Vec<Line>, String> {
    Ok(Tariff::of(price)?.lines((&attempt.usage).into()).collect())
}
