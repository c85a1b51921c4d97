//! Whose turn it is, by weight.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns in one round at most: weights are scaled down to it, exact for all that add up to less.
const MAX_TURNS: u64 = 1_000;

/// Indexes in turn, each as often as its weight says, spread evenly over the round.
#[derive(Debug)]
pub(crate) struct Rotation {
    turns: Box<[u32]>,
    at: AtomicUsize,
}

impl Rotation {
    pub(crate) fn new(weights: &[u32]) -> Self {
        Self::resumed(weights, 0)
    }

    /// So many turns were had already, perhaps by other weights: what is made anew often does not begin with the same
    /// indexes each time.
    pub(super) fn resumed(weights: &[u32], had: usize) -> Self {
        Self { turns: turns(weights).into(), at: AtomicUsize::new(had) }
    }

    /// The next index; none when no weight is above zero.
    pub(crate) fn next(&self) -> Option<usize> {
        match *self.turns {
            [] => None,
            [only] => Some(index(only)),
            ref turns => Some(index(turns[self.at.fetch_add(1, Ordering::Relaxed) % turns.len()])),
        }
    }

    /// For [`Self::resumed`].
    pub(super) fn had(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }
}

fn index(kept: u32) -> usize {
    kept as usize
}

/// Who has `n` turns has them at the middles of the `n` parts that the round falls into: a tie is for the first.
fn turns(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
    let scaled = weights.iter().map(|&weight| scale(u64::from(weight / divisor), total));
    let mut due: Vec<(u64, u64, u32)> =
        (0_u32..).zip(scaled).flat_map(|(n, of)| (0..of).map(move |k| (k, of, n))).collect();
    due.sort_unstable_by(|&(k, of, n), &(other_k, other_of, other)| {
        ((2 * k + 1) * other_of).cmp(&((2 * other_k + 1) * of)).then(n.cmp(&other))
    });
    due.into_iter().map(|(_, _, n)| n).collect()
}

/// At least one turn for every weight above zero.
fn scale(weight: u64, total: u64) -> u64 {
    if total <= MAX_TURNS { weight } else { (weight * MAX_TURNS / total).max(u64::from(weight > 0)) }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(weights: &[u32], count: usize) -> Vec<usize> {
        let rotation = Rotation::new(weights);
        (0..count).filter_map(|_| rotation.next()).collect()
    }

    #[test]
    fn turns_follow_the_weights_and_are_spread() {
        assert_eq!(round(&[80, 20], 10), [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(round(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(round(&[0, 5, 0], 2), [1, 1]);
        assert!(round(&[0, 0], 3).is_empty());
        assert!(round(&[], 3).is_empty());
    }

    #[test]
    fn great_weights_are_scaled_and_nobody_is_left_out() {
        let turns = turns(&[u32::MAX, 1, u32::MAX / 2]);
        let count = |index: u32| turns.iter().filter(|&&turn| turn == index).count();
        assert!(turns.len() <= 1_002 && count(1) == 1);
        assert_eq!(count(0) / 2, count(2));
    }
}
