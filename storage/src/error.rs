//! What can go wrong: on opening, on writing, on reading.

use std::io;
use std::path::PathBuf;

use crate::{Position, SegmentId};

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process", dir.display())]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Something that was acknowledged is damaged or missing. Nothing was changed.
    #[error("{} is damaged at offset {offset} (record {sequence}): {what}. Nothing was changed. To heal: {heal}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// The sequence number of the record that should be there.
        sequence: u64,
        /// What was found.
        what: String,
        /// What an operator can do.
        heal: &'static str,
    },
    /// The owner found a whole record that it could not make sense of.
    #[error("{} at offset {} holds a record that cannot be read: {what}. To heal: {heal}", file.display(), at.offset)]
    Foreign {
        /// The file.
        file: PathBuf,
        /// The record.
        at: Position,
        /// What the owner said.
        what: String,
        /// What an operator can do.
        heal: &'static str,
    },
    /// The file system failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk is full. What was staged stays staged: call again when there is space.
    #[error("no space left for the log")]
    NoSpace(#[source] io::Error),
    /// A write failed for another reason. The writer is poisoned.
    #[error("cannot write the log")]
    Write(#[source] io::Error),
    /// A sync failed: what is on the disk is unknown. The writer is poisoned, and the process has to end.
    #[error("cannot sync the log: what is on the disk is unknown")]
    SyncFailed(#[source] io::Error),
    /// An earlier write or sync failed.
    #[error("an earlier write or sync of this log failed")]
    Poisoned,
    /// The record is empty or larger than [`MAX_RECORD_BYTES`](crate::MAX_RECORD_BYTES).
    #[error("a record of {0} bytes cannot be written")]
    Size(usize),
}

impl WriteError {
    /// Whether the writer can never be used again.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Write(_) | Self::SyncFailed(_) | Self::Poisoned)
    }
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its segment was dropped.
    #[error("segment {0} was dropped")]
    Gone(SegmentId),
    /// Its checksum is wrong, or there is another record.
    #[error("segment {} is damaged at offset {}: {what}", at.segment, at.offset)]
    Corrupt {
        /// The record.
        at: Position,
        /// What was found.
        what: &'static str,
    },
    /// The file system failed.
    #[error("cannot read segment {}", at.segment)]
    Io {
        /// The record.
        at: Position,
        /// What the file system said.
        source: io::Error,
    },
}
