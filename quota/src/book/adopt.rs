//! Leases that no cell knows of. A cell is let go when its window ends; what it had asked for may be granted after that, in
//! the next window, and would be in nobody's hands until that ends too.

use super::{Book, Cell, MAX_CELLS};
use crate::Ledger;

impl Book {
    /// Makes a cell for what this incarnation has in hand of an account, unless there is one.
    pub(super) fn adopt(&mut self, ledger: &Ledger, account: u32) {
        if self.by_account.contains_key(&account) {
            return;
        }
        let Some((limit, key)) = ledger.in_hand(self.node, self.incarnation, account) else { return };
        if self.cells.len() - self.vacant.len() >= MAX_CELLS {
            // Nobody would know any more that it was called back: nothing of its window is drawn by name from here on.
            self.blind.extend(ledger.name_of(account).map(|(epoch, _)| epoch));
            return;
        }
        if self.names.get(&*limit).is_some_and(|keys| keys.contains_key(&key)) {
            return; // it looks for its account itself
        }
        let cell = Cell { limit: limit.into(), key, named: true, ..Cell::default() };
        self.add(cell);
    }

    /// Takes in a new cell, which is yet to find its account.
    pub(super) fn add(&mut self, cell: Cell) -> u32 {
        let at = self.put(cell);
        self.unbound.push(at);
        at
    }

    /// Takes in a new cell under its name.
    pub(super) fn put(&mut self, cell: Cell) -> u32 {
        let (limit, key) = (cell.limit.clone(), cell.key.clone());
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.cells.push(None);
            u32::try_from(self.cells.len() - 1).expect("cells are bounded")
        });
        self.cells[at as usize] = Some(cell);
        self.names.entry(limit).or_default().insert(key, at);
        at
    }
}
