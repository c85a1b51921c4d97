//! What the admin plane needs of the node beneath it: the log to write to, the state to read from, the members to ask.
//!
//! The node implements [`Backplane`] over consensus and its composed state; tests implement it in memory. Nothing here
//! knows Raft.

use std::{future::Future, pin::Pin, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tollgate_billing::{
    CreditView, Query, UsageLine,
    export::{self, Chunk, ExportError},
    ledger::Keeper,
};
use tollgate_model::{Catalog, LogIndex, Money, NodeId, Timestamp};
use tollgate_proto::{
    admin::v1::{LimitAccount, LimitVerdict, NodeStatus},
    state::v1::{BudgetAlertRow, Command, ConfigChange, ConfigProblem, CreditEventRow},
};

use crate::{tokens::TokenTable, zones::DrainedZones};

/// A future that a trait object can give.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackplaneError>> + Send + 'a>>;

/// An export under way: chunks until the last one, or an error.
pub type BillExport = Box<dyn Iterator<Item = Result<Chunk, ExportError>> + Send>;

/// The same id again gives the first outcome, for at least ten minutes.
pub type RequestId = [u8; 16];

/// The node beneath the admin plane.
pub trait Backplane: Send + Sync + 'static {
    /// Puts a command into the log, from any node, and waits until it is committed and applied by the leader. A request id
    /// that came before with another [`Command::asked`] is refused.
    fn propose(&self, request_id: RequestId, command: Command, deadline: Instant) -> Answer<'_, Committed>;

    /// Waits until this node has applied everything that was acknowledged before the call; gives the index applied.
    fn read_barrier(&self, deadline: Instant) -> Answer<'_, LogIndex>;

    /// The configuration as this node has applied it, and every later one. The new value is there before the entry
    /// that made it counts as applied.
    fn config(&self) -> watch::Receiver<ConfigState>;

    /// What stands in the way of a change of the configuration that the catalog knows nothing of: credit that is there. Applying
    /// finds the same.
    fn problems(&self, change: &ConfigChange) -> Vec<ConfigProblem>;

    /// The admin tokens as this node has applied them.
    fn tokens(&self) -> Arc<TokenTable>;

    /// The zones that are drained, as this node has applied it.
    fn drained_zones(&self) -> Arc<DrainedZones>;

    /// Every member, and the zone that it is in.
    fn node_zones(&self) -> Vec<(NodeId, String)>;

    /// This node.
    fn node(&self) -> NodeId;

    /// This node's wall clock, never behind the log time that it has applied.
    fn now(&self) -> Timestamp;

    /// One page of limit accounts, in the order of [`AccountQuery::after`]'s key.
    fn accounts(&self, query: &AccountQuery) -> AccountPage;

    /// Which limits a call would meet, and what each would say to it now.
    ///
    /// # Errors
    /// What there is not, for whoever asked.
    fn explain(&self, query: &ExplainQuery) -> Result<Vec<LimitVerdict>, String>;

    /// Sums usage up. May take long: called where blocking is allowed.
    fn usage(&self, query: &Query) -> Vec<UsageLine>;

    /// The billing ledger of this node, with all that it has applied. Reading blocks: where that is allowed.
    fn ledger(&self) -> Arc<Keeper>;

    /// Begins an export of the billing ledger, or goes on with one at a cursor. This and all its chunks may take long: where
    /// blocking is allowed.
    ///
    /// # Errors
    /// When there is no such place to go on from, or the ledger can't be read.
    fn export(&self, query: export::Query, cursor: &str) -> Result<BillExport, ExportError>;

    /// How a tenant's credit stands, should these nodes be away: what they have of it is in suspense. None if it never had any.
    fn credit(&self, tenant: &str, away: &[u64]) -> Option<CreditState>;

    /// What happened to a tenant's credit, the newest first: before this event, or from the newest on.
    fn credit_history(&self, tenant: &str, before: Option<u64>, max: usize) -> Vec<Arc<CreditEventRow>>;

    /// Which budgets were passed and who was told, the newest first: of a tenant or of all, before this one or from the newest on.
    fn budget_alerts(&self, tenant: Option<&str>, before: Option<u64>, max: usize) -> Vec<Arc<BudgetAlertRow>>;

    /// Asks every member how it is. One that does not answer in time is in the list, as `unreachable`.
    fn members(&self, deadline: Instant) -> Answer<'_, Vec<NodeStatus>>;

    /// Changes who is a member, or who leads.
    ///
    /// Under one request id the change is made once: the same id again gives the first outcome, whatever became of the node
    /// since, and with another change or command it is refused. What was refused was not made, and may be asked for again.
    fn change_membership(
        &self,
        request_id: RequestId,
        change: MembershipChange,
        deadline: Instant,
    ) -> Answer<'_, Membership>;

    /// The newest process of a node that the ledger knows, as this node has applied it.
    fn incarnation(&self, node: NodeId) -> Option<u64>;

    /// Whether this node should get traffic.
    fn readiness(&self) -> watch::Receiver<Readiness>;
}

/// The replicated configuration at one index.
#[derive(Debug, Clone)]
pub struct ConfigState {
    /// The log index of the last configuration change; 0 when there was none.
    pub index: LogIndex,
    /// What is declared.
    pub catalog: Arc<Catalog>,
}

/// A tenant's credit, and what of it can't be spent just now.
#[derive(Debug, Clone)]
pub struct CreditState {
    /// What was granted and spent.
    pub view: CreditView,
    /// Reserved by requests in flight.
    pub held: Money,
    /// Was in the hands of nodes that are gone, or away.
    pub suspense: Money,
    /// Nodes that have some of it in hand, there or not.
    pub holders: Vec<u64>,
}

/// A command that was committed.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Where in the log, when the request id came first.
    pub index: LogIndex,
    /// What the state machine answered.
    pub outcome: Bytes,
}

/// Which limit accounts.
#[derive(Debug, Clone, Default)]
pub struct AccountQuery {
    /// Of this limit only.
    pub limit: Option<String>,
    /// Of this tenant and its consumers only.
    pub tenant: Option<String>,
    /// Of this name only, as [`LimitAccount::account`] has it. Several accounts may have it.
    pub account: Option<String>,
    /// With these values only.
    pub key: Option<Vec<String>>,
    /// Only those of whose capacity at least this is taken.
    pub min_utilisation_percent: u32,
    /// The fullest first, in place of by name.
    pub by_utilisation: bool,
    /// Opaque: where the page before ended; empty for the first.
    pub after: String,
    /// At most this many.
    pub max: usize,
}

/// Which call to explain limits for.
#[derive(Debug, Clone, Default)]
pub struct ExplainQuery {
    /// Who calls.
    pub consumer: String,
    /// The model asked for; any when none.
    pub model: Option<String>,
    /// To this route; to each that the consumer may call when none.
    pub route: Option<String>,
}

/// Some limit accounts.
#[derive(Debug, Clone, Default)]
pub struct AccountPage {
    /// In a stable order.
    pub accounts: Vec<LimitAccount>,
    /// Goes into the next query's `after`; empty when this page is the last.
    pub next: String,
    /// All limits that were lowered, and are not effective everywhere yet.
    pub taking_effect: Vec<String>,
}

/// Whether a node should get traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It should.
    Ready,
    /// It should not, and why.
    NotReady(String),
}

/// A change of the members or of who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// A new learner, reachable at this peer address.
    Add {
        /// Its node id.
        node: NodeId,
        /// `host:port` of its peer plane.
        peer: String,
    },
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A member is taken out.
    Remove {
        /// Its node id.
        node: NodeId,
        /// It will never come back: what it held is written off.
        lost: bool,
    },
    /// Another member leads from now on; the cluster chooses when none is named.
    TransferLeader(Option<NodeId>),
}

/// The members after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The log index of the change.
    pub index: LogIndex,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
}

/// Why the cluster did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackplaneError {
    /// Surely not done: no leader, no quorum, or this node is stopping. Ask again, elsewhere or later.
    #[error("{0}")]
    Unavailable(String),
    /// May or may not have been done. Asking again with the same request id is safe.
    #[error("{0}")]
    Unknown(String),
    /// Surely not done: something else is under way, or too much is.
    #[error("{0}")]
    Busy(String),
    /// Surely not done: the request id came with another request before.
    #[error("{0}")]
    RequestIdUsed(String),
    /// Surely not done: a disk is full. Ask again when there is space.
    #[error("{0}")]
    DiskFull(String),
    /// Surely not done: larger than the log takes.
    #[error("{0}")]
    TooLarge(String),
    /// Surely not done: it makes no sense as the cluster is now.
    #[error("{0}")]
    Refused(String),
}
