//! The Raft log on disk: entries, vote, purge point and committed index as records of one sequence of segment files.
//!
//! One thread writes. Everything goes through its one bounded queue in the order in which Raft asked for it, so that
//! what is on the disk is always a prefix of what Raft did. Whatever has queued up while the disk was busy is written
//! and synced together (`fdatasync`), and only then acknowledged. A failed sync ends the process; a full disk is waited
//! out, as nothing was promised yet. A vote alone does not wait for space: each segment has some left for votes, and Raft
//! does nothing while it saves one, so that a leader whose disk is full could never learn that another one was elected. It
//! says nothing of the entries queued before it, so a follower acknowledges none that is not on its disk
//! (`LogReader::is_durable`).
//!
//! | file | what |
//! | --- | --- |
//! | `record.rs` | what the records say |
//! | `memory.rs` | what is known in memory: where each entry is, the recent entries themselves, the vote |
//! | `store.rs` | openraft's `RaftLogStorage`: changes memory, then queues |
//! | `reader.rs` | openraft's `RaftLogReader`: from memory, else from the disk |
//! | `writer.rs` | the thread: group commit, acknowledgements, space |
//!
//! Every segment begins with a `Head`: the vote, the committed index and the purge point as of then. So a purge needs
//! to rewrite nothing: once its own record is on the disk, each segment that holds only purged entries is dropped.
//! Torn tails, flipped bits and missing files are told apart in `tollgate_storage`; this module adds that the indexes
//! follow each other without a hole.

mod memory;
mod reader;
mod record;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use reader::LogReader;
pub use reader::LogStats;
pub(crate) use store::LogStore;
