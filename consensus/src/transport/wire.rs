//! Between openraft's messages and ours; who says it and to whom.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tollgate_proto::peer::v1::RaftMessage;
use tonic::{Request, Status, metadata::MetadataMap};

use super::tls;
use crate::{identity::Id, ids::node_of};

const CLUSTER: &str = "tollgate-cluster";
const FROM: &str = "tollgate-from";
const TO: &str = "tollgate-to";

/// One message between peers: an entry of the largest size, or a batch of small ones, with room to spare.
pub(crate) const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// One part of a snapshot on its way.
pub(crate) const SNAPSHOT_PART_BYTES: usize = 512 << 10;

pub(crate) fn encode(message: &impl Serialize) -> RaftMessage {
    RaftMessage { body: Bytes::from(postcard::to_stdvec(message).expect("plain data always encodes")) }
}

pub(crate) fn decode<T: DeserializeOwned>(message: &RaftMessage) -> Result<T, Status> {
    decode_bytes(&message.body)
}

pub(crate) fn decode_bytes<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    postcard::from_bytes(body).map_err(|_| Status::invalid_argument("not a message of ours"))
}

/// What every call but Identify carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    pub(crate) cluster: Id,
    /// Raft ids.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Envelope {
    pub(crate) fn put<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(CLUSTER, hex::encode(self.cluster).parse().expect("hexadecimal is ASCII"));
        metadata.insert(FROM, self.from.into());
        metadata.insert(TO, self.to.into());
        request
    }

    /// What the caller claims, where its certificate agrees.
    pub(crate) fn take<T>(request: &Request<T>) -> Result<Self, Status> {
        let missing = || Status::invalid_argument("who calls is missing");
        let metadata = request.metadata();
        let cluster = metadata.get(CLUSTER).and_then(|value| hex::decode(value.as_bytes()).ok());
        let cluster = cluster.and_then(|bytes| Id::try_from(bytes).ok()).ok_or_else(missing)?;
        let from = number(metadata, FROM).ok_or_else(missing)?;
        let to = number(metadata, TO).ok_or_else(missing)?;
        check_certificate(request, node_of(from))?;
        Ok(Self { cluster, from, to })
    }
}

/// Refuses a caller whose certificate is not this node's.
pub(crate) fn check_certificate<T>(request: &Request<T>, node: u64) -> Result<(), Status> {
    let certificates = request.peer_certs();
    let certificate = certificates.as_ref().and_then(|chain| chain.first());
    match certificate.is_some_and(|certificate| tls::names_node(certificate, node)) {
        true => Ok(()),
        false => Err(Status::permission_denied(format!("the certificate is not node {node}'s"))),
    }
}

fn number(metadata: &MetadataMap, key: &str) -> Option<u64> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}
