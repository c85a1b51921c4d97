//! A node in memory: the log is applied at once, by the same pure parts that a real node has.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tollgate_admin::{
    DrainedZones, TokenTable,
    backplane::{
        AccountPage, AccountQuery, Answer, Backplane, BackplaneError, BillExport, Committed, ConfigState, CreditState,
        ExplainQuery, Membership, MembershipChange, Readiness, RequestId,
    },
};
use tollgate_billing::{
    Came, CreditBook, Query, UsageLine,
    export::{self, Export, ExportError, Source, Tenants, Terms, Text, TextFormat},
    ledger::Keeper,
    period::Months,
};
use tollgate_model::{Catalog, Currency, LogIndex, Money, NodeId, Timestamp};
use tollgate_proto::{
    admin::v1::{LimitAccount, LimitVerdict, NodeStatus},
    state::v1::{
        AccountFigures, BudgetAlertRow, BudgetAlertState, Command, ConfigChange, ConfigProblem, CreditEventRow,
        LedgerRow, LimitReset, LimitResetOutcome, PriceVersionRow, TokenChange, command,
    },
};

/// The tenant that has used nothing.
pub(crate) const IDLE: &str = "idle";

/// What a test may reach into.
pub(crate) struct FakeNode {
    log: Mutex<Log>,
    config: watch::Sender<ConfigState>,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// The next proposal is applied, and its outcome lost.
    pub(crate) lose_next: Mutex<bool>,
    /// The next proposal is refused.
    pub(crate) refuse_next: Mutex<Option<BackplaneError>>,
    /// Seconds since the clock was set.
    passed: AtomicU64,
    /// Members that do not answer.
    pub(crate) silent: Mutex<Vec<u64>>,
    /// Members that stop.
    pub(crate) leaving: Mutex<Vec<u64>>,
    pub(crate) last_change: Mutex<Option<MembershipChange>>,
    /// What can be exported.
    pub(crate) rows: Mutex<Arc<Rows>>,
    pub(crate) ledger: Arc<Keeper>,
    _dir: tempfile::TempDir,
}

/// The rows of a billing ledger.
#[derive(Default)]
pub(crate) struct Rows(pub(crate) Vec<LedgerRow>);

impl Source for Rows {
    fn last(&self) -> u64 {
        self.0.last().map_or(0, |row| row.seq)
    }

    fn before(&self, _: Timestamp) -> std::io::Result<u64> {
        Ok(0)
    }

    fn rows(&self, after_seq: u64, most: usize) -> std::io::Result<Vec<LedgerRow>> {
        Ok(self.0.iter().filter(|row| row.seq > after_seq).take(most).cloned().collect())
    }

    fn price(&self, _: &str, _: u64) -> std::io::Result<Option<PriceVersionRow>> {
        Ok(None)
    }
}

struct NoTerms;

impl Tenants for NoTerms {
    fn terms(&self, _: &str) -> Terms {
        Terms::default()
    }

    fn months(&self, _: &str) -> Months {
        Months::new()
    }

    fn credit(&self, _: Option<&str>, _: Timestamp, _: Timestamp) -> Vec<Arc<CreditEventRow>> {
        Vec::new()
    }
}

#[derive(Default)]
struct Log {
    index: u64,
    catalog: Catalog,
    tokens: TokenTable,
    /// What each request asked for, and what came of it.
    outcomes: HashMap<RequestId, (Bytes, Committed)>,
    resets: Vec<LimitReset>,
    credits: CreditBook,
    zones: DrainedZones,
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        let empty = ConfigState { index: LogIndex(0), catalog: Arc::default() };
        let dir = tempfile::tempdir().expect("there is a place for files");
        Arc::new(Self {
            log: Mutex::default(),
            config: watch::Sender::new(empty),
            readiness: watch::Sender::new(Readiness::Ready),
            lose_next: Mutex::new(false),
            refuse_next: Mutex::new(None),
            passed: AtomicU64::new(0),
            silent: Mutex::new(vec![2, 4]),
            leaving: Mutex::default(),
            last_change: Mutex::new(None),
            rows: Mutex::default(),
            ledger: Arc::new(Keeper::new(dir.path().join("ledger"))),
            _dir: dir,
        })
    }

    /// Time goes by.
    pub(crate) fn pass(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Entries so far.
    pub(crate) fn log_index(&self) -> u64 {
        self.log.lock().unwrap().index
    }

    /// Accounts that were reset.
    pub(crate) fn resets(&self) -> Vec<LimitReset> {
        self.log.lock().unwrap().resets.clone()
    }

    /// Resources that are declared.
    pub(crate) fn config_len(&self) -> usize {
        self.config.borrow().catalog.export().len()
    }

    pub(crate) fn change_token(&self, change: TokenChange) {
        let command = Command { kind: Some(command::Kind::Token(change)), ..Command::default() };
        self.apply(rand::random(), command).expect("a new request id");
    }

    fn apply(&self, id: RequestId, command: Command) -> Result<Committed, BackplaneError> {
        let mut log = self.log.lock().unwrap();
        match log.outcomes.get(&id) {
            Some((asked, first)) if *asked == command.asked => return Ok(first.clone()),
            Some(_) => return Err(BackplaneError::RequestIdUsed("the request id was used for another command".into())),
            None => {}
        }
        if let Some(error) = self.refuse_next.lock().unwrap().take() {
            return Err(error);
        }
        let asked = command.asked;
        log.index += 1;
        let index = LogIndex(log.index);
        let outcome = match command.kind.unwrap() {
            command::Kind::Config(change) => {
                let outcome = log.catalog.apply(index, &change).outcome;
                self.config.send_replace(ConfigState { index, catalog: Arc::new(log.catalog.clone()) });
                outcome.encode_to_vec()
            }
            command::Kind::Token(change) => log.tokens.apply(self.now(), &change, &mut Vec::new()).encode_to_vec(),
            command::Kind::LimitReset(reset) => {
                let figures = AccountFigures { capacity: 10, used: 4, free: 6, ..AccountFigures::default() };
                let outcome = match reset.key.as_slice() {
                    [key] if key.parse::<u8>().is_ok() => LimitResetOutcome {
                        problem: String::new(),
                        before: Some(figures),
                        after: Some(AccountFigures { used: 0, free: 10, ..figures }),
                    },
                    _ => LimitResetOutcome { problem: "there is no such account".into(), ..Default::default() },
                };
                log.resets.push(reset);
                outcome.encode_to_vec()
            }
            command::Kind::CreditGrant(grant) => {
                let (came, usd) = (Came { at: index, now: self.now() }, Currency::parse("USD").unwrap());
                log.credits.grant(came, usd, &grant, &mut Vec::new()).encode_to_vec()
            }
            command::Kind::Zone(change) => {
                let now = self.now();
                log.zones.apply(now, &change, &mut Vec::new()).encode_to_vec()
            }
            other => panic!("the admin plane does not propose {other:?}"),
        };
        let committed = Committed { index, outcome: Bytes::from(outcome) };
        log.outcomes.insert(id, (asked, committed.clone()));
        Ok(committed)
    }
}

impl Backplane for FakeNode {
    fn propose(&self, request_id: RequestId, command: Command, _: Instant) -> Answer<'_, Committed> {
        let committed = self.apply(request_id, command);
        let lost = std::mem::take(&mut *self.lose_next.lock().unwrap());
        let answer = if lost { Err(BackplaneError::Unknown("the leader went away".into())) } else { committed };
        Box::pin(async move { answer })
    }

    fn read_barrier(&self, _: Instant) -> Answer<'_, LogIndex> {
        Box::pin(async { Ok(LogIndex(self.log_index())) })
    }

    fn config(&self) -> watch::Receiver<ConfigState> {
        self.config.subscribe()
    }

    fn problems(&self, change: &ConfigChange) -> Vec<ConfigProblem> {
        self.log.lock().unwrap().credits.problems(change)
    }

    fn tokens(&self) -> Arc<TokenTable> {
        Arc::new(self.log.lock().unwrap().tokens.clone())
    }

    fn drained_zones(&self) -> Arc<DrainedZones> {
        Arc::new(self.log.lock().unwrap().zones.clone())
    }

    fn node_zones(&self) -> Vec<(NodeId, String)> {
        [(1, "az-a"), (2, "az-b"), (4, "az-b")].map(|(node, zone)| (NodeId(node), zone.to_owned())).to_vec()
    }

    fn node(&self) -> NodeId {
        NodeId(1)
    }

    fn now(&self) -> Timestamp {
        let passed = self.passed.load(Ordering::Relaxed);
        Timestamp::parse("2026-11-21T08:00:00Z").unwrap().saturating_add(Duration::from_secs(passed))
    }

    fn accounts(&self, query: &AccountQuery) -> AccountPage {
        if query.tenant.as_deref() == Some(IDLE) {
            return AccountPage::default();
        }
        let first = query.after.parse().unwrap_or(0);
        let account = |n: usize| {
            let (limit, account) = (query.limit.clone().unwrap_or("tpm".into()), n.to_string());
            LimitAccount { limit, key: vec![account.clone()], account, ..LimitAccount::default() }
        };
        if query.account.as_deref() == Some("a/b") {
            let alike = |key: [&str; 2]| LimitAccount { key: key.map(str::to_owned).to_vec(), ..account(0) };
            return AccountPage { accounts: vec![alike(["a", "b"]), alike(["a/b", ""])], ..AccountPage::default() };
        }
        if let Some([one]) = query.key.as_deref() {
            let found = one.parse().ok().filter(|n| *n < 25).map(account);
            return AccountPage { accounts: found.into_iter().collect(), ..AccountPage::default() };
        }
        if let Some(one) = &query.account {
            let found = one.parse().ok().filter(|n| *n < 25).map(account);
            return AccountPage { accounts: found.into_iter().collect(), ..AccountPage::default() };
        }
        let accounts: Vec<_> = (first..25).take(query.max).map(account).collect();
        let next = first + accounts.len();
        AccountPage {
            accounts,
            next: if next < 25 { next.to_string() } else { String::new() },
            ..AccountPage::default()
        }
    }

    fn explain(&self, query: &ExplainQuery) -> Result<Vec<LimitVerdict>, String> {
        if query.consumer != "alice" {
            return Err(format!("there is no consumer `{}`", query.consumer));
        }
        Ok(vec![LimitVerdict { verdict: "admits".into(), ..LimitVerdict::default() }])
    }

    fn ledger(&self) -> Arc<Keeper> {
        Arc::clone(&self.ledger)
    }

    fn usage(&self, query: &Query) -> Vec<UsageLine> {
        if query.tenant.as_deref() == Some(IDLE) {
            let sum =
                UsageLine { by: Vec::new(), currency: String::new(), totals: tollgate_billing::Totals::default() };
            return if query.by.is_empty() { vec![sum] } else { Vec::new() };
        }
        let by = query.by.iter().map(|_| query.tenant.clone().unwrap_or_default()).collect();
        vec![UsageLine {
            by,
            currency: String::new(),
            totals: tollgate_billing::Totals { requests: 1, ..Default::default() },
        }]
    }

    fn export(&self, query: export::Query, cursor: &str) -> Result<BillExport, ExportError> {
        let format = match query.format {
            export::Format::Csv => TextFormat::Csv,
            _ => TextFormat::Jsonl,
        };
        let encoder = Box::new(Text::new(format, query.schema.columns()));
        let rows = Arc::clone(&self.rows.lock().unwrap());
        Ok(Box::new(Export::open(rows, Arc::new(NoTerms), query, cursor, encoder)?))
    }

    /// One is held by a call on node 1; of `globex` one more is with node 2, which does not answer, and one with a node that is no
    /// member any more.
    fn credit(&self, tenant: &str, away: &[u64]) -> Option<CreditState> {
        let view = self.log.lock().unwrap().credits.view(tenant)?;
        let holders = if tenant == "globex" { vec![1, 2, 7] } else { vec![1] };
        let suspense = holders.iter().filter(|node| away.contains(node)).count();
        let suspense = Money(Money::ONE.0 * i128::try_from(suspense).unwrap());
        Some(CreditState { view, held: Money::ONE, suspense, holders })
    }

    fn credit_history(&self, tenant: &str, before: Option<u64>, max: usize) -> Vec<Arc<CreditEventRow>> {
        self.log.lock().unwrap().credits.history(tenant, before, max)
    }

    fn budget_alerts(&self, tenant: Option<&str>, before: Option<u64>, max: usize) -> Vec<Arc<BudgetAlertRow>> {
        let all = (1..=5_u64).rev().filter(|seq| before.is_none_or(|before| *seq < before));
        let alert = |seq: u64| BudgetAlertRow {
            seq,
            id: format!("msg_{seq}"),
            tenant: if seq.is_multiple_of(2) { "globex" } else { "acme" }.into(),
            month: 2026 * 12 + 10,
            currency: "USD".into(),
            percent: 80,
            budget: (100 * Money::ONE.0).to_be_bytes().to_vec(),
            billed: (81 * Money::ONE.0 / 2 * 2 + 1).to_be_bytes().to_vec(),
            raised_us: self.now().0,
            state: if seq == 5 { BudgetAlertState::Pending } else { BudgetAlertState::Delivered }.into(),
            tries: u32::from(seq != 5),
            tried_us: self.now().0,
            ..BudgetAlertRow::default()
        };
        all.map(alert).filter(|alert| tenant.is_none_or(|it| it == alert.tenant)).take(max).map(Arc::new).collect()
    }

    fn members(&self, _: Instant) -> Answer<'_, Vec<NodeStatus>> {
        let (silent, leaving) = (self.silent.lock().unwrap().clone(), self.leaving.lock().unwrap().clone());
        let node = |(NodeId(id), zone)| {
            let state = match (silent.contains(&id), leaving.contains(&id)) {
                (true, _) => "unreachable",
                (false, true) => "draining",
                (false, false) => "ready",
            };
            NodeStatus { id, zone, state: state.to_owned(), served_index: id, ..NodeStatus::default() }
        };
        let members = self.node_zones().into_iter().map(node).collect();
        Box::pin(async move { Ok(members) })
    }

    fn change_membership(&self, _: RequestId, change: MembershipChange, _: Instant) -> Answer<'_, Membership> {
        *self.last_change.lock().unwrap() = Some(change);
        Box::pin(async { Ok(Membership { index: LogIndex(self.log_index()), leader: Some(NodeId(1)) }) })
    }

    fn incarnation(&self, _: NodeId) -> Option<u64> {
        None
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}
