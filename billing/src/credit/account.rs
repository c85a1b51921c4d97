//! One tenant's credit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tollgate_model::{Currency, Money, Timestamp};
use tollgate_proto::state::v1::{CreditEventKind, CreditEventRow};

/// What a tenant can have at once: a purse counts pico-units in 64 bits, with some to spare for what is being billed.
pub const MAX_BALANCE: Money = Money(18_000_000 * Money::ONE.0);

/// The end of a grant that has none.
const NEVER: u64 = u64::MAX;

/// Where a grant is in the order in which grants are spent: what ends first, then the smallest, then the oldest.
pub(super) type Turn = (u64, i128, u64);

/// A grant of which something is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenGrant {
    /// The event that made it.
    pub event: Arc<CreditEventRow>,
    /// What it was at first.
    pub amount: Money,
    /// What is left.
    pub rest: Money,
    /// When that is taken off.
    pub expires: Option<Timestamp>,
}

/// Sums of one tenant, in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) currency: Currency,
    pub(super) granted: i128,
    pub(super) spent: i128,
    pub(super) expired: i128,
    pub(super) corrected: i128,
    pub(super) pending: i128,
    pub(super) owed: i128,
}

impl Sums {
    pub(super) fn new(currency: Currency) -> Self {
        Self { currency, granted: 0, spent: 0, expired: 0, corrected: 0, pending: 0, owed: 0 }
    }
}

/// One tenant's credit, with its history.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) sums: Sums,
    /// What is left of each grant.
    pub(super) rests: BTreeMap<Turn, i128>,
    pub(super) events: BTreeMap<u64, Arc<CreditEventRow>>,
    /// Which event a key has made. Never iterated.
    pub(super) keys: HashMap<String, u64>,
    /// The event that tells of the last day on which something was spent.
    pub(super) day: u64,
}

/// What a change of an account has touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) grants: Vec<Turn>,
    pub(super) events: Vec<u64>,
}

impl Account {
    pub(super) fn new(currency: Currency) -> Self {
        Self {
            sums: Sums::new(currency),
            rests: BTreeMap::new(),
            events: BTreeMap::new(),
            keys: HashMap::new(),
            day: 0,
        }
    }

    /// What is left of all grants.
    pub(super) fn rest(&self) -> i128 {
        self.rests.values().sum()
    }

    /// Something is there, owed, or to be taken off: in this currency and in no other.
    pub(super) fn is_bound(&self) -> bool {
        !self.rests.is_empty() || self.sums.owed > 0 || self.sums.pending > 0
    }

    /// The first moment at which something is to be taken off for its time.
    pub(super) fn first_end(&self) -> Option<u64> {
        self.rests.keys().next().map(|turn| turn.0).filter(|end| *end < NEVER)
    }

    pub(super) fn last_event(&self) -> u64 {
        self.events.keys().next_back().copied().unwrap_or(0)
    }

    pub(super) fn record(&mut self, event: CreditEventRow, touched: &mut Touched) {
        let number = event.event;
        if event.kind() == CreditEventKind::Spent {
            self.day = number;
        }
        if !event.key.is_empty() && is_asked_for(event.kind()) {
            self.keys.insert(event.key.clone(), number);
        }
        self.events.insert(number, Arc::new(event));
        touched.events.push(number);
    }

    /// A new grant has its turn.
    pub(super) fn add(&mut self, event: u64, amount: i128, expires_us: u64, touched: &mut Touched) {
        let turn = turn(event, amount, expires_us);
        self.sums.granted += amount;
        self.rests.insert(turn, amount);
        touched.grants.push(turn);
    }

    /// Takes up to `amount` from grants, in their order; how much that was.
    pub(super) fn draw(&mut self, amount: i128, touched: &mut Touched) -> i128 {
        let mut left = amount;
        while left > 0
            && let Some(mut first) = self.rests.first_entry()
        {
            let drawn = left.min(*first.get());
            left -= drawn;
            touched.grants.push(*first.key());
            *first.get_mut() -= drawn;
            if *first.get() == 0 {
                first.remove();
            }
        }
        amount - left
    }

    /// Takes off what is left of grants whose end has come, as far as that is free: by event, how much.
    pub(super) fn expire(&mut self, now: u64, free: i128, touched: &mut Touched) -> Vec<(u64, i128)> {
        let (mut left, mut expired) = (free, Vec::new());
        while left > 0
            && let Some(mut first) = self.rests.first_entry().filter(|first| first.key().0 <= now)
        {
            let taken = left.min(*first.get());
            left -= taken;
            let turn = *first.key();
            touched.grants.push(turn);
            expired.push((turn.2, taken));
            *first.get_mut() -= taken;
            if *first.get() == 0 {
                first.remove();
            }
        }
        let all = free - left;
        self.sums.expired += all;
        self.sums.granted -= all;
        expired
    }

    /// Takes off what corrections have to, as far as that is free; how much.
    pub(super) fn correct(&mut self, free: i128, touched: &mut Touched) -> i128 {
        let taken = self.draw(self.sums.pending.min(free), touched);
        self.sums.pending -= taken;
        self.sums.corrected += taken;
        self.sums.granted -= taken;
        taken
    }

    pub(super) fn open(&self) -> impl Iterator<Item = OpenGrant> {
        self.rests.iter().filter_map(|(&(end, amount, event), rest)| {
            Some(OpenGrant {
                event: Arc::clone(self.events.get(&event)?),
                amount: Money(amount),
                rest: Money(*rest),
                expires: (end < NEVER).then_some(Timestamp(end)),
            })
        })
    }
}

/// Whether a key names events of this kind: those that somebody has asked for.
pub(super) fn is_asked_for(kind: CreditEventKind) -> bool {
    matches!(kind, CreditEventKind::Granted | CreditEventKind::Corrected)
}

pub(super) fn turn(event: u64, amount: i128, expires_us: u64) -> Turn {
    (if expires_us == 0 { NEVER } else { expires_us }, amount, event)
}
