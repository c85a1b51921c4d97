//! What this node still has to say to the log: pure, no clock, no I/O.
//!
//! Every hold and every settlement becomes one record, numbered from 1 without a gap when it is put into a frame. One
//! frame is on its way at a time; it is kept, and given out again unchanged, until the log has confirmed it. So a lost
//! answer, a repeated message and a change of leader all look the same: say it again.
//!
//! A request first draws on the leases of this node (`book.rs`). What they cover needs no record before the request ends;
//! what they don't becomes one hold, for exactly the rest of its path (QUOTA.md R8). Each charge ends where it began:
//! in the lease it was drawn from, or in the log. When the log has to call leases back first, the request lets go of what
//! it has drawn, waits, and begins anew: nobody holds anything while waiting for others to give back.
//!
//! What is sent out and what has ended is journaled (`outbox.rs`), in one order and before anybody is told: so that the next
//! process of this node can say what this one could not.
//!
//! What always holds:
//! 1. A number never stands for two different records.
//! 2. A request that was granted gets exactly one terminal record: settled, or voided when its caller was gone.
//! 3. A request holds every charge on its path or none (I5).
//! 4. `load` counts each request once, from its first mention until its terminal record is confirmed; it bounds
//!    everything kept here.

mod contact;
#[cfg(any(test, feature = "seeded-bugs"))]
mod digest;
mod frames;
mod lingering;
mod outbox;
mod path;
mod pockets;
mod requests;
mod unprotected;

use std::collections::{BTreeMap, HashMap, VecDeque};

use prost::Message as _;
use smallvec::SmallVec;
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{
    Consumed, Frame, Hold, HoldOutcome, JournalAdmit, Outcome, Present, Record, Recover, Settle, Standing, Usage,
    record::Kind,
};

#[cfg(any(test, feature = "seeded-bugs"))]
use crate::book::Bug;
use crate::{
    Charge, Durability,
    book::{Ask, Book, Figures, Parts, Poured, Spending},
    invariants::Violation,
    ledger::{Ledger, News, requests_of},
};
pub use unprotected::Allowed;

use contact::Contact;
use outbox::Outbox;
use path::{Path, asked, draw, to_wire};
use requests::{Phase, Request};

/// Records in one frame at most: 4,096 holds of two charges are some 400 KiB.
pub const MAX_FRAME_RECORDS: usize = 4_096;
/// Leases reported, and leases asked for, in one frame at most: the rest follows with the next.
const MAX_FRAME_LEASES: usize = 1_024;
/// Encoded records in one frame at most, give or take the last one: half a log entry, which may carry several frames.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// One incarnation of this node, as its own records tell it.
#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub struct Agent {
    node: u64,
    incarnation: u64,
    next_request: u64,
    next_seq: u64,
    /// Requests that hold, or may hold, something; those without charges are only counted.
    requests: HashMap<u64, Request>,
    book: Book,
    unheld: usize,
    /// Not numbered yet. Settlements go first: what they free may be what a hold needs.
    settles: VecDeque<Settle>,
    holds: VecDeque<Hold>,
    /// One of `settles` ends what the log holds.
    ended_in_log: bool,
    /// Told to ask anew in a moment; in order.
    parked: Vec<u64>,
    /// Refused for what others hold, and about to ask once more; in order.
    lingering: Vec<u64>,
    /// For how long requests linger, by this node's own clock.
    patience: u64,
    /// Of `holds`, those that are still wanted.
    queued: usize,
    in_flight: Option<InFlightFrame>,
    fenced: bool,
    outbox: Outbox,
    /// Said first: what earlier incarnations left behind.
    recovers: VecDeque<Recover>,
    /// Said when there is room: how many are in flight under shadow limits.
    present: VecDeque<Present>,
    contact: Contact,
    keeps_contact: bool,
    /// Requests that were told to wait, and granted then.
    granted_parked: u64,
    /// What pockets hold, by number.
    poured: BTreeMap<u64, Poured>,
    next_pocket: u64,
}

#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
struct InFlightFrame {
    frame: Frame,
    settles: usize,
    /// The journal must be durable up to here before the log may hear of it.
    after: u64,
}

/// The log's word on a hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The request that asked.
    pub request: u64,
    /// What the log said; `None` when this incarnation was fenced and nothing will be said any more.
    pub outcome: Option<HoldOutcome>,
}

impl Agent {
    /// An incarnation that has said nothing yet.
    #[must_use]
    pub fn new(node: u64, incarnation: u64) -> Self {
        Self {
            node,
            incarnation,
            next_request: requests_of(incarnation) + 1,
            next_seq: 1,
            requests: HashMap::new(),
            book: Book::new(node, incarnation),
            parked: Vec::new(),
            lingering: Vec::new(),
            patience: 0,
            granted_parked: 0,
            unheld: 0,
            settles: VecDeque::new(),
            holds: VecDeque::new(),
            ended_in_log: false,
            queued: 0,
            in_flight: None,
            fenced: false,
            outbox: Outbox::default(),
            recovers: VecDeque::new(),
            present: VecDeque::new(),
            contact: Contact::default(),
            keeps_contact: false,
            poured: BTreeMap::new(),
            next_pocket: 0,
        }
    }

    /// From here on leases are spent for so long at most, in microseconds, after the last proof that a leader knew this
    /// incarnation as the newest. `opened` is when it was proposed to be opened.
    pub fn isolate_after(&mut self, isolation: u64, opened: u64) {
        self.contact = Contact::since(opened, isolation);
    }

    /// What time it is on this node's own clock, which never steps, in microseconds. What was used of sliding leases ages
    /// by it alone.
    pub fn pass(&mut self, now: u64) {
        self.contact.pass(now);
        self.book.elapse(self.contact.now());
    }

    /// Whether it has been out of contact for too long to spend what it has in hand.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.contact.is_isolated()
    }

    /// When something has to be sent so that contact is not lost; `None` while nothing depends on it.
    #[must_use]
    pub fn renew_at(&self) -> Option<u64> {
        self.needs_contact().then(|| self.contact.ask_at())
    }

    /// Whether contact is to be kept though nothing is in hand.
    pub(crate) fn keep_contact(&mut self, is_kept: bool) {
        self.keeps_contact = is_kept;
    }

    fn needs_contact(&self) -> bool {
        self.keeps_contact || self.book.is_in_hand()
    }

    /// Requests that were granted after they had waited for others to give back, ever.
    #[must_use]
    pub fn granted_parked(&self) -> u64 {
        self.granted_parked
    }

    /// How long the oldest request holds something, of those that this agent knows one by one.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        let open = self.requests.values().filter(|known| known.phase == Phase::Open && !known.parts.is_empty());
        let since = open.map(|known| known.since).min()?;
        Some(self.contact.now().saturating_sub(since))
    }

    /// Whether somebody waits for others to give back, or for their requests to end.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.parked.is_empty() || !self.lingering.is_empty()
    }

    /// By this node's own clock, when there will be something to say of leases though nothing has happened.
    #[must_use]
    pub fn next_lease_news(&self) -> Option<u64> {
        self.book.next_news()
    }

    /// Has the log told how many requests in flight have met accounts of shadow limits. Whoever gathers that adds it up, and
    /// hands out no more while [`Agent::has_present`].
    pub fn say_present(&mut self, said: impl IntoIterator<Item = Present>) {
        if !self.fenced {
            self.present.extend(said);
        }
    }

    /// Whether some of that is not in a frame yet.
    #[must_use]
    pub fn has_present(&self) -> bool {
        !self.present.is_empty()
    }

    /// Takes in what has changed in this node's own replica.
    pub fn follow(&mut self, ledger: &Ledger, news: &News) {
        self.book.follow(ledger, news);
        if let Some((_, last_seq)) = ledger.node(self.node).filter(|(newest, _)| *newest == self.incarnation) {
            self.contact.shown(last_seq);
        }
    }

    /// Draws on no lease any more, and gives back what is in hand.
    pub fn close(&mut self) {
        self.book.close();
    }

    /// Nothing that is said from here on counts: everyone who waits is told.
    fn fence(&mut self) -> Vec<Answer> {
        self.fenced = true;
        self.in_flight = None;
        self.settles.clear();
        self.holds.clear();
        self.parked.clear();
        self.lingering.clear();
        self.recovers.clear();
        self.present.clear();
        self.book.close();
        self.queued = 0;
        self.unheld = 0;
        let mut waiting: Vec<u64> = self
            .requests
            .drain()
            .filter(|(_, it)| matches!(it.phase, Phase::Queued | Phase::Sent | Phase::Parked))
            .map(|(request, _)| request)
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|request| Answer { request, outcome: None }).collect()
    }

    /// A newer incarnation was opened, or another process speaks as this one.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Requests open or not yet confirmed as ended.
    #[must_use]
    pub fn load(&self) -> usize {
        self.requests.len() + self.unheld + self.settles.len() + self.in_flight.as_ref().map_or(0, |sent| sent.settles)
    }

    /// What waits to be put into a frame: (holds, settlements).
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        (self.queued, self.settles.len())
    }

    /// Whether there is something to say of leases that should not wait.
    #[must_use]
    pub fn has_lease_news(&self) -> bool {
        self.book.is_due()
    }

    /// Whether somebody waits for what there is to say of leases: what was called back, or runs out.
    #[must_use]
    pub fn has_urgent_lease_news(&self) -> bool {
        self.book.is_urgent()
    }

    /// Whether requests have ended of which the log holds something, so that others may wait for it.
    #[must_use]
    pub fn has_ends_in_log(&self) -> bool {
        self.ended_in_log
    }

    /// Whether what requests have drawn is not all known to the log.
    #[must_use]
    pub fn has_unsaid_draws(&self) -> bool {
        self.book.is_behind()
    }

    /// I2 and I5 of this node: what its leases hold is what its requests hold of them.
    ///
    /// # Errors
    /// The first violation.
    pub fn audit(&self) -> Result<(), Violation> {
        let drawn = self.requests.values().flat_map(|request| &request.parts);
        self.book.audit(drawn.chain(self.poured.values().map(Poured::part)))
    }

    /// Whether a frame is out that the log has not confirmed.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Granted requests that have not ended, in order: what the ledger must hold for this incarnation (I2).
    #[must_use]
    pub fn open_requests(&self) -> Vec<u64> {
        let open = self.requests.iter().filter(|(_, it)| it.phase == Phase::Open && it.in_log);
        let mut open: Vec<u64> = open.map(|(request, _)| *request).collect();
        open.sort_unstable();
        open
    }
}

#[cfg(test)]
mod tests;
