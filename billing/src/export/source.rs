//! Where the rows of an export come from.

use std::{io, sync::Arc};

use tollgate_model::{TimeZone, Timestamp};
use tollgate_proto::state::v1::{CreditEventRow, LedgerRow, PriceVersionRow};

use crate::period::{Labels, Months};

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

/// What a bill says of a tenant beside its rows.
pub trait Tenants: Send + Sync {
    /// As this node knows it now; of one that is gone what is left to say.
    fn terms(&self, tenant: &str) -> Terms;

    /// The months of a tenant, as the ledger has them: those that are closed stay as they are, whatever becomes of its terms.
    fn months(&self, tenant: &str) -> Months;

    /// What became of the credit of a tenant, or of all in their order, from then on and before then.
    fn credit(&self, tenant: Option<&str>, from: Timestamp, to: Timestamp) -> Vec<Arc<CreditEventRow>>;
}

/// What counts of a tenant where the ledger says nothing itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// From credit: what it uses was billed when it bought that. Of rows that do not say how they were paid for.
    pub prepaid: bool,
    /// Where months begin that the ledger has not begun.
    pub zone: TimeZone,
    /// Its labels, of months that are not closed.
    pub tags: Labels,
}
