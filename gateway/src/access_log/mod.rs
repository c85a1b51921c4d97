//! One line for each exchange, at its end. Bounded, and without queries, headers or bodies: no secret gets here.
//!
//! A line is made by whoever ends the exchange, and written by a thread of the log's own, so that a slow disk delays nobody: lines
//! that it can't keep up with are dropped and counted.

mod fields;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::{Level, enabled, event};

pub use fields::Field;

use crate::record::Record;
use writer::Writer;

/// Characters of a path in the log.
const MAX_PATH: usize = 256;

/// A path as it stands in the log.
pub(crate) fn path(path: &str) -> String {
    if path.len() <= MAX_PATH { path.to_owned() } else { path.chars().take(MAX_PATH).collect() }
}

/// The target of the lines in the node's own log, so that they can be filtered: `access=debug`.
const TARGET: &str = "access";

/// Where lines go, what is in them, and of which exchanges there is one. A clone is the same log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    writer: Arc<Writer>,
    fields: Arc<[Field]>,
    sample: f64,
}

impl AccessLog {
    /// Opens a file to append lines to, made where it is not there; it is written by a thread that ends with the last clone.
    ///
    /// Each line is a JSON object of `fields`, in their order. Of exchanges that ended well with a status below 400 a `sample`
    /// is written, 1 for all of them; of others each.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn open(file: &Path, fields: &[Field], sample: f64) -> io::Result<AccessLog> {
        let writer = Arc::new(Writer::start(PathBuf::from(file))?);
        Ok(AccessLog { writer, fields: fields.into(), sample })
    }

    /// Closes the file and opens whatever has its name now, after what was told so far: somebody has moved it away. Where that
    /// fails it goes on with the file that it has, and says so in the node's log.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until all that was told so far is in the file, and no longer than this.
    pub async fn flush(&self, within: Duration) {
        self.writer.flush(within).await;
    }

    /// How many lines there was no room for, or that could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    fn tell(&self, record: &Record) {
        if record.has_failed() || self.sample >= 1.0 || rand::random::<f64>() < self.sample {
            self.writer.write(fields::line(record, &self.fields));
        }
    }
}

pub(crate) fn write(record: &Record, log: Option<&AccessLog>) {
    if let Some(log) = log {
        log.tell(record);
    }
    if !enabled!(target: TARGET, Level::DEBUG) {
        return;
    }
    event!(
        target: TARGET,
        Level::DEBUG,
        request_id = record.request_id.as_str(),
        trace_id = record.trace.id(),
        peer = %record.connection().peer,
        method = record.method.as_str(),
        path = record.path,
        status = record.status,
        error = record.error,
        tls = record.connection().secured.as_ref().map(|it| it.served.name.as_str()),
        client_certificate = record.connection().client().map(|client| client.subject.as_str()),
        route = record.route.as_deref(),
        tenant = record.caller.as_ref().map(|caller| caller.tenant.name.as_str()),
        consumer = record.caller.as_ref().map(|caller| caller.consumer.name.as_str()),
        upstream = record.upstream.as_deref(),
        model = record.model.as_deref(),
        unprotected = record.unprotected.as_deref(),
        bytes = record.sent_bytes,
        received_bytes = record.received_bytes,
        end = ?record.end,
        duration_ms = u64::try_from(record.took().as_millis()).unwrap_or(u64::MAX),
        "exchange"
    );
}
