//! What the desk has written down, and who waits for it.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tollgate_proto::state::v1::Attribution;

use super::shared::{Shared, State};
use crate::{Durability, Unavailable, Written};

/// Entries that may wait for a disk that has stopped; beyond that nothing is admitted that has to be journaled. A busy node
/// writes some thousand between two syncs; these take some 64 MiB.
const MAX_UNWRITTEN: u64 = 131_072;
/// An answer that is complete does not wait longer for its end to be written: a disk that is that slow loses nothing but
/// exactness, and only if the process dies just then.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

impl Shared {
    /// The journal takes no more: its disk is full, or has stopped.
    pub(super) fn is_behind(&self, state: &State) -> bool {
        let progress = *self.progress.borrow();
        progress.full || state.agent.journaled().saturating_sub(progress.durable) >= MAX_UNWRITTEN
    }

    /// Hands the journal what happened, in its order: so it is done before the lock is given back.
    pub(super) fn write_down(&self, state: &mut State) {
        let entries = state.agent.take_entries();
        if !entries.is_empty() {
            self.journal.append(entries);
        }
    }

    /// A granted request is about to be sent out; up to where the journal must be durable before it is.
    pub(super) fn dispatch(&self, request: u64, attribution: &Attribution, durability: Durability) -> u64 {
        let mut state = self.lock();
        let position = state.agent.dispatch(request, attribution, durability);
        self.write_down(&mut state);
        position
    }

    pub(super) fn is_durable(&self, position: u64) -> bool {
        self.progress.borrow().durable >= position
    }

    /// Waits until the journal is durable up to there.
    pub(super) async fn durable(&self, position: u64, deadline: Instant) -> Result<(), Unavailable> {
        if position == 0 || self.progress.borrow().durable >= position {
            return Ok(());
        }
        let mut progress = self.progress.clone();
        let durable = timeout_at(deadline, progress.wait_for(|it| it.durable >= position)).await;
        if matches!(durable, Ok(Ok(_))) { Ok(()) } else { Err(Unavailable::Journal) }
    }

    /// Resolves once the journal is written up to there, or it has taken too long.
    pub(super) fn written(&self, position: u64) -> Written {
        let mut progress = self.progress.clone();
        if progress.borrow().written >= position {
            return Written::default();
        }
        Written::when(async move {
            let _ = timeout(WRITTEN_WITHIN, progress.wait_for(|it| it.written >= position)).await;
        })
    }
}
