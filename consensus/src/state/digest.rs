//! A digest over a set of rows that follows their changes: adding and removing commute, so no order is needed.

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest {
    sum: u128,
    rows: u64,
}

impl Digest {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_add(hash(key, value));
        self.rows = self.rows.wrapping_add(1);
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.sum = self.sum.wrapping_sub(hash(key, value));
        self.rows = self.rows.wrapping_sub(1);
    }

    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.sum.to_le_bytes());
        bytes[16..].copy_from_slice(&self.rows.to_le_bytes());
        bytes
    }
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(value);
    let (first, _) =
        hasher.finalize().as_bytes().split_first_chunk::<16>().map(|(a, b)| (*a, b.len())).expect("32 bytes");
    u128::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_depends_on_the_rows_alone() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        one.remove(b"a", b"1");
        other.add(b"b", b"2");
        assert_eq!(one, other);
        other.add(b"bc", b"");
        one.add(b"b", b"c");
        assert_ne!(one, other);
    }
}
