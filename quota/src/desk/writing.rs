//! What the desk has written down, and who waits for it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tollgate_proto::{Shared as SharedMessage, state::v1::Attribution};

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
        let progress = self.progress.now();
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
    pub(super) fn dispatch(
        &self,
        request: u64,
        attribution: SharedMessage<Attribution>,
        durability: Durability,
    ) -> u64 {
        let mut state = self.lock();
        let position = state.agent.dispatch(request, attribution, durability);
        self.write_down(&mut state);
        position
    }

    pub(super) fn is_durable(&self, position: u64) -> bool {
        self.progress.now().durable >= position
    }

    /// Waits until the journal is durable up to there.
    pub(super) async fn durable(&self, position: u64, deadline: Instant) -> Result<(), Unavailable> {
        if position == 0 || self.is_durable(position) {
            return Ok(());
        }
        let durable = timeout_at(deadline, self.progress.durable(position)).await;
        durable.map_err(|_| Unavailable::Journal)
    }

    /// Resolves once the journal is written up to there, or it has taken too long.
    pub(super) fn written(&self, position: u64) -> Written {
        if self.progress.now().written >= position {
            return Written::default();
        }
        Written::when(self.progress.written(position), WRITTEN_WITHIN)
    }
}
