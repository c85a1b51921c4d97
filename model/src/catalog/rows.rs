//! The catalog as rows of the state store and of snapshots.
//!
//! Keys: [`ROW_PREFIX`], a byte for the kind, the name. The kind 0 has one row, without a name: the catalog's version.

use std::{io, iter, sync::Arc};

use prost::Message;
use tollgate_proto::state::v1::{ConfigRow, StoredResource, config_row::Kind as RowKind};

use super::{Catalog, Change, Decision, Stored};
use crate::{Kind, LogIndex, Name, check::identity};

/// The first byte of every row's key.
pub const ROW_PREFIX: u8 = b'c';

const META: [u8; 2] = [ROW_PREFIX, 0];

impl Decision {
    /// The rows that the change makes different: each key, and its value unless the row is gone.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        let meta = (!self.changes.is_empty()).then(|| (META.to_vec(), Some(meta(self.version))));
        meta.into_iter().chain(self.changes.iter().map(Change::row))
    }
}

impl Change {
    /// The row of the resource: its key, and its value unless it is gone.
    #[must_use]
    pub fn row(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        (key(self.kind, &self.name), self.after.as_deref().map(value))
    }
}

impl Catalog {
    /// Every row, sorted by key; each key begins with [`ROW_PREFIX`]. Taking the iterator is cheap: the work is done
    /// where it is read.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
        let catalog = self.clone();
        let meta = (META.to_vec(), meta(catalog.version));
        let resources = Kind::ALL.into_iter().flat_map(move |kind| {
            let resources: Vec<_> =
                catalog.kind(kind).iter().map(|(name, stored)| (name.clone(), Arc::clone(stored))).collect();
            resources.into_iter().map(move |(name, stored)| (key(kind, &name), value(&stored)))
        });
        iter::once(meta).chain(resources)
    }

    /// The catalog of these rows, in any order.
    ///
    /// # Errors
    /// `InvalidData` for a row that is none.
    pub fn restore(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> io::Result<Self> {
        let mut catalog = Self::default();
        for (key, value) in rows {
            catalog.restore_row(&key, &value)?;
        }
        Ok(catalog)
    }

    /// Adds one row to a catalog that is being restored from an empty one.
    ///
    /// # Errors
    /// `InvalidData` for a row that is none.
    pub fn restore_row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let row = ConfigRow::decode(value).map_err(|error| invalid(&error.to_string()))?;
        match row.kind {
            Some(RowKind::Version(version)) if key == META => self.version = LogIndex(version),
            Some(RowKind::Stored(row)) => {
                let change = restored(row).ok_or_else(|| invalid("a resource without a kind or a name"))?;
                if self::key(change.kind, &change.name) != key {
                    return Err(invalid("a key that is not its resource's"));
                }
                self.replace(&change);
            }
            _ => return Err(invalid("neither a resource nor the version")),
        }
        Ok(())
    }
}

fn restored(row: StoredResource) -> Option<Change> {
    let resource = row.resource?;
    let (kind, metadata) = identity(&resource)?;
    let metadata = metadata?;
    let (name, version) = (Name::new(&metadata.name), LogIndex(metadata.resource_version?));
    let stored = Stored { resource, version, apply_set: row.apply_set };
    Some(Change { kind, name, before: None, after: Some(Arc::new(stored)) })
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged configuration row: {what}"))
}

/// In the order of [`Kind::ALL`], and never changed.
fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Service => 1,
        Kind::Provider => 2,
        Kind::Route => 3,
        Kind::Tenant => 4,
        Kind::Consumer => 5,
        Kind::Limit => 6,
        Kind::Price => 7,
        Kind::Certificate => 8,
    }
}

fn key(kind: Kind, name: &str) -> Vec<u8> {
    [&[ROW_PREFIX, kind_byte(kind)], name.as_bytes()].concat()
}

fn value(stored: &Stored) -> Vec<u8> {
    let row = StoredResource { resource: Some(stored.resource.clone()), apply_set: stored.apply_set.clone() };
    ConfigRow { kind: Some(RowKind::Stored(row)) }.encode_to_vec()
}

fn meta(version: LogIndex) -> Vec<u8> {
    ConfigRow { kind: Some(RowKind::Version(version.0)) }.encode_to_vec()
}
