//! A Merkle tree that grows by a leaf at a time: the tree of RFC 6962, section 2.1, of which the roots of whole subtrees are kept.

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256.
pub type Digest = [u8; 32];

const LEAF: u8 = 0;
const NODE: u8 = 1;

/// A tree, as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    leaves: u64,
    /// Of whole subtrees, the greatest first: one for each bit of the number of leaves.
    subtrees: Vec<Digest>,
}

/// The hash of a leaf that says this.
pub(crate) fn leaf(said: &[u8]) -> Digest {
    hash(&[&[LEAF], said])
}

fn node(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[NODE], left, right])
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Tree {
    /// What [`Tree::leaves`] and [`Tree::subtrees`] gave; none where they do not fit together.
    #[must_use]
    pub fn of(leaves: u64, subtrees: Vec<Digest>) -> Option<Self> {
        (subtrees.len() == leaves.count_ones() as usize).then_some(Self { leaves, subtrees })
    }

    /// Adds a leaf behind all others.
    pub fn add(&mut self, leaf: Digest) {
        let (mut hash, mut whole) = (leaf, self.leaves);
        while whole & 1 == 1 {
            let left = self.subtrees.pop().expect("there is one for each bit");
            hash = node(&left, &hash);
            whole >>= 1;
        }
        self.subtrees.push(hash);
        self.leaves += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The roots of its whole subtrees, the greatest first.
    #[must_use]
    pub fn subtrees(&self) -> &[Digest] {
        &self.subtrees
    }

    /// Stands for all leaves and their order.
    #[must_use]
    pub fn root(&self) -> Digest {
        let right_to_left = self.subtrees.iter().rev().copied().reduce(|right, left| node(&left, &right));
        right_to_left.unwrap_or_else(|| hash(&[]))
    }

    /// Which leaves the subtrees are of, each from the first on, in their order.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<u64>> + use<> {
        let leaves = self.leaves;
        let sizes = (0..64).rev().map(|bit| 1_u64 << bit).filter(move |size| leaves & size != 0);
        sizes.scan(0, |begin, size| {
            let range = *begin..*begin + size;
            *begin = range.end;
            Some(range)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As RFC 6962 has it, from all leaves at once.
    fn by_definition(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => hash(&[]),
            [one] => *one,
            all => {
                let left = all.len().next_power_of_two() / 2;
                node(&by_definition(&all[..left]), &by_definition(&all[left..]))
            }
        }
    }

    fn tree(leaves: &[Digest]) -> Tree {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.add(*leaf));
        tree
    }

    #[test]
    fn it_is_the_tree_of_the_rfc() {
        // The test vectors that implementations of RFC 6962 share.
        let said: [&[u8]; 3] = [b"", b"\x00", b"\x10"];
        let leaves = said.map(leaf);
        let hex = |digest: Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(tree(&[]).root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(tree(&leaves[..1]).root()), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(hex(tree(&leaves[..2]).root()), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        assert_eq!(hex(tree(&leaves).root()), "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77");
    }

    proptest! {
        #[test]
        fn leaf_by_leaf_is_all_at_once(count in 0_u8..70) {
            let leaves: Vec<Digest> = (0..count).map(|n| leaf(&[n])).collect();
            let tree = tree(&leaves);
            prop_assert_eq!(tree.root(), by_definition(&leaves));
            prop_assert_eq!(Tree::of(tree.leaves(), tree.subtrees().to_vec()), Some(tree.clone()));
            let ranges: Vec<_> = tree.ranges().collect();
            prop_assert_eq!(ranges.len(), tree.subtrees().len());
            for (range, subtree) in ranges.into_iter().zip(tree.subtrees()) {
                let (from, to) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
                prop_assert_eq!(by_definition(&leaves[from..to]), *subtree);
            }
        }
    }
}
