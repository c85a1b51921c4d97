//! Hashes that are the same on every node and in every release: what a table says must not depend on who made it.

/// A hash of bytes, every bit of it as good as any other (FNV-1a, mixed).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(folded)
}

/// Another number for each number, however near they are (the finalizer of splitmix64).
pub(super) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Below `end`, which is not zero; as evenly as 64 bits are.
pub(super) fn below(number: u64, end: u64) -> u64 {
    u64::try_from((u128::from(number) * u128::from(end)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of two releases share a cluster while one follows the other.
    #[test]
    fn a_hash_never_changes() {
        assert_eq!(hash(b""), 0xc381_7c01_6ba4_ff30);
        assert_eq!(hash(b"alice"), 0x1a04_6f57_3e1e_5475);
    }

    #[test]
    fn a_number_is_brought_below_another() {
        assert_eq!((below(0, 10), below(u64::MAX, 10), below(u64::MAX / 2 + 1, 10)), (0, 9, 5));
    }
}
