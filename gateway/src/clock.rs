//! Wall time, for expiry of credentials, answers' timestamps and request ids. Durations are measured with `Instant`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tollgate_model::Timestamp;

/// The time since the epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the gateway's one place where wall time enters; nothing here is replicated"
)]
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn now() -> Timestamp {
    Timestamp(u64::try_from(since_epoch().as_micros()).unwrap_or(u64::MAX))
}

pub(crate) fn now_seconds() -> u64 {
    since_epoch().as_secs()
}

pub(crate) fn now_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}
