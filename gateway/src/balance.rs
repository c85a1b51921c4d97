//! Whose turn it is, by weight.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns in one round at most: weights are scaled down to it, exact for all that add up to less.
const MAX_TURNS: u64 = 1_000;

/// Indexes in turn, each as often as its weight says, spread evenly over the round (nginx's smooth round robin).
#[derive(Debug)]
pub(crate) struct Rotation {
    turns: Box<[u16]>,
    at: AtomicUsize,
}

impl Rotation {
    pub(crate) fn new(weights: &[u32]) -> Self {
        let at = AtomicUsize::new(0);
        Self { turns: turns(weights).into(), at }
    }

    /// The next index; none when no weight is above zero.
    pub(crate) fn next(&self) -> Option<usize> {
        match *self.turns {
            [] => None,
            [only] => Some(only.into()),
            ref turns => Some(turns[self.at.fetch_add(1, Ordering::Relaxed) % turns.len()].into()),
        }
    }
}

fn turns(weights: &[u32]) -> Vec<u16> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
    let scaled: Vec<i64> = weights.iter().map(|&weight| scale(u64::from(weight / divisor), total)).collect();
    let round: i64 = scaled.iter().sum();
    let mut due = vec![0; scaled.len()];
    (0..round)
        .map(|_| {
            due.iter_mut().zip(&scaled).for_each(|(due, weight)| *due += weight);
            let next = (0..due.len()).rev().max_by_key(|&index| due[index]).expect("the round is not empty");
            due[next] -= round;
            u16::try_from(next).expect("a round has at most a thousand turns and as many members")
        })
        .collect()
}

/// At least one turn for every weight above zero.
fn scale(weight: u64, total: u64) -> i64 {
    let scaled = if total <= MAX_TURNS { weight } else { (weight * MAX_TURNS / total).max(u64::from(weight > 0)) };
    i64::try_from(scaled).expect("at most a thousand, or a 32-bit weight")
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
        let count = |index: u16| turns.iter().filter(|&&turn| turn == index).count();
        assert!(turns.len() <= 1_002 && count(1) == 1);
        assert_eq!(count(0) / 2, count(2));
    }
}
