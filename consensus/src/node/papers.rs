//! Whether the other nodes take this node's certificate. It may expire in service, and be renewed: then its files are read
//! again, without a restart.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Core;
use crate::transport::tls::Validity;

/// A renewed certificate is found within this time even where nobody connects.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A certificate that ends soon is told so often.
const TELL_EVERY: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn watch(core: Arc<Core>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.stop.cancelled() => return,
        }
        let refused = match core.peers.validity() {
            Validity::Good => None,
            Validity::EndsIn(left) => {
                if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    let hours = left.as_secs() / 3600;
                    tracing::warn!(hours, "this node's peer certificate expires soon: renew the `[peer.tls]` files");
                }
                None
            }
            Validity::Refused(why) => Some(why),
        };
        core.show_certificate(refused);
    }
}

impl Core {
    fn show_certificate(&self, refused: Option<String>) {
        self.certificate.send_if_modified(|shown| {
            if shown.is_some() == refused.is_some() {
                return false;
            }
            match &refused {
                Some(why) => tracing::error!(why, "no other node takes this node's peer certificate any more"),
                None => tracing::info!("this node's peer certificate is good again"),
            }
            *shown = refused;
            true
        });
    }
}
