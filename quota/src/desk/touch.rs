//! Whether this node is in touch with the cluster, for what others may be given once it is not.
//!
//! A permit of a concurrency limit is this node's as long as a leader with a quorum knows it (QUOTA.md R15). Once it is out of
//! touch for its isolation, others may have been given it: whoever holds one ends before.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::shared::Shared;

/// Whoever holds a permit ends this part of the isolation before its end, so that nothing of it is left by then.
const EARLY: u32 = 10;
/// And at the most so long before.
const EARLIEST: Duration = Duration::from_secs(1);

/// As long as it lives the desk sees to it that contact is proven now and then, though it may have nothing else to say.
#[derive(Debug)]
#[must_use = "contact is proven as long as it lives"]
pub struct Touch {
    shared: Arc<Shared>,
    /// What the log has granted since then proves that a leader knew this incarnation then.
    granted: Option<Instant>,
}

impl Touch {
    pub(super) fn new(shared: Arc<Shared>, granted: Option<Instant>) -> Self {
        shared.touch(|watching| watching.saturating_add(1));
        Self { shared, granted }
    }

    /// When this node is isolated if nobody is heard before. None where that is never.
    fn ends_at(&self) -> Option<Instant> {
        let proven = self.shared.isolated_at()?;
        let granted = self.granted.and_then(|at| at.checked_add(self.shared.config.isolation));
        Some(granted.map_or(proven, |granted| granted.max(proven)))
    }

    /// Resolves when this node is as good as isolated.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn lost(&self) {
        let early = (self.shared.config.isolation / EARLY).min(EARLIEST);
        loop {
            let Some(at) = self.ends_at() else { return std::future::pending().await };
            let at = at.checked_sub(early).unwrap_or(at);
            if at <= Instant::now() {
                return;
            }
            sleep_until(at).await;
        }
    }
}

impl Drop for Touch {
    fn drop(&mut self) {
        self.shared.touch(|watching| watching.saturating_sub(1));
    }
}

impl Shared {
    fn touch(&self, count: impl FnOnce(usize) -> usize) {
        let mut state = self.lock();
        let before = state.touches;
        state.touches = count(before);
        let (was, is) = (before > 0, state.touches > 0);
        if was != is {
            state.agent.keep_contact(is);
            state.say_leases(&self.config);
            drop(state);
            self.wake.notify_one();
        }
    }

    fn isolated_at(&self) -> Option<Instant> {
        let at = self.lock().agent.spends_until();
        (at < u64::MAX).then(|| self.config.opened.checked_add(Duration::from_micros(at))).flatten()
    }
}
