//! The ledger of this node as a desk may look at it.

use std::fmt;

use crate::Ledger;

/// This node's own replica, to be looked at while it is not being changed.
pub trait Replica: Send + Sync + 'static {
    /// Shows it to `look`, once. Waits for the entry that is being applied, so it is asked without any lock of a desk: that is
    /// shown the replica while it stands ([`crate::Desk::follow`]).
    fn show(&self, look: &mut dyn FnMut(&Ledger));
}

impl fmt::Debug for dyn Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replica")
    }
}
