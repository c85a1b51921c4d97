//! A pocket: units of one lease that requests take and give back by atomics alone, without a lock and without each other.
//!
//! Escrow, one level down (QUOTA.md 3.4): whoever keeps the leases pours units of one into a pocket, where they count as
//! held; from then on requests take from the pocket, and the keeper only looks at its sums now and then. The sums only grow,
//! so whoever reads late reads too little of each, never something that was not:
//!
//! - `taken`: by requests, and back by the keeper;
//! - `credit`: poured in, and given back by requests. `credit - taken` is what is left;
//! - `spent`: what requests that have ended had used, `overrun` what they used beyond what they had taken.
//!
//! What always holds:
//! 1. `taken <= credit`: a request takes by one compare-and-swap, and only what is there.
//! 2. What was poured in is left, held by requests, or spent: no unit appears or disappears.
//! 3. Once [`Pocket::close`] has returned nobody takes anything any more. Whoever ends after that is told so by
//!    [`Pocket::end`], unless the keeper has seen that end: so nothing that comes back stays unseen.
//!
//! A pocket is closed for good. What requests hold of it ends in it, and so in the lease that it was poured from, whatever
//! has become of the account meanwhile.
//!
//! Not here: when to pour, look and close (`desk/pockets.rs`), and what becomes of the sums (`book/pocketed.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

use Ordering::{AcqRel, Acquire, Relaxed};

/// The keeper has closed it: a bit of `taken`, for those who take, and of `credit`, for those who end.
const CLOSED: u64 = 1 << 63;
/// Nobody takes beyond this sum: then it is time for a new pocket. With what is held of it never more than [`MOST`], no sum
/// reaches the bit above it.
pub(crate) const WORN: u64 = 1 << 61;
/// What a pocket may have been given at once, left or held.
pub(crate) const MOST: u64 = 1 << 61;

/// What a pocket is made of: atomics of the standard library, or those of a checker of all orders.
pub(crate) trait Word {
    fn new(value: u64) -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn swap_if(&self, is: u64, then: u64) -> Result<u64, u64>;
    fn add(&self, amount: u64) -> u64;
    fn set(&self, bits: u64) -> u64;
    fn take(&self) -> u64;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn swap_if(&self, is: u64, then: u64) -> Result<u64, u64> {
        self.compare_exchange_weak(is, then, AcqRel, Acquire)
    }

    fn add(&self, amount: u64) -> u64 {
        self.fetch_add(amount, AcqRel)
    }

    fn set(&self, bits: u64) -> u64 {
        self.fetch_or(bits, AcqRel)
    }

    fn take(&self) -> u64 {
        self.swap(0, AcqRel)
    }
}

/// See the module. Alone on its cache lines: what is beside a pocket is not slowed down by who uses it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Pocket<W = AtomicU64> {
    taken: W,
    credit: W,
    spent: W,
    overrun: W,
}

/// The sums of a pocket, each as it was when it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) taken: u64,
    pub(crate) credit: u64,
    pub(crate) spent: u64,
    pub(crate) overrun: u64,
}

impl Sums {
    /// What nobody holds.
    pub(crate) fn left(&self) -> u64 {
        self.credit.saturating_sub(self.taken)
    }
}

/// What somebody must know who has ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The keeper will see it when it looks next.
    Unseen,
    /// The keeper has closed it and may never look again: it must be told.
    Late,
}

impl<W: Word> Pocket<W> {
    /// One with nothing in it.
    pub(crate) fn new() -> Self {
        Self { taken: W::new(0), credit: W::new(0), spent: W::new(0), overrun: W::new(0) }
    }

    /// Takes `amount`, or nothing. What is left then, or was a moment ago.
    pub(crate) fn take(&self, amount: u64) -> Option<u64> {
        let mut taken = self.taken.load(Acquire);
        loop {
            // Not older than the credit that what was taken was taken from.
            let credit = self.credit.load(Acquire) & !CLOSED;
            let then = taken.checked_add(amount)?;
            if taken & CLOSED != 0 || then > credit || then > WORN {
                return None;
            }
            match self.taken.swap_if(taken, then) {
                Ok(_) => return Some(credit - then),
                Err(now) => taken = now,
            }
        }
    }

    /// Ends what somebody took: what was not used is there again.
    pub(crate) fn end(&self, amount: u64, used: u64) -> Ended {
        let within = used.min(amount);
        if within > 0 {
            self.spent.add(within);
        }
        if used > amount {
            self.overrun.add(used - amount);
        }
        // Last, and even if it is nothing: whoever sees this has seen the above, and whoever has not is told so here.
        if self.credit.add(amount - within) & CLOSED == 0 { Ended::Unseen } else { Ended::Late }
    }

    /// Puts units into it. For the keeper.
    pub(crate) fn pour(&self, amount: u64) {
        self.credit.add(amount);
    }

    /// Takes back at most so much of what is left. For the keeper.
    pub(crate) fn take_back(&self, at_most: u64) -> u64 {
        let mut taken = self.taken.load(Acquire);
        loop {
            let credit = self.credit.load(Acquire) & !CLOSED;
            let back = at_most.min(credit.saturating_sub(taken & !CLOSED));
            if back == 0 || taken & CLOSED != 0 {
                return 0;
            }
            match self.taken.swap_if(taken, taken + back) {
                Ok(_) => return back,
                Err(now) => taken = now,
            }
        }
    }

    /// Nobody takes from it any more. For the keeper.
    pub(crate) fn close(&self) {
        self.taken.set(CLOSED);
        self.credit.set(CLOSED);
    }

    /// Its sums. For the keeper.
    pub(crate) fn sums(&self) -> Sums {
        // In this order: of an end whose credit is seen, all else is; and what is left is never too much.
        let credit = self.credit.load(Acquire) & !CLOSED;
        let taken = self.taken.load(Acquire) & !CLOSED;
        Sums { taken, credit, spent: self.spent.load(Relaxed), overrun: self.overrun.load(Relaxed) }
    }
}

/// Something that the keeper of pockets should know. Set at most once between two looks, so that nobody writes to what all
/// read.
#[derive(Debug)]
pub(crate) struct Mark<W = AtomicU64>(W);

impl<W: Word> Mark<W> {
    pub(crate) fn new() -> Self {
        Self(W::new(0))
    }

    /// Sets it. Whether it was not set, and the keeper has to be woken. While the keeper is about to look this may be missed,
    /// until it looks next: which it does as long as a pocket is open.
    pub(crate) fn set(&self) -> bool {
        self.0.load(Relaxed) == 0 && self.0.set(1) == 0
    }

    /// Sets it so that it is not missed, whatever the order: the keeper sees what was done before, or will look again.
    pub(crate) fn set_for_sure(&self) {
        self.0.set(1);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Acquire) != 0
    }

    /// The keeper is about to look.
    pub(crate) fn clear(&self) {
        self.0.take();
    }
}

#[cfg(test)]
mod tests;
