//! A host that endpoints name, with what is known of it.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tollgate_model::Name;
use tracing::{info, warn};

use super::answers::{Answers, Told};
use crate::upstream::known::Totals;

/// One name of one upstream. It outlives the configuration, as what is known of it does.
pub(crate) struct Named {
    /// Another one for each.
    number: u64,
    upstream: Name,
    pub(super) host: Box<str>,
    totals: Arc<Totals>,
    state: Mutex<State>,
    known: watch::Sender<Known>,
}

#[derive(Debug)]
struct State {
    answers: Answers,
    /// When it is asked for again.
    due: Instant,
}

/// As those see it that connect.
#[derive(Debug, Clone)]
enum Known {
    /// The first answer is still to come.
    NotYet,
    /// There was none, and none before.
    Nothing,
    Addresses(Arc<[IpAddr]>),
}

/// A name has no address that anybody knew.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the name can't be resolved")]
pub(crate) struct Unresolved;

impl Named {
    pub(in crate::upstream) fn new(upstream: &Name, host: &str, totals: &Arc<Totals>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            upstream: upstream.clone(),
            host: host.into(),
            totals: Arc::clone(totals),
            state: Mutex::new(State { answers: Answers::default(), due: Instant::now() }),
            known: watch::Sender::new(Known::NotYet),
        })
    }

    /// What connections that wait for its first answer are told apart by.
    pub(in crate::upstream) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::upstream) fn is(&self, host: &str) -> bool {
        *self.host == *host
    }

    /// Sorted, and none before the first good answer.
    pub(in crate::upstream) fn addresses(&self) -> Arc<[IpAddr]> {
        Arc::clone(self.state.lock().answers.addresses())
    }

    /// Whether its addresses should have been confirmed, and could not be.
    pub(in crate::upstream) fn is_stale(&self) -> bool {
        self.state.lock().answers.is_stale()
    }

    pub(super) fn due(&self) -> Instant {
        self.state.lock().due
    }

    /// For who has no address of it yet: those of the first answer, which is waited for.
    ///
    /// # Errors
    /// [`Unresolved`] where it has none, at once if that is known.
    pub(in crate::upstream) async fn first(&self) -> Result<Arc<[IpAddr]>, Unresolved> {
        let mut known = self.known.subscribe();
        let known = known.wait_for(|known| !matches!(known, Known::NotYet)).await;
        match known.as_deref() {
            Ok(Known::Addresses(addresses)) => Ok(Arc::clone(addresses)),
            Ok(Known::NotYet | Known::Nothing) | Err(_) => Err(Unresolved),
        }
    }

    /// A lookup is over. Whether there are other addresses now.
    pub(super) fn take(&self, told: Told, error: Option<&dyn fmt::Display>) -> bool {
        let counts = &self.totals.counts;
        let count = match &told {
            Told::Addresses(..) => &counts.lookups_answered,
            Told::Nothing => &counts.lookups_empty,
            Told::Failed => &counts.lookups_failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        let was_stale = state.answers.is_stale();
        let step = state.answers.take(told, rand::random());
        state.due = Instant::now() + step.again_in;
        let (is_stale, addresses) = (state.answers.is_stale(), Arc::clone(state.answers.addresses()));
        drop(state);
        self.known.send_replace(match addresses.is_empty() {
            true => Known::Nothing,
            false => Known::Addresses(Arc::clone(&addresses)),
        });
        let (upstream, host, kept) = (&self.upstream, &self.host, addresses.len());
        match (was_stale, is_stale) {
            (false, true) => {
                let error = error.map(ToString::to_string);
                warn!(%upstream, %host, error, kept, "a name can't be resolved: the addresses that are known are kept");
            }
            (true, false) => info!(%upstream, %host, "a name is resolved again"),
            _ => {}
        }
        if step.changed {
            info!(%upstream, %host, ?addresses, "a name has other addresses");
        }
        step.changed
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named").field("host", &self.host).field("state", &self.state).finish_non_exhaustive()
    }
}
