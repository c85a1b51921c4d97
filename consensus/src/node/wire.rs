//! Attempts at the leader, as they travel between peers.

use std::time::Duration;

use tollgate_proto::peer::v1 as wire;
use wire::{
    change_membership_response::Result as ChangeResult, join_response::Result as JoinResult,
    propose_response::Result as ProposeResult, read_index_response::Result as ReadResult, refusal::Reason,
};

use super::Attempt;
use crate::{ChangeError, Changed, Committed, ProposeError, ReadError, identity::Id, state::WINDOW_US};

fn refusal(reason: Reason, message: impl ToString) -> wire::Refusal {
    wire::Refusal { reason: reason.into(), message: message.to_string(), ..wire::Refusal::default() }
}

fn not_leader() -> wire::Refusal {
    refusal(Reason::NotLeader, "this node does not lead")
}

const NO_ANSWER: &str = "an answer of an unknown kind";

fn propose_refusal(error: &ProposeError) -> wire::Refusal {
    match error {
        ProposeError::TooManyRequestIds(_) => refusal(Reason::TooManyRequestIds, ""),
        ProposeError::TooLarge { size, max } => refusal(Reason::TooLarge, format!("{size} {max}")),
        ProposeError::RequestIdUsed => refusal(Reason::RequestIdUsed, ""),
        ProposeError::NotACommand(why) => refusal(Reason::NotACommand, why),
        ProposeError::DiskFull { node } => refusal(Reason::DiskFull, node),
        ProposeError::NoLeader | ProposeError::Unknown(_) | ProposeError::Stopped => not_leader(),
    }
}

/// `None` of what is no refusal of a proposal for good.
fn propose_error(refused: &wire::Refusal) -> Option<ProposeError> {
    Some(match refused.reason() {
        Reason::TooManyRequestIds => ProposeError::TooManyRequestIds(Duration::from_micros(WINDOW_US)),
        Reason::RequestIdUsed => ProposeError::RequestIdUsed,
        Reason::NotACommand => ProposeError::NotACommand(refused.message.clone()),
        Reason::DiskFull => ProposeError::DiskFull { node: refused.message.parse().unwrap_or(0) },
        Reason::TooLarge => {
            let mut numbers = refused.message.split(' ').filter_map(|number| number.parse().ok());
            let mut next = || numbers.next().unwrap_or(0);
            ProposeError::TooLarge { size: next(), max: next() }
        }
        _ => return None,
    })
}

impl From<Attempt<Committed, ProposeError>> for wire::ProposeResponse {
    fn from(attempt: Attempt<Committed, ProposeError>) -> Self {
        let result = match attempt {
            Attempt::Done(Committed { index, outcome }) => ProposeResult::Committed(wire::Committed { index, outcome }),
            Attempt::Refused(error) => ProposeResult::Refused(propose_refusal(&error)),
            Attempt::NotLeader => ProposeResult::Refused(not_leader()),
            Attempt::Unknown(reason) => ProposeResult::Unknown(reason),
        };
        Self { result: Some(result) }
    }
}

impl From<wire::ProposeResponse> for Attempt<Committed, ProposeError> {
    fn from(response: wire::ProposeResponse) -> Self {
        match response.result {
            Some(ProposeResult::Committed(done)) => Self::Done(Committed { index: done.index, outcome: done.outcome }),
            Some(ProposeResult::Refused(refused)) => propose_error(&refused).map_or(Self::NotLeader, Self::Refused),
            Some(ProposeResult::Unknown(reason)) => Self::Unknown(reason),
            None => Self::Unknown(NO_ANSWER.into()),
        }
    }
}

impl From<Attempt<u64, ReadError>> for wire::ReadIndexResponse {
    fn from(attempt: Attempt<u64, ReadError>) -> Self {
        let result = match attempt {
            Attempt::Done(index) => ReadResult::Index(index),
            _ => ReadResult::Refused(not_leader()),
        };
        Self { result: Some(result) }
    }
}

impl From<wire::ReadIndexResponse> for Attempt<u64, ReadError> {
    fn from(response: wire::ReadIndexResponse) -> Self {
        match response.result {
            Some(ReadResult::Index(index)) => Self::Done(index),
            _ => Self::NotLeader,
        }
    }
}

fn change_refusal(error: &ChangeError) -> wire::Refusal {
    match error {
        ChangeError::Invalid(message) => refusal(Reason::Invalid, message),
        ChangeError::Busy => refusal(Reason::Busy, ""),
        ChangeError::NotYet(message) => refusal(Reason::NotYet, message),
        ChangeError::NotBegun(error) => propose_refusal(error),
        ChangeError::NoLeader | ChangeError::Unknown(_) | ChangeError::Stopped => not_leader(),
    }
}

fn change_error<T>(refused: wire::Refusal) -> Attempt<T, ChangeError> {
    match refused.reason() {
        Reason::Invalid => Attempt::Refused(ChangeError::Invalid(refused.message)),
        Reason::Busy => Attempt::Refused(ChangeError::Busy),
        Reason::NotYet => Attempt::Refused(ChangeError::NotYet(refused.message)),
        _ => propose_error(&refused).map_or(Attempt::NotLeader, |error| Attempt::Refused(ChangeError::NotBegun(error))),
    }
}

impl From<Attempt<Changed, ChangeError>> for wire::ChangeMembershipResponse {
    fn from(attempt: Attempt<Changed, ChangeError>) -> Self {
        let result = match attempt {
            Attempt::Done(Changed { index, leader }) => ChangeResult::Changed(wire::Changed { index, leader }),
            Attempt::Refused(error) => ChangeResult::Refused(change_refusal(&error)),
            Attempt::NotLeader => ChangeResult::Refused(not_leader()),
            Attempt::Unknown(reason) => ChangeResult::Unknown(reason),
        };
        Self { result: Some(result) }
    }
}

impl From<wire::ChangeMembershipResponse> for Attempt<Changed, ChangeError> {
    fn from(response: wire::ChangeMembershipResponse) -> Self {
        match response.result {
            Some(ChangeResult::Changed(wire::Changed { index, leader })) => Self::Done(Changed { index, leader }),
            Some(ChangeResult::Refused(refused)) => change_error(refused),
            Some(ChangeResult::Unknown(reason)) => Self::Unknown(reason),
            None => Self::Unknown(NO_ANSWER.into()),
        }
    }
}

impl From<Attempt<(Id, u16), ChangeError>> for wire::JoinResponse {
    fn from(attempt: Attempt<(Id, u16), ChangeError>) -> Self {
        let result = match attempt {
            Attempt::Done((cluster, incarnation)) => {
                JoinResult::Joined(wire::Joined { cluster: cluster.to_vec().into(), incarnation: incarnation.into() })
            }
            Attempt::Refused(error) => JoinResult::Refused(change_refusal(&error)),
            Attempt::NotLeader | Attempt::Unknown(_) => JoinResult::Refused(not_leader()),
        };
        Self { result: Some(result) }
    }
}

impl From<wire::JoinResponse> for Attempt<(Id, u16), ChangeError> {
    fn from(response: wire::JoinResponse) -> Self {
        match response.result {
            Some(JoinResult::Joined(joined)) => {
                let cluster = Id::try_from(joined.cluster.as_ref());
                match (cluster, u16::try_from(joined.incarnation)) {
                    (Ok(cluster), Ok(incarnation)) if incarnation > 0 => Self::Done((cluster, incarnation)),
                    _ => Self::Unknown(NO_ANSWER.into()),
                }
            }
            Some(JoinResult::Refused(refused)) => change_error(refused),
            None => Self::Unknown(NO_ANSWER.into()),
        }
    }
}
