//! A WebSocket that its upstream has agreed to, until it closes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tollgate_quota::{InFlight, Touch};

use super::relay::{Ended, Patience, Side, relay};
use crate::{
    ai::Realtime,
    filters::admit::permit_lost,
    metrics::{Metrics, RECEIVED, SENT},
    record::{End, Record},
    service,
    upstream::UpstreamBody,
};

/// Both sides of a WebSocket, and what its request has until it closes.
pub(crate) struct Tunnel {
    pub(crate) client: OnUpgrade,
    pub(crate) upstream: OnUpgrade,
    pub(crate) idle: Duration,
    pub(crate) ends_by: Option<Instant>,
    /// What it holds of its limits: nobody else has its permits before it closes.
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) permit: Option<Arc<Touch>>,
    /// Keeps its endpoint busy.
    pub(crate) endpoint: UpstreamBody,
    /// Where its messages are looked at.
    pub(crate) realtime: Option<Box<Realtime>>,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Relays until both sides are done, one is lost, it was silent for too long, or it is `cut`.
    pub(crate) async fn run(self, mut record: Box<Record>, cut: CancellationToken) {
        let Self { client, upstream, idle, ends_by, in_flight, permit, endpoint, realtime } = self;
        let traffic = Traffic::new(record.metrics(), record.route.as_deref().unwrap_or_default());
        let tells_itself = realtime.is_some();
        let both = async {
            // Both are there as soon as the answer is out.
            let sockets = async { tokio::try_join!(client, upstream) };
            let Ok(Ok((client, upstream))) = timeout(idle, sockets).await else { return End::Open };
            let (client, upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            let (patience, moved) = (Patience { idle, ends_by }, |to, bytes| traffic.moved(to, bytes));
            match realtime {
                Some(realtime) => realtime.run(client, upstream, patience, &moved, &cut).await,
                None => end(relay(client, upstream, patience, moved).await),
            }
        };
        let ended = tokio::select! {
            biased;
            () = cut.cancelled(), if !tells_itself => End::Cut,
            () = permit_lost(permit.as_deref()) => End::Cut,
            ended = both => ended,
        };
        record.tunnel_ended(ended, traffic.received.load(Ordering::Relaxed), traffic.sent.load(Ordering::Relaxed));
        drop(endpoint);
        if let Some(in_flight) = in_flight {
            service::settle(in_flight, record.status);
        }
    }
}

fn end(ended: Ended) -> End {
    match ended {
        Ended::Whole => End::Complete,
        Ended::Lost(Side::Client) => End::Open,
        Ended::Lost(Side::Upstream) => End::Broken,
        Ended::TimedOut => End::TimedOut,
    }
}

/// What goes by, and that it is open.
struct Traffic {
    open: Gauge,
    counted: (Counter, Counter),
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    fn new(metrics: &Metrics, route: &str) -> Self {
        let open = metrics.websockets(route);
        open.inc();
        let counted = (metrics.websocket_bytes(route, RECEIVED), metrics.websocket_bytes(route, SENT));
        Self { open, counted, received: AtomicU64::new(0), sent: AtomicU64::new(0) }
    }

    fn moved(&self, to: Side, bytes: usize) {
        let (of, counted) = match to {
            Side::Upstream => (&self.received, &self.counted.0),
            Side::Client => (&self.sent, &self.counted.1),
        };
        of.fetch_add(bytes as u64, Ordering::Relaxed);
        counted.inc_by(bytes as u64);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.open.dec();
    }
}
