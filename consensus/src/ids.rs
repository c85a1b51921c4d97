//! Raft ids. A node that lost its disk must never come back under its old one, so each carries an incarnation.

/// The incarnations that one node may go through.
const INCARNATION_BITS: u32 = 16;

/// The largest node id. More would fit beside the incarnation; the admin API and every message say this one.
pub const MAX_NODE_ID: u64 = u32::MAX as u64;

/// The Raft id of a node's incarnation.
#[must_use]
pub fn raft_id(node: u64, incarnation: u16) -> u64 {
    (node << INCARNATION_BITS) | u64::from(incarnation)
}

/// The node behind a Raft id.
#[must_use]
pub fn node_of(raft_id: u64) -> u64 {
    raft_id >> INCARNATION_BITS
}

/// The incarnation behind a Raft id.
#[must_use]
pub fn incarnation_of(raft_id: u64) -> u16 {
    u16::try_from(raft_id & u64::from(u16::MAX)).expect("masked to 16 bits")
}

/// The DNS name in a node's certificate: what proves to its peers who it is.
#[must_use]
pub fn node_dns_name(node: u64) -> String {
    format!("node-{node}.tollgate.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raft_id_holds_node_and_incarnation() {
        let id = raft_id(7, 3);
        assert_eq!((node_of(id), incarnation_of(id)), (7, 3));
        assert_ne!(raft_id(7, 4), id);
    }
}
