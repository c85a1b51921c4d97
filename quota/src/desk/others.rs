//! What others have used of accounts that a request of this node was the first to draw on here.
//!
//! A standing share is spent by the name of its account: the book does not know whether there is a record. So the replica is looked
//! at before the answer, when the desk's lock is free again: whoever applies an entry holds the replica and waits for the desk.

use super::shared::Shared;
use crate::{Charge, Standing};

impl Shared {
    /// Takes off what others have used or hold; `unnumbered` says of which charges that is not known, and in which windows.
    pub(super) fn count_others(&self, charges: &[Charge], unnumbered: &[(usize, u64)], standings: &mut [Standing]) {
        let Some(replica) = self.config.replica.as_ref().filter(|_| !unnumbered.is_empty()) else { return };
        let own = (self.config.node.0, self.config.incarnation);
        replica.show(&mut |ledger| {
            for (at, epoch) in unnumbered {
                if let (Some(charge), Some(standing)) = (charges.get(*at), standings.get_mut(*at)) {
                    let others = ledger.elsewhere(own, *epoch, &charge.limit, &charge.key);
                    standing.remaining = standing.remaining.saturating_sub(others);
                }
            }
        });
    }
}
