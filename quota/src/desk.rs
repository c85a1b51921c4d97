//! The desk: where a request reserves, and what it leaves its settlement with.
//!
//! A mutex around the pure [`crate::Agent`] and one task (`pump.rs`) that carries its frames up, one at a time: while a frame is
//! on its way the next one gathers, so a slow log makes larger frames rather than more of them. Nothing here waits for
//! the log but [`Desk::reserve`]; settling and dropping only enqueue, and what was enqueued is sent until it is applied.
//!
//! A request is admitted at once where leases of this node cover its whole path; the desk has to be shown what its node
//! applies ([`Desk::follow`]). Before it is sent out it waits for the journal ([`crate::InFlight::durable`]), as does a frame
//! that tells the log of ends. A node that nobody has answered for [`DeskConfig::isolation`] spends no lease.
//!
//! Where an account is asked for often, part of its lease is in a pocket (`pocket.rs`): a request of class `memory` whose
//! whole path is covered by pockets is admitted by a few atomic operations (`path.rs`), and the lock, the agent and its book
//! learn of it later by sums (`pockets.rs`). What has to be journaled request by request goes by the lock.
//!
//! Bounds: at most [`DeskConfig::max_open`] requests are open or unsettled on a node; beyond that `reserve` sheds with
//! `Unavailable(Overloaded)`, so a settlement always has room.

mod counters;
mod due;
mod frames;
mod front;
mod locked;
mod others;
mod path;
mod pockets;
mod present;
mod pump;
mod quarantine;
mod shared;
mod sweep;
mod ticket;
mod touch;
mod unprotected;
mod writing;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_model::NodeId;
use tollgate_proto::state::v1::{Attribution, Outcome, Recover, Usage};

use crate::{
    Charge, Durability, Ledger, Replica, Reservation, ReserveError, Unavailable, Uplink, Way, journal::Journal,
    ledger::News,
};

pub(crate) use path::Taken;
pub use path::{Account, Path};
pub use present::Presence;
use shared::{Reserved, Shared};
pub(crate) use ticket::Ticket;
pub use touch::Touch;

/// How a desk behaves. The defaults are for production; tests shorten the delays.
#[derive(Debug, Clone)]
pub struct DeskConfig {
    /// This node.
    pub node: NodeId,
    /// Which start of it: opened in the ledger by a committed `NodeOpen` before the desk is spawned.
    pub incarnation: u64,
    /// How long the first hold of a frame waits for company.
    pub hold_delay: Duration,
    /// How long the first settlement of a frame waits for company, when no hold is in a hurry, and it gives something back that
    /// others may wait for.
    pub settle_delay: Duration,
    /// The same where it gives nothing back: it ends what was admitted from leases of this node alone.
    pub end_delay: Duration,
    /// For so long at most a request asks again that the log refuses only for what requests in flight hold.
    pub ends_within: Duration,
    /// After this long a proposal is taken for lost and made again.
    pub propose_timeout: Duration,
    /// Requests that may be open or unsettled at once.
    pub max_open: usize,
    /// When that was proposed: a leader knew this incarnation as the newest after this.
    pub opened: Instant,
    /// For so long after the last proof that a leader with a quorum knows it a desk spends the leases it has (T_iso).
    pub isolation: Duration,
    /// What earlier incarnations of this node left behind, to be said first.
    pub recovers: Vec<Recover>,
    /// Where the answer to a request finds what others have used of an account that this node has drawn on by rule, and knows no
    /// record of. Without it such an answer says what this node has used.
    pub replica: Option<Arc<dyn Replica>>,
    /// After this long without any answer nobody is there to decide: see [`Desk::reserve_or_allow`].
    pub silence: Duration,
}

impl DeskConfig {
    /// The defaults for this node and incarnation.
    #[must_use]
    pub fn new(node: NodeId, incarnation: u64) -> Self {
        Self {
            node,
            incarnation,
            // With a commit of a few milliseconds this keeps a busy node under 200 frames a second.
            hold_delay: Duration::from_millis(3),
            settle_delay: Duration::from_millis(1),
            // An entry costs every node as much CPU as some calls do: a node that serves all the time writes 25 a second.
            end_delay: Duration::from_millis(40),
            // From the last byte of an answer until the log knows of its end: a delay, a commit or two, and some more on a busy node.
            ends_within: Duration::from_millis(80),
            propose_timeout: Duration::from_secs(2),
            // At half a kilobyte each some 32 MiB when the log is gone for long.
            max_open: 65_536,
            opened: Instant::now(),
            isolation: Duration::from_secs(30),
            recovers: Vec::new(),
            replica: None,
            // A leader that died is replaced within two seconds; and less than whoever asks waits.
            silence: Duration::from_secs(4),
        }
    }
}

/// Reserves, and takes settlements. Cheap to clone; all clones are one desk.
#[derive(Debug, Clone)]
pub struct Desk {
    shared: Arc<Shared>,
}

/// What a stop left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Requests whose end the log has not heard of: their holds count as consumed once the node opens again.
    pub unsettled: usize,
}

/// Figures for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeskStats {
    /// Requests open or unsettled now.
    pub open: usize,
    /// Proposals made, those made again included.
    pub proposals: u64,
    /// Proposals that brought no outcome.
    pub failed_proposals: u64,
    /// Records (holds and settlements) that the log has confirmed.
    pub records: u64,
    /// Requests refused as the journal's disk is full, or has stopped.
    pub journal_full: u64,
    /// Entries that the journal does not have on the disk yet.
    pub unjournaled: u64,
    /// 1 while nobody has answered for so long that no lease is spent.
    pub isolated: bool,
    /// Requests admitted from leases alone.
    pub local: u64,
    /// Holds granted.
    pub granted: u64,
    /// Of those, the ones that had to wait until other nodes had given back, or requests had ended.
    pub parked: u64,
    /// Holds refused by the log.
    pub refused: u64,
    /// Reservations given up: deadline, overload, stop, fence.
    pub undecided: u64,
    /// Of those, the ones that found no answer while no lease was spent, as nobody had answered for too long.
    pub cut_off: u64,
    /// Reservations that went on without some of their limits.
    pub unprotected: u64,
    /// Usage records dropped because too much was unsettled.
    pub dropped: u64,
    /// Accounts that requests take from without a lock.
    pub pockets: usize,
    /// Accounts and limits that are in quarantine now.
    pub quarantined: usize,
    /// How long the oldest settlement waits for the log by now.
    pub settle_lag: Duration,
    /// How long the oldest request holds something of this node's leases; those not known one by one are not counted.
    pub oldest: Duration,
    /// From the opening of this incarnation until the log had all that earlier ones had left to say, or until now; zero if that
    /// was nothing.
    pub recovery: Duration,
}

impl Desk {
    /// A desk whose frames are carried by `uplink` in a task of `tracker`, until [`Desk::stop`].
    pub fn spawn(
        config: DeskConfig,
        uplink: Arc<dyn Uplink>,
        journal: Arc<dyn Journal>,
        tracker: &TaskTracker,
    ) -> Self {
        let shared = Arc::new(Shared::new(config, journal));
        tracker.spawn(pump::run(Arc::clone(&shared), uplink));
        Self { shared }
    }

    /// Holds every charge or none, until the reservation is dispatched or dropped. With no charges it is granted at once
    /// and only keeps a place for the settlement.
    ///
    /// `hold_for` is how long the request can last at most: beyond that the hold counts as consumed. `durability` is what has to
    /// be written down of it before it is sent out.
    ///
    /// # Errors
    /// See [`ReserveError`]; `Unavailable(Deadline)` when the log has not answered by `deadline`. What is short only as requests
    /// in flight hold it is asked for again for [`DeskConfig::ends_within`], before it is `Exhausted`.
    ///
    /// # Cancel safety
    /// Safe: when the future is dropped a hold that was not sent is forgotten, one that was sent is voided when granted.
    pub async fn reserve(
        &self,
        charges: Vec<Charge>,
        durability: Durability,
        deadline: Instant,
        hold_for: Duration,
    ) -> Result<Reservation, ReserveError> {
        self.reserve_for(charges, durability, deadline, hold_for, None).await
    }

    async fn reserve_for(
        &self,
        charges: Vec<Charge>,
        durability: Durability,
        deadline: Instant,
        hold_for: Duration,
        whose: Option<&Attribution>,
    ) -> Result<Reservation, ReserveError> {
        if charges.is_empty() {
            return Ok(Reservation::new(self.shared.admit(&self.shared, durability)?, Vec::new(), Way::Central));
        }
        if durability == Durability::Memory
            && let Some(reservation) = self.shared.take(&charges)
        {
            return Ok(reservation);
        }
        let reserved = self.shared.reserve(&self.shared, &charges, durability, hold_for, whose)?;
        self.decided(reserved, charges, deadline).await
    }

    /// Waits for the log's word.
    async fn decided(
        &self,
        reserved: Reserved,
        charges: Vec<Charge>,
        deadline: Instant,
    ) -> Result<Reservation, ReserveError> {
        let (ticket, answer) = match reserved {
            Reserved::Now(reservation) => return Ok(reservation),
            Reserved::Later(ticket, answer) => (ticket, answer),
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => ticket.answered(answer, charges),
            Ok(Err(_)) => Err(self.shared.undecided(Unavailable::Stopping)),
            Err(_) => Err(ticket.too_late(charges)),
        }
    }

    /// A place for the settlement of a request whose holds are apart from it, in the log: so that it makes its row though this
    /// node never comes back.
    ///
    /// # Errors
    /// As [`Desk::reserve`].
    ///
    /// # Cancel safety
    /// As [`Desk::reserve`].
    pub async fn record_in_log(
        &self,
        whose: &Attribution,
        deadline: Instant,
        hold_for: Duration,
    ) -> Result<Reservation, ReserveError> {
        let reserved = self.shared.record_in_log(&self.shared, whose, hold_for)?;
        self.decided(reserved, Vec::new(), deadline).await
    }

    /// As [`Desk::reserve`], where the limits of some charges say `whenUnavailable: allow`: those that are `allowed`, by their
    /// place. The request goes on without them once nobody has answered this node for [`DeskConfig::silence`], if leases
    /// cover all the others; what it uses is counted apart then. Never when the log says no, nor while it answers.
    ///
    /// What the log holds for it says `whose` it is, where it will make a row of the billing ledger and is of no class of
    /// [`Durability::Memory`]: so that it makes one though this node never comes back.
    ///
    /// # Errors
    /// As [`Desk::reserve`].
    ///
    /// # Cancel safety
    /// As [`Desk::reserve`].
    pub async fn reserve_or_allow(
        &self,
        charges: Vec<Charge>,
        allowed: &[bool],
        durability: Durability,
        deadline: Instant,
        hold_for: Duration,
        whose: Option<&Attribution>,
    ) -> Result<Reservation, ReserveError> {
        if !allowed.contains(&true) {
            return self.reserve_for(charges, durability, deadline, hold_for, whose).await;
        }
        if durability == Durability::Memory
            && let Some(reservation) = self.shared.take(&charges)
        {
            return Ok(reservation);
        }
        if let Some(reservation) = self.shared.allow(&self.shared, &charges, allowed, durability)? {
            return Ok(reservation);
        }
        let (ticket, answer) = match self.shared.reserve(&self.shared, &charges, durability, hold_for, whose)? {
            Reserved::Now(reservation) => return Ok(reservation),
            Reserved::Later(ticket, answer) => (ticket, answer),
        };
        self.shared.decided_or_allowed(&self.shared, (ticket, answer), charges, allowed, deadline).await
    }

    /// For requests of which more will come: they find their accounts once.
    #[must_use]
    pub fn path(&self, accounts: Vec<Account>) -> Path {
        Path::new(self, accounts)
    }

    /// A request that is in flight under shadow limits on concurrency until what is returned is dropped, and how many are in each of
    /// these accounts, in the whole cluster, with it. Waits for nobody.
    pub fn presence(&self, accounts: Vec<Account>) -> (Presence, Vec<u64>) {
        Presence::new(&self.shared, accounts)
    }

    /// Says when this node is out of touch. `granted` is a moment after which the log has granted something to whoever asks.
    pub fn touch(&self, granted: Option<Instant>) -> Touch {
        Touch::new(Arc::clone(&self.shared), granted)
    }

    /// Shows the desk this node's own replica, after each entry and each snapshot that it has applied, with
    /// [`Ledger::take_news`]: so it learns what it
    /// was granted and what is called back. Takes microseconds and never waits for the log.
    pub fn follow(&self, ledger: &Ledger, news: &News) {
        self.shared.follow(ledger, news);
    }

    /// Admits nothing on an account that does not add up, or without a key on all of a limit, until `until`: the end of its
    /// window.
    pub fn quarantine(&self, limit: &str, key: Option<&[String]>, until: Instant) {
        self.shared.quarantine(limit, key, until);
    }

    /// Ends a quarantine, on somebody's word; whether there was one. What does not add up yet is closed again by the next audit.
    pub fn end_quarantine(&self, limit: &str, key: Option<&[String]>) -> bool {
        self.shared.quarantine.open(limit, key)
    }

    /// Records what a request used that never came to [`Desk::reserve`]. Dropped, and counted, when the desk is full:
    /// a caller that must not lose it reserves with no charges instead.
    pub fn record(&self, usage: Usage, outcome: Outcome, attribution: Attribution) {
        match self.shared.admit(&self.shared, Durability::Memory) {
            Ok(mut ticket) => drop(ticket.settle(usage, outcome, Some(attribution.into()))),
            Err(_) => self.shared.count_dropped(),
        }
    }

    /// Resolves once a newer process runs under this node's id: this one must end.
    pub async fn fenced(&self) {
        self.shared.fenced().cancelled().await;
    }

    /// Refuses new reservations, sends what is left, and ends the task: at the latest when `within` has passed.
    pub async fn stop(&self, within: Duration) -> Flushed {
        self.shared.stop(Instant::now() + within).await
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> DeskStats {
        self.shared.stats()
    }
}

/// Cancelled when the desk is fenced or has ended.
pub(crate) type Signal = CancellationToken;

#[cfg(test)]
mod tests;
