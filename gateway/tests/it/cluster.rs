//! A gateway with a ledger of its own: what a node composes, without consensus.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::task::TaskTracker;
use tollgate_billing::{Changes, PriceBook};
use tollgate_gateway::{Accounts, Entrance, Gateway, GatewayConfig, Shutdown};
use tollgate_model::{
    Algorithm, Catalog, Checked, ConfigView, Currency, Kind, LogIndex, Name, NodeId, TimeZone, Timestamp, Unit, Window,
    purse_of, secret, secret::ClusterKey, yaml,
};
use tollgate_proto::{
    state::v1::{ConfigChange, PutResource, record},
    v1::resource::Kind as Raw,
};
use tollgate_quota::{
    Attempt, Attribution, BoxFuture, Charge, Desk, DeskConfig, Durability, Frame, FrameOutcome, HeldPart, Ledger,
    NodeOpen, Outcome, QuotaBatch, Rule, Standing, Uplink, UplinkError, Usage,
    journal::{Forgetful, Journal},
    ledger::{AccountView, Query},
};

/// Who calls in these tests.
pub(crate) const PAYERS: &str = "
kind: Tenant
metadata: {name: acme}
---
kind: Tenant
metadata: {name: globex}
---
kind: Consumer
metadata: {name: alice}
spec: {tenant: acme, credentials: [{apiKey: sk-alice}]}
---
kind: Consumer
metadata: {name: bob}
spec: {tenant: globex, credentials: [{apiKey: sk-bobby}]}
---
";

/// One settled request.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) usage: Usage,
    pub(crate) outcome: Outcome,
    pub(crate) provider: String,
    pub(crate) model: String,
    pub(crate) provider_model: String,
    pub(crate) earlier: Vec<Attempt>,
}

/// The log, in memory: what is proposed is applied at once.
pub(crate) struct Log {
    state: Mutex<State>,
    desk: OnceLock<Desk>,
}

impl Log {
    /// Shows the desk what was applied.
    fn show(&self, ledger: &mut Ledger) {
        let news = ledger.take_news();
        if let Some(desk) = self.desk.get() {
            desk.follow(ledger, &news);
        }
    }
}

struct State {
    ledger: Ledger,
    catalog: Catalog,
    prices: PriceBook,
    index: u64,
    now: Timestamp,
    settled: Vec<Settled>,
    /// Whose requests the log was told of with what it holds for them.
    held_for: Vec<Attribution>,
    reachable: bool,
}

impl Uplink for Log {
    fn propose(&self, frame: Frame, _deadline: Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            if !state.reachable {
                return Err(UplinkError::NotDone("no leader".into()));
            }
            state.index += 1;
            let State { ledger, index, now, settled, held_for, .. } = &mut *state;
            held_for.extend(frame.records.iter().filter_map(|record| match record.kind.as_ref()? {
                record::Kind::Hold(hold) => hold.attribution.as_deref().cloned(),
                _ => None,
            }));
            let batch = QuotaBatch { frames: vec![frame] };
            let mut changes = Vec::new();
            let mut applied = ledger.apply(LogIndex(*index), *now, &batch, &mut changes);
            settled.extend(applied.used.iter().map(|used| Settled {
                usage: *used.usage,
                outcome: used.outcome,
                provider: used.attribution.provider.clone(),
                model: used.attribution.model.clone(),
                provider_model: used.attribution.provider_model.clone(),
                earlier: used.attribution.earlier.clone(),
            }));
            let outcome = applied.outcome.frames.remove(0);
            self.show(ledger);
            Ok(outcome)
        })
    }
}

impl Accounts for Log {
    fn log_time(&self) -> Option<Timestamp> {
        Some(self.state.lock().now)
    }

    fn standings(&self, accounts: &[(Name, Vec<String>)]) -> Vec<Standing> {
        let state = self.state.lock();
        accounts.iter().filter_map(|(limit, key)| state.ledger.peek(state.now, limit, key)).collect()
    }

    fn unused(&self, limit: &Name, key: &[String]) -> Option<u64> {
        let state = self.state.lock();
        let account = state.ledger.account(state.now, limit, Some(key))?;
        Some(account.capacity.saturating_sub(account.used))
    }
}

/// A running gateway.
pub(crate) struct Cluster {
    pub(crate) address: SocketAddr,
    /// Over TLS.
    pub(crate) tls: SocketAddr,
    pub(crate) gateway: Gateway,
    pub(crate) shutdown: Shutdown,
    pub(crate) log: Arc<Log>,
    registry: Registry,
    key: ClusterKey,
}

impl Cluster {
    /// Serves `resources` (YAML) to the callers above.
    pub(crate) async fn start(resources: &str) -> Self {
        Self::start_with(resources, |_| {}).await
    }

    pub(crate) async fn start_with(resources: &str, configure: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::start_on(resources, Arc::new(Forgetful::default()), configure).await
    }

    /// The same with a journal that the test has in hand.
    pub(crate) async fn start_on(
        resources: &str,
        journal: Arc<dyn Journal>,
        configure: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        Self::start_at(resources, journal, |_| {}, configure).await
    }

    /// The same at a desk of its own kind.
    pub(crate) async fn start_at(
        resources: &str,
        journal: Arc<dyn Journal>,
        furnish: impl FnOnce(&mut DeskConfig),
        configure: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let tasks = TaskTracker::new();
        let (key, _) = ClusterKey::generate();
        let mut ledger = Ledger::new();
        let now = Timestamp::from_secs(1_800_000_000);
        let open = NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() };
        ledger.open(LogIndex(1), now, &open, &mut Vec::new());
        let catalog = Catalog::default();
        let prices = PriceBook::default();
        let state = State {
            ledger,
            catalog,
            prices,
            index: 1,
            now,
            settled: Vec::new(),
            held_for: Vec::new(),
            reachable: true,
        };
        let log = Arc::new(Log { state: Mutex::new(state), desk: OnceLock::new() });
        let view = log.put(&key, &format!("{PAYERS}{resources}"), None);
        let uplink = Arc::clone(&log) as Arc<dyn Uplink>;
        let mut desk_config = DeskConfig::new(NodeId(1), 1);
        furnish(&mut desk_config);
        let desk = Desk::spawn(desk_config, uplink, journal, &tasks);
        log.desk.set(desk.clone()).expect("it is the first");
        let mut config = GatewayConfig::new(Name::new("az-a"));
        // Tests run all that they are on one thread, on machines with much else to do.
        config.bounds.sheds_when_late = false;
        configure(&mut config);
        let mut registry = Registry::default();
        let gateway =
            Gateway::new(config, view, log.prices(), desk, Arc::clone(&log) as Arc<dyn Accounts>, &mut registry);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::default();
        tasks.spawn(gateway.serve(listener, shutdown.clone()));
        let tls_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = tls_listener.local_addr().unwrap();
        tasks.spawn(gateway.serve_from(tls_listener, Entrance { tls: true, proxy_protocol: false }, shutdown.clone()));
        Self { address, tls, gateway, shutdown, log, registry, key }
    }

    /// What `/metrics` would say.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The accounts of one limit.
    pub(crate) fn accounts(&self, limit: &str) -> Vec<AccountView> {
        let state = self.log.state.lock();
        state.ledger.accounts(state.now, &Query { limit: Some(limit), ..Query::default() }).accounts
    }

    /// Whose requests the log was told of with what it holds for them, so far.
    pub(crate) fn held_for(&self) -> Vec<Attribution> {
        self.log.state.lock().held_for.clone()
    }

    /// Gives a tenant so much credit, in pico-units of US dollars.
    pub(crate) fn fund(&self, tenant: &str, capacity: u64) {
        let purse = Rule {
            limit: purse_of(tenant),
            version: LogIndex(0),
            unit: Unit::Cost(Currency::parse("USD").unwrap()),
            per: Vec::new(),
            capacity,
            window: Window::Month,
            algorithm: Algorithm::Never,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        let mut state = self.log.state.lock();
        let now = state.now;
        state.ledger.put_purse(now, purse, &mut Vec::new());
        self.log.show(&mut state.ledger);
    }

    /// Changes the configuration.
    pub(crate) fn apply(&self, resources: &str) {
        let view = self.log.put(&self.key, resources, Some(&self.gateway.view()));
        self.gateway.set_view(view, self.log.prices());
    }

    /// Serves the same configuration as a node that has another cluster key.
    pub(crate) fn change_cluster_key(&self) {
        let state = self.log.state.lock();
        let (other, _) = ClusterKey::generate();
        let (view, _) = ConfigView::compile(LogIndex(state.index), &state.catalog, None, Some(&other));
        self.gateway.set_view(Arc::new(view), Arc::new(state.prices.clone()));
    }

    /// Waits for so many requests to be settled.
    pub(crate) async fn settled(&self, count: usize) -> Vec<Settled> {
        let enough = || self.log.state.lock().settled.len() >= count;
        until("requests to be settled", enough).await;
        self.log.state.lock().settled.clone()
    }

    pub(crate) async fn nothing_held(&self) {
        until("every hold to be given back", || self.log.state.lock().ledger.open_holds() == 0).await;
    }

    /// Holds so much of what alice has of a limit, as other requests would.
    pub(crate) async fn hold(&self, limit: &str, amount: u64) -> HeldPart {
        let version = self.log.state.lock().ledger.rules().iter().find(|it| *it.limit == *limit).map(|it| it.version);
        let version = version.expect("there is such a limit");
        let charge = Charge { limit: Name::new(limit), version, key: vec!["alice".into()], amount };
        let (desk, by) = (self.log.desk.get().expect("it has begun"), Instant::now() + Duration::from_secs(10));
        let held = desk.reserve(vec![charge], Durability::Journal, by, Duration::from_secs(600)).await;
        held.expect("there is as much").dispatch_part()
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.log.state.lock().reachable = reachable;
    }
}

impl Log {
    fn prices(&self) -> Arc<PriceBook> {
        Arc::new(self.state.lock().prices.clone())
    }

    fn put(&self, key: &ClusterKey, resources: &str, previous: Option<&ConfigView>) -> Arc<ConfigView> {
        let resources = resources.replace("kind: ", "apiVersion: tollgate/v1\nkind: ");
        let (parsed, problems) = yaml::parse_and_check("test.yaml", &resources);
        assert!(problems.is_empty(), "{problems}");
        let mut state = self.state.lock();
        state.index += 1;
        let index = LogIndex(state.index);
        let put = |parsed: &yaml::Parsed| {
            let resource = secret::prepare(&parsed.resource, Some(key), None).unwrap();
            PutResource { resource: Some(resource), expected_version: None }
        };
        let change = ConfigChange { puts: parsed.iter().map(put).collect(), ..ConfigChange::default() };
        let decision = state.catalog.apply(index, &change);
        assert_eq!(decision.outcome.problems, []);
        let now = state.now;
        for change in decision.changes.iter().filter(|change| change.kind == Kind::Price) {
            let Some(stored) = &change.after else { continue };
            let Ok(Checked::Price(price)) = tollgate_model::check(&stored.resource) else { panic!("{stored:?}") };
            let Some(Raw::Price(raw)) = &stored.resource.kind else { panic!("{stored:?}") };
            state.prices.put(now, &price, raw, &mut Changes::new());
        }
        let (view, problems) = ConfigView::compile(index, &state.catalog, previous, Some(key));
        assert!(problems.is_empty(), "{problems}");
        for limit in view.limits.values() {
            state.ledger.set_rule(now, Rule::of(limit, TimeZone::UTC), &mut Vec::new());
        }
        self.show(&mut state.ledger);
        Arc::new(view)
    }
}

/// Waits for a condition, with a deadline that says what was waited for.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
