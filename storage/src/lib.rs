//! Checksummed append-only segment files: what must survive a crash is written here, and nothing else.
//!
//! A log is a directory of segments, each a file of records. One [`Writer`] stages records, writes what it staged with
//! one call and makes it durable with one `fdatasync` ([`Writer::commit`]: the group commit); any number of [`Reader`]s
//! read records by [`Position`]. Old segments are dropped whole, which gives their space back. [`open`] reads every
//! record once, in order, and hands it to the owner.
//!
//! # A torn tail or a flipped bit?
//!
//! After a crash the end of the last segment may be damaged in a way that is nobody's loss: whatever was written but
//! not yet synced may be there whole, in part, or not at all, in any order of its sectors. That tail is cut. The same
//! bad checksum over a record that was synced, and thus acknowledged, is a loss, and cutting it would turn one flipped
//! bit into a vote given twice. So the question is never "is a checksum bad" but "was this record synced". It is
//! answered by what can only be known after the sync, in this order:
//!
//! 1. **Sealed segments.** A segment is followed by another only after all of it was synced, and the next one's header
//!    states where it ends. Any damage there is corruption.
//! 2. **The watermark file**: the sequence number up to which everything is synced, written (not synced) after each
//!    sync and before anybody is told of it. After a crash of the process it is exact. After a power cut it may be
//!    older than the truth, never newer, because it was written after the sync had come back. A log that ends before
//!    its watermark has lost acknowledged records: an error, even where the file merely became shorter.
//! 3. **Later records.** Each record states how far the log was synced when it was written. A damaged record, followed
//!    anywhere by a good one that says it was synced, is corruption.
//! 4. **The shape.** What remains is the last group before a power cut that also undid the watermark. Segments are
//!    preallocated and never recycled, so a sector that did not reach the disk reads as zeros, and a file that is too
//!    short lacks the record's last byte, which is never zero. A record counts as torn only if its end is missing or
//!    it has *more* zero sectors than its header says it was written with. Anything else there was written whole and
//!    changed afterwards: corruption. (etcd's log decides by zero sectors too; counting them keeps a payload that
//!    is full of zeros from looking torn.)
//!
//! A header carries its own checksum, so its length can be trusted when the body is bad, and the segment's random
//! salt, so that a copy of a segment inside a record is not taken for records of this one. Assumed of the disk: a
//! 512-byte sector is written whole or not at all, and a completed `fdatasync` is true. Where these are violated, the
//! rules above turn that into an error, not into silence.
//!
//! What is never done: writing on after a failed sync. The kernel may drop the dirty pages and report the next sync as
//! good, so the writer is poisoned for ever ([`WriteError::SyncFailed`]) and the process that owns it has to end. A full disk
//! is different: nothing was promised, what was staged stays staged, and the same [`Writer::commit`] may be called again.

mod disk;
mod error;
pub mod failpoints;
mod open;
mod probe;
mod reader;
mod record;
mod scan;
mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;
mod watermark;
mod writer;

pub use disk::{Disk, DiskFile, RealDisk, read_full, write_full};
pub use error::{OpenError, ReadError, WriteError};
pub use open::{Opened, Options, Recovery, Visit, open};
pub use probe::{Probe, probe_fdatasync};
pub use reader::{Located, Reader};
pub use record::MAX_RECORD_BYTES;
pub use segment::{Position, SegmentId};
pub use writer::Writer;

/// An offset that is known to lie within something held in memory.
pub(crate) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("what is in memory can be indexed")
}
