//! What happened of late, counted without a lock: an interval in parts, the oldest of which begins anew as time goes on.
//!
//! Time is handed in, as the number of a part. While a part begins anew, what others count in it at that moment may be lost: a
//! handful of requests in a tenth of an interval.

use std::sync::atomic::{AtomicU64, Ordering};

/// What an interval is made of. What counts is the part that lasts, and those before it.
pub(crate) const PARTS: u64 = PLACES as u64;
const PLACES: usize = 10;
/// In place of the number of a part that begins anew.
const BEGINS: u64 = u64::MAX;

/// What is counted in a part.
pub(crate) trait Tally: Default {
    /// Begins anew.
    fn clear(&self);
}

/// The parts of an interval that slides.
#[derive(Debug)]
pub(crate) struct Window<T> {
    parts: [Part<T>; PLACES],
    /// What is older is forgotten.
    from: AtomicU64,
}

#[derive(Debug, Default)]
struct Part<T> {
    number: AtomicU64,
    tally: T,
}

impl<T: Tally> Default for Window<T> {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| Part::default()), from: AtomicU64::new(0) }
    }
}

impl<T: Tally> Window<T> {
    /// Counts in the part of this number; not where it was over so long ago that its place is another one's.
    pub(crate) fn count(&self, number: u64, add: impl FnOnce(&T)) {
        let Some(part) = self.parts.get(usize::try_from(number % PARTS).unwrap_or(0)) else { return };
        let mut of = part.number.load(Ordering::Acquire);
        if of < number {
            // Nobody reads it meanwhile, or what is long over would count once more.
            match part.number.compare_exchange(of, BEGINS, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    part.tally.clear();
                    part.number.store(number, Ordering::Release);
                    of = number;
                }
                Err(other) => of = other,
            }
        }
        if of == number {
            add(&part.tally);
        }
    }

    /// What counts while the part of this number lasts.
    pub(crate) fn lasting(&self, number: u64) -> impl Iterator<Item = &T> {
        let from = self.from.load(Ordering::Relaxed).max((number + 1).saturating_sub(PARTS));
        let counts = move |part: &&Part<T>| (from..=number).contains(&part.number.load(Ordering::Acquire));
        self.parts.iter().filter(counts).map(|part| &part.tally)
    }

    /// Forgets all parts before this one, which may be to come.
    pub(crate) fn forget_before(&self, number: u64) {
        self.from.store(number, Ordering::Relaxed);
    }
}
