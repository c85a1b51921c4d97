//! The replicated state of a node: nine pure parts behind one [`StateMachine`], changed by the log and nothing else.
//!
//! | rows begin with | part |
//! | --- | --- |
//! | `a` | budgets, and who is told of them (`billing::AlertBook`) |
//! | `c` | resources (`model::Catalog`) |
//! | `k` | credit (`billing::CreditBook`) |
//! | `l` | how far the billing ledger has come, and its books (`billing::ledger::State`) |
//! | `p` | prices, with their pasts (`billing::PriceBook`) |
//! | `q` | limits' accounts (`quota::Ledger`) |
//! | `t` | admin tokens (`admin::TokenTable`) |
//! | `u` | usage aggregates (`billing::UsageTable`) |
//! | `z` | zones that are drained (`admin::DrainedZones`) |
//!
//! The records of the billing ledger are no rows: they go to files of their own, which are durable before any rows that come after
//! them (`StateMachine::files`).
//!
//! Readers get immutable values (`config`, `tokens`) or a short look under a read lock (`ledger`, `usage`, `credits`); `apply` holds the
//! write lock for one command at a time and never waits for anything.

mod alerts;
mod billing;
mod clock;
mod credits;
mod drains;
mod gate;
mod money;
mod months;
mod pricing;
mod rows;
mod rules;
mod zones;

use std::{
    io,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;
use tollgate_admin::{DrainedZones, TokenTable, backplane::ConfigState};
use tollgate_billing::{
    AlertBook, Came, CreditBook, PriceBook, UsageTable,
    ledger::{self, Keeper},
};
use tollgate_consensus::{Applied, Changes, Files, Fingerprint, Gate, Image, Row, StateMachine, fingerprint_of};
use tollgate_model::{Catalog, LogIndex, Timestamp};
use tollgate_proto::state::v1::{
    Command, CommandAsked, ConfigChange, ConfigOutcome, ConfigProblem, LimitReset, NodeLost, QuotaBatch, TokenChange,
    command,
};
use tollgate_quota::{Desk, Ledger, NodeOpen, compact};
use tracing::{info, warn};

pub(crate) use self::months::labels;
use self::{clock::LogClock, rows::Part, zones::CatalogZones};

/// What readers of the replicated state hold.
pub(crate) struct Shared {
    ledger: RwLock<Ledger>,
    /// Of money.
    books: Arc<Keeper>,
    usage: RwLock<UsageTable>,
    credits: RwLock<CreditBook>,
    alerts: RwLock<AlertBook>,
    tokens: ArcSwap<TokenTable>,
    drained: watch::Sender<Arc<DrainedZones>>,
    config: watch::Sender<ConfigState>,
    /// Log time of the last command applied.
    log_time: watch::Sender<Timestamp>,
    clock: LogClock,
    prices: ArcSwap<PriceBook>,
    /// Is shown the ledger after each entry that may concern its leases.
    desk: OnceLock<Desk>,
}

impl Shared {
    /// The configuration as this node has applied it, and every later one.
    pub(crate) fn config(&self) -> watch::Receiver<ConfigState> {
        self.config.subscribe()
    }

    /// The admin tokens as this node has applied them.
    pub(crate) fn tokens(&self) -> Arc<TokenTable> {
        self.tokens.load_full()
    }

    /// A short look at the limits' accounts. Applying waits meanwhile: take an image for anything longer.
    pub(crate) fn ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.ledger.read())
    }

    /// The billing ledger as this node has applied it, and its files.
    pub(crate) fn books(&self) -> &Arc<Keeper> {
        &self.books
    }

    /// From here on this desk learns of its leases from what is applied. One desk for the life of the process.
    pub(crate) fn show_to(&self, desk: Desk) {
        let _ = self.desk.set(desk);
    }

    /// Changes the ledger, and shows it to the desk while it stands so.
    fn change_ledger<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.ledger.write();
        let changed = change(&mut ledger);
        let news = ledger.take_news();
        if let Some(desk) = self.desk.get() {
            desk.follow(&ledger, &news);
        }
        changed
    }

    /// A look at the usage aggregates.
    pub(crate) fn usage<T>(&self, look: impl FnOnce(&UsageTable) -> T) -> T {
        look(&self.usage.read())
    }

    /// A look at the credit of all tenants.
    pub(crate) fn credits<T>(&self, look: impl FnOnce(&CreditBook) -> T) -> T {
        look(&self.credits.read())
    }

    /// What is wrong with a change of the configuration, for what tenants were billed and the credit that they have.
    pub(crate) fn problems(&self, change: &ConfigChange) -> Vec<ConfigProblem> {
        let mut problems = self.credits(|book| book.problems(change));
        let catalog = Arc::clone(&self.config.borrow().catalog);
        problems.extend(self.books.look(|state| state.periods().problems(&catalog, change)));
        problems
    }

    /// A look at the budgets of all tenants.
    pub(crate) fn alerts<T>(&self, look: impl FnOnce(&AlertBook) -> T) -> T {
        look(&self.alerts.read())
    }

    /// Every price, with its past, as of the last configuration change or later.
    pub(crate) fn prices(&self) -> Arc<PriceBook> {
        self.prices.load_full()
    }

    /// Log time by now, as far as this node knows.
    pub(crate) fn log_time_now(&self) -> Option<Timestamp> {
        self.clock.now()
    }

    /// Log time of the last command applied.
    pub(crate) fn log_time(&self) -> Timestamp {
        *self.log_time.borrow()
    }
}

/// The state machine that consensus drives.
pub(crate) struct ReplicatedState {
    catalog: Catalog,
    /// Where its tenants live.
    zones: CatalogZones,
    prices: PriceBook,
    shared: Arc<Shared>,
    /// When the entry that is applied was proposed, by a clock that never runs fast: what the ledger ages by.
    stamp: u64,
}

impl ReplicatedState {
    /// The same with the billing ledger in `dir`.
    #[cfg(test)]
    pub(crate) fn new(dir: std::path::PathBuf) -> (ReplicatedState, Arc<Shared>) {
        Self::with(Keeper::new(dir))
    }

    /// An empty state, and what its readers hold.
    pub(crate) fn with(books: Keeper) -> (ReplicatedState, Arc<Shared>) {
        let config = ConfigState { index: LogIndex(0), catalog: Arc::new(Catalog::default()) };
        let shared = Arc::new(Shared {
            ledger: RwLock::new(bounded(Ledger::new())),
            books: Arc::new(books),
            usage: RwLock::new(UsageTable::default()),
            credits: RwLock::new(CreditBook::default()),
            alerts: RwLock::new(AlertBook::default()),
            tokens: ArcSwap::from_pointee(TokenTable::default()),
            drained: watch::Sender::default(),
            config: watch::Sender::new(config),
            prices: ArcSwap::default(),
            log_time: watch::Sender::new(Timestamp(0)),
            clock: LogClock::default(),
            desk: OnceLock::new(),
        });
        let (catalog, prices) = (Catalog::default(), PriceBook::default());
        (
            ReplicatedState { catalog, zones: CatalogZones::default(), prices, shared: Arc::clone(&shared), stamp: 0 },
            shared,
        )
    }

    fn change_config(&mut self, at: LogIndex, now: Timestamp, change: &ConfigChange, changes: &mut Changes) -> Vec<u8> {
        let problems = self.shared.problems(change);
        if !problems.is_empty() {
            return ConfigOutcome { problems, ..ConfigOutcome::default() }.encode_to_vec();
        }
        let decision = self.catalog.apply(at, change);
        Part::Catalog.collect(decision.rows(), changes);
        if !decision.changes.is_empty() {
            let mut quota = Vec::new();
            if let Some(zones) = self.zones.after(&self.catalog, &decision.changes) {
                self.zones = zones;
            }
            let (of, changed, when) =
                ((&self.catalog, &self.zones), &decision.changes, rules::When { at, now, stamp: self.stamp });
            self.shared.change_ledger(|ledger| rules::follow(ledger, of, changed, when, &mut quota));
            Part::Quota.collect(quota, changes);
            let mut prices = Vec::new();
            pricing::follow(&mut self.prices, &decision.changes, at, now, &mut prices);
            Part::Prices.collect(prices, changes);
            self.change_credit(Came { at, now }, changes, |both, catalog| both.follow(catalog, &decision.changes));
            months::follow(&self.shared.books, &decision.changes);
            let mut alerts = Vec::new();
            let of = (&self.catalog, &*self.shared.books);
            alerts::follow(&mut self.shared.alerts.write(), of, &decision.changes, Came { at, now }, &mut alerts);
            Part::Alerts.collect(alerts, changes);
            self.publish_config(at);
        }
        decision.outcome.encode_to_vec()
    }

    fn publish_config(&self, index: LogIndex) {
        // First: whoever sees the configuration finds its prices.
        self.shared.prices.store(Arc::new(self.prices.clone()));
        self.shared.config.send_replace(ConfigState { index, catalog: Arc::new(self.catalog.clone()) });
    }

    fn apply_quota(&mut self, at: LogIndex, now: Timestamp, batch: &QuotaBatch, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let (unknown, applied) = self.shared.change_ledger(|ledger| {
            ledger.stamp(self.stamp);
            let applied = ledger.apply(at, now, batch, &mut rows);
            (ledger.take_unknown(now, &mut rows), applied)
        });
        Part::Quota.collect(rows.drain(..), changes);
        self.bill_all(Came { at, now }, &unknown, applied.used, changes);
        applied.outcome.encode_to_vec()
    }

    fn open_node(&mut self, at: LogIndex, now: Timestamp, open: &NodeOpen, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let outcome = self.shared.change_ledger(|ledger| {
            ledger.stamp(self.stamp);
            ledger.open(at, now, open, &mut rows)
        });
        Part::Quota.collect(rows.drain(..), changes);
        self.shared.books.set_zone(open.node, &open.zone, &mut rows);
        Part::Ledger.collect(rows, changes);
        outcome.encode_to_vec()
    }

    fn reset_limit(&mut self, now: Timestamp, reset: &LimitReset, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let outcome = self.shared.change_ledger(|ledger| {
            ledger.stamp(self.stamp);
            ledger.reset(now, reset, &mut rows)
        });
        Part::Quota.collect(rows, changes);
        if let (Some(before), "") = (&outcome.before, outcome.problem.as_str()) {
            let account = reset.key.join("/");
            info!(token = %reset.actor, limit = %reset.limit, account, used = before.used, overrun = before.overrun, "limit reset");
            self.reopen(reset);
        }
        outcome.encode_to_vec()
    }

    /// An account that did not add up has been mended; what still does not is closed again by the next audit.
    fn reopen(&self, reset: &LimitReset) {
        let key = (!reset.overflow).then_some(reset.key.as_slice());
        if self.shared.desk.get().is_some_and(|desk| desk.end_quarantine(&reset.limit, key)) {
            warn!(limit = %reset.limit, account = reset.key.join("/"), "an account that did not add up was reset: it is open again");
        }
    }

    fn lose_node(&mut self, now: Timestamp, lost: &NodeLost, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let outcome = self.shared.change_ledger(|ledger| {
            ledger.stamp(self.stamp);
            ledger.lose(now, lost, &mut rows)
        });
        Part::Quota.collect(rows, changes);
        if outcome.problem.is_empty() {
            let (node, incarnation, write_off) = (lost.node, lost.incarnation, lost.write_off().as_str_name());
            let (leases, orphaned, in_ms) = (outcome.leases, outcome.orphaned, outcome.in_us / 1_000);
            info!(token = %lost.actor, node, incarnation, write_off, leases, orphaned, in_ms, "node given up");
        }
        outcome.encode_to_vec()
    }

    fn change_tokens(&mut self, now: Timestamp, change: &TokenChange, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let mut tokens = TokenTable::clone(&self.shared.tokens.load());
        let outcome = tokens.apply(now, change, &mut rows);
        self.shared.tokens.store(Arc::new(tokens));
        Part::Tokens.collect(rows, changes);
        outcome.encode_to_vec()
    }
}

/// A clock that may run fast by one in a hundred, slowed down so that it never does.
const fn unhurried(us: u64) -> u64 {
    us / 101 * 100 + us % 101 * 100 / 101
}

impl StateMachine for ReplicatedState {
    /// # Panics
    /// On a command that this version does not know. To skip it would be to disagree with the other nodes from then on, so
    /// the process ends and says what to do.
    fn apply(&mut self, at: Applied, command: &[u8], changes: &mut Changes) -> Bytes {
        let (index, now) = (LogIndex(at.index), Timestamp(at.time_us));
        self.stamp = unhurried(at.age_us);
        let mut command = Command::decode(command).ok().and_then(|command| command.kind).unwrap_or_else(|| {
            panic!("log entry {index} holds a command that this version does not know: run the version that wrote it or a newer one")
        });
        if let command::Kind::Quota(batch) = &mut command {
            batch.frames.iter_mut().for_each(compact::unpack);
        }
        let outcome = match &command {
            command::Kind::Config(change) => self.change_config(index, now, change, changes),
            command::Kind::Quota(batch) => self.apply_quota(index, now, batch, changes),
            command::Kind::Token(change) => self.change_tokens(now, change, changes),
            command::Kind::LimitReset(reset) => self.reset_limit(now, reset, changes),
            command::Kind::NodeLost(lost) => self.lose_node(now, lost, changes),
            command::Kind::NodeOpen(open) => self.open_node(index, now, open, changes),
            command::Kind::BudgetAlertTried(tried) => self.alert_tried(Came { at: index, now }, tried, changes),
            command::Kind::CreditGrant(grant) => self.grant_credit(Came { at: index, now }, grant, changes),
            command::Kind::Zone(change) => self.change_zone(now, change, changes),
        };
        if !matches!(command, command::Kind::Quota(_)) {
            self.tell_unknown(Came { at: index, now }, changes);
        }
        self.tend_credit(Came { at: index, now }, changes);
        self.close_months(Came { at: index, now }, changes);
        self.shared.log_time.send_replace(now);
        self.shared.clock.set(now);
        outcome.into()
    }

    fn fingerprint(&self, command: &[u8]) -> Fingerprint {
        let asked = CommandAsked::decode(command).unwrap_or_default().asked;
        fingerprint_of(if asked.is_empty() { command } else { &asked })
    }

    fn gate(&self) -> Arc<dyn Gate> {
        Arc::new(gate::CommandGate)
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(LedgerFiles(Arc::clone(&self.shared.books)))
    }

    fn image(&self) -> Image {
        let tokens: Vec<_> = self.shared.tokens.load().rows().collect();
        let ledger = self.shared.ledger.read().image();
        let usage = self.shared.usage.read().clone();
        let credits = self.shared.credits.read().rows();
        let alerts = self.shared.alerts.read().rows();
        let zones: Vec<_> = self.shared.drained_zones().rows().collect();
        Box::new(
            Part::Alerts
                .prefixed(alerts)
                .chain(Part::Catalog.prefixed(self.catalog.rows()))
                .chain(Part::Credits.prefixed(credits))
                .chain(Part::Ledger.prefixed(self.shared.books.look(|state| state.rows())))
                .chain(Part::Prices.prefixed(self.prices.rows()))
                .chain(Part::Quota.prefixed(ledger.into_rows()))
                .chain(Part::Tokens.prefixed(tokens.into_iter()))
                .chain(Part::Usage.prefixed(usage.into_rows()))
                .chain(Part::Zones.prefixed(zones.into_iter())),
        )
    }

    fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()> {
        let parts = rows::split(rows)?;
        self.catalog = Catalog::restore(parts.catalog)?;
        let prices = PriceBook::restore(parts.prices.into_iter().map(io::Result::Ok)).map_err(rows::invalid)?;
        let tokens = TokenTable::restore(parts.tokens).map_err(rows::invalid)?;
        self.zones = CatalogZones::of(&self.catalog);
        let mut ledger = bounded(Ledger::restore(parts.quota.into_iter().map(io::Result::Ok)).map_err(rows::invalid)?);
        ledger.live_in(Arc::new(self.zones.clone()));
        let usage = UsageTable::restore(parts.usage.into_iter().map(io::Result::Ok)).map_err(rows::invalid)?;
        let mut books = ledger::State::restore(parts.ledger.into_iter().map(io::Result::Ok)).map_err(rows::invalid)?;
        books.set_terms(months::terms(&self.catalog));
        let credits = CreditBook::restore(parts.credits.into_iter().map(io::Result::Ok)).map_err(rows::invalid)?;
        let drained = DrainedZones::restore(parts.zones).map_err(rows::invalid)?;
        let mut alerts = AlertBook::restore(parts.alerts.into_iter().map(io::Result::Ok)).map_err(rows::invalid)?;
        alerts::set(&mut alerts, &self.catalog);
        self.prices = prices;
        self.shared.books.restore(books);
        *self.shared.alerts.write() = alerts;
        *self.shared.credits.write() = credits;
        self.shared.change_ledger(|current| *current = ledger);
        *self.shared.usage.write() = usage;
        self.shared.tokens.store(Arc::new(tokens));
        self.publish_zones(drained);
        self.publish_config(self.catalog.version());
        Ok(())
    }
}

/// The files of the billing ledger.
struct LedgerFiles(Arc<Keeper>);

impl Files for LedgerFiles {
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// As it is.
#[cfg(not(feature = "failpoints"))]
fn bounded(ledger: Ledger) -> Ledger {
    ledger
}

/// With as few accounts for each limit as the test says, which says the same to all nodes.
#[cfg(feature = "failpoints")]
fn bounded(mut ledger: Ledger) -> Ledger {
    if let Some(most) = std::env::var("TOLLGATE_MAX_ACCOUNTS").ok().and_then(|most| most.parse().ok()) {
        ledger.bound_accounts(most);
    }
    ledger
}

#[cfg(test)]
mod tests;
