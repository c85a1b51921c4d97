//! Accounts, reservations and settlement: a pure replicated ledger and its node-side agent.
//!
//! Every reservation goes through the Raft log (QUOTA.md: mode CENTRAL, class `quorum`), many to a frame; or, where a
//! desk is told to, is drawn from a lease of this node (ARCHITECTURE.md, "Leases"):
//!
//! ```text
//! Desk (async) ── Agent (pure) ── Frame ──▶ Uplink ──▶ log ──▶ Ledger::apply (pure, on every node)
//!      ▲                                                              │
//!      └────────────────────────── FrameOutcome ◀─────────────────────┘
//! ```
//!
//! - [`Ledger`]: the replicated accounts. What was applied in the same order is the same everywhere, to the bit.
//! - [`Agent`]: what this node still has to say, numbered so that saying it again changes nothing.
//! - [`Desk`]: what a request touches: [`Desk::reserve`], [`Reservation::dispatch`], [`InFlight::settle`]; forgetting any
//!   of them is safe.
//! - [`journal`]: what the next process of this node must know; read back by [`journal::Replay`].
//! - [`invariants`]: what must hold, as predicates for assertions, property tests and simulators.
//!
//! Not here: sockets and consensus (behind [`Uplink`] and [`Replica`]), files (behind [`journal::Journal`]), prices and bills (`billing`), which limits a request meets (`model`).

pub mod agent;
mod book;
pub mod compact;
pub mod desk;
mod error;
pub mod invariants;
pub mod journal;
pub mod ledger;
mod pocket;
mod replica;
mod reservation;
mod rule;
#[cfg(any(test, feature = "seeded-bugs"))]
pub mod sim;
mod slide;
mod uplink;

pub use agent::Agent;
pub use desk::{Account, Desk, DeskConfig, DeskStats, Flushed, Path, Presence, Touch};
pub use error::{ReserveError, Unavailable};
pub use ledger::{Applied, Changes, Ledger, Told, Used};
pub use replica::Replica;
pub use reservation::{Charge, Durability, HeldPart, InFlight, Reservation, Shadow, Standing, Way, Written};
pub use rule::Rule;
pub use uplink::{BoxFuture, Uplink, UplinkError};

pub use tollgate_proto::state::v1::{
    Attempt, Attribution, Frame, FrameOutcome, JournalAdmit, JournalEnd, JournalEntry, NodeOpen, NodeOpenOutcome,
    Outcome, QuotaBatch, QuotaOutcome, Recover, Settle, ShadowCharge, Usage, journal_entry::Kind as JournalKind,
};
/// The log's own words, as they are spoken on both sides of it.
pub use tollgate_proto::state::v1::{NodeLost, NodeLostOutcome, WriteOff};
