//! What pockets hold of leases (`pocket.rs`): poured into them beforehand it counts as held, so that I2 needs no other
//! argument; what requests make of it is taken in later, sum by sum.
//!
//! Of a sliding lease a pocket serves one slot of time: whatever is taken from it goes out in that slot, and ages as of its
//! end. Until the pocket is closed what it holds does not age at all.

use tollgate_model::Unit;

use super::{Book, Part, cell::Cell};
use crate::slide::Span;

/// What stays the same for as long as a pocket is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) account: u32,
    pub(crate) epoch: u64,
    /// The oldest and the newest version of the limit that a charge may be computed for.
    pub(crate) versions: (u64, u64),
    pub(crate) unit: Unit,
    pub(crate) capacity: u64,
    /// In log time.
    pub(crate) window_end: u64,
    /// How long what is used counts here, where that is not until the window ends.
    pub(crate) span: Option<Span>,
}

impl Terms {
    /// A window ends, and everything begins anew.
    pub(crate) fn turns(&self) -> bool {
        self.window_end < u64::MAX
    }
}

/// What one pocket holds of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Poured {
    pub(super) part: Part,
    /// The age of the slot that it serves, of a sliding lease.
    slot: u64,
}

impl Poured {
    pub(crate) fn part(&self) -> &Part {
        &self.part
    }
}

/// What has become of some of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) spent: u64,
    pub(crate) overrun: u64,
    /// Nobody holds it any more.
    pub(crate) back: u64,
}

/// What there is to pour from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hand {
    /// What may be drawn.
    pub(crate) free: u64,
    /// What was used beyond what was reserved, and is made up for by nothing in hand.
    pub(crate) owed: u64,
    /// The greatest recent request.
    pub(crate) largest: u64,
    /// It is asked for often enough.
    pub(crate) is_hot: bool,
}

impl Book {
    /// A newer incarnation is open, or this one ends.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// The lease of an account, should there be one.
    pub(crate) fn find(&self, limit: &str, key: &[String]) -> Option<u32> {
        self.names.get(limit).and_then(|keys| keys.get(key)).copied()
    }

    /// Its limit and key.
    pub(crate) fn name_of(&self, at: u32) -> Option<(&str, &[String])> {
        self.known(at).map(|cell| (&*cell.limit, &*cell.key))
    }

    /// What a pocket of it would be opened for; nothing where none may be open.
    pub(crate) fn terms(&self, at: u32) -> Option<Terms> {
        // Of an account without a number it is not known what others use of it.
        let cell = self.known(at).filter(|cell| !self.closed && !cell.is_called_back() && cell.has_number())?;
        let lease = cell.lease?;
        Some(Terms {
            account: cell.number(),
            epoch: lease.epoch,
            versions: (lease.versions.0.0, lease.versions.1.0),
            unit: lease.unit,
            capacity: lease.capacity,
            window_end: lease.window_end.0,
            span: cell.span(),
        })
    }

    pub(crate) fn hand(&self, at: u32) -> Option<Hand> {
        let cell = self.known(at)?;
        let overrun = if cell.span().is_some() { 0 } else { cell.overrun };
        Some(Hand {
            free: cell.spendable(self.age),
            owed: overrun.saturating_sub(cell.balance(self.age)),
            largest: cell.demand.largest,
            is_hot: cell.demand.is_brisk(),
        })
    }

    /// A pocket with nothing in it yet.
    pub(crate) fn empty(&self, at: u32) -> Option<Poured> {
        let cell = self.known(at)?;
        let lease = cell.lease?;
        let (account, epoch, below_ceiling) = (cell.number(), lease.epoch, lease.is_used_up());
        Some(Poured { part: Part { cell: at, account, epoch, amount: 0, below_ceiling, at: None }, slot: self.age })
    }

    /// Draws `amount`, which has to be there, into a pocket that is open.
    pub(crate) fn pour(&mut self, poured: &mut Poured, amount: u64) {
        let (at, age) = (poured.part.cell, self.age);
        let Some(cell) = self.cells.get_mut(at as usize).and_then(Option::as_mut) else { return };
        if !cell.is_of(&poured.part) {
            return;
        }
        cell.held += amount;
        cell.waiting += if cell.span().is_some() { amount } else { 0 };
        poured.part.amount += amount;
        if poured.part.below_ceiling && cell.draw_unjournaled(age, amount, 0) {
            self.raised.push(at);
        }
        self.touch(at);
        self.tell_journal(at);
    }

    /// Takes in what requests have made of a pocket. After the window nothing moves.
    pub(crate) fn take_in(&mut self, poured: &mut Poured, made: Made) {
        if made == Made::default() {
            return;
        }
        let (Made { spent, overrun, back }, part) = (made, &mut poured.part);
        part.amount = part.amount.saturating_sub(spent + back);
        let Some(cell) = self.cells.get_mut(part.cell as usize).and_then(Option::as_mut) else { return };
        if !cell.is_of(part) {
            return;
        }
        cell.held = cell.held.saturating_sub(spent + back);
        match cell.span() {
            None => {
                cell.spent += spent;
                if part.below_ceiling {
                    cell.unjournaled -= back;
                    cell.unjournaled_spent += spent;
                }
            }
            Some(span) if part.at.is_none() => {
                cell.end_aged(span, None, back, 0, part.below_ceiling);
                if spent > 0 {
                    cell.send_out(span, poured.slot, spent, part.below_ceiling);
                    cell.end_aged(span, Some(poured.slot), spent, spent, part.below_ceiling);
                }
            }
            Some(span) => cell.end_aged(span, part.at, spent + back, spent, part.below_ceiling),
        }
        cell.overrun = cell.overrun.saturating_add(overrun);
        let (at, urgent) = (part.cell, cell.is_called_back());
        self.touch(at);
        (self.due, self.urgent) = (true, self.urgent || urgent);
    }

    /// The pocket was closed: what requests still hold of it has gone out in its slot, and ages.
    pub(crate) fn send_out(&mut self, poured: &mut Poured) {
        let part = &mut poured.part;
        part.at = Some(poured.slot);
        let cell = self.cells.get_mut(part.cell as usize).and_then(Option::as_mut);
        let Some(cell) = cell.filter(|cell| cell.is_of(part)) else { return };
        cell.idle = 0;
        if let Some(span) = cell.span().filter(|_| part.amount > 0) {
            cell.send_out(span, poured.slot, part.amount, part.below_ceiling);
        }
    }

    /// Of what an open pocket holds, no request held this much when somebody last looked.
    pub(crate) fn set_idle(&mut self, poured: &Poured, idle: u64) {
        let cell = self.cells.get_mut(poured.part.cell as usize).and_then(Option::as_mut);
        if let Some(cell) = cell.filter(|cell| cell.is_of(&poured.part)) {
            cell.idle = idle;
        }
    }

    /// So much was taken from a pocket since that was last said; the greatest of it at once. Asks for more when it is time.
    pub(crate) fn attend(&mut self, poured: &Poured, now: u64, drawn: u64, largest: u64) {
        let (at, age) = (poured.part.cell, self.age);
        let cell = self.cells.get_mut(at as usize).and_then(Option::as_mut);
        let Some(cell) = cell.filter(|cell| cell.is_of(&poured.part)) else { return };
        cell.demand.note_all(now, drawn, largest);
        cell.asked_at = age;
        self.ask_ahead(at, now, false);
        self.touch(at);
    }

    /// What is neither used nor held nor owed of the account, were all that pockets hold of it in use. Below zero there is
    /// as much too little.
    pub(crate) fn room(&self, at: u32) -> Option<i128> {
        let cell = self.known(at)?;
        let lease = cell.lease?;
        let (counts, overrun) = (cell.counts(self.age), if cell.span().is_some() { 0 } else { cell.overrun });
        let own = i128::from(counts.held) + i128::from(counts.spent) + i128::from(overrun);
        Some(i128::from(lease.capacity) - i128::from(lease.elsewhere) - own)
    }

    /// What counts of a lease: held, pockets included, and used.
    #[cfg(test)]
    pub(crate) fn counted(&self, at: u32) -> (u64, u64) {
        let counts = self.known(at).map(|cell| cell.counts(self.age));
        counts.map_or((0, 0), |counts| (counts.held, counts.spent))
    }

    fn known(&self, at: u32) -> Option<&Cell> {
        self.cells.get(at as usize).and_then(Option::as_ref)
    }
}
