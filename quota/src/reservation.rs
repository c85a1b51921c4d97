//! A request's way through the desk, as types: a [`Reservation`] that is forgotten is voided, an [`InFlight`] that is
//! forgotten is settled at what was counted.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Timeout, timeout};
use tollgate_model::{LogIndex, Name, Timestamp};
use tollgate_proto::{
    Shared,
    state::v1::{Attribution, Outcome, ShadowCharge, Usage},
};

use crate::{
    Unavailable,
    book::Figures,
    desk::{Presence, Taken, Ticket},
    journal::Reached,
};

/// What a request asks of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The limit's name.
    pub limit: Name,
    /// Its resource version that the amount was computed for.
    pub version: LogIndex,
    /// Values of the limit's `per`, in its order. None may contain NUL; together at most [`crate::ledger::MAX_KEY_BYTES`].
    pub key: Vec<String>,
    /// The upper bound of what the request can use, in the limit's unit.
    pub amount: u64,
}

/// What has to be written down before a request is sent out (QUOTA.md 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Only how much may be spent at most, now and then: after a crash that much counts as used.
    Memory,
    /// The request itself, on this node's disk: after a crash everything that had ended is known to the unit.
    Journal,
    /// The request itself, in the log: as that, even if the disk is lost.
    Quorum,
}

/// How an account stood right after a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: Name,
    /// What the account holds in all.
    pub capacity: u64,
    /// What is neither used nor held nor owed.
    pub remaining: u64,
    /// When its window ends, in log time.
    pub window_end: Timestamp,
    /// How long that was away.
    pub resets_in: Duration,
}

impl Standing {
    pub(crate) fn of(limit: Name, figures: Figures) -> Self {
        Self {
            limit,
            capacity: figures.capacity,
            remaining: figures.remaining,
            window_end: Timestamp(figures.window_end_us),
            resets_in: Duration::from_micros(figures.resets_in_us),
        }
    }
}

/// What a request counts in though nothing is held of it there.
#[derive(Debug, Default)]
pub struct Shadow {
    /// Accounts in which what it will have used is counted.
    pub charges: Vec<ShadowCharge>,
    /// Accounts in which it is counted for as long as it is in flight.
    pub presence: Option<Presence>,
}

/// How a reservation came to be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Drawn from leases alone, without asking the log.
    Local,
    /// By the log.
    Central,
    /// By the log, after it had waited for others: for nodes to give back, or for requests in flight to end.
    Parked,
}

impl Way {
    /// As metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Central => "central",
            Self::Parked => "parked",
        }
    }
}

/// Units held for a request that has not been sent anywhere yet. Dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping a reservation voids it"]
pub struct Reservation {
    ticket: Ticket,
    standings: Vec<Standing>,
    way: Way,
}

impl Reservation {
    pub(crate) fn new(ticket: Ticket, standings: Vec<Standing>, way: Way) -> Self {
        Self { ticket, standings, way }
    }

    pub(crate) fn taken(ticket: Ticket) -> Self {
        Self::new(ticket, Vec::new(), Way::Local)
    }

    /// How it came to be granted.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// Whether it was drawn from leases alone, without asking the log.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.way == Way::Local
    }

    /// The limits that it goes on without, as nobody could decide on them.
    pub fn unprotected(&self) -> impl Iterator<Item = &str> {
        self.ticket.unprotected().iter().map(|charge| charge.limit.as_str())
    }

    /// The accounts on the path, in the order of the charges, as they stand after it; of those that it goes on without, none.
    /// What was taken from memory alone is looked up when this is asked for.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        self.ticket.pockets().map_or_else(|| self.standings.clone(), Taken::standings)
    }

    /// Has the request counted in accounts of shadow limits as well.
    pub fn with_shadow(mut self, shadow: Shadow) -> Self {
        self.ticket.set_shadow(shadow);
        self
    }

    /// What it has counted in shadow limits, for the reservation that its usage is recorded with.
    pub fn take_shadow(&mut self) -> Shadow {
        self.ticket.take_shadow()
    }

    /// Marks the moment after which it may be drawn on, once it is [`HeldPart::durable`], by a request that is on its way
    /// under another reservation.
    pub fn dispatch_part(mut self) -> HeldPart {
        self.ticket.dispatch(Shared::default());
        HeldPart { ticket: self.ticket, usage: Usage::default() }
    }

    /// Marks the moment after which an upstream may bill us, once it is [`InFlight::durable`].
    pub fn dispatch(mut self, attribution: impl Into<Shared<Attribution>>) -> InFlight {
        let attribution = attribution.into();
        self.ticket.dispatch(attribution.clone());
        InFlight { ticket: self.ticket, usage: Usage { counted: true, ..Usage::default() }, attribution }
    }

    /// Gives everything back.
    pub fn void(self) {
        drop(self);
    }
}

/// A request on its way. Dropping it settles at what was counted, as `PARTIAL`.
#[derive(Debug)]
#[must_use = "dropping a request in flight settles it at what was counted so far"]
pub struct InFlight {
    ticket: Ticket,
    usage: Usage,
    attribution: Shared<Attribution>,
}

impl InFlight {
    /// Waits until the journal has the request, should it have to: nothing may be sent to an upstream before. What else has
    /// to be done meanwhile, such as connecting, may be done.
    ///
    /// # Errors
    /// `Unavailable::Journal` when it has not by `deadline`, as its disk is full or too slow. Then void it.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub async fn durable(&self, deadline: Instant) -> Result<(), Unavailable> {
        self.ticket.durable(deadline).await
    }

    /// Whether [`durable`](Self::durable) would resolve at once.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.ticket.is_durable()
    }

    /// What has gone by so far, in all: the answer to "what did it use" should nobody come to settle.
    pub fn count(&mut self, so_far: Usage) {
        self.usage = so_far;
    }

    /// Whom and what the usage is for, as far as it is known: may change with a fallback.
    pub fn attribution_mut(&mut self) -> &mut Attribution {
        &mut self.attribution
    }

    /// The same, for whoever keeps it: no copy.
    #[must_use]
    pub fn whose(&self) -> Shared<Attribution> {
        self.attribution.clone()
    }

    /// Whom and what the usage is for.
    #[must_use]
    pub fn attribution(&self) -> &Attribution {
        &self.attribution
    }

    /// Ends the request with what it really used. Never blocks, never fails: what was said is kept until it is applied.
    ///
    /// Whoever has the last bytes of the answer to give waits for what this returns before: then even the end of this
    /// process does not lose it.
    pub fn settle(mut self, usage: Usage, outcome: Outcome, attribution: impl Into<Shared<Attribution>>) -> Written {
        self.ticket.settle(usage, outcome, Some(attribution.into()))
    }

    /// Ends a request that no upstream did any work for: everything is free again, and no usage is recorded.
    pub fn void(mut self) {
        self.ticket.void();
    }

    /// The same of one that an upstream was asked for, and refused: that is recorded.
    pub fn refused(mut self, attribution: impl Into<Shared<Attribution>>) -> Written {
        self.ticket.settle(Usage::default(), Outcome::Voided, Some(attribution.into()))
    }
}

/// A part of what a request holds whose hold grows: charged as any hold is, and recorded nowhere, as the request's
/// [`InFlight`] is. After a crash it counts as it was reserved. Dropping it settles at what was counted, as `PARTIAL`.
#[derive(Debug)]
#[must_use = "dropping a part settles it at what was counted so far"]
pub struct HeldPart {
    ticket: Ticket,
    usage: Usage,
}

impl HeldPart {
    /// Waits until the journal has it: nothing may be drawn on it before (QUOTA.md R9).
    ///
    /// # Errors
    /// As [`InFlight::durable`].
    ///
    /// # Cancel safety
    /// Safe: nothing is lost when the future is dropped.
    pub async fn durable(&self, deadline: Instant) -> Result<(), Unavailable> {
        self.ticket.durable(deadline).await
    }

    /// Whether [`durable`](Self::durable) would resolve at once.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.ticket.is_durable()
    }

    /// Its share of what has gone by so far, should nobody come to settle.
    pub fn count(&mut self, so_far: Usage) {
        self.usage = so_far;
    }

    /// Ends it with its share of what the request really used.
    pub fn settle(mut self, usage: Usage, outcome: Outcome) -> Written {
        self.ticket.settle(usage, outcome, None)
    }

    /// Ends a part that nothing was drawn on: everything is free again.
    pub fn void(mut self) {
        self.ticket.void();
    }
}

impl Drop for HeldPart {
    fn drop(&mut self) {
        if self.ticket.is_open() {
            self.ticket.settle(self.usage, Outcome::Partial, None);
        }
    }
}

/// Resolves once the end of a request is written down: not for long, and need not be waited for.
#[derive(Default)]
pub struct Written(Option<Pin<Box<Timeout<Reached>>>>);

impl Written {
    /// Once the journal has come that far, or this has passed.
    pub(crate) fn when(written: Reached, or_within: Duration) -> Self {
        Self(Some(Box::pin(timeout(or_within, written))))
    }
}

impl Future for Written {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(written) = &mut self.0 else { return Poll::Ready(()) };
        let _in_time = ready!(written.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("is", &self.0.is_none()).finish()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.ticket.is_open() {
            let attribution = std::mem::take(&mut self.attribution);
            self.ticket.settle(self.usage, Outcome::Partial, Some(attribution));
        }
    }
}
