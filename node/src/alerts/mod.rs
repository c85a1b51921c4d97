//! Tells webhooks of budgets that were passed: the leader alone, from the outbox in the replicated state.
//!
//! The log learns of each try, and of each delivery after the receiver has answered: whoever leads next goes on from there. A
//! receiver may so hear of an alert more than once, each time under the same id (Standard Webhooks 1.0.0, `webhook-id`), and
//! never of one that was not raised.

mod webhook;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::task::TaskTracker;
use tollgate_billing::alert_message;
use tollgate_consensus::{Consensus, Role};
use tollgate_model::{Checked, Kind, Webhook, key_here, secret::ClusterKey, signing_key};
use tollgate_proto::state::v1::{BudgetAlertRow, BudgetAlertTried, Command, command};
use tracing::{debug, info, warn};

use self::webhook::{Call, CallError, Caller};
use crate::{clock, state::Shared};

/// How late a try may be.
const EVERY: Duration = Duration::from_millis(500);
/// Calls at once, of as many tenants.
const MAX_CALLS: usize = 8;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What became of a call is said to the log so often, as long as this node leads; then the call is made again.
const CONFIRM_TRIES: u32 = 10;
const CONFIRM_PAUSE: Duration = Duration::from_secs(1);

/// Calls that this process has made.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
}

struct Teller {
    state: Arc<Shared>,
    consensus: Consensus,
    key: Option<Arc<ClusterKey>>,
    caller: Caller,
    tries: Arc<Tries>,
}

/// Delivers what is due, as long as this node leads.
pub(crate) async fn deliver(
    state: Arc<Shared>,
    consensus: Consensus,
    key: Option<Arc<ClusterKey>>,
    tasks: TaskTracker,
    tries: Arc<Tries>,
) {
    let teller = Teller { state, consensus, key, caller: Caller::new(tasks), tries };
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut calls, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(tenant) = calls.next() => drop(busy.remove(&tenant)),
        }
        if teller.consensus.status().role != Role::Leader {
            continue;
        }
        let now = clock::now().max(teller.state.log_time());
        let most = MAX_CALLS.saturating_sub(calls.len());
        for alert in teller.state.alerts(|book| book.outbox().due(now, &busy, most)) {
            busy.insert(alert.tenant.clone());
            calls.push(teller.tell(alert));
        }
    }
}

impl Teller {
    /// One try, and the log is told; gives the tenant.
    async fn tell(&self, alert: Arc<BudgetAlertRow>) -> String {
        let number = alert.tries.saturating_add(1);
        let tried = BudgetAlertTried { seq: alert.seq, number, ..BudgetAlertTried::default() };
        let tried = match self.call(&alert).await {
            Ok(()) => {
                self.tries.delivered.fetch_add(1, Relaxed);
                info!(tenant = alert.tenant, id = alert.id, tries = number, "budget alert delivered");
                BudgetAlertTried { delivered: true, ..tried }
            }
            Err(error) => {
                self.tries.failed.fetch_add(1, Relaxed);
                let problem = error.to_string();
                warn!(tenant = alert.tenant, id = alert.id, tries = number, problem, "budget alert not delivered");
                BudgetAlertTried { gone: error == CallError::Gone, problem, ..tried }
            }
        };
        self.confirm(tried).await;
        alert.tenant.clone()
    }

    async fn call(&self, alert: &BudgetAlertRow) -> Result<(), CallError> {
        let hook = self.webhook(&alert.tenant).ok_or_else(|| CallError::Here("the budget has no webhook".into()))?;
        let from = hook.secret.ok_or_else(|| CallError::Here("the webhook has no secret".into()))?;
        let key = self.key.clone();
        let read = tokio::task::spawn_blocking(move || key_here(&from, key.as_deref()));
        let secret = read.await.map_err(|_| CallError::Here("the secret can't be read".into()))?;
        let secret = secret.map_err(|wrong| CallError::Here(format!("the webhook's secret: {wrong}")))?;
        let signing = signing_key(secret.expose()).map_err(|wrong| CallError::Here(format!("the secret {wrong}")))?;
        let call = Call { id: &alert.id, at_seconds: clock::now().0 / 1_000_000, body: alert_message(alert) };
        self.caller.call(&hook.url, &call, &signing).await
    }

    /// As the configuration says now: a changed URL or secret counts from the next try on.
    fn webhook(&self, tenant: &str) -> Option<Webhook> {
        let catalog = Arc::clone(&self.state.config().borrow().catalog);
        match tollgate_model::check(&catalog.get(Kind::Tenant, tenant)?.resource) {
            Ok(Checked::Tenant(tenant)) => tenant.budget.as_ref()?.webhook.clone(),
            _ => None,
        }
    }

    /// Numbered, so that it may be said twice.
    async fn confirm(&self, tried: BudgetAlertTried) {
        let command = Command { kind: Some(command::Kind::BudgetAlertTried(tried)), ..Command::default() };
        let command = command.encode_to_vec();
        for _ in 0..CONFIRM_TRIES {
            let deadline = Instant::now() + PROPOSE_TIMEOUT;
            match self.consensus.propose(None, command.clone().into(), deadline.into_std()).await {
                Ok(_) => return,
                Err(error) => debug!(%error, "what became of a budget alert is said again"),
            }
            sleep(CONFIRM_PAUSE).await;
            if self.consensus.status().role != Role::Leader {
                return;
            }
        }
    }
}
