//! What the admin plane and the data plane need of the node beneath them, over consensus and the replicated state.
//!
//! The admin port answers from the first moment on, so that a node that still waits for its peers can say so; until this
//! node has found its cluster everything that needs the log is unavailable.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tollgate_admin::{
    DrainedZones, TokenTable,
    backplane::{
        AccountPage, AccountQuery, Answer, Backplane, BackplaneError, BillExport, Committed, ConfigState, CreditState,
        ExplainQuery, Membership, MembershipChange, Readiness, RequestId,
    },
};
use tollgate_billing::{
    Query, UsageLine, UsageTable,
    export::{self, Export, ExportError, Schema, Tenants, Terms},
    ledger::Keeper,
    period::Months,
};
use tollgate_consensus::{Change, ChangeError, Consensus, ProposeError, ReadError};
use tollgate_model::{BillingMode, Catalog, Checked, Kind, LogIndex, NodeId, Timestamp};
use tollgate_proto::{
    admin::v1::{LimitVerdict, NodeStatus},
    state::v1::{BudgetAlertRow, Command, ConfigChange, ConfigProblem, CreditEventRow},
};

use crate::{
    accounts, clock, credits, explain,
    state::{Shared, labels},
};

/// This node as the planes above it see it.
pub(crate) struct NodeBackplane {
    consensus: OnceLock<Consensus>,
    state: Arc<Shared>,
    conditions: Mutex<Conditions>,
    readiness: watch::Sender<Readiness>,
}

/// What must be so for this node to get traffic.
#[derive(Debug, Default)]
struct Conditions {
    started: bool,
    /// Why it leaves.
    draining: Option<String>,
    /// Its zone, while that gets no new requests.
    zone_drained: Option<String>,
    /// What keeps it from serving, by what it is about.
    faults: BTreeMap<Fault, String>,
}

/// What can be wrong with a node that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Its cluster key is not the one that the configuration was made under.
    ClusterKey,
    /// The other nodes do not take its certificate.
    Certificate,
    /// There is no space for the ledger.
    LedgerFull,
}

impl Conditions {
    fn readiness(&self) -> Readiness {
        let fault = self.faults.values().next();
        match (&self.draining, self.started, fault, &self.zone_drained) {
            (Some(why), _, _, _) => Readiness::NotReady(why.clone()),
            (None, false, _, _) => Readiness::NotReady("waiting for the cluster".to_owned()),
            (None, true, Some(fault), _) => Readiness::NotReady(fault.clone()),
            (None, true, None, Some(zone)) => Readiness::NotReady(format!("its zone {zone} is drained")),
            (None, true, None, None) => Readiness::Ready,
        }
    }

    /// As `cluster status` shows it.
    fn state(&self) -> &'static str {
        match (&self.draining, self.started, self.faults.is_empty()) {
            (Some(_), _, _) => "draining",
            (None, false, _) => "starting",
            (None, true, false) => "unready",
            (None, true, true) if self.zone_drained.is_some() => "draining",
            (None, true, true) => "ready",
        }
    }
}

impl NodeBackplane {
    /// A node that has not found its cluster yet.
    pub(crate) fn new(state: Arc<Shared>) -> NodeBackplane {
        let conditions = Conditions::default();
        let readiness = watch::Sender::new(conditions.readiness());
        NodeBackplane { consensus: OnceLock::new(), state, conditions: Mutex::new(conditions), readiness }
    }

    /// The node has found its cluster.
    pub(crate) fn join(&self, consensus: Consensus) {
        // The first one stays: a process is a member once.
        let _ = self.consensus.set(consensus);
    }

    /// All of it runs: it is ready from now on, unless something is wrong.
    pub(crate) fn set_started(&self) {
        self.change(|conditions| conditions.started = true);
    }

    /// It leaves: `/readyz` says no and why from now on.
    pub(crate) fn set_draining(&self, why: &str) {
        self.change(|conditions| conditions.draining = Some(why.to_owned()));
    }

    /// Its zone gets no new requests: `/readyz` says so while that is so.
    pub(crate) fn set_zone_drained(&self, zone: Option<&str>) {
        self.change(|conditions| conditions.zone_drained = zone.map(str::to_owned));
    }

    /// Something is wrong, or right again: `None`.
    pub(crate) fn set_fault(&self, fault: Fault, what: Option<String>) {
        self.change(|conditions| match what {
            Some(what) => drop(conditions.faults.insert(fault, what)),
            None => drop(conditions.faults.remove(&fault)),
        });
    }

    /// `starting`, `ready`, `unready` or `draining`.
    pub(crate) fn state(&self) -> &'static str {
        self.conditions.lock().state()
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        let mut conditions = self.conditions.lock();
        change(&mut conditions);
        self.readiness.send_replace(conditions.readiness());
    }

    fn consensus(&self) -> Result<&Consensus, BackplaneError> {
        self.consensus
            .get()
            .ok_or_else(|| BackplaneError::Unavailable("this node is waiting for its cluster".to_owned()))
    }
}

impl Backplane for NodeBackplane {
    fn propose(&self, request_id: RequestId, command: Command, deadline: Instant) -> Answer<'_, Committed> {
        Box::pin(async move {
            let command = command.encode_to_vec().into();
            let committed =
                self.consensus()?.propose(Some(request_id), command, deadline).await.map_err(not_proposed)?;
            Ok(Committed { index: LogIndex(committed.index), outcome: committed.outcome })
        })
    }

    fn read_barrier(&self, deadline: Instant) -> Answer<'_, LogIndex> {
        Box::pin(async move { Ok(LogIndex(self.consensus()?.read_barrier(deadline).await.map_err(not_read)?)) })
    }

    fn config(&self) -> watch::Receiver<ConfigState> {
        self.state.config()
    }

    fn problems(&self, change: &ConfigChange) -> Vec<ConfigProblem> {
        self.state.problems(change)
    }

    fn tokens(&self) -> Arc<TokenTable> {
        self.state.tokens()
    }

    fn drained_zones(&self) -> Arc<DrainedZones> {
        self.state.drained_zones()
    }

    fn node_zones(&self) -> Vec<(NodeId, String)> {
        let members = self.consensus.get().map(|consensus| consensus.status().members).unwrap_or_default();
        members.into_iter().map(|member| (NodeId(member.node), member.zone)).collect()
    }

    fn node(&self) -> NodeId {
        NodeId(self.consensus.get().map_or(0, |consensus| consensus.status().node)) // 0 until it has found its cluster
    }

    fn now(&self) -> Timestamp {
        clock::now().max(self.state.log_time())
    }

    fn accounts(&self, query: &AccountQuery) -> AccountPage {
        accounts::page(&self.state, self.now(), query)
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Vec<LimitVerdict>, String> {
        explain::explain(&self.state, self.now(), query)
    }

    fn usage(&self, query: &Query) -> Vec<UsageLine> {
        // A clone costs a pointer for each hour; applying does not wait while it is added up.
        self.state.usage(UsageTable::clone).query(query)
    }

    fn ledger(&self) -> Arc<Keeper> {
        Arc::clone(self.state.books())
    }

    fn export(&self, query: export::Query, cursor: &str) -> Result<BillExport, ExportError> {
        let encoder = tollgate_exports::encoder(&query)?;
        let payers = Payers::now(&self.state, &query);
        Ok(Box::new(Export::open(self.ledger(), Arc::new(payers), query, cursor, encoder)?))
    }

    fn credit(&self, tenant: &str, away: &[u64]) -> Option<CreditState> {
        credits::state(&self.state, tenant, away)
    }

    fn credit_history(&self, tenant: &str, before: Option<u64>, max: usize) -> Vec<Arc<CreditEventRow>> {
        self.state.credits(|book| book.history(tenant, before, max))
    }

    fn budget_alerts(&self, tenant: Option<&str>, before: Option<u64>, max: usize) -> Vec<Arc<BudgetAlertRow>> {
        self.state.alerts(|book| book.outbox().list(tenant, before, max))
    }

    fn members(&self, deadline: Instant) -> Answer<'_, Vec<NodeStatus>> {
        Box::pin(async move {
            let members = self.consensus()?.members_status(deadline).await;
            Ok(members.into_iter().map(crate::members::node_status).collect())
        })
    }

    fn change_membership(
        &self,
        request_id: RequestId,
        change: MembershipChange,
        deadline: Instant,
    ) -> Answer<'_, Membership> {
        Box::pin(async move {
            let change = match change {
                MembershipChange::Add { node, peer } => Change::Add { node: node.0, peer },
                MembershipChange::Promote(node) => Change::Promote(node.0),
                MembershipChange::Remove { node, lost: _ } => Change::Remove(node.0),
                MembershipChange::TransferLeader(to) => Change::Transfer(to.map(|to| to.0)),
            };
            let done = self.consensus()?.change(Some(request_id), change, deadline).await.map_err(not_changed)?;
            let leader = (done.leader != 0).then_some(NodeId(done.leader));
            Ok(Membership { index: LogIndex(done.index), leader })
        })
    }

    fn incarnation(&self, node: NodeId) -> Option<u64> {
        self.state.ledger(|ledger| ledger.node(node.0)).map(|(incarnation, _)| incarnation)
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}

/// The tenants, as they were when an export began.
struct Payers {
    catalog: Arc<Catalog>,
    months: BTreeMap<String, Months>,
    state: Arc<Shared>,
}

impl Payers {
    fn now(state: &Arc<Shared>, query: &export::Query) -> Payers {
        let catalog = Arc::clone(&state.config().borrow().catalog);
        let months = match query.schema {
            Schema::Focus(_) => state.books().look(|books| books.periods().months(query.tenant.as_deref())),
            Schema::Events | Schema::Summary | Schema::Cost => BTreeMap::new(),
        };
        Payers { catalog, months, state: Arc::clone(state) }
    }
}

impl Tenants for Payers {
    fn terms(&self, tenant: &str) -> Terms {
        let Some(stored) = self.catalog.kind(Kind::Tenant).get(tenant) else { return Terms::default() };
        let Ok(Checked::Tenant(checked)) = tollgate_model::check(&stored.resource) else { return Terms::default() };
        Terms {
            prepaid: checked.billing.mode == BillingMode::Prepaid,
            zone: checked.time_zone.clone(),
            tags: labels(&stored.resource),
        }
    }

    fn months(&self, tenant: &str) -> Months {
        self.months.get(tenant).cloned().unwrap_or_default()
    }

    fn credit(&self, tenant: Option<&str>, from: Timestamp, to: Timestamp) -> Vec<Arc<CreditEventRow>> {
        self.state.credits(|book| book.events(tenant, from, to))
    }
}

fn not_proposed(error: ProposeError) -> BackplaneError {
    let text = error.to_string();
    match error {
        ProposeError::NoLeader | ProposeError::Stopped => BackplaneError::Unavailable(text),
        ProposeError::Unknown(_) => BackplaneError::Unknown(text),
        ProposeError::RequestIdUsed => BackplaneError::RequestIdUsed(text),
        ProposeError::DiskFull { .. } => BackplaneError::DiskFull(text),
        ProposeError::TooLarge { .. } => BackplaneError::TooLarge(text),
        ProposeError::NotACommand(_) => BackplaneError::Refused(text),
        ProposeError::TooManyRequestIds(_) => BackplaneError::Busy(text),
    }
}

fn not_changed(error: ChangeError) -> BackplaneError {
    let text = error.to_string();
    match error {
        ChangeError::NoLeader | ChangeError::NotYet(_) | ChangeError::Stopped => BackplaneError::Unavailable(text),
        ChangeError::NotBegun(error) => not_proposed(error),
        ChangeError::Invalid(_) => BackplaneError::Refused(text),
        ChangeError::Busy => BackplaneError::Busy(text),
        ChangeError::Unknown(_) => BackplaneError::Unknown(text),
    }
}

fn not_read(error: ReadError) -> BackplaneError {
    BackplaneError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_it_has_started_and_while_nothing_is_wrong() {
        let backplane = NodeBackplane::new(crate::state::ReplicatedState::new("unused".into()).1);
        let shown = |backplane: &NodeBackplane| {
            let why = match &*backplane.readiness().borrow() {
                Readiness::Ready => String::new(),
                Readiness::NotReady(why) => why.clone(),
            };
            (backplane.state(), why)
        };
        assert_eq!(shown(&backplane), ("starting", "waiting for the cluster".to_owned()));
        backplane.set_fault(Fault::ClusterKey, Some("the key does not fit".to_owned()));
        assert_eq!(shown(&backplane).0, "starting");
        backplane.set_started();
        assert_eq!(shown(&backplane), ("unready", "the key does not fit".to_owned()));
        backplane.set_fault(Fault::Certificate, None);
        assert_eq!(shown(&backplane).0, "unready", "the other fault is there still");
        backplane.set_fault(Fault::ClusterKey, None);
        assert_eq!(shown(&backplane), ("ready", String::new()));
        backplane.set_zone_drained(Some("az-a"));
        assert_eq!(shown(&backplane), ("draining", "its zone az-a is drained".to_owned()));
        backplane.set_fault(Fault::ClusterKey, Some("the key does not fit".to_owned()));
        assert_eq!(shown(&backplane), ("unready", "the key does not fit".to_owned()), "what is wrong goes first");
        backplane.set_fault(Fault::ClusterKey, None);
        backplane.set_zone_drained(None);
        assert_eq!(shown(&backplane), ("ready", String::new()));
        backplane.set_draining("draining");
        backplane.set_fault(Fault::Certificate, Some("expired".to_owned()));
        assert_eq!(shown(&backplane), ("draining", "draining".to_owned()));
    }
}
