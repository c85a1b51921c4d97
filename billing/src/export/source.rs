//! Where the rows of an export come from.

use std::{collections::BTreeMap, io, sync::Arc};

use tollgate_model::{TimeZone, Timestamp};
use tollgate_proto::state::v1::{CreditEventRow, LedgerRow, PriceVersionRow};

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

/// What a bill says of a tenant beside its rows, as this node knows it now.
pub trait Tenants: Send + Sync {
    /// Of a tenant; of one that is gone what is left to say.
    fn terms(&self, tenant: &str) -> Terms;

    /// What became of the credit of a tenant, or of all in their order, from then on and before then.
    fn credit(&self, tenant: Option<&str>, from: Timestamp, to: Timestamp) -> Vec<Arc<CreditEventRow>>;
}

/// How a tenant pays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// From credit: what it uses was billed when it bought that.
    pub prepaid: bool,
    /// Where its months begin.
    pub zone: TimeZone,
    /// Its labels.
    pub tags: BTreeMap<String, String>,
}
