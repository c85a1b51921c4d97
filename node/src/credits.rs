//! Credit out of the replicated state, and the entries that bring it, and months, to their end where nobody writes any.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tollgate_admin::backplane::CreditState;
use tollgate_consensus::{Consensus, Role};
use tollgate_model::{Money, purse_of};
use tollgate_proto::state::v1::{Command, QuotaBatch, command};
use tollgate_quota::Ledger;
use tracing::debug;

use crate::{clock, state::Shared};

/// How late credit may come to its end on an idle cluster, at most.
const EVERY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// How a tenant's credit stands, as this node has applied it; should these nodes be away.
pub(crate) fn state(state: &Shared, tenant: &str, away: &[u64]) -> Option<CreditState> {
    state.credits(|book| {
        let (view, limit) = (book.view(tenant)?, purse_of(tenant));
        let look = |ledger: &Ledger| (ledger.purse_without(&limit, away), ledger.holders_of_purse(&limit));
        let (purse, holders) = state.ledger(look);
        let purse = purse.unwrap_or_default();
        let [held, suspense] = [purse.held, purse.suspense].map(|units| Money(units.into()));
        Some(CreditState { view, held, suspense, holders })
    })
}

/// Lets log time pass the end of grants and of months, and until what a lost node had in hand is written off, as long as this node
/// leads: an entry that says nothing else.
pub(crate) async fn pass_ends(state: Arc<Shared>, consensus: Consensus) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let batch = Command { kind: Some(command::Kind::Quota(QuotaBatch::default())), ..Command::default() };
    let command = batch.encode_to_vec();
    loop {
        ticks.tick().await;
        let next = state.credits(|book| book.next_end());
        // Once log time is there, every entry does it, as far as it is free.
        let is_due = next.is_some_and(|end| state.log_time() < end && end <= clock::now());
        // Of months an entry closes some at a time.
        let is_due =
            is_due || state.books().look(|it| it.periods().next_close()).is_some_and(|end| end <= clock::now());
        let is_due = is_due || state.ledger(Ledger::awaits_write_off);
        if is_due && consensus.status().role == Role::Leader {
            let deadline = Instant::now() + TIMEOUT;
            if let Err(error) = consensus.propose(None, command.clone().into(), deadline.into_std()).await {
                debug!(%error, "the end of a grant waits for the next entry");
            }
        }
    }
}
