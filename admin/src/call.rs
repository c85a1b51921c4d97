//! What every call has: a deadline, a request id, and somebody who makes it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tollgate_model::{Kind, Name, catalog::missing, secret::ClusterKey};
use tonic::{Request, Status, metadata::MetadataMap};

use crate::{
    auth::Caller,
    backplane::{Backplane, RequestId},
    details::{Reason, details_limit, refuse},
};

/// For a caller that names no deadline: what the program's own `--timeout` is.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// No call waits longer, whatever it names.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// The answer has to travel too: what is done within stops this much earlier, so that the caller hears of it.
const MARGIN: Duration = Duration::from_millis(50);

/// The circumstances of one call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) deadline: Instant,
    /// Bytes of error details that the caller takes.
    pub(crate) details_limit: usize,
}

impl Call {
    /// Reads the metadata of a request that has passed the gate.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("the call has not passed the gate"))?;
        let timeout = timeout(request.metadata()).unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
        Ok(Self {
            caller,
            deadline: Instant::now() + timeout.saturating_sub(MARGIN.min(timeout / 10)),
            details_limit: details_limit(request.metadata()),
        })
    }
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// The caller's request id, if it gave one.
pub(crate) fn request_id(bytes: &[u8]) -> Result<Option<RequestId>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = RequestId::try_from(bytes);
    id.map(Some).map_err(|_| refuse(Reason::Invalid, format!("request_id has {} bytes: it must have 16", bytes.len())))
}

/// What a call asks for, as it goes into the log beside the command that it became: `request` without its request id.
/// Without a cluster key nothing is sealed, so that the command itself says it.
pub(crate) fn asked(key: Option<&ClusterKey>, method: &str, request: &impl Message) -> Bytes {
    let said = [method.as_bytes(), b"\0", &request.encode_to_vec()].concat();
    key.map_or_else(Bytes::new, |key| Bytes::copy_from_slice(&key.hash_request(&said)))
}

/// The caller's request id, or one of our own.
pub(crate) fn request_id_or_new(bytes: &[u8]) -> Result<RequestId, Status> {
    Ok(request_id(bytes)?.unwrap_or_else(rand::random))
}

/// What is said of a tenant that is not declared, as this node has applied it.
pub(crate) fn unknown_tenant(backplane: &dyn Backplane, tenant: &str) -> Option<String> {
    unknown(backplane, Kind::Tenant, tenant)
}

/// The same of a resource of any kind.
pub(crate) fn unknown(backplane: &dyn Backplane, kind: Kind, name: &str) -> Option<String> {
    let catalog = Arc::clone(&backplane.config().borrow().catalog);
    let declared = catalog.kind(kind);
    (!declared.contains_key(name)).then(|| missing(kind, name, declared.keys().map(Name::as_str)))
}

/// Refuses an answer of nothing about a tenant that there is not: it would look like one that used nothing. What was used
/// by a tenant that is gone is an answer.
pub(crate) fn refuse_unknown_tenant(
    backplane: &dyn Backplane,
    tenant: Option<&str>,
    is_empty: bool,
) -> Result<(), Status> {
    let unknown = tenant.filter(|_| is_empty).and_then(|tenant| unknown_tenant(backplane, tenant));
    unknown.map_or(Ok(()), |message| Err(refuse(Reason::NotFound, message)))
}

/// The outcome that the log gave is not one of the command that was sent.
pub(crate) fn used_before() -> Status {
    refuse(
        Reason::Refused,
        "the request id was used for another command before, and the outcome is that one's: take a new id",
    )
}

/// A method of the contract that is not built, for those who may call it.
pub(crate) fn not_available_yet() -> Status {
    Status::unimplemented("not available yet")
}

/// A stream that is never given.
pub(crate) type Never<T> = tokio_stream::Pending<Result<T, Status>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "10", "10x", "-1S", "123456789S", "1.5S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_request_id_has_sixteen_bytes_or_is_absent() {
        assert_eq!(request_id(&[]).unwrap(), None);
        assert_eq!(request_id(&[7; 16]).unwrap(), Some([7; 16]));
        assert!(request_id(&[7; 15]).is_err());
    }
}
