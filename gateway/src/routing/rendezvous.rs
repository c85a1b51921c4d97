//! One of several by weight, the same for the same key: highest random weight, in whole numbers.
//!
//! Every member draws a number of its own from the key, and the smallest for its weight wins. So a key stays where it is
//! while weights stand, on every node; where a weight changes, or a member goes, only those keys move that have to. Keys are
//! spread by weight like exponential clocks: `-ln(u) / w` is smallest with a probability of `w` by all of them.

/// A member as numbers are drawn for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// [`hash`] of what it is called.
    pub(super) id: u64,
    pub(super) weight: u32,
}

/// The index of the member that this key is for; none when no weight is above zero.
pub(super) fn select(key: u64, members: &[Member]) -> Option<usize> {
    let drawn = members.iter().enumerate().filter(|(_, member)| member.weight > 0);
    let drawn = drawn.map(|(index, member)| (index, draw(key, member.id), member.weight));
    // a / v < b / w, without dividing.
    let nearer = |a: &(usize, u64, u32), b: &(usize, u64, u32)| {
        u128::from(a.1) * u128::from(b.2) <= u128::from(b.1) * u128::from(a.2)
    };
    drawn.reduce(|best, next| if nearer(&best, &next) { best } else { next }).map(|(index, ..)| index)
}

/// Of bytes, the same everywhere and for ever: FNV-1a, with its bits mixed once more.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    mix(bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
}

/// How late a member is, for this key.
fn draw(key: u64, id: u64) -> u64 {
    log(mix(key ^ id).max(1))
}

/// `-log2(u / 2^64)`, in 2^-32.
fn log(u: u64) -> u64 {
    const FRACTION_BITS: u32 = 32;
    let zeros = u.leading_zeros();
    // u is 2^(63 - zeros) times what is left, from 1 to 2: the logarithm of that comes bit by bit, by squaring.
    let mut left = u << zeros;
    let mut fraction = 0_u64;
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(left) * u128::from(left)) >> 63;
        let carry = u64::from(square >> 64 != 0);
        fraction = (fraction << 1) | carry;
        left = u64::try_from(square >> carry).expect("below 2^64: a carry was taken off");
    }
    ((u64::from(zeros) + 1) << FRACTION_BITS) - fraction
}

/// splitmix64's last step: every bit of the input changes half of the output's.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        let named =
            |(n, weight): (usize, &u32)| Member { id: hash(format!("service/{n}").as_bytes()), weight: *weight };
        weights.iter().enumerate().map(named).collect()
    }

    fn keys(count: u32) -> impl Iterator<Item = u64> {
        (0..count).map(|n| hash(format!("caller-{n}").as_bytes()))
    }

    #[test]
    fn shares_follow_the_weights() {
        for weights in [&[80, 20][..], &[1, 1, 1], &[999, 1], &[50, 0, 30, 20], &[1_000_000, 1_000_000]] {
            let members = members(weights);
            let mut counts = vec![0_u64; weights.len()];
            for key in keys(100_000) {
                counts[select(key, &members).unwrap()] += 1;
            }
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for (count, &weight) in counts.iter().zip(weights) {
                let expected = 100_000 * u64::from(weight) / total;
                // Four standard deviations of a fair draw are below 650 of 100,000.
                assert!(count.abs_diff(expected) < 650, "{weights:?}: {counts:?}");
                assert!(weight > 0 || *count == 0, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_changed_weight_moves_only_who_has_to_move() {
        let (before, after) = (members(&[90, 10, 100]), members(&[80, 20, 100]));
        let mut moved = 0;
        for key in keys(20_000) {
            let (was, is) = (select(key, &before).unwrap(), select(key, &after).unwrap());
            // The second gains, so nobody goes anywhere else but from the first, which loses.
            assert!(was == is || is == 1 || was == 0, "{was} to {is}");
            moved += u64::from(was != is);
        }
        assert!((500..2_000).contains(&moved), "{moved}");
    }

    #[test]
    fn a_member_that_goes_moves_its_own_alone() {
        let (before, after) = (members(&[5, 3, 2]), members(&[5, 0, 2]));
        for key in keys(20_000) {
            let (was, is) = (select(key, &before).unwrap(), select(key, &after).unwrap());
            assert!(was == is || was == 1);
        }
    }

    /// Another answer would move every caller at an upgrade.
    #[test]
    fn the_answer_is_the_same_for_ever() {
        let members = members(&[3, 2, 1]);
        let answers: Vec<usize> = keys(16).map(|key| select(key, &members).unwrap()).collect();
        assert_eq!(answers, [2, 2, 2, 1, 0, 2, 0, 0, 0, 2, 2, 0, 0, 0, 1, 0]);
        assert_eq!((hash(b""), hash(b"alice")), (0xf52a_15e9_a9b5_e89b, 0xc5d1_556d_6677_4a5c));
    }

    #[test]
    fn logarithms_are_exact_where_they_can_be() {
        for zeros in 0..64_u32 {
            let u = 1_u64 << (63 - zeros);
            assert_eq!(log(u), u64::from(zeros + 1) << 32, "2^-{}", zeros + 1);
        }
        assert!(log(u64::MAX) <= 1);
        // log2(4/3) = 0x0.6a3fe5c6…
        assert_eq!(log(3 << 62) >> 4, 0x06a3_fe5c);
    }

    proptest! {
        #[test]
        fn someone_with_a_weight_is_found(key in any::<u64>(), weights in proptest::collection::vec(0_u32..5, 0..6)) {
            let selected = select(key, &members(&weights));
            prop_assert_eq!(selected.is_some(), weights.iter().any(|weight| *weight > 0));
            prop_assert!(selected.is_none_or(|index| weights[index] > 0));
        }
    }
}
