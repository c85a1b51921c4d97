//! What goes into the journal, in the order in which it happened. The shell takes it and writes it; nothing is read back here.

use tollgate_proto::state::v1::{
    Attribution, Consumed, HeldCharge, JournalAdmit, JournalEnd, JournalEntry, JournalSum, Settle, journal_entry::Kind,
};

use crate::book::Parts;

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
    pub(super) fn admit(&mut self, request: u64, parts: &Parts, attribution: &Attribution) -> (JournalAdmit, u64) {
        let drawn = parts.iter().filter(|part| !part.below_ceiling);
        let drawn = drawn.map(|part| HeldCharge { account: part.account, epoch: part.epoch, amount: part.amount });
        let admit = JournalAdmit { request, drawn: drawn.collect(), attribution: Some(attribution.clone()) };
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

    /// All that is still needed, so that everything before it may be dropped.
    pub(super) fn image<'a>(
        &mut self,
        incarnation: u64,
        sums: impl Iterator<Item = JournalSum>,
        open: impl Iterator<Item = &'a JournalAdmit>,
        unsaid: impl Iterator<Item = &'a Settle>,
    ) {
        self.push(Kind::Image(incarnation));
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
