//! Refusals that a program can read: a [`Status`] with [`ErrorDetails`] in it.
//!
//! Packed as gRPC's richer error model has it: a `google.rpc.Status` with one `Any`, in `grpc-status-details-bin`.

use std::{fmt::Write, str::FromStr};

use prost::Message;
use prost_types::Any;
use tollgate_model::{Kind, Problems};
use tollgate_proto::{
    admin::v1::{ErrorDetails, Problem},
    state::v1::ConfigProblem,
};
use tonic::{Code, Status, metadata::MetadataMap};

use crate::backplane::BackplaneError;

const TYPE_URL: &str = "type.googleapis.com/tollgate.admin.v1.ErrorDetails";
/// Request metadata by which a client says how many bytes of details it takes.
pub const DETAILS_BYTES: &str = "tollgate-details-bytes";
/// Details travel in a header, and every client takes headers of 8 KiB: this much is less, even in base64.
const DEFAULT_DETAILS_BYTES: usize = 5 * 1024;
/// The most that a client may ask for.
const MAX_DETAILS_BYTES: usize = 512 * 1024;
/// Problems that the message itself tells; all of them are in the details.
const TOLD: usize = 5;
/// The message travels in a header too, percent-encoded.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// Why, in a word that never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// What was sent is wrong.
    Invalid,
    /// Somebody else was faster: read again, then decide.
    Conflict,
    /// Something refers to it.
    Referenced,
    /// There is none.
    NotFound,
    /// May or may not have happened.
    OutcomeUnknown,
    /// Nobody leads, or nobody that leads can be reached.
    NoLeader,
    /// Something else is under way.
    Busy,
    /// Larger than what is taken.
    TooLarge,
    /// It makes no sense as things are.
    Refused,
    /// The request id came with another request before.
    RequestIdUsed,
    /// The disk of the node that leads is full: it may be asked again.
    DiskFull,
}

impl Reason {
    const ALL: [(Self, &'static str, Code); 11] = [
        (Self::Invalid, "invalid", Code::InvalidArgument),
        (Self::Conflict, "conflict", Code::Aborted),
        (Self::Referenced, "referenced", Code::FailedPrecondition),
        (Self::NotFound, "not_found", Code::NotFound),
        (Self::OutcomeUnknown, "outcome_unknown", Code::Unknown),
        (Self::NoLeader, "no_leader", Code::Unavailable),
        (Self::Busy, "busy", Code::ResourceExhausted),
        (Self::TooLarge, "too_large", Code::OutOfRange),
        (Self::Refused, "refused", Code::FailedPrecondition),
        (Self::RequestIdUsed, "request_id_used", Code::AlreadyExists),
        (Self::DiskFull, "disk_full", Code::ResourceExhausted),
    ];

    fn row(self) -> (&'static str, Code) {
        let (_, word, code) =
            Self::ALL.into_iter().find(|(reason, ..)| *reason == self).expect("the table has every reason");
        (word, code)
    }
}

impl FromStr for Reason {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|(_, word, _)| *word == text).map(|(reason, ..)| reason).ok_or(())
    }
}

/// How many bytes of details the sender of this metadata takes.
pub(crate) fn details_limit(metadata: &MetadataMap) -> usize {
    let asked = metadata.get(DETAILS_BYTES).and_then(|value| value.to_str().ok()?.parse().ok());
    asked.unwrap_or(DEFAULT_DETAILS_BYTES).min(MAX_DETAILS_BYTES)
}

/// A refusal with a reason and no more.
#[must_use]
pub fn refuse(reason: Reason, message: impl Into<String>) -> Status {
    refuse_all(reason, &message.into(), Vec::new(), DEFAULT_DETAILS_BYTES)
}

/// A refusal that names every problem, as many as `limit` bytes of details hold.
pub(crate) fn refuse_all(reason: Reason, message: &str, mut problems: Vec<Problem>, limit: usize) -> Status {
    let (word, code) = reason.row();
    let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
    let mut details = ErrorDetails { reason: word.to_owned(), problems: Vec::new(), omitted: 0 };
    let mut room = limit;
    let fitting = problems.iter().take_while(|problem| {
        let size = problem.encoded_len() + 8;
        let fits = size <= room;
        room = room.saturating_sub(size);
        fits
    });
    let fitting = fitting.count();
    details.omitted = u32::try_from(problems.len() - fitting).unwrap_or(u32::MAX);
    problems.truncate(fitting);
    details.problems = problems;
    let details = Any { type_url: TYPE_URL.to_owned(), value: details.encode_to_vec() };
    let packed = RpcStatus { code: code.into(), message: message.clone(), details: vec![details] };
    Status::with_details(code, message, packed.encode_to_vec().into())
}

/// What a refusal tells a program, when it was made here.
#[must_use]
pub fn details_of(status: &Status) -> Option<ErrorDetails> {
    let packed = RpcStatus::decode(status.details()).ok()?;
    let ours = packed.details.iter().find(|any| any.type_url == TYPE_URL)?;
    ErrorDetails::decode(ours.value.as_slice()).ok()
}

/// Why, when the refusal was made here.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Reason> {
    details_of(status)?.reason.parse().ok()
}

/// The sentence for a list of problems: the first few of them.
pub(crate) fn summary(problems: &[Problem]) -> String {
    let mut text = match problems {
        [one] => return sentence(one),
        _ => format!("{} problems", problems.len()),
    };
    for problem in problems.iter().take(TOLD) {
        write!(text, "; {}", sentence(problem)).expect("writing to a string can't fail");
    }
    if problems.len() > TOLD {
        text.push_str("; …");
    }
    text
}

fn sentence(problem: &Problem) -> String {
    to_model(problem).to_string()
}

/// As the model has it, without a place.
#[must_use]
pub fn to_model(problem: &Problem) -> tollgate_model::Problem {
    tollgate_model::Problem {
        kind: problem.kind.parse().ok(),
        name: problem.name.clone(),
        field: problem.field.clone(),
        message: problem.message.clone(),
        at: None,
    }
}

pub(crate) fn from_model(problems: Problems) -> Vec<Problem> {
    let kind = |kind: Option<Kind>| kind.map_or_else(String::new, |kind| kind.to_string());
    let wire = |problem: tollgate_model::Problem| Problem {
        kind: kind(problem.kind),
        name: problem.name,
        field: problem.field,
        message: problem.message,
    };
    problems.into_iter().map(wire).collect()
}

pub(crate) fn from_state(problems: Vec<ConfigProblem>) -> Vec<Problem> {
    let wire = |ConfigProblem { kind, name, field, message }| Problem { kind, name, field, message };
    problems.into_iter().map(wire).collect()
}

impl From<BackplaneError> for Status {
    fn from(error: BackplaneError) -> Self {
        match error {
            BackplaneError::Unavailable(message) => refuse(Reason::NoLeader, message),
            BackplaneError::Unknown(message) => refuse(
                Reason::OutcomeUnknown,
                format!("it may or may not have happened: {message}; retry with the same request id"),
            ),
            BackplaneError::Busy(message) => refuse(Reason::Busy, message),
            BackplaneError::RequestIdUsed(message) => refuse(Reason::RequestIdUsed, message),
            BackplaneError::DiskFull(message) => refuse(Reason::DiskFull, message),
            BackplaneError::TooLarge(message) => refuse(Reason::TooLarge, message),
            BackplaneError::Refused(message) => refuse(Reason::Refused, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(n: usize) -> Problem {
        Problem {
            kind: "Route".into(),
            name: format!("r{n}"),
            field: "spec.backends[0].provider".into(),
            message: "there is no provider `x`".into(),
        }
    }

    #[test]
    fn a_refusal_carries_its_reason_and_every_problem_that_fits() {
        let problems: Vec<_> = (0..1_000).map(problem).collect();
        let status = refuse_all(Reason::Invalid, &summary(&problems), problems.clone(), MAX_DETAILS_BYTES);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason_of(&status), Some(Reason::Invalid));
        assert_eq!(details_of(&status).unwrap().problems, problems);
        assert!(
            status.message().starts_with("1000 problems; route r0: spec.backends[0].provider: there is"),
            "{status}"
        );

        let status = refuse_all(Reason::Invalid, "x", problems, DEFAULT_DETAILS_BYTES);
        let details = details_of(&status).unwrap();
        assert_eq!(details.problems.len() + details.omitted as usize, 1_000);
        assert!(status.details().len() < 6 * 1024, "{}", status.details().len());
    }

    #[test]
    fn every_reason_survives_the_way() {
        for (reason, ..) in Reason::ALL {
            assert_eq!(reason_of(&refuse(reason, "why")), Some(reason));
        }
        assert_eq!(reason_of(&Status::internal("not ours")), None);
    }
}
