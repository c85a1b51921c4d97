//! How a node leaves.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::node::Node;

/// For what is left once requests have ended: settling, handing over, closing files.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// For streams that were cut to settle what they had counted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node that is told to stop goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// Unready, and still serving: load balancers see it first.
    pub(crate) delay: Duration,
    /// Then: accepting nothing, finishing what is in flight.
    pub(crate) timeout: Duration,
}

/// The signals that a node listens to.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reload: Option<Box<dyn Fn() + Send>>,
}

impl Signals {
    /// # Errors
    /// When the system does not let this process listen to them.
    pub(crate) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reload: None,
        })
    }

    /// What is to be done with SIGHUP from now on. It must not block.
    pub(crate) fn on_hangup(&mut self, reload: impl Fn() + Send + 'static) {
        self.reload = Some(Box::new(reload));
    }

    /// Resolves with the next SIGTERM or SIGINT. SIGHUP has certificates read again and the access log opened anew; the node's own
    /// log goes to standard error, which is for whoever started us to reopen.
    pub(crate) async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    info!("SIGHUP: reading certificates again, opening the access log anew");
                    if let Some(reload) = &self.reload {
                        reload();
                    }
                }
            }
        }
    }
}

/// Unready → hand leadership over, and serve on for the drain delay, telling clients to go elsewhere → accept nothing more → let
/// requests end → settle → stop consensus → close the admin port.
pub(crate) async fn stop(node: Node, drain: Drain, why: &str) {
    node.set_draining(why);
    node.shutdown.draining.cancel();
    info!(why, delay = ?drain.delay, in_flight = node.gateway.in_flight(), "draining");
    // First, so that nobody waits for an election because this node ends. Who could not take over by now may later: consensus
    // tries once more when it stops.
    let hand_over = timeout(drain.delay, node.hand_over());
    let _ = tokio::join!(sleep(drain.delay), hand_over);
    node.shutdown.stop.cancel();
    node.data_plane.close();
    if timeout(drain.timeout, node.data_plane.wait()).await.is_err() {
        warn!(
            in_flight = node.gateway.in_flight(),
            "requests are still in flight after the drain timeout: cutting them"
        );
        node.shutdown.abort.cancel();
        let _ = timeout(ABORT_TIMEOUT, node.data_plane.wait()).await;
    }
    if let Some(log) = node.gateway.access_log() {
        log.flush(ABORT_TIMEOUT).await;
    }
    let flushed = node.desk.stop(LEAVE_TIMEOUT).await;
    if flushed.unsettled > 0 {
        warn!(unsettled = flushed.unsettled, "the log did not take every settlement: what they held counts as used");
    }
    node.consensus.shutdown((Instant::now() + LEAVE_TIMEOUT).into_std()).await;
    node.admin_shutdown.drain.cancel();
    node.background.close();
    if timeout(LEAVE_TIMEOUT, node.background.wait()).await.is_err() {
        warn!("calls of the admin port are still in flight: cutting them");
        node.admin_shutdown.stop.cancel();
    }
}
