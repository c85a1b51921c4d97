//! Whether whoever began something long may still have it: a token can be revoked or expire meanwhile.

use std::sync::Arc;

use tonic::Status;

use super::{Access, Caller, caller_of, no_such_token};
use crate::backplane::Backplane;

/// The right by which a stream began.
#[derive(Clone)]
pub(crate) struct Standing {
    backplane: Arc<dyn Backplane>,
    caller: Caller,
    access: Access,
}

impl Standing {
    pub(crate) fn new(backplane: Arc<dyn Backplane>, caller: Caller, access: Access) -> Self {
        Self { backplane, caller, access }
    }

    /// Whether the token, as this node has applied it, still gives what it gave.
    ///
    /// # Errors
    /// The status to end the stream with.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let table = self.backplane.tokens();
        let now = table.get(&self.caller.token, self.backplane.now()).and_then(caller_of);
        let allows = |caller: &Caller| self.access.allows(caller.role, caller.tenant.is_some());
        now.filter(allows).map(drop).ok_or_else(no_such_token)
    }
}
