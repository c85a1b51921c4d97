//! The one place where wall time enters.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Time since the epoch.
#[expect(clippy::disallowed_methods, reason = "this is the crate's clock; it is what the outside sees")]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

/// Waits, if need be, until the UTC day has at least `room` left, so that a limit of one day has one window throughout.
pub async fn day_with_room(room: Duration) {
    loop {
        let into_day = Duration::from_secs(now().as_secs() % DAY.as_secs());
        if into_day + room < DAY {
            return;
        }
        time::sleep(Duration::from_secs(1)).await;
    }
}
