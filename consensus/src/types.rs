//! What openraft's generics stand for here. Named in this crate alone: nobody else compiles openraft.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    machine::Fingerprint,
    stamp::{Age, Stamp},
};

openraft::declare_raft_types!(
    /// Commands are bytes; Raft ids are `node id << 16 | incarnation`.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = NodeInfo,
);

pub(crate) type LeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// One command on its way through the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The leader's times. Made monotone when applied.
    pub(crate) stamp: Stamp,
    /// What it belongs to.
    pub(crate) request: Asked,
    /// What the state machine applies; empty where the request is for consensus itself.
    pub(crate) command: Bytes,
}

/// In the place of the time, which is all that earlier versions wrote there: an age stands behind the time. No clock of
/// theirs ever said so.
const WITH_AGE: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Command(#[serde(with = "as_bytes")] Bytes);

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (time_us, command) = (self.stamp.time_us, Command(self.command.clone()));
        match &self.stamp.age {
            None => (time_us, &self.request, command).serialize(serializer),
            Some(age) => (WITH_AGE, time_us, age, &self.request, command).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Proposal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a proposal")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut fields: A) -> Result<Proposal, A::Error> {
                let time_us = next(&mut fields)?;
                let stamp = match time_us {
                    WITH_AGE => Stamp { time_us: next(&mut fields)?, age: Some(next::<_, Age>(&mut fields)?) },
                    time_us => Stamp { time_us, age: None },
                };
                let request = next(&mut fields)?;
                let Command(command) = next(&mut fields)?;
                Ok(Proposal { stamp, request, command })
            }
        }

        deserializer.deserialize_tuple(5, Visitor)
    }
}

fn next<'de, A: de::SeqAccess<'de>, T: Deserialize<'de>>(fields: &mut A) -> Result<T, A::Error> {
    fields.next_element()?.ok_or_else(|| de::Error::custom("a proposal is cut short"))
}

/// Which request an entry of the log belongs to. In postcard the first two are what an `Option` of an id is, which is all
/// that earlier versions wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Asked {
    /// One that nobody asks for again.
    Once,
    /// The same id again gives the first outcome.
    Command([u8; 16]),
    /// A membership change, which the log knows as an entry of its own kind: this is what is remembered of it.
    Change {
        /// The same id again gives the first outcome.
        request_id: [u8; 16],
        /// What shall be changed.
        fingerprint: Fingerprint,
        /// How far it has come.
        step: ChangeStep,
    },
}

/// How far a membership change with a request id has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ChangeStep {
    /// Before it is made: it was asked for.
    Begin {
        /// The node that it is about; 0 for none.
        node: u64,
        /// The Raft id of who leads.
        leader: u64,
    },
    /// After it was made.
    Made(Changed),
}

/// What a membership change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The log index of the change.
    pub index: u64,
    /// The leader's node id, 0 if not known.
    pub leader: u64,
}

impl From<Option<[u8; 16]>> for Asked {
    fn from(request_id: Option<[u8; 16]>) -> Self {
        request_id.map_or(Self::Once, Self::Command)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.command.len())
    }
}

/// What applying one log entry came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// A membership change or a leader's first, empty entry.
    Nothing,
    /// The command was applied at `index`, now or when its request id came first.
    Applied {
        /// Where it was applied.
        index: u64,
        /// What the state machine answered.
        #[serde(with = "as_bytes")]
        outcome: Bytes,
    },
    /// Not applied: too many request ids are remembered.
    TooManyRequestIds,
    /// Not applied: the request id came first with another command.
    RequestIdUsed,
}

/// What the membership says of one node, for the others to find it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeInfo {
    /// The zone that it stands in.
    pub(crate) zone: String,
    /// `host:port` of its peer plane.
    pub(crate) peer: String,
    /// `host:port` of its data plane.
    pub(crate) http: String,
    /// `host:port` of its admin plane.
    pub(crate) admin: String,
}

/// How an incarnation that was a member is one no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Departure {
    /// A later incarnation of the same node is a member.
    Replaced,
    /// No incarnation of the node is.
    Removed,
}

/// `Bytes` as a byte string; its own serde support is a sequence of numbers without a feature flag.
mod as_bytes {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_bytes(Visitor)
    }

    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = Bytes;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a byte string")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(Bytes::from(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_versions_wrote_is_read_and_written_as_it_was() {
        for request_id in [None, Some([7u8; 16])] {
            let old = postcard::to_stdvec(&request_id).unwrap();
            assert_eq!(postcard::from_bytes::<Asked>(&old).unwrap(), Asked::from(request_id));
            assert_eq!(postcard::to_stdvec(&Asked::from(request_id)).unwrap(), old);
            let old = postcard::to_stdvec(&(1_800_000_000_000_000u64, request_id, Command(Bytes::from("c")))).unwrap();
            let proposal = postcard::from_bytes::<Proposal>(&old).unwrap();
            assert_eq!(proposal.stamp, Stamp { time_us: 1_800_000_000_000_000, age: None });
            assert_eq!((proposal.request, &proposal.command[..]), (Asked::from(request_id), &b"c"[..]));
            assert_eq!(postcard::to_stdvec(&proposal).unwrap(), old);
        }
    }

    #[test]
    fn an_age_is_read_as_it_was_written_in_the_midst_of_other_entries() {
        let under = LeaderId { term: 7, node_id: 3 << 16 };
        let command = |age, command: &str| Proposal {
            stamp: Stamp { time_us: 1_800_000_000_000_000, age },
            request: Asked::Command([5; 16]),
            command: Bytes::from(command.to_owned()),
        };
        let proposals = vec![command(None, ""), command(Some(Age { under, us: u64::MAX }), "a=1"), command(None, "b")];
        let bytes = postcard::to_stdvec(&proposals).unwrap();
        assert_eq!(postcard::from_bytes::<Vec<Proposal>>(&bytes).unwrap(), proposals);
        for len in 0..bytes.len() {
            assert!(postcard::from_bytes::<Vec<Proposal>>(&bytes[..len]).is_err(), "cut to {len}");
        }
    }
}
