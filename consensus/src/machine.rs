//! The state machine as consensus sees it: commands in, outcomes and changed rows out.

use std::{io, sync::Arc};

use bytes::Bytes;

use crate::gate::{self, Gate};

/// A row: a key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The rows of a state, sorted by key, each key once.
pub type Image = Box<dyn Iterator<Item = Row> + Send>;

/// What tells one command from another where a request id comes again.
pub type Fingerprint = [u8; 16];

/// The fingerprint of what `bytes` say: the same for the same bytes, on every node and in every version.
#[must_use]
pub fn fingerprint_of(bytes: &[u8]) -> Fingerprint {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// Where and when, in log time, a command is applied. The same on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The index of the log entry.
    pub index: u64,
    /// Log time: stamped by the leader, µs since the epoch, never going back from one entry to the next.
    pub time_us: u64,
    /// The cluster's elapsed time, µs since its first leader, whatever wall clocks do: it never goes back, and between two
    /// entries it grows by no more than the real time between their proposals, but for the 1 % by which a clock may run
    /// fast. It may be late, and stands still while nobody leads. It says when an entry was proposed: what a node does
    /// because it has applied one comes later, so whoever ages that counts from the entry in which it is reported.
    pub age_us: u64,
}

/// Replicated state: pure, deterministic, in memory. It never sees a clock, a socket or a disk.
///
/// A panic in any of these ends the process: a state machine that is half changed must not answer.
pub trait StateMachine: Send + 'static {
    /// Applies one committed command; `changes` collects the rows that it changed. Returns the outcome.
    fn apply(&mut self, at: Applied, command: &[u8], changes: &mut Changes) -> Bytes;

    /// What the same request must say again when it comes with the same request id: by default every byte of the command.
    /// A pure function of the command, as what it gives is replicated.
    fn fingerprint(&self, command: &[u8]) -> Fingerprint {
        fingerprint_of(command)
    }

    /// What judges commands before they are proposed, on the leader. By default everything passes, each in its own entry.
    fn gate(&self) -> Arc<dyn Gate> {
        gate::open()
    }

    /// What it keeps on the disk beside its rows. By default nothing.
    fn files(&self) -> Arc<dyn Files> {
        Arc::new(NoFiles)
    }

    /// The rows as of now. Cheap to take; iterated elsewhere while `apply` goes on.
    fn image(&self) -> Image;

    /// Replaces everything by `rows`, sorted by key: what `image` or the collected changes gave, on any node.
    ///
    /// # Errors
    /// When `rows` fails, or a row is not one of ours.
    fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()>;
}

/// What a state machine writes to the disk itself, because it is too much to be in the rows. What `apply` has handed over is
/// durable before any rows are that come after it: in the state store, and in snapshots.
pub trait Files: Send + Sync {
    /// Makes durable all that was handed over before the call. Blocks on the disk.
    ///
    /// # Errors
    /// `StorageFull` while there is no space: rows are then kept in memory, and tried again. Of anything else the process ends.
    fn sync(&self) -> io::Result<()>;
}

/// Nothing is kept beside the rows.
struct NoFiles;

impl Files for NoFiles {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The rows that applying one command changed. The last word on a key counts.
#[derive(Debug, Default)]
pub struct Changes {
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Changes {
    /// Sets the row `key` to `value`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.rows.push((key, Some(value)));
    }

    /// Removes the row `key`, if there is one.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.rows.push((key, None));
    }

    /// How many changes were collected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes the changes out, in the order they were made: `None` is a removed row.
    pub fn drain(&mut self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> + '_ {
        self.rows.drain(..)
    }
}
