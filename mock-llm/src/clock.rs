//! The one place where wall time enters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "this is the crate's clock; nothing here is replicated")]
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
