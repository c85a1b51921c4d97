//! All endpoints that are connected to in one way.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use foldhash::HashMap;
use http::{
    HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};
use hyper::rt::Executor as _;
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, MaybeHttpsStream, ResolveServerName};
use hyper_util::client::legacy::connect::Connection as _;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::{
    SendError,
    breaker::Breaker,
    dns::{At, AtKey},
    lane::Lane,
    means::{Means, Tcp},
    place::Place,
};

/// Between two looks at idle connections.
const SWEEP: Duration = Duration::from_secs(1);

/// What connects.
#[derive(Clone)]
pub(super) enum Dial {
    /// Over TLS where the endpoint says so.
    Https(Arc<ClientConfig>, Arc<dyn ResolveServerName + Send + Sync>),
    ClearText,
}

/// What HTTP is offered over TLS (RFC 7301).
#[derive(Debug, Clone, Copy)]
pub(super) enum Offered {
    /// By offering nothing.
    Http1,
    Http2,
    Both,
}

impl Dial {
    /// Over TLS where the endpoint says so, by what `config` has and no protocols yet.
    pub(super) fn https(config: &ClientConfig, offered: Offered) -> Self {
        let mut config = config.clone();
        let protocols: &[&[u8]] = match offered {
            Offered::Http1 => &[],
            Offered::Http2 => &[b"h2"],
            Offered::Both => &[b"h2", b"http/1.1"],
        };
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Self::Https(Arc::new(config), Arc::new(DefaultServerNameResolver::default()))
    }

    /// The same to who is called otherwise than its host.
    pub(super) fn to(self, name: Option<impl ResolveServerName + Send + Sync + 'static>) -> Self {
        match (self, name) {
            (Self::Https(config, _), Some(name)) => Self::Https(config, Arc::new(name)),
            (dial, _) => dial,
        }
    }
}

/// How connections are made.
pub(super) struct Dialer {
    dial: Dial,
    /// Every connection is HTTP/2, and serves several requests at once.
    pub(super) shares: bool,
    /// Of the one upstream that these are for; each endpoint has its own where they are for any.
    pub(super) breaker: Option<Arc<Breaker>>,
    pub(super) means: Means,
}

impl Dialer {
    /// A connection, and whether it agreed on HTTP/2.
    pub(super) async fn connect(&self, endpoint: Uri, at: &At) -> Result<(MaybeHttpsStream<Tcp>, bool), SendError> {
        let io = match self.dial.clone() {
            Dial::Https(config, names) => {
                let mut https = HttpsConnector::new(self.means.connector(false, at), config, false, names);
                let ready = std::future::poll_fn(|cx| https.poll_ready(cx)).await;
                ready.map_err(|error| SendError::of_connecting(&*error))?;
                https.call(endpoint).await
            }
            Dial::ClearText => {
                let mut tcp = self.means.connector(true, at);
                let ready = std::future::poll_fn(|cx| tcp.poll_ready(cx)).await;
                ready.map_err(|error| SendError::of_connecting(&*error))?;
                tcp.call(endpoint).await.map(MaybeHttpsStream::Http)
            }
        };
        let io = io.map_err(|error| SendError::of_connecting(&*error))?;
        let is_http2 = io.connected().is_negotiated_h2();
        Ok((io, is_http2))
    }
}

/// The lanes to these endpoints. One that nothing is left of is forgotten.
pub(super) struct Lanes {
    dialer: Arc<Dialer>,
    of: Mutex<Of>,
}

#[derive(Default)]
struct Of {
    http: HashMap<AtKey, HashMap<String, Arc<Lane>>>,
    https: HashMap<AtKey, HashMap<String, Arc<Lane>>>,
    /// Somebody sweeps.
    swept: bool,
}

impl Lanes {
    /// `shares` says that all connections are HTTP/2.
    pub(super) fn new(dial: Dial, shares: bool, means: Means) -> Arc<Self> {
        Self::within(None, dial, shares, means)
    }

    /// The same, and no more connections than that allows.
    pub(super) fn within(breaker: Option<Arc<Breaker>>, dial: Dial, shares: bool, means: Means) -> Arc<Self> {
        let dialer = Arc::new(Dialer { dial, shares, breaker, means });
        let lanes = Arc::new(Self { dialer, of: Mutex::default() });
        lanes.dialer.breaker.iter().for_each(|breaker| breaker.counts_those_of(&lanes));
        lanes
    }

    /// A place on some connection to `uri`'s endpoint, where that is, for one request. None for what is no absolute URI.
    pub(super) fn place(self: &Arc<Self>, uri: &Uri, at: &At) -> Option<Place> {
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let mut of = self.of.lock();
        let lanes = if *scheme == Scheme::HTTPS { &mut of.https } else { &mut of.http };
        let known = lanes.get(&at.key()).and_then(|lanes| lanes.get(authority.as_str()));
        let lane = match known {
            Some(lane) => Arc::clone(lane),
            None => {
                let endpoint = Uri::builder().scheme(scheme.clone()).authority(authority.clone());
                let endpoint = endpoint.path_and_query(PathAndQuery::from_static("/")).build().ok()?;
                let lane = Arc::new(Lane::new(&self.dialer, (endpoint, at.clone()), host(uri)?));
                lanes.entry(at.key()).or_default().insert(authority.as_str().to_owned(), Arc::clone(&lane));
                lane
            }
        };
        let is_swept = std::mem::replace(&mut of.swept, true);
        drop(of);
        if !is_swept {
            // Where tasks run no more, it ends here and now.
            self.dialer.means.tasks.execute(sweep(Sweeping(Arc::downgrade(self))));
        }
        Some(Place::new(lane))
    }

    fn all(&self) -> Vec<Arc<Lane>> {
        let of = self.of.lock();
        of.http.values().chain(of.https.values()).flat_map(HashMap::values).cloned().collect()
    }

    /// Closes a connection that nobody has, of whichever endpoint. Whether there was one.
    pub(super) fn close_idle(&self) -> bool {
        self.all().iter().any(|lane| lane.close_idle())
    }

    /// Whether there is something left to sweep.
    fn sweep(&self, now: Instant) -> bool {
        self.all().into_iter().for_each(|lane| lane.sweep(now));
        let mut of = self.of.lock();
        let Of { http, https, swept } = &mut *of;
        for lanes in [&mut *http, &mut *https] {
            // Whoever else has it has its place, or connects.
            lanes.values_mut().for_each(|it| it.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.has_any()));
            lanes.retain(|_, there| !there.is_empty());
        }
        *swept = !(http.is_empty() && https.is_empty());
        *swept
    }
}

async fn sweep(sweeping: Sweeping) {
    loop {
        sleep(SWEEP).await;
        let is_needed = sweeping.0.upgrade().is_some_and(|lanes| lanes.sweep(Instant::now()));
        if !is_needed {
            return sweeping.disarm();
        }
    }
}

/// Somebody sweeps, and does not any more once this is dropped: whatever ended it, the next request begins anew.
struct Sweeping(Weak<Lanes>);

impl Sweeping {
    /// That was said already, when nothing was left: somebody else may have begun since.
    fn disarm(mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.upgrade().iter().for_each(|lanes| lanes.of.lock().swept = false);
    }
}

/// As HTTP/1.1 names the endpoint.
fn host(uri: &Uri) -> Option<HeaderValue> {
    let (host, usual) = (uri.host()?, if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
    match uri.port_u16().filter(|port| *port != usual) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")).ok(),
        None => HeaderValue::from_str(host).ok(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::runtime::Builder;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::{config::Bounds, metrics::Metrics, overload::Overload, tracked::Tracked};

    #[test]
    fn a_sweep_that_ended_before_its_time_is_begun_anew() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let overload = Overload::new(Bounds::default(), &Metrics::register(&mut Registry::default()));
        let tasks = Tracked::on(TaskTracker::new(), runtime.handle().clone());
        let means = Means::new(tasks, &overload, Bounds::default());
        let lanes = Lanes::new(Dial::ClearText, false, means);
        let uri = "http://192.0.2.1/".parse().expect("a URI");
        let place = lanes.place(&uri, &At::Itself);
        assert!(place.is_some() && lanes.of.lock().swept);
        drop(runtime); // with all of its tasks
        assert!(!lanes.of.lock().swept, "it is known that nobody does");
        assert!(lanes.place(&uri, &At::Itself).is_some(), "whoever comes begins, in vain here");
    }
}
