//! Keys that live in zones, and move: the hours of the first limit are theirs, or all are of one zone.

use super::*;
use crate::{ledger::Zones, sim::witness::Place};

/// Hours end ten seconds after the beginning in the first, and in the others not before the end.
const ZONES: [&str; 3] = ["Asia/Kolkata", "UTC", "Asia/Kathmandu"];
const KEYS: [&str; 2] = ["x", "y"];

/// Zones by key, as places in [`ZONES`].
#[derive(Debug, Clone, Default)]
pub(super) struct Homes(BTreeMap<&'static str, usize>);

impl Zones for Homes {
    fn zone(&self, _: &[KeyPart], key: &[&str]) -> Option<TimeZone> {
        self.0.get(key.first()?).map(|zone| named(*zone))
    }

    fn all(&self) -> Vec<TimeZone> {
        self.0.values().map(|zone| named(*zone)).collect()
    }
}

fn named(zone: usize) -> TimeZone {
    TimeZone::parse(ZONES[zone]).expect("there is such a zone")
}

impl World {
    /// Everybody lives somewhere before the first limit is made.
    pub(super) fn settle_down(&mut self) -> Checked {
        self.parted = self.orders.percent(if self.plan.standing { 20 } else { 50 });
        KEYS.into_iter().try_for_each(|key| self.move_home(key))
    }

    /// In what zone the first limit is, and whether each of its keys is in its own.
    pub(super) fn clock_of_keys(&self) -> (TimeZone, bool) {
        (named(usize::from(!self.plan.zones)), self.plan.zones && self.parted)
    }

    /// A key moves, or all come to go by one clock, or no longer do.
    pub(super) fn someone_moves(&mut self) -> Checked {
        if self.orders.percent(60) {
            let key = KEYS[self.orders.index(KEYS.len())];
            return self.move_home(key);
        }
        self.parted = !self.parted;
        let capacity = self.truth.rule(LIMITS[0]).map(|rule| rule.capacity);
        capacity.map_or(Ok(()), |capacity| self.set(0, capacity))
    }

    fn move_home(&mut self, key: &'static str) -> Checked {
        let zone = self.orders.index(ZONES.len());
        Arc::make_mut(&mut self.homes).0.insert(key, zone);
        self.append(Command::Move(self.homes.clone(), key)).map(drop)
    }

    /// As [`Ledger::place`]. Windows that move are told apart by what names them, which does not.
    pub(super) fn place(&self, account: u32) -> Option<(u64, Place, u64)> {
        let (epoch, place, capacity) = self.truth.place(account)?;
        Some((epoch, self.named_by_window(place, epoch), capacity))
    }

    pub(super) fn named_by_window(&self, (limit, key, start): Place, epoch: u64) -> Place {
        let moves = self.plan.zones && limit == LIMITS[0];
        (limit, key, if moves { epoch } else { start })
    }
}
