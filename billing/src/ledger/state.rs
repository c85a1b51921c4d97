//! The replicated part of the ledger: how far it has come, the books, and what its rows name.
//!
//! Pure: a function of what was recorded, in the order of the log. Its rows of the state are few and small; the records of the
//! ledger are not among them.

use std::collections::BTreeMap;

use prost::Message;
use tollgate_model::{LogIndex, Timestamp};
use tollgate_proto::state::v1::{LedgerLoss, LedgerRecord, LedgerRow, PriceVersionRow, ledger_record::Kind};

use super::{Books, Chain, Extent, Piece};
use crate::{
    Came, Changes, RestoreError,
    period::{Periods, Placed, Terms, Touched},
};

const BOOKS: u8 = b'b';
const CHAIN: u8 = b'c';
const MONTHS: u8 = b'm';
const PRICES: u8 = b'p';
const ZONES: u8 = b'z';

/// Rows that one entry can have: the number of a row is that of its entry, times this, and which one it is.
pub const ROWS_PER_ENTRY: u64 = 1 << 16;

/// What the ledger is, but for its records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    chain: Chain,
    books: Books,
    /// On which bills its rows are.
    periods: Periods,
    /// Versions that rows name: each is a record before the first row that does.
    prices: BTreeMap<(String, u64), PriceVersionRow>,
    /// Where nodes are, as they last said.
    zones: BTreeMap<u64, String>,
}

impl State {
    /// Takes down what one entry of the log says, rows in their order, each with those of the prices that it and its costs name that
    /// were not named before. Posts what they move. Where the records go is told.
    pub fn record<P: IntoIterator<Item = PriceVersionRow>>(
        &mut self,
        rows: impl IntoIterator<Item = (LedgerRow, P)>,
        changes: &mut Changes,
    ) -> Option<Piece> {
        let (mut records, mut touched) = (Vec::new(), Touched::default());
        for (mut row, prices) in rows {
            let came = Came { at: LogIndex(row.seq / ROWS_PER_ENTRY), now: Timestamp(row.settled_us) };
            self.periods.take(&mut row, &Placed { came, open: *self.chain.open() }, &mut touched);
            for price in prices {
                let (name, version) = name_of(&price);
                changes.push((price_key(&name, version), Some(price.encode_to_vec())));
                self.prices.insert((name, version), price.clone());
                records.push(LedgerRecord { kind: Some(Kind::Price(price)) });
            }
            records.push(LedgerRecord { kind: Some(Kind::Row(row)) });
        }
        let mut moved = Changes::new();
        self.books.post(records.iter().filter_map(row_of), &mut moved);
        changes.extend(prefixed(BOOKS, moved));
        let mut placed = Changes::new();
        let piece = self.chain.append(&records, &mut placed);
        changes.extend(prefixed(CHAIN, placed));
        self.changed(touched, changes);
        piece
    }

    /// Takes down what one entry writes off, after its rows, and posts it. Where the records go is told.
    pub fn record_losses(&mut self, losses: Vec<LedgerLoss>, changes: &mut Changes) -> Option<Piece> {
        let mut moved = Changes::new();
        self.books.post_losses(&losses, &mut moved);
        changes.extend(prefixed(BOOKS, moved));
        let records: Vec<_> = losses.into_iter().map(|loss| LedgerRecord { kind: Some(Kind::Loss(loss)) }).collect();
        let mut placed = Changes::new();
        let piece = self.chain.append(&records, &mut placed);
        changes.extend(prefixed(CHAIN, placed));
        piece
    }

    /// Closes the months that are over by an entry's log time.
    pub fn close_months(&mut self, came: Came, changes: &mut Changes) {
        let mut touched = Touched::default();
        self.periods.close_due(&Placed { came, open: *self.chain.open() }, &mut touched);
        self.changed(touched, changes);
    }

    fn changed(&self, touched: Touched, changes: &mut Changes) {
        let mut months = Changes::new();
        self.periods.changed(touched, &mut months);
        changes.extend(prefixed(MONTHS, months));
    }

    /// By what the months of tenants go, as the configuration has it.
    pub fn set_terms(&mut self, terms: BTreeMap<String, Terms>) {
        self.periods.set_terms(terms);
    }

    /// The terms of one tenant, or that it is not declared any more.
    pub fn change_terms(&mut self, tenant: &str, terms: Option<Terms>) {
        self.periods.change_terms(tenant, terms);
    }

    /// The months of tenants.
    #[must_use]
    pub fn periods(&self) -> &Periods {
        &self.periods
    }

    /// The complete segments whose rows are all on bills that are closed, from the first one on.
    pub fn closed(&self) -> impl Iterator<Item = &Extent> {
        let open = self.periods.first_open_segment().unwrap_or(u64::MAX);
        self.chain.complete().take_while(move |extent| extent.segment < open)
    }

    /// Whether this version of a price is in the ledger.
    #[must_use]
    pub fn names(&self, price: &str, version: u64) -> bool {
        self.price(price, version).is_some()
    }

    /// A version of a price that rows name.
    #[must_use]
    pub fn price(&self, name: &str, version: u64) -> Option<&PriceVersionRow> {
        self.prices.get(&(name.to_owned(), version))
    }

    /// Every version of a price that rows name.
    pub fn prices(&self) -> impl Iterator<Item = &PriceVersionRow> {
        self.prices.values()
    }

    /// A node says where it is.
    pub fn set_zone(&mut self, node: u64, zone: &str, changes: &mut Changes) {
        if !zone.is_empty() && self.zone(node) != zone {
            self.zones.insert(node, zone.to_owned());
            changes.push((zone_key(node), Some(zone.as_bytes().to_vec())));
        }
    }

    /// Where a node is; empty where it has not said.
    #[must_use]
    pub fn zone(&self, node: u64) -> &str {
        self.zones.get(&node).map_or("", String::as_str)
    }

    /// The places and hashes of all records.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The balances.
    #[must_use]
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Every row of the state, in order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + use<> {
        let prices = self.prices.clone().into_iter();
        let prices = prices.map(|((name, version), price)| (price_key(&name, version), price.encode_to_vec()));
        let zones = self.zones.clone().into_iter().map(|(node, zone)| (zone_key(node), zone.into_bytes()));
        let books = self.books.rows().map(|(key, value)| (with(BOOKS, &key), value));
        let chain = self.chain.rows().map(|(key, value)| (with(CHAIN, &key), value));
        let months = self.periods.rows().map(|(key, value)| (with(MONTHS, &key), value));
        books.chain(chain).chain(months).chain(prices).chain(zones)
    }

    /// The ledger that these rows are of.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let (mut books, mut chain, mut months, mut state) = (Vec::new(), Vec::new(), Vec::new(), Self::default());
        for read in rows {
            let (key, value) = read?;
            let known = match key.split_first() {
                Some((&BOOKS, rest)) => {
                    books.push(Ok::<_, E>((rest.to_vec(), value)));
                    Some(())
                }
                Some((&CHAIN, rest)) => {
                    chain.push(Ok::<_, E>((rest.to_vec(), value)));
                    Some(())
                }
                Some((&MONTHS, rest)) => {
                    months.push((rest.to_vec(), value));
                    Some(())
                }
                Some((&PRICES, rest)) => state.take_price(rest, &value),
                Some((&ZONES, rest)) => state.take_zone(rest, value),
                _ => None,
            };
            known.ok_or(RestoreError::Value { key })?;
        }
        let (books, chain) = (Books::restore(books)?, Chain::restore(chain)?);
        Ok(Self { books, chain, periods: Periods::restore(months)?, ..state })
    }

    fn take_price(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (name, version) = key.split_last_chunk::<8>()?;
        let name = String::from_utf8(name.strip_suffix(b"\0")?.to_vec()).ok()?;
        let price = PriceVersionRow::decode(value).ok()?;
        self.prices.insert((name, u64::from_be_bytes(*version)), price);
        Some(())
    }

    fn take_zone(&mut self, key: &[u8], value: Vec<u8>) -> Option<()> {
        self.zones.insert(u64::from_be_bytes(key.try_into().ok()?), String::from_utf8(value).ok()?);
        Some(())
    }
}

#[cfg(test)]
impl State {
    pub(super) fn with(chain: Chain) -> Self {
        Self { chain, ..Self::default() }
    }

    pub(super) fn forget_books(&mut self) {
        self.books = Books::default();
    }
}

fn row_of(record: &LedgerRecord) -> Option<&LedgerRow> {
    if let Some(Kind::Row(row)) = &record.kind { Some(row) } else { None }
}

/// What rows call a version.
fn name_of(price: &PriceVersionRow) -> (String, u64) {
    let metadata = price.price.as_ref().and_then(|price| price.metadata.as_ref());
    metadata.map(|it| (it.name.clone(), it.resource_version.unwrap_or(0))).unwrap_or_default()
}

fn price_key(name: &str, version: u64) -> Vec<u8> {
    let mut key = with(PRICES, name.as_bytes());
    key.push(0);
    key.extend(version.to_be_bytes());
    key
}

fn zone_key(node: u64) -> Vec<u8> {
    with(ZONES, &node.to_be_bytes())
}

fn with(prefix: u8, key: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(key.len() + 1);
    prefixed.push(prefix);
    prefixed.extend(key);
    prefixed
}

fn prefixed(prefix: u8, changes: Changes) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
    changes.into_iter().map(move |(key, value)| (with(prefix, &key), value))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tollgate_proto::v1;

    use super::*;

    fn row(seq: u64, pico: i128) -> LedgerRow {
        LedgerRow {
            seq,
            tenant: "acme".into(),
            price: "a".into(),
            price_version: 9,
            currency: "USD".into(),
            amount: pico.to_be_bytes().to_vec(),
            ..LedgerRow::default()
        }
    }

    fn price() -> PriceVersionRow {
        let metadata = v1::Metadata { name: "a".into(), resource_version: Some(9), ..v1::Metadata::default() };
        let price = v1::Price { metadata: Some(metadata), ..v1::Price::default() };
        PriceVersionRow { price: Some(price), since_us: 7, ..PriceVersionRow::default() }
    }

    #[test]
    fn the_rows_of_all_changes_are_the_image_and_make_the_same_ledger() {
        let (mut state, mut rows) = (State::default(), BTreeMap::new());
        for n in 1..5 {
            let mut changes = Changes::new();
            state.set_zone(n, "az-a", &mut changes);
            let price = (!state.names("a", 9)).then(price);
            assert_eq!(price.is_some(), n == 1);
            let piece = state.record([(row(n << 16, i128::from(n)), price)], &mut changes).unwrap();
            assert_eq!(piece.segment, 1);
            rows.extend(changes.into_iter().map(|(key, value)| (key, value.unwrap())));
        }
        assert_eq!(state.chain().records(), 5);
        let image: Vec<_> = state.rows().collect();
        assert_eq!(image, rows.into_iter().collect::<Vec<_>>());
        assert_eq!(State::restore(image.into_iter().map(Ok::<_, Infallible>)).unwrap(), state);
    }

    #[test]
    fn rows_that_are_none_of_the_ledgers_are_refused() {
        let wrong = [vec![], vec![b'x'], vec![PRICES, 1], [&[PRICES, 0xff, 0][..], &[0; 8]].concat(), vec![ZONES, 1]];
        for key in wrong {
            assert!(State::restore([Ok::<_, Infallible>((key.clone(), Vec::new()))]).is_err(), "{key:?}");
        }
    }

    #[test]
    fn an_entry_without_rows_adds_nothing() {
        let (mut state, mut changes) = (State::default(), Changes::new());
        assert_eq!(state.record([(); 0].map(|()| (row(1, 1), None)), &mut changes), None);
        assert!(changes.is_empty());
    }
}
