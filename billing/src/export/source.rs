//! Where the rows of an export come from.

use std::io;

use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{LedgerRow, PriceVersionRow};

/// The ledger of one node, as an export reads it. Reading blocks: on a thread that may.
pub trait Source: Send + Sync {
    /// The last row that there is now; 0 if there is none.
    fn last(&self) -> u64;

    /// A row before the first one that was settled at this time or later, or 0: where a search for such rows may begin.
    ///
    /// # Errors
    /// What the file system says.
    fn before(&self, settled: Timestamp) -> io::Result<u64>;

    /// The rows after `after_seq`, in order, at most so many. None: there are no more.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` where the ledger is broken, naming the place.
    fn rows(&self, after_seq: u64, most: usize) -> io::Result<Vec<LedgerRow>>;

    /// A version of a price that a row names.
    ///
    /// # Errors
    /// As for [`Source::rows`].
    fn price(&self, name: &str, version: u64) -> io::Result<Option<PriceVersionRow>>;
}
