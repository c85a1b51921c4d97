//! Which row is whose. Consensus keeps its own beside the state machine's, so that one batch and one snapshot hold both.

/// Remembered request ids, by log index.
pub(super) const DEDUP_PREFIX: [u8; 2] = [0, b'd'];

/// The applied log id, membership and log time: one row.
pub(super) const META_KEY: [u8; 2] = [0, b'm'];

/// Before every key of the state machine. Sorts after all of the above.
pub(super) const MACHINE_PREFIX: u8 = 1;

/// The state machine's key as it is stored.
pub(super) fn machine_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(key.len() + 1);
    stored.push(MACHINE_PREFIX);
    stored.extend_from_slice(key);
    stored
}
