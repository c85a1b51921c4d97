//! Reads a ledger through, from its first record: the chain, each row against the price that it names, and the sums. What was
//! archived is read there; what is not to be had is told, and never taken for checked.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use tollgate_model::Currency;
use tollgate_proto::state::v1::{LedgerLoss, LedgerRecord, LedgerRow, ledger_record::Kind};

use super::{
    Attempt, Books, Broken, Hash, Keeper, Missing, Nowhere, Records, State, archive, attempts,
    chain::genesis,
    head::Head,
    priced::{Priced, Tariffs, called, tell, unknown},
    reader::{extents, next},
    segment::Why,
};
use crate::{
    Changes,
    amount::pico,
    price::{Line, Tariff},
};

const SUFFIX: &str = "seg";
/// Of a segment that was archived, in its place.
const NOTE: &str = "archived";

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
    /// Segments that were archived, and could not be looked at: what they are is not known.
    pub unseen: Vec<u64>,
    tariffs: Tariffs,
    /// Prices may be in what was not looked at.
    is_partial: bool,
    /// How far the files were synced, where that is noted, and whether the records go through there.
    head: Option<Head>,
    is_through: bool,
    /// They end before.
    is_cut: bool,
}

impl Verified {
    fn problem(&mut self, what: String) {
        tell(&mut self.problems, what);
    }

    fn take(&mut self, record: LedgerRecord) {
        self.records += 1;
        match record.kind {
            Some(Kind::Price(version)) => {
                if let Err(why) = self.tariffs.add(&version) {
                    self.problem(format!("a price after row {} is none: {why}", self.last_seq));
                }
            }
            Some(Kind::Row(row)) => self.take_row(&row),
            Some(Kind::Loss(loss)) => self.take_loss(&loss),
            None => self.problem(format!("a record after row {} is of a kind that is not known", self.last_seq)),
        }
    }

    fn take_row(&mut self, row: &LedgerRow) {
        (self.rows, self.last_seq) = (self.rows + 1, row.seq);
        self.books.post([row], &mut Changes::new());
        let row_itself = called(row);
        if let Some(wrong) = self.wrong(&Priced::row(row)) {
            self.problem(format!("{row_itself} {wrong}"));
        }
        if !row.list_price.is_empty() && !self.knows(&row.list_price, row.list_price_version) {
            self.problem(format!("{row_itself} {}", unknown(&row.list_price, row.list_price_version)));
        }
        for attempt in attempts(row) {
            if let Some(wrong) = self.wrong(&Priced::attempt(row, &attempt)) {
                self.problem(format!("{row_itself}, attempt {} at {}, {wrong}", attempt.number, attempt.provider));
            }
        }
    }

    fn take_loss(&mut self, loss: &LedgerLoss) {
        self.books.post_losses(std::slice::from_ref(loss), &mut Changes::new());
        if pico(&loss.amount).is_none_or(|amount| amount <= 0) || Currency::parse(&loss.currency).is_err() {
            let LedgerLoss { log_index, node, .. } = loss;
            self.problem(format!("what entry {log_index} wrote off of node {node} has no amount that can be read"));
        }
    }

    /// A price that may be in what was not looked at is believed.
    fn knows(&self, price: &str, version: u64) -> bool {
        self.is_partial || self.tariffs.knows(price, version)
    }

    fn wrong(&self, of: &Priced<'_>) -> Option<String> {
        let may_be_unseen = |(price, version): (&str, u64)| self.is_partial && !self.tariffs.knows(price, version);
        if of.price().is_some_and(may_be_unseen) { None } else { self.tariffs.wrong(of) }
    }

    fn broke(&mut self, broken: &Broken) {
        self.broken.push(broken.segment);
        self.problem(broken.to_string());
    }

    /// Goes on behind a segment that could not be read through.
    fn failed(&mut self, of: &Missing, error: io::Error, state: &State, has_archive: bool) -> io::Result<()> {
        let error = match error.downcast::<Broken>() {
            Ok(broken) => {
                self.broke(&broken);
                return Ok(());
            }
            Err(error) => error,
        };
        let nowhere = error.downcast::<Nowhere>()?;
        self.problem(format!("{nowhere}: it was not looked at"));
        // Of an archive that is only away, nothing is to be fetched: all of it would fill this node's disk.
        if has_archive && matches!(nowhere, Nowhere::Lost { .. }) {
            self.broken.push(of.extent.segment);
        }
        self.unseen.push(of.extent.segment);
        (self.hash, self.last_seq) = (of.extent.hash, of.extent.last_seq);
        // What later rows name may be in there.
        for version in state.prices() {
            // One that is none was told of, or is in what was not looked at.
            let _ = self.tariffs.add(version);
        }
        Ok(())
    }

    /// What the sums should be, as the state has them.
    fn compare(&mut self, state: &State) {
        if !self.broken.is_empty() || !self.unseen.is_empty() {
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
                Err(error) => verified.failed(&of, error, &state, self.has_archive())?,
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

/// Reads the files in a directory through, of a node that does not run: the chain from its beginning, prices and sums, with what
/// it has let go of where that archive is given. It should go to where it was last synced at the least, which the node has noted.
///
/// # Errors
/// What the file system says.
pub fn verify_files(dir: &Path, archive: Option<&Path>) -> io::Result<Verified> {
    let number = |path: &Path| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let (mut files, mut notes) = (BTreeMap::new(), BTreeMap::new());
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        let of = match kind {
            SUFFIX => &mut files,
            NOTE => &mut notes,
            _ => continue,
        };
        of.extend(number(&path).map(|number| (number, path)));
    }
    let archived = archive.map(archived_files).transpose()?;
    let there = files.keys().next_back().max(notes.keys().next_back()).copied().unwrap_or(0);
    let head = Head::read(dir)?;
    let mut verified = Verified { hash: genesis(), head, ..Verified::default() };
    for segment in 1..=there.max(head.map_or(0, |head| head.segment)) {
        let copies = archived.as_ref().and_then(|archived| archived.get(&segment));
        let goes_on = match (files.get(&segment), copies, notes.get(&segment)) {
            (Some(file), ..) => verified.read_one(segment, std::slice::from_ref(file))?,
            (None, Some(copies), _) => verified.read_one(segment, copies)?,
            (None, None, Some(note)) => verified.pass_over(segment, note, archive)?,
            (None, None, None) => {
                verified.problem(format!("segment {segment} is not there: it was removed, or is still to be fetched"));
                verified.is_cut = segment > there;
                false
            }
        };
        if !goes_on {
            break;
        }
    }
    verified.compare_head(there > 0);
    verified.trial();
    Ok(verified)
}

/// The files of an archive, by segment: several where it is of more than one cluster.
fn archived_files(dir: &Path) -> io::Result<BTreeMap<u64, Vec<PathBuf>>> {
    let mut files: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(segment) = archive::segment_of(&path) {
            files.entry(segment).or_default().push(path);
        }
    }
    Ok(files)
}

impl Verified {
    /// Reads a segment from the first of these files that goes on from the one before it; whether it is in order.
    fn read_one(&mut self, segment: u64, files: &[PathBuf]) -> io::Result<bool> {
        self.segments += 1;
        let mut begins_wrong = None;
        for path in files {
            let file = BufReader::new(File::open(path)?);
            match Records::open(file, segment, self.hash, self.last_seq) {
                Ok(records) => {
                    let read = self.read_records(records, archive::hash_of(path));
                    read.as_ref().err().into_iter().for_each(|broken| self.broke(broken));
                    return Ok(read.is_ok());
                }
                Err(broken) => begins_wrong = begins_wrong.or(Some(broken)),
            }
        }
        begins_wrong.iter().for_each(|broken| self.broke(broken));
        Ok(false)
    }

    /// `named`: the hash that the file has in its name, if it is one of an archive.
    fn read_records(&mut self, mut records: Records<BufReader<File>>, named: Option<Hash>) -> Result<(), Broken> {
        while let Some(record) = records.next() {
            self.take(record?);
            self.goes_through(&records)?;
        }
        self.hash = records.hash();
        if named.is_some_and(|hash| hash != self.hash) {
            return Err(Broken { why: Why::Hash, ..records.ended() });
        }
        let before_head = self.head.filter(|head| head.segment == records.segment() && !self.is_through);
        match before_head {
            Some(head) if records.offset() < head.bytes => {
                self.is_cut = true;
                Err(records.ended())
            }
            Some(_) => Err(Broken { why: Why::Hash, ..records.ended() }),
            None => Ok(()),
        }
    }

    /// Whether the record that was last synced is the one that was noted, if it is the last one read.
    fn goes_through(&mut self, records: &Records<BufReader<File>>) -> Result<(), Broken> {
        let at = (records.segment(), records.offset());
        let Some(head) = self.head.filter(|head| (head.segment, head.bytes) == at) else { return Ok(()) };
        self.is_through = head.hash == records.hash();
        if self.is_through { Ok(()) } else { Err(Broken { why: Why::Hash, ..records.ended() }) }
    }

    /// What is missing at the end.
    fn compare_head(&mut self, has_files: bool) {
        match self.head {
            None if has_files => self.problem(
                "there is no note of how far the ledger was synced, or none that can be read (the file `head`): whether anything \
                 is missing at its end is not known"
                    .to_owned(),
            ),
            Some(head) if self.is_cut => {
                let count = head.records.checked_sub(self.records).filter(|_| !self.is_partial);
                let count = count.map_or_else(String::new, |count| format!("{count} "));
                let Head { last_seq, segment, bytes, .. } = head;
                self.problem(format!(
                    "{count}records are missing at the end: the ledger was synced to row {last_seq}, byte {bytes} of segment {segment}"
                ));
            }
            Some(_) | None => {}
        }
    }

    /// A segment that was archived, without its archive: the chain goes on behind it from the hash in its note.
    fn pass_over(&mut self, segment: u64, note: &Path, archive: Option<&Path>) -> io::Result<bool> {
        let name = std::fs::read_to_string(note)?;
        let Some(hash) = archive::hash_of(Path::new(&name)) else {
            self.problem(format!("segment {segment} is not there, and {} does not say what it was", note.display()));
            return Ok(false);
        };
        if let Some(archive) = archive {
            self.problem(Nowhere::Lost { segment, path: archive.join(&name) }.to_string());
        }
        self.unseen.push(segment);
        (self.hash, self.is_partial) = (hash, true);
        Ok(true)
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
