//! Pockets, as the agent sees them: parts that no request of its own holds, and of which it is told later what became.

use tollgate_model::Timestamp;
use tollgate_proto::state::v1::Settle;

use super::Agent;
use crate::book::{Book, Hand, Made, Terms};

impl Agent {
    /// The leases, to be looked at.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Until when leases may be spent unless contact is proven anew, by this node's own clock.
    pub(crate) fn spends_until(&self) -> u64 {
        if self.fenced { 0 } else { self.contact.lost_at() }
    }

    /// This node's own clock as far as it was told.
    pub(crate) fn age(&self) -> u64 {
        self.contact.now()
    }

    /// The leases that an open request has drawn on, in the order of its path.
    pub(crate) fn drawn_on(&self, request: u64) -> impl Iterator<Item = u32> {
        self.requests.get(&request).into_iter().flat_map(|known| known.parts.iter().map(|part| part.cell()))
    }

    /// Opens a pocket for a lease: its number, and its terms.
    pub(crate) fn open_pocket(&mut self, lease: u32) -> Option<(u64, Terms)> {
        let (poured, terms) = (self.book.empty(lease)?, self.book.terms(lease)?);
        self.next_pocket += 1;
        self.poured.insert(self.next_pocket, poured);
        Some((self.next_pocket, terms))
    }

    /// What there is for a pocket; nothing without contact.
    pub(crate) fn hand(&self, pocket: u64) -> Option<Hand> {
        let lease = self.poured.get(&pocket)?.part().cell();
        self.book.hand(lease).map(|hand| Hand { free: if self.is_isolated() { 0 } else { hand.free }, ..hand })
    }

    /// Draws what is there into a pocket. What is in it may be spent once the journal is durable up to what this returns.
    pub(crate) fn pour(&mut self, pocket: u64, amount: u64) -> u64 {
        let Some(poured) = self.poured.get_mut(&pocket) else { return 0 };
        self.book.pour(poured, amount);
        let part = *poured.part();
        self.write_drawn();
        self.book.ceiling_of(&part)
    }

    /// Takes in what was made of it.
    pub(crate) fn take_in(&mut self, pocket: u64, made: Made) {
        if let Some(poured) = self.poured.get_mut(&pocket) {
            self.book.take_in(poured, made);
        }
    }

    /// So much was taken from it, and so much is left.
    pub(crate) fn attend(&mut self, pocket: u64, now: Timestamp, drawn: u64, largest: u64) {
        if let Some(poured) = self.poured.get(&pocket) {
            self.book.attend(poured, now.0, drawn, largest);
        }
    }

    /// Nobody holds so much of it.
    pub(crate) fn set_idle(&mut self, pocket: u64, idle: u64) {
        if let Some(poured) = self.poured.get(&pocket) {
            self.book.set_idle(poured, idle);
        }
    }

    /// It was closed: what requests still hold of it is on its way.
    pub(crate) fn send_out(&mut self, pocket: u64) {
        if let Some(poured) = self.poured.get_mut(&pocket) {
            self.book.send_out(poured);
        }
    }

    /// Forgets a pocket that was closed, unless requests still hold some of it.
    pub(crate) fn forget_pocket(&mut self, pocket: u64) -> bool {
        let ended = self.poured.get(&pocket).is_none_or(|poured| poured.part().amount == 0);
        if ended {
            self.poured.remove(&pocket);
        }
        ended
    }

    /// Tells the log of the end of a request that held nothing but parts of pockets.
    pub(crate) fn say(&mut self, mut settle: Settle) {
        if !self.fenced {
            (settle.request, settle.unheld) = (self.number(), true);
            self.settles.push_back(settle);
        }
    }
}
