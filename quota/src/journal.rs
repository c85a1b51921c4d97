//! What a node writes to its own disk so that the next process can say what this one could not (QUOTA.md 3.7, R5–R7).
//!
//! One order for everything: a request that is about to be sent out, its end, the ceilings of what is not journaled request by
//! request. An entry is durable before what follows from it is done: an admission before the request goes to its upstream,
//! an end before the log hears of it. So what was really used is never more than the journal says, and what the journal says
//! of an end was said to the log at most once: its number tells.
//!
//! What is used of a sliding lease ages by the clock of its process, so an entry says at which age of that it counts no more, and
//! an admission how old the process was: what had aged by the last one had, and the rest counts, whatever became of it. Ages of
//! two processes are never compared: the log counts what it is told of as used now.
//!
//! From time to time an *image* restates all that is still needed, and what was written before it is dropped.
//!
//! Pure but for [`Journal`], which is implemented where files are known.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use tollgate_proto::state::v1::{
    Consumed, JournalAdmit, JournalEnd, JournalEntry, JournalSum, JournalTouch, NamedConsumed, Orphan, Recover, Settle,
    journal_entry::Kind,
};

mod watermarks;

pub use watermarks::{Reached, Watermarks};

/// What entries call accounts that had no number in the ledger: from here on, as they say before.
pub(crate) const OWN_NUMBERS: u32 = 1 << 31;
/// Ends, or leases, in one record of a recovery.
const PER_RECORD: usize = 256;

/// How far a journal has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries that were written, of those that were appended: they survive the end of this process.
    pub written: u64,
    /// Of those, the ones that are durable: they survive a power cut.
    pub durable: u64,
    /// The disk is full: nothing becomes durable before there is space again.
    pub full: bool,
    /// It has grown so much since the last image that another would be welcome.
    pub is_long: bool,
}

/// Where entries are written. Whoever implements it ends the process when a write or a sync fails for another reason than a full disk:
/// what the kernel has of a file after that, nobody knows.
pub trait Journal: Send + Sync + 'static {
    /// Takes entries, to be durable soon, all of them in this order. Never blocks.
    fn append(&self, entries: Vec<JournalEntry>);

    /// How far it has come, from now on.
    fn progress(&self) -> Watermarks;
}

/// Keeps nothing: for tools and tests that never start again.
#[derive(Debug, Default)]
pub struct Forgetful(Watermarks);

impl Journal for Forgetful {
    fn append(&self, entries: Vec<JournalEntry>) {
        self.0.change(|progress| {
            progress.written += entries.len() as u64;
            progress.durable = progress.written;
        });
    }

    fn progress(&self) -> Watermarks {
        self.0.clone()
    }
}

/// Reads a journal from its beginning.
#[derive(Debug, Default)]
pub struct Replay {
    earlier: Vec<Remains>,
    current: Option<Remains>,
    /// An image that is not whole yet: should it never be, what it restates is still there.
    image: Option<Remains>,
}

impl Replay {
    /// Takes the next entry.
    ///
    /// # Errors
    /// Why it is none of a journal's.
    pub fn entry(&mut self, bytes: &[u8]) -> Result<(), String> {
        let entry = JournalEntry::decode(bytes).map_err(|error| error.to_string())?;
        match entry.kind.ok_or("an entry of a kind that this version does not know")? {
            Kind::Start(incarnation) => {
                self.image = None;
                self.earlier.extend(self.current.replace(Remains::new(incarnation)));
            }
            Kind::Image(incarnation) => self.image = Some(Remains::new(incarnation)),
            Kind::ImageEnd(ends) => {
                let mut image = self.image.take().ok_or("the end of an image without its beginning")?;
                image.ends = ends;
                self.current = Some(image);
            }
            Kind::Admit(admit) => self.remains()?.admit(admit),
            Kind::End(end) => self.remains()?.end(end),
            Kind::Sum(sum) => self.remains()?.sum(&sum),
            Kind::Touch(touch) => self.remains()?.touch(touch),
        }
        Ok(())
    }

    fn remains(&mut self) -> Result<&mut Remains, String> {
        let remains = self.image.as_mut().or(self.current.as_mut());
        remains.ok_or_else(|| "an entry of no incarnation".to_owned())
    }

    /// What is left of each incarnation that wrote it, the oldest first.
    #[must_use]
    pub fn finish(mut self) -> Vec<Remains> {
        self.earlier.extend(self.current);
        self.earlier
    }
}

/// What a journal tells of one incarnation.
#[derive(Debug, Clone, PartialEq)]
pub struct Remains {
    incarnation: u64,
    /// How old its process was at least, by that one's own clock.
    age: u64,
    ends: u64,
    leases: BTreeMap<(u32, u64), Sums>,
    /// What accounts are called that had no number.
    names: BTreeMap<(u32, u64), (String, Vec<String>)>,
    open: BTreeMap<u64, JournalAdmit>,
    said: Vec<Settle>,
    /// What the log holds for its requests and nobody has ended.
    held: Vec<u64>,
}

/// The journal of an incarnation lacks ends that the log has heard of: it is a copy from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the journal of incarnation {incarnation} ends with {journaled}, and the log knows of {known}")]
pub struct OlderThanTheLog {
    incarnation: u64,
    journaled: u64,
    known: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sums {
    spent: u64,
    overrun: u64,
    ceiling: u64,
    /// What was spent beside that, by the age of the process at which it is fresh again.
    ageing: BTreeMap<u64, u64>,
}

impl Remains {
    fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            age: 0,
            ends: 0,
            leases: BTreeMap::new(),
            names: BTreeMap::new(),
            open: BTreeMap::new(),
            said: Vec::new(),
            held: Vec::new(),
        }
    }

    fn touch(&mut self, touch: JournalTouch) {
        self.names.insert((touch.account, touch.epoch), (touch.limit, touch.key));
    }

    fn admit(&mut self, admit: JournalAdmit) {
        self.age = self.age.max(admit.age_us);
        self.open.insert(admit.request, admit);
    }

    fn end(&mut self, end: JournalEnd) {
        self.open.remove(&end.request);
        for consumed in &end.consumed {
            self.add(consumed);
        }
        if let Some(settle) = end.settle {
            self.ends = self.ends.max(settle.terminal);
            self.said.push(settle);
        }
    }

    fn sum(&mut self, sum: &JournalSum) {
        let Some(consumed) = &sum.consumed else { return };
        let lease = self.add(consumed);
        lease.ceiling = lease.ceiling.max(sum.ceiling);
    }

    fn add(&mut self, consumed: &Consumed) -> &mut Sums {
        let lease = self.leases.entry((consumed.account, consumed.epoch)).or_default();
        lease.overrun = lease.overrun.saturating_add(consumed.overrun);
        let spent = match consumed.fresh_at_us {
            0 => &mut lease.spent,
            fresh_at => {
                // What had aged by then was there to be drawn again.
                lease.ageing = lease.ageing.split_off(&self.age.saturating_add(1));
                lease.ageing.entry(fresh_at).or_default()
            }
        };
        *spent = spent.saturating_add(consumed.spent);
        lease
    }

    /// Knows nothing of some requests: a way to be wrong.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn forgetting(mut self, which: impl Fn(u64) -> bool) -> Self {
        self.open.retain(|request, _| !which(*request));
        self
    }

    /// Which incarnation it was.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Requests that were sent out, or were about to be, and of whose end nothing is known.
    #[must_use]
    pub fn orphans(&self) -> usize {
        self.open.len()
    }

    /// The log holds something for these requests: what is not in the journal never went out, where it would be.
    #[must_use]
    pub fn with_held(mut self, held: Vec<u64>) -> Self {
        self.held = held;
        self
    }

    /// Of these, the ones that it does not have, ended or not.
    fn undispatched(&self) -> Vec<u64> {
        let ended: BTreeSet<u64> = self.said.iter().map(|settle| settle.request).collect();
        let knows = |request: &u64| self.open.contains_key(request) || ended.contains(request);
        self.held.iter().copied().filter(|request| !knows(request)).collect()
    }

    /// What is to be said of it, in order, given the last end that the log has heard of: the ends first, then all that may
    /// have been made of its leases. Requests without an end count as they were reserved.
    ///
    /// # Errors
    /// A journal that knows less than the log is of an older disk, and says nothing.
    pub fn recover(mut self, last_terminal: u64) -> Result<Vec<Recover>, OlderThanTheLog> {
        let incarnation = self.incarnation;
        if self.ends < last_terminal {
            return Err(OlderThanTheLog { incarnation, journaled: self.ends, known: last_terminal });
        }
        let undispatched = self.undispatched();
        let mut orphans = Vec::new();
        for admit in std::mem::take(&mut self.open).into_values() {
            for drawn in &admit.drawn {
                self.add(drawn);
            }
            // Of a part of what a request holds it is not said whose it is: the request itself is here too.
            let attribution = admit.attribution.filter(|it| !it.request_id.is_empty());
            let (request, in_log) = (admit.request, admit.in_log);
            orphans.extend(attribution.map(|it| Orphan { request, attribution: Some(it), in_log }));
        }
        let mut names = self.names;
        let consumed = self.leases.into_iter().map(|((account, epoch), sums)| {
            let (spent, overrun) = (sums.at_most(self.age), sums.overrun);
            Consumed { account, epoch, spent, overrun, fresh_at_us: 0 }
        });
        let (numbered, own): (Vec<Consumed>, Vec<Consumed>) =
            consumed.partition(|consumed| consumed.account < OWN_NUMBERS);
        let mut named = |consumed: Consumed| {
            let (limit, key) = names.remove(&(consumed.account, consumed.epoch))?;
            Some(NamedConsumed { limit, key, consumed: Some(Consumed { account: 0, ..consumed }) })
        };
        let named: Vec<NamedConsumed> = own.into_iter().filter_map(&mut named).collect();
        let unsaid: Vec<Settle> = self.said.into_iter().filter(|settle| settle.terminal > last_terminal).collect();
        let of = |settles: &[Settle], consumed: &[Consumed]| Recover {
            incarnation,
            settles: settles.to_vec(),
            consumed: consumed.to_vec(),
            ..Recover::default()
        };
        let voids = |requests: &[u64]| Recover { incarnation, undispatched: requests.to_vec(), ..Recover::default() };
        let of_orphans = |orphans: &[Orphan]| Recover { incarnation, orphans: orphans.to_vec(), ..Recover::default() };
        let of_names = |named: &[NamedConsumed]| Recover { incarnation, named: named.to_vec(), ..Recover::default() };
        let ends = unsaid.chunks(PER_RECORD).map(|settles| of(settles, &[]));
        let numbered = numbered.chunks(PER_RECORD).map(|consumed| of(&[], consumed));
        let mut all: Vec<Recover> = ends.chain(numbered).chain(named.chunks(PER_RECORD).map(of_names)).collect();
        all.extend(undispatched.chunks(PER_RECORD).map(voids));
        all.extend(orphans.chunks(PER_RECORD).map(of_orphans));
        all.push(Recover { incarnation, done: true, ..Recover::default() });
        Ok(all)
    }
}

impl Sums {
    /// What may have been spent and count still, of a process of this age.
    fn at_most(&self, age: u64) -> u64 {
        let ageing = self.ageing.range(age.saturating_add(1)..).map(|(_, spent)| *spent);
        ageing.fold(self.spent.saturating_add(self.ceiling), u64::saturating_add)
    }
}
