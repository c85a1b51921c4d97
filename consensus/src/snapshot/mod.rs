//! Snapshots: the rows of a state in one checksummed file, and the directory that keeps the newest.

mod dir;
mod file;

pub(crate) use dir::{Incoming, MaybeSnapshot, SnapshotBuilder, SnapshotDir, SnapshotFile};
