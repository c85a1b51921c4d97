//! Zones that get no new requests: a pure, replicated set.
//!
//! Only what is drained is kept. Which zones there are follows from nodes and endpoints, which this set does not know: who asks for
//! a change says which zones nodes are in that answer, so that two who drain the last two of them at once do not both succeed.

use std::collections::BTreeMap;

use prost::Message;
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{ZoneChange, ZoneOutcome, ZoneRow};

/// Zones drained at a time: far more than clusters have, so that nobody fills the state with names.
const MAX_ZONES: usize = 1_000;
/// What follows a name in messages is cut here.
const MAX_ZONE_BYTES: usize = 253;

/// Rows that changed: the zone, and its record, or `None` when it is not drained any more.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// The zones that are drained.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrainedZones {
    by_name: BTreeMap<String, ZoneRow>,
}

/// A row that is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("the row of zone {zone:?} is not readable")]
pub struct RestoreError {
    zone: String,
}

impl DrainedZones {
    /// Applies one change at log time `now`. What is so already stays as it was.
    pub fn apply(&mut self, now: Timestamp, change: &ZoneChange, changes: &mut Changes) -> ZoneOutcome {
        let zone = &change.zone;
        if self.is_drained(zone) == change.drained {
            return ZoneOutcome::default();
        }
        if !change.drained {
            self.by_name.remove(zone);
            changes.push((zone.clone().into_bytes(), None));
            return ZoneOutcome { changed: true, ..ZoneOutcome::default() };
        }
        if let Err(problem) = self.check(change) {
            return ZoneOutcome { problem, changed: false };
        }
        let row = ZoneRow { zone: zone.clone(), since_us: now.0, actor: change.actor.clone() };
        changes.push((zone.clone().into_bytes(), Some(row.encode_to_vec())));
        self.by_name.insert(zone.clone(), row);
        ZoneOutcome { changed: true, ..ZoneOutcome::default() }
    }

    fn check(&self, change: &ZoneChange) -> Result<(), String> {
        let zone = &change.zone;
        if zone.is_empty() || zone.len() > MAX_ZONE_BYTES {
            return Err(format!("a zone's name has 1 to {MAX_ZONE_BYTES} bytes"));
        }
        if self.by_name.len() >= MAX_ZONES {
            return Err(format!("{MAX_ZONES} zones are drained already: undrain some"));
        }
        let stays = change.of_nodes.iter().any(|other| other != zone && !self.is_drained(other));
        if !stays {
            let drained: Vec<&str> = self.names().collect();
            let others = if drained.is_empty() {
                "no other zone has nodes that answer".to_owned()
            } else {
                format!("drained already: {}; undrain one first", drained.join(", "))
            };
            return Err(format!("no node would get requests any more if {zone} was drained: {others}"));
        }
        Ok(())
    }

    /// Whether this zone gets no new requests.
    #[must_use]
    pub fn is_drained(&self, zone: &str) -> bool {
        self.by_name.contains_key(zone)
    }

    /// What is known of a drained zone.
    #[must_use]
    pub fn get(&self, zone: &str) -> Option<&ZoneRow> {
        self.by_name.get(zone)
    }

    /// The zones that are drained, by name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Every row, sorted by key.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.by_name.iter().map(|(zone, row)| (zone.clone().into_bytes(), row.encode_to_vec()))
    }

    /// The set that these rows are of.
    ///
    /// # Errors
    /// When a row is not one of ours.
    pub fn restore(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RestoreError> {
        let mut zones = Self::default();
        for (key, value) in rows {
            let unreadable = || RestoreError { zone: String::from_utf8_lossy(&key).into_owned() };
            let row = ZoneRow::decode(value.as_slice()).map_err(|_| unreadable())?;
            if row.zone.as_bytes() != key {
                return Err(unreadable());
            }
            zones.by_name.insert(row.zone.clone(), row);
        }
        Ok(zones)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(zone: &str, drained: bool) -> ZoneChange {
        let of_nodes = ["a", "b", "c"].map(str::to_owned).to_vec();
        ZoneChange { zone: zone.to_owned(), drained, actor: "t1".to_owned(), of_nodes }
    }

    /// What came of it: whether it changed anything, or the problem.
    fn apply(zones: &mut DrainedZones, change: &ZoneChange, changes: &mut Changes) -> Result<bool, String> {
        let outcome = zones.apply(Timestamp(7), change, changes);
        if outcome.problem.is_empty() { Ok(outcome.changed) } else { Err(outcome.problem) }
    }

    #[test]
    fn one_zone_with_nodes_always_stays() {
        let (mut zones, mut changes) = (DrainedZones::default(), Changes::new());
        assert_eq!(apply(&mut zones, &change("elsewhere", true), &mut changes), Ok(true), "endpoints alone");
        assert_eq!(apply(&mut zones, &change("a", true), &mut changes), Ok(true));
        assert_eq!(apply(&mut zones, &change("b", true), &mut changes), Ok(true));
        let refused = apply(&mut zones, &change("c", true), &mut changes).unwrap_err();
        let expected =
            "no node would get requests any more if c was drained: drained already: a, b, elsewhere; undrain one first";
        assert_eq!(refused, expected);
        assert_eq!(apply(&mut zones, &change("a", false), &mut changes), Ok(true));
        assert_eq!(apply(&mut zones, &change("c", true), &mut changes), Ok(true));
        assert_eq!(changes.len(), 5, "a refusal changes nothing");
        let alone = ZoneChange { of_nodes: vec!["a".to_owned()], ..change("a", true) };
        let refused = apply(&mut DrainedZones::default(), &alone, &mut changes).unwrap_err();
        assert!(refused.ends_with("no other zone has nodes that answer"), "{refused}");
    }

    #[test]
    fn what_is_so_already_stays_as_it_was() {
        let (mut zones, mut changes) = (DrainedZones::default(), Changes::new());
        assert_eq!(apply(&mut zones, &change("a", false), &mut changes), Ok(false));
        assert_eq!(apply(&mut zones, &change("a", true), &mut changes), Ok(true));
        let again = ZoneChange { actor: "t2".to_owned(), ..change("a", true) };
        assert_eq!(apply(&mut zones, &again, &mut changes), Ok(false));
        assert_eq!(zones.get("a").map(|row| (row.since_us, row.actor.as_str())), Some((7, "t1")));
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn names_are_bounded_in_length_and_number() {
        let (mut zones, mut changes) = (DrainedZones::default(), Changes::new());
        for bad in ["", &"z".repeat(MAX_ZONE_BYTES + 1)] {
            assert!(apply(&mut zones, &change(bad, true), &mut changes).is_err(), "{bad}");
        }
        for n in 0..MAX_ZONES {
            assert_eq!(apply(&mut zones, &change(&format!("z{n}"), true), &mut changes), Ok(true));
        }
        assert!(apply(&mut zones, &change("one-more", true), &mut changes).is_err());
    }

    #[test]
    fn rows_and_changes_restore_the_same_set() {
        let (mut zones, mut changes) = (DrainedZones::default(), Changes::new());
        for (zone, drained) in [("a", true), ("b", true), ("a", false)] {
            zones.apply(Timestamp(7), &change(zone, drained), &mut changes);
        }
        let mut stored = BTreeMap::new();
        for (key, value) in changes {
            match value {
                Some(value) => stored.insert(key, value),
                None => stored.remove(&key),
            };
        }
        assert_eq!(stored.clone().into_iter().collect::<Vec<_>>(), zones.rows().collect::<Vec<_>>());
        assert_eq!(DrainedZones::restore(stored).unwrap(), zones);
        assert!(DrainedZones::restore([(b"x".to_vec(), vec![0xff])]).is_err());
    }
}
