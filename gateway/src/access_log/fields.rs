//! What a line says.

use std::{io, time::Duration};

use serde::{Serializer as _, ser::SerializeMap};
use serde_json::Serializer;

use crate::{
    clock,
    record::{End, Record},
};

/// A line is some 400 bytes with all fields.
const LINE_BYTES: usize = 512;

/// One field of a line. Those that say nothing of an exchange are left out of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// When the exchange ended: milliseconds since 1970, UTC.
    TimeMs,
    /// As in `x-request-id`.
    RequestId,
    /// Of the trace that it is part of, as in `traceparent`.
    TraceId,
    /// Address and port that the connection came from.
    Peer,
    /// The request's method.
    Method,
    /// The request's path as it came, without its query, cut after 256 characters.
    Path,
    /// The answer's status; 499 where the client left before it.
    Status,
    /// The code of the gateway's own refusal.
    Error,
    /// The certificate that the connection was secured with.
    Tls,
    /// The subject of the certificate that the client has shown.
    ClientCertificate,
    /// The route that took it.
    Route,
    /// Whose consumer called.
    Tenant,
    /// Who called.
    Consumer,
    /// The service or the provider that was asked last.
    Upstream,
    /// The model that was asked for.
    Model,
    /// Limits that it went on without.
    Unprotected,
    /// Bytes of the answer's body that were sent.
    Bytes,
    /// Bytes that a WebSocket's client has sent.
    ReceivedBytes,
    /// How the answer ended: `complete`, `left` by its client, `broken` by its upstream; of a WebSocket also `timed_out`, and
    /// `cut` by this node.
    End,
    /// From the request's head to the moment it was first sent on.
    QueueMs,
    /// What it took to connect to the upstream, where no open connection was taken.
    ConnectMs,
    /// From the request's head to the answer's.
    FirstByteMs,
    /// From the request's head to the answer's end.
    DurationMs,
}

impl Field {
    /// All of them, in the order of a line that nobody chose the fields of.
    pub const ALL: [Field; 23] = [
        Field::TimeMs,
        Field::RequestId,
        Field::TraceId,
        Field::Peer,
        Field::Method,
        Field::Path,
        Field::Status,
        Field::Error,
        Field::Tls,
        Field::ClientCertificate,
        Field::Route,
        Field::Tenant,
        Field::Consumer,
        Field::Upstream,
        Field::Model,
        Field::Unprotected,
        Field::Bytes,
        Field::ReceivedBytes,
        Field::End,
        Field::QueueMs,
        Field::ConnectMs,
        Field::FirstByteMs,
        Field::DurationMs,
    ];

    /// Its name in a line, and in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Field::TimeMs => "time_ms",
            Field::RequestId => "request_id",
            Field::TraceId => "trace_id",
            Field::Peer => "peer",
            Field::Method => "method",
            Field::Path => "path",
            Field::Status => "status",
            Field::Error => "error",
            Field::Tls => "tls",
            Field::ClientCertificate => "client_certificate",
            Field::Route => "route",
            Field::Tenant => "tenant",
            Field::Consumer => "consumer",
            Field::Upstream => "upstream",
            Field::Model => "model",
            Field::Unprotected => "unprotected",
            Field::Bytes => "bytes",
            Field::ReceivedBytes => "received_bytes",
            Field::End => "end",
            Field::QueueMs => "queue_ms",
            Field::ConnectMs => "connect_ms",
            Field::FirstByteMs => "first_byte_ms",
            Field::DurationMs => "duration_ms",
        }
    }

    /// The field of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Field> {
        Field::ALL.into_iter().find(|field| field.name() == name)
    }
}

/// A JSON object and the line's end.
pub(super) fn line(record: &Record, fields: &[Field]) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE_BYTES);
    // Text and numbers into memory: there is nothing that could fail.
    if write(record, fields, &mut line).is_err() {
        return Vec::new();
    }
    line.push(b'\n');
    line
}

fn write(record: &Record, fields: &[Field], line: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut serializer = Serializer::new(io::Write::by_ref(line));
    let mut map = serializer.serialize_map(None)?;
    let (caller, connection) = (record.caller.as_ref(), record.connection());
    for field in fields {
        let mut text = |value: Option<&str>| match value {
            Some(value) => map.serialize_entry(field.name(), value),
            None => Ok(()),
        };
        match field {
            Field::RequestId => text(Some(record.request_id.as_str()))?,
            Field::TraceId => text(Some(record.trace.id()))?,
            Field::Peer => map.serialize_entry(field.name(), &connection.peer)?,
            Field::Method => text(Some(record.method.as_str()))?,
            Field::Path => text(Some(&record.path))?,
            Field::Error => text(record.error)?,
            Field::Tls => text(connection.secured.as_ref().map(|it| it.served.name.as_str()))?,
            Field::ClientCertificate => text(connection.client().map(|client| client.subject.as_str()))?,
            Field::Route => text(record.route.as_deref())?,
            Field::Tenant => text(caller.map(|caller| caller.tenant.name.as_str()))?,
            Field::Consumer => text(caller.map(|caller| caller.consumer.name.as_str()))?,
            Field::Upstream => text(record.upstream.as_deref())?,
            Field::Model => text(record.model.as_deref())?,
            Field::Unprotected => text(record.unprotected.as_deref())?,
            Field::End => text(Some(match record.end {
                End::Complete => "complete",
                End::Open => "left",
                End::Broken => "broken",
                End::TimedOut => "timed_out",
                End::Cut => "cut",
            }))?,
            Field::TimeMs => map.serialize_entry(field.name(), &clock::now_millis())?,
            Field::Status => map.serialize_entry(field.name(), &record.status)?,
            Field::Bytes => map.serialize_entry(field.name(), &record.sent_bytes)?,
            Field::ReceivedBytes => {
                if let Some(bytes) = record.received_bytes {
                    map.serialize_entry(field.name(), &bytes)?;
                }
            }
            Field::QueueMs => entry_ms(&mut map, *field, record.timing.queue.get().copied())?,
            Field::ConnectMs => entry_ms(&mut map, *field, record.timing.connect.get().copied())?,
            Field::FirstByteMs => entry_ms(&mut map, *field, record.timing.first_byte)?,
            Field::DurationMs => entry_ms(&mut map, *field, Some(record.took()))?,
        }
    }
    SerializeMap::end(map)
}

/// Milliseconds, to the microsecond.
fn entry_ms<M: SerializeMap>(map: &mut M, field: Field, time: Option<Duration>) -> Result<(), M::Error> {
    let Some(time) = time else { return Ok(()) };
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    map.serialize_entry(field.name(), &(f64::from(micros) / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name_and_no_name_is_of_two() {
        for field in Field::ALL {
            assert_eq!(Field::of(field.name()), Some(field));
        }
        assert_eq!(Field::of("password"), None);
    }
}
