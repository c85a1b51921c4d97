//! The one place where this program reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use tollgate_model::Timestamp;

/// This machine's wall clock. It may jump; whatever must not go back is compared with log time.
pub(crate) fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
