//! Every version of every price that a request may still be billed by.

use std::{collections::BTreeMap, io, sync::Arc};

use foldhash::HashMap;
use parking_lot::RwLock;
use prost::Message;
use tollgate_model::{Checked, Currency, LogIndex, Name, Price, PriceTable, Timestamp};
use tollgate_proto::{
    state::v1::{Attribution, PriceVersionRow},
    v1::{self, resource::Kind as Raw},
};

use super::tariff::{Specificity, Tariff};
use crate::Changes;

/// A version that another one took the place of is kept so long: longer than any journal is waited for.
const KEPT_US: u64 = 35 * 24 * 3_600 * 1_000_000;
/// Combinations of tenant, provider and model whose prices are remembered. Callers choose model names.
const MAX_REMEMBERED: usize = 16_384;

/// What is asked for: whose figures, as of when.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What the upstream bills, or what the tenant is billed: contract before list.
    pub cost: bool,
    /// Prices in other currencies are not its prices. None: in whatever currency, as an upstream's are.
    pub currency: Option<Currency>,
    /// Who pays.
    pub tenant: &'a str,
    /// Who served it.
    pub provider: &'a str,
    /// What it was asked for.
    pub model: &'a str,
    /// The configuration that the request was admitted under: later versions are not its prices.
    pub pinned: LogIndex,
    /// When it was admitted.
    pub at: Timestamp,
}

impl<'a> Asked<'a> {
    /// The price that a request is billed by: who admitted it finds the same as whoever settles it, in whatever state of the
    /// book since. None where nothing is billed.
    #[must_use]
    pub fn by(attribution: &'a Attribution) -> Option<Self> {
        Some(Self {
            cost: false,
            currency: Some(Currency::parse(&attribution.currency).ok()?),
            tenant: &attribution.tenant,
            provider: &attribution.provider,
            model: &attribution.provider_model,
            pinned: LogIndex(attribution.config_index),
            at: Timestamp(attribution.admitted_us),
        })
    }

    /// What an upstream bills for an attempt of the same request, whoever's it is.
    #[must_use]
    pub fn cost(attribution: &'a Attribution, provider: &'a str, model: &'a str) -> Self {
        Self {
            cost: true,
            currency: None,
            tenant: "",
            provider,
            model,
            pinned: LogIndex(attribution.config_index),
            at: Timestamp(attribution.admitted_us),
        }
    }
}

/// The prices, with their pasts. Pure: it follows the catalog, entry by entry.
#[derive(Debug, Default)]
pub struct PriceBook {
    /// Each name's versions, the oldest first.
    names: BTreeMap<Name, Arc<Vec<Version>>>,
    /// Which names have a version that matches. Derived; whatever is not there is looked up again.
    remembered: RwLock<HashMap<String, Arc<[Name]>>>,
}

/// The same prices. Costs a pointer for each name.
impl Clone for PriceBook {
    fn clone(&self) -> Self {
        Self { names: self.names.clone(), remembered: RwLock::default() }
    }
}

#[derive(Debug, Clone)]
struct Version {
    tariff: Arc<Tariff>,
    raw: v1::Price,
    /// Log time of the change that made it.
    since_us: u64,
    /// The price was deleted by this entry, at that log time.
    deleted: Option<(LogIndex, u64)>,
}

/// Rows that are no prices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// A value that cannot be read, or is no price.
    #[error("price row {key:?} is wrong: {why}")]
    Value {
        /// The row's key.
        key: Vec<u8>,
        /// Why.
        why: String,
    },
    /// The rows could not be read.
    #[error("the price rows cannot be read")]
    Source(#[from] io::Error),
}

impl PriceBook {
    /// A price is made, or has a new version. `price` and `raw` are the same; `now` is log time.
    pub fn put(&mut self, now: Timestamp, price: &Price, raw: &v1::Price, changes: &mut Changes) {
        self.remembered.get_mut().clear();
        let versions = Arc::make_mut(self.names.entry(price.name.clone()).or_default());
        // One that only moved to another applied set is the same version.
        if versions.last().is_some_and(|last| last.tariff.version == price.version && last.deleted.is_none()) {
            return;
        }
        let version = Version { tariff: Arc::new(price.into()), raw: raw.clone(), since_us: now.0, deleted: None };
        changes.push(version.put());
        versions.push(version);
        forget(versions, now, changes);
    }

    /// A price is deleted by the entry `at`.
    pub fn delete(&mut self, at: LogIndex, now: Timestamp, name: &Name, changes: &mut Changes) {
        self.remembered.get_mut().clear();
        let Some(versions) = self.names.get_mut(name) else { return };
        let versions = Arc::make_mut(versions);
        if let Some(last) = versions.last_mut().filter(|last| last.deleted.is_none()) {
            last.deleted = Some((at, now.0));
            changes.push(last.put());
        }
    }

    /// The price of a request: of all that match, the one for its tenant before the list, then the one with the closest
    /// model, then one that names the provider; of equals the newest, then by name.
    pub fn find(&self, asked: &Asked<'_>) -> Option<&Arc<Tariff>> {
        self.find_where(asked, |table| (table == PriceTable::Cost) == asked.cost)
    }

    /// The price of a request as if no contract were with its tenant.
    pub fn find_on_list(&self, asked: &Asked<'_>) -> Option<&Arc<Tariff>> {
        self.find_where(asked, |table| table == PriceTable::List)
    }

    fn find_where(&self, asked: &Asked<'_>, is_in_table: impl Fn(PriceTable) -> bool) -> Option<&Arc<Tariff>> {
        let names = self.matching(asked);
        let in_force = names.iter().filter_map(|name| in_force(self.names.get(name)?, asked));
        let is_of = |tariff: &&Arc<Tariff>| {
            let is_in = asked.currency.is_none_or(|currency| currency == tariff.currency);
            is_in && is_in_table(tariff.table)
        };
        let fits = in_force.filter(is_of).filter_map(|tariff| {
            let specificity = tariff.fits(asked.tenant, asked.provider, asked.model)?;
            Some((specificity, tariff))
        });
        let rank = |(specificity, tariff): &(Specificity, &Arc<Tariff>)| (*specificity, tariff.version);
        // Of equals `max_by_key` takes the last: the names are in order, so that is decided too.
        fits.max_by_key(rank).map(|(_, tariff)| tariff)
    }

    /// A version as the ledger keeps it: as it was made.
    #[must_use]
    pub fn version(&self, name: &Name, version: LogIndex) -> Option<PriceVersionRow> {
        let versions = self.names.get(name)?;
        let it = versions.iter().find(|it| it.tariff.version == version)?;
        Some(PriceVersionRow { price: Some(it.raw.clone()), since_us: it.since_us, ..PriceVersionRow::default() })
    }

    /// Names with any version that matches, in order.
    fn matching(&self, asked: &Asked<'_>) -> Arc<[Name]> {
        let key = [asked.tenant, asked.provider, asked.model].join("\0");
        if let Some(names) = self.remembered.read().get(&key) {
            return Arc::clone(names);
        }
        let fits = |version: &Version| version.tariff.fits(asked.tenant, asked.provider, asked.model).is_some();
        let names = self.names.iter().filter(|(_, versions)| versions.iter().any(fits));
        let names: Arc<[Name]> = names.map(|(name, _)| name.clone()).collect();
        let mut remembered = self.remembered.write();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, Arc::clone(&names));
        names
    }

    /// Versions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.values().map(|versions| versions.len()).sum()
    }

    /// Whether nothing was ever priced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every row as of now, in order of the keys. To take it costs a pointer for each name.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
        self.names
            .clone()
            .into_values()
            .flat_map(|versions| versions.iter().map(|version| (version.key(), version.row())).collect::<Vec<_>>())
    }

    /// The book that these rows are of.
    ///
    /// # Errors
    /// When a row cannot be read, or is no price to this version.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, BookError>
    where
        BookError: From<E>,
    {
        let mut book = Self::default();
        for read in rows {
            let (key, value) = read?;
            let version = Version::from_row(&value).map_err(|why| BookError::Value { key, why })?;
            let versions = book.names.entry(version.tariff.name.clone()).or_default();
            Arc::make_mut(versions).push(version);
        }
        Ok(book)
    }
}

/// The version of one name by which a request is billed: the newest that it can know and that is effective. None of a price
/// that was deleted by then.
fn in_force<'a>(versions: &'a [Version], asked: &Asked<'_>) -> Option<&'a Arc<Tariff>> {
    let known = versions.iter().rev().filter(|version| version.tariff.version <= asked.pinned);
    let there = known.take_while(|version| version.deleted.is_none_or(|(at, _)| at > asked.pinned));
    let mut effective = there.filter(|version| version.tariff.effective_from.is_none_or(|from| from <= asked.at));
    effective.next().map(|version| &version.tariff)
}

/// Drops what no request can be billed by any more: before it was deleted, or something else took its place, long ago.
fn forget(versions: &mut Vec<Version>, now: Timestamp, changes: &mut Changes) {
    let is_past = |at_us: u64| at_us.saturating_add(KEPT_US) <= now.0;
    let replaces = |it: &Version| {
        let from = it.tariff.effective_from.map_or(0, |from| from.0).max(it.since_us);
        is_past(from) || it.deleted.is_some_and(|(_, at_us)| is_past(at_us))
    };
    let oldest = versions.iter().rposition(replaces).unwrap_or(0);
    for version in versions.drain(..oldest) {
        changes.push((version.key(), None));
    }
}

impl Tariff {
    /// What a version comes to, as the state and the ledger keep it.
    ///
    /// # Errors
    /// Why it is no price to this version of the program.
    pub fn of(row: &PriceVersionRow) -> Result<Self, String> {
        let raw = row.price.as_ref().ok_or("it holds no price")?;
        let resource = v1::Resource { kind: Some(Raw::Price(raw.clone())) };
        match tollgate_model::check(&resource) {
            Ok(Checked::Price(price)) => Ok(Self::from(&*price)),
            Ok(_) => Err("it holds no price".to_owned()),
            Err(problems) => Err(problems.to_string()),
        }
    }
}

impl Version {
    /// Orders as names and versions do.
    fn key(&self) -> Vec<u8> {
        let mut key = self.tariff.name.as_str().as_bytes().to_vec();
        key.push(0);
        key.extend(self.tariff.version.0.to_be_bytes());
        key
    }

    fn row(&self) -> Vec<u8> {
        let (deleted_at, deleted_us) = self.deleted.unwrap_or_default();
        let row = PriceVersionRow {
            price: Some(self.raw.clone()),
            since_us: self.since_us,
            deleted_at: deleted_at.0,
            deleted_us,
        };
        row.encode_to_vec()
    }

    fn put(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        (self.key(), Some(self.row()))
    }

    fn from_row(value: &[u8]) -> Result<Self, String> {
        let row = PriceVersionRow::decode(value).map_err(|error| error.to_string())?;
        let tariff = Arc::new(Tariff::of(&row)?);
        let raw = row.price.ok_or("it holds no price")?;
        let deleted = (row.deleted_at != 0).then_some((LogIndex(row.deleted_at), row.deleted_us));
        Ok(Self { tariff, raw, since_us: row.since_us, deleted })
    }
}

#[cfg(test)]
mod tests;
