//! The gateway as its owner sees it: construct, give it configurations, serve listeners, stop.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Notify, watch},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tollgate_billing::PriceBook;
use tollgate_model::{ConfigView, Kind, Name, Timestamp};
use tollgate_quota::Desk;

use crate::{
    AccessLog, Accounts, Entrance, GatewayConfig,
    ai::{ModelLists, Paces},
    compiled::Compiled,
    hops::Hop,
    metrics::Metrics,
    overload::Overload,
    service::Mirrors,
    tls::{Expiry, Host, Served},
    tracked::Tracked,
    upstream::{Checkers, Figures, Means, Place, Pool, Resolvers},
};

/// The data plane of one node. A clone is the same gateway.
///
/// A request keeps the configuration that it began with, whatever is given to [`set_view`](Gateway::set_view) meanwhile.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// The stages of a stop, each to be cancelled by the owner, in this order. All of them may be shared by several listeners.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Serve on, new connections too, but tell clients to go elsewhere: `connection: close`, GOAWAY.
    pub draining: CancellationToken,
    /// Accept nothing more, close idle connections, let requests and streams in flight end.
    pub stop: CancellationToken,
    /// Cut what is left. Usage counted so far is settled.
    pub abort: CancellationToken,
}

/// What all exchanges of a gateway share.
pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) desk: Desk,
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) pool: Pool,
    pub(crate) hop: Hop,
    pub(crate) metrics: Metrics,
    pub(crate) model_lists: ModelLists,
    pub(crate) paces: Paces,
    pub(crate) in_flight: AtomicUsize,
    /// That have not ended.
    pub(crate) listeners: AtomicUsize,
    pub(crate) overload: Arc<Overload>,
    /// Sees whether the data plane is late.
    _watch: AbortOnDropHandle<()>,
    /// hyper's own tasks: HTTP/2 streams, upstream connections.
    pub(crate) tasks: TaskTracker,
    /// What is read of answers whose callers have left, so that it is settled at what it is. Bounded by time, each.
    pub(crate) last_words: TaskTracker,
    /// Copies of requests.
    pub(crate) mirrors: Mirrors,
    /// Those who ask upstreams whether they are well.
    checkers: Checkers,
    /// Those who ask for the addresses of upstreams.
    resolvers: Resolvers,
    /// The zones that get no new requests. Kept while what is served changes, so that nothing is compiled by an older set.
    drained: Mutex<BTreeSet<Name>>,
    /// This node's zone is one of them: callers are told to go elsewhere.
    pub(crate) leaving: watch::Sender<bool>,
    current: ArcSwap<Compiled>,
    /// Told of every new configuration.
    pub(crate) changed: Notify,
}

impl Gateway {
    /// A gateway that serves `view`, whose calls are billed by `prices`, reserves and settles at `desk`, looks limits up in `accounts` where it reserves
    /// nothing, and registers its metrics (without the `tollgate_` prefix) in `registry`. Must be called within a tokio
    /// runtime, once a rustls crypto provider is installed.
    #[must_use]
    pub fn new(
        config: GatewayConfig,
        view: Arc<ConfigView>,
        prices: Arc<PriceBook>,
        desk: Desk,
        accounts: Arc<dyn Accounts>,
        registry: &mut Registry,
    ) -> Self {
        let (tasks, drained) = (TaskTracker::new(), BTreeSet::new());
        let place = Place { zone: &config.zone, drained: &drained };
        let runtime = config.runtime.clone().unwrap_or_else(Handle::current);
        let metrics = Metrics::register(registry);
        let (in_flight, overload) = (AtomicUsize::new(0), Overload::new(config.bounds, &metrics));
        let watch = overload.watch(&runtime);
        let connections = Tracked::on(tasks.clone(), runtime.clone());
        let pool = Pool::new(&config, Means::new(connections, &overload, config.bounds));
        let current = ArcSwap::from_pointee(Compiled::new(view, prices, (place, &pool), None));
        let resolvers = Resolvers::new(config.dns.clone(), runtime.clone());
        let (model_lists, changed, last_words) = (ModelLists::new(), Notify::new(), TaskTracker::new());
        let shared = Shared {
            config,
            desk,
            accounts,
            pool,
            hop: Hop::new(),
            metrics,
            model_lists,
            paces: Paces::default(),
            in_flight,
            listeners: AtomicUsize::new(0),
            overload,
            _watch: watch,
            tasks,
            last_words,
            mirrors: Mirrors::new(),
            checkers: Checkers::new(runtime),
            resolvers,
            drained: Mutex::new(drained),
            leaving: watch::Sender::new(false),
            current,
            changed,
        };
        let shared = Arc::new(shared);
        shared.checkers.follow(&shared, &shared.current());
        shared.resolvers.follow(&shared, &shared.current());
        registry.register_collector(Box::new(Figures(Arc::downgrade(&shared))));
        registry.register_collector(Box::new(Expiry(Arc::downgrade(&shared))));
        Self { shared }
    }

    /// Serves new requests by `view` from now on. Compiles its routing table first, a few milliseconds for 10,000
    /// routes: call it off the hot path, and within a tokio runtime. One call waits for another. `prices` are those of the view's index, or of a later one.
    pub fn set_view(&self, view: Arc<ConfigView>, prices: Arc<PriceBook>) {
        let drained = self.shared.drained.lock();
        let place = Place { zone: &self.shared.config.zone, drained: &drained };
        let compiled = Compiled::new(view, prices, (place, &self.shared.pool), Some(&self.shared.current()));
        let compiled = Arc::new(compiled);
        self.shared.checkers.follow(&self.shared, &compiled);
        self.shared.resolvers.follow(&self.shared, &compiled);
        self.shared.current.store(compiled);
        self.shared.changed.notify_waiters();
    }

    /// These zones get no new requests from now on, whatever configuration a request has; all others do. Where this node's own is
    /// one of them its callers are told to go elsewhere, and served as long as they don't. Waits for
    /// [`set_view`](Gateway::set_view).
    pub fn set_drained(&self, zones: BTreeSet<Name>) {
        let mut drained = self.shared.drained.lock();
        self.shared.current().endpoints().for_each(|it| it.follow(&zones));
        self.shared.leaving.send_replace(zones.contains(&*self.shared.config.zone));
        *drained = zones;
    }

    /// The configuration that new requests are served by.
    #[must_use]
    pub fn view(&self) -> Arc<ConfigView> {
        Arc::clone(&self.shared.current().view)
    }

    /// Serves a bound listener: HTTP/1.1, and HTTP/2 with prior knowledge, on the same port. Ends when
    /// `shutdown.stop` was cancelled and the last connection has ended, at the latest soon after `shutdown.abort`.
    pub fn serve(&self, listener: TcpListener, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        self.serve_from(listener, Entrance::default(), shutdown)
    }

    /// The same for connections that begin with something else.
    pub fn serve_from(
        &self,
        listener: TcpListener,
        entrance: Entrance,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.shared.listeners.fetch_add(1, Ordering::Relaxed);
        crate::listener::run(Arc::clone(&self.shared), listener, entrance, shutdown)
    }

    /// The certificates that clients over TLS are served, and when each ends. The node's own is `[https]`.
    #[must_use]
    pub fn certificates(&self) -> Vec<(Name, Timestamp)> {
        self.shared.certificates().iter().map(|served| (served.name.clone(), served.ends)).collect()
    }

    /// Where exchanges get a line each, if anywhere.
    #[must_use]
    pub fn access_log(&self) -> Option<&AccessLog> {
        self.shared.config.access_log.as_ref()
    }

    /// What new requests are served by, with all that follows from it.
    pub(crate) fn compiled(&self) -> Arc<Compiled> {
        self.shared.current()
    }

    /// Requests whose answer is not out yet, streams included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Shared {
    /// The configuration for one exchange, taken once.
    pub(crate) fn current(&self) -> Arc<Compiled> {
        self.current.load_full()
    }

    /// A name of this upstream has other addresses: they are its endpoints from now on.
    pub(crate) fn renew(self: &Arc<Self>, kind: Kind, name: &Name) {
        let drained = self.drained.lock();
        let place = Place { zone: &self.config.zone, drained: &drained };
        let Some(compiled) = self.current().renewed(kind, name, place) else { return };
        let compiled = Arc::new(compiled);
        self.checkers.follow(self, &compiled);
        self.current.store(compiled);
    }

    /// What a client is served that names this host, or none.
    pub(crate) fn certificate_for(&self, host: Option<&str>) -> Option<Arc<Served>> {
        let compiled = self.current();
        match host.and_then(|host| compiled.certificates.find(&host.to_ascii_lowercase())) {
            Some(Host::Served(served)) => Some(Arc::clone(served)),
            Some(Host::Closed { .. }) => None,
            None => self.config.certificate.as_ref().map(|certificate| certificate.served()),
        }
    }

    /// All that clients are served, the node's own first.
    pub(crate) fn certificates(&self) -> Vec<Arc<Served>> {
        let own = self.config.certificate.iter().map(|certificate| certificate.served());
        own.chain(self.current().certificates.all().cloned()).collect()
    }
}
