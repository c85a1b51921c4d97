//! The only place where wall time enters.

use std::time::{SystemTime, UNIX_EPOCH};

/// µs since the epoch, for the leader to stamp into a proposal. Replicated code sees only what was stamped.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one clock: log time is stamped from it and made monotone in apply"
)]
pub(super) fn wall_clock_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
