//! The billing ledger: rows that are never changed, in segments that are the same bytes on every node.
//!
//! A segment is a header and records. A record is a message, framed by its length and a checksum; each is hashed together with
//! the hash before it, so that one hash stands for the whole ledger up to a record. What belongs where is decided by
//! [`Chain::append`] alone, as part of the replicated state: an entry of the log has the same records at the same places
//! on every node. The state keeps how far the ledger has come and the hashes of its segments, never the records.
//!
//! | bytes of a segment | what |
//! | --- | --- |
//! | 8 | `TGLEDGR1` |
//! | 8 | its number, from 1, little-endian |
//! | 32 | the hash of the record before it |
//! | 4 | CRC-32C of the 48 bytes above |
//! | records | 4 bytes of length, 4 of CRC-32C over the message, little-endian, and the message |

mod archive;
mod books;
mod chain;
mod cost;
#[cfg(test)]
pub(crate) mod fixture;
mod head;
mod keeper;
mod priced;
mod reader;
mod reprice;
mod segment;
mod segments;
mod state;
mod verify;

pub use archive::{Archive, Nowhere};
pub use books::{Account, Books, amount_of, billed, moves};
pub use chain::{Chain, Extent, Hash, Piece, SEGMENT_BYTES};
pub use cost::{Attempt, attempts, cost_of};
pub use keeper::{Fetching, Keeper};
pub use reader::Found;
pub use reprice::{Repriced, Sums};
pub use segment::{Broken, Records, Why};
pub use segments::{Missing, SegmentReader, Segments};
pub use state::{ROWS_PER_ENTRY, State};
pub use verify::{Verified, cost_lines, lines, verify_files};
