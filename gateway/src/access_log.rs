//! One line for each exchange, at its end. Bounded, and without queries, headers or bodies: no secret gets here.

use tracing::{Level, enabled, event};

use crate::record::Record;

/// Characters of a path in the log.
pub(crate) const MAX_PATH: usize = 256;

/// The target of the lines, so that they can be filtered: `access=debug`.
const TARGET: &str = "access";

pub(crate) fn write(record: &Record) {
    if !enabled!(target: TARGET, Level::DEBUG) {
        return;
    }
    event!(
        target: TARGET,
        Level::DEBUG,
        request_id = record.request_id.as_str(),
        peer = %record.connection().peer,
        method = record.method.as_str(),
        path = record.path,
        status = record.status,
        error = record.error,
        route = record.route.as_deref(),
        tenant = record.caller.as_ref().map(|caller| caller.tenant.name.as_str()),
        consumer = record.caller.as_ref().map(|caller| caller.consumer.name.as_str()),
        upstream = record.upstream.as_deref(),
        model = record.model.as_deref(),
        unprotected = record.unprotected.as_deref(),
        bytes = record.sent_bytes,
        end = ?record.end,
        duration_ms = u64::try_from(record.took().as_millis()).unwrap_or(u64::MAX),
        "exchange"
    );
}
