//! What goes into the journal, in the order in which it happened. The shell takes it and writes it; nothing is read back here.

use tollgate_proto::{
    Shared,
    state::v1::{
        Attribution, Consumed, JournalAdmit, JournalEnd, JournalEntry, JournalSum, JournalTouch, Record, Recover,
        Settle, journal_entry::Kind, record,
    },
};

use super::{Agent, Phase, Request};
use crate::Durability;

/// Entries that wait to be written, and how many there were.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox {
    entries: Vec<JournalEntry>,
    position: u64,
    /// Ends that the log is told of, in the order in which it is told.
    ends: u64,
}

impl Outbox {
    /// How many entries there have been: durable up to here, everything so far is.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn take(&mut self) -> Vec<JournalEntry> {
        std::mem::take(&mut self.entries)
    }

    fn push(&mut self, kind: Kind) -> u64 {
        self.entries.push(JournalEntry { kind: Some(kind) });
        self.position += 1;
        self.position
    }

    /// A request is about to be sent out.
    pub(super) fn admit(
        &mut self,
        request: u64,
        drawn: Vec<Consumed>,
        attribution: Shared<Attribution>,
        in_log: bool,
        age_us: u64,
    ) -> (JournalAdmit, u64) {
        let admit = JournalAdmit { request, drawn, attribution: Some(attribution), age_us, in_log };
        let position = self.push(Kind::Admit(admit.clone()));
        (admit, position)
    }

    /// A request has ended that is in the journal. What the log is told of it gets its number.
    pub(super) fn end(&mut self, request: u64, consumed: Vec<Consumed>, said: Option<&mut Settle>) {
        let settle = said.map(|settle| {
            self.ends += 1;
            settle.terminal = self.ends;
            settle.clone()
        });
        self.push(Kind::End(JournalEnd { request, consumed, settle }));
    }

    /// So much of a lease may be spent by requests that are not in the journal.
    pub(super) fn ceiling(&mut self, sum: JournalSum) -> u64 {
        self.push(Kind::Sum(sum))
    }

    /// Numbers that entries after these may use for accounts that have none in the ledger.
    pub(super) fn touch(&mut self, touched: impl IntoIterator<Item = JournalTouch>) {
        for touch in touched {
            self.push(Kind::Touch(touch));
        }
    }

    /// All that is still needed, so that everything before it may be dropped.
    pub(super) fn image<'a>(
        &mut self,
        incarnation: u64,
        own: impl Iterator<Item = JournalTouch>,
        sums: impl Iterator<Item = JournalSum>,
        open: impl Iterator<Item = &'a JournalAdmit>,
        unsaid: impl Iterator<Item = &'a Settle>,
    ) {
        self.push(Kind::Image(incarnation));
        self.touch(own);
        for sum in sums {
            self.push(Kind::Sum(sum));
        }
        for admit in open {
            self.push(Kind::Admit(admit.clone()));
        }
        for settle in unsaid.filter(|settle| settle.terminal > 0) {
            let (request, settle) = (settle.request, Some(settle.clone()));
            self.push(Kind::End(JournalEnd { request, consumed: Vec::new(), settle }));
        }
        self.push(Kind::ImageEnd(self.ends));
    }
}

impl Agent {
    /// What is to be journaled, in order.
    pub fn take_entries(&mut self) -> Vec<JournalEntry> {
        self.outbox.take()
    }

    /// Whether something of earlier incarnations is still to be said.
    #[must_use]
    pub fn has_to_recover(&self) -> bool {
        !self.recovers.is_empty()
    }

    /// How many entries there were.
    #[must_use]
    pub fn journaled(&self) -> u64 {
        self.outbox.position()
    }

    /// Journals all that is still needed of what was journaled so far, unless earlier incarnations still need that too.
    pub fn restate(&mut self) {
        let is_recover = |record: &Record| matches!(record.kind, Some(record::Kind::Recover(_)));
        let sent = self.in_flight.iter().flat_map(|sent| &sent.frame.records);
        if self.fenced || !self.recovers.is_empty() || sent.clone().any(is_recover) {
            return;
        }
        let sent = sent.filter_map(|record| match &record.kind {
            Some(record::Kind::Settle(settle)) => Some(settle),
            _ => None,
        });
        let mut open: Vec<&JournalAdmit> = self.requests.values().filter_map(|it| it.journaled.as_deref()).collect();
        open.sort_unstable_by_key(|admit| admit.request);
        let own = self.book.own_numbers();
        self.outbox.image(self.incarnation, own, self.book.sums(), open.into_iter(), sent.chain(&self.settles));
    }

    /// Says this of earlier incarnations, before anything else.
    pub fn recover(&mut self, recovers: Vec<Recover>) {
        self.recovers.extend(recovers);
    }

    /// A granted request is about to be sent out. It may be once the journal is durable up to what this returns; 0 when it
    /// need not wait.
    pub fn dispatch(
        &mut self,
        request: u64,
        attribution: impl Into<Shared<Attribution>>,
        durability: Durability,
    ) -> u64 {
        if self.fenced {
            return 0;
        }
        if !self.requests.contains_key(&request) {
            self.unheld = self.unheld.saturating_sub(1);
            self.requests
                .insert(request, Request { phase: Phase::Open, ..Request::queued(durability, self.contact.now()) });
        }
        let Some(known) = self.requests.get_mut(&request).filter(|it| it.phase == Phase::Open) else { return 0 };
        if known.durability == Durability::Memory {
            return known.parts.iter().map(|part| self.book.ceiling_of(part)).max().unwrap_or_default();
        }
        let drawn = known.parts.iter().filter(|part| !part.below_ceiling);
        let drawn = drawn.map(|part| self.book.at_most(part)).collect();
        let in_log = known.in_log && known.attributed;
        let (admit, position) = self.outbox.admit(request, drawn, attribution.into(), in_log, self.book.age());
        known.journaled = Some(Box::new(admit));
        position
    }
}
