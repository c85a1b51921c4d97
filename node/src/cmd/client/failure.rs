//! Why a call did not do what it should, told so that a person can act on it.

use tollgate_admin::details::{details_of, to_model};
use tollgate_model::Problems;
use tonic::{Code, Status};

/// How a call ended without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// A node said no.
    #[error("{}", sentence(.0))]
    Refused(Status),
    /// No node gave an answer in time.
    #[error("no node has answered{}: {nodes}", doubt(*.maybe_done))]
    NoAnswer {
        /// What each of them said last.
        nodes: String,
        /// Whether one of them had been sent a change.
        maybe_done: bool,
        /// The change's.
        request_id: Vec<u8>,
    },
}

fn doubt(maybe_done: bool) -> &'static str {
    if maybe_done { ", and a change may or may not have happened" } else { "" }
}

impl CallError {
    /// How to go on when it is not known whether a change was made.
    pub(super) fn advice(&self) -> Option<String> {
        match self {
            Self::NoAnswer { maybe_done: true, request_id, .. } => {
                Some(format!("to try again safely, add --request-id {}", hex::encode(request_id)))
            }
            _ => None,
        }
    }

    /// Of a request that changes nothing: whether it arrived does not matter.
    pub(super) fn of_a_read(self) -> Self {
        match self {
            Self::NoAnswer { nodes, request_id, .. } => Self::NoAnswer { nodes, maybe_done: false, request_id },
            refused @ Self::Refused(_) => refused,
        }
    }

    /// Of a request that can be sent again under this id.
    pub(super) fn of_a_write(self, id: &[u8]) -> Self {
        match self {
            Self::NoAnswer { nodes, maybe_done, .. } => Self::NoAnswer { nodes, maybe_done, request_id: id.to_vec() },
            refused @ Self::Refused(_) => refused,
        }
    }

    /// Everything that a node found wrong with what it was sent, and how much more there was.
    pub(super) fn problems(&self) -> Option<(Problems, u32)> {
        let CallError::Refused(status) = self else { return None };
        let details = details_of(status).filter(|details| !details.problems.is_empty())?;
        Some((Problems(details.problems.iter().map(to_model).collect()), details.omitted))
    }
}

/// The verb has failed, and everything there is to say has been printed.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
pub(super) struct Told;

/// The command line makes no sense: exit code 2, as for what clap refuses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

impl Usage {
    /// The same reason, as wrong usage.
    pub(super) fn of(error: &anyhow::Error) -> Usage {
        Usage(format!("{error:#}"))
    }
}

/// A status as a sentence.
pub(super) fn sentence(status: &Status) -> String {
    let message = status.message();
    match status.code() {
        Code::Unauthenticated => format!("not authenticated: {message} (give a token with --token or TOLLGATE_TOKEN)"),
        Code::PermissionDenied => format!("permission denied: {message}"),
        Code::Aborted => format!("conflict: {message}"),
        Code::Unimplemented => format!("the node does not know this call: {message}"),
        _ if message.is_empty() => status.code().description().to_lowercase(),
        _ => message.to_owned(),
    }
}

/// Prints problems, one a line.
pub(super) fn print(problems: &Problems) {
    for problem in problems {
        anstream::eprintln!("{problem}");
    }
}

/// Says how many problems there were: the failure that needs no more words.
pub(super) fn told(shown: usize, omitted: u32) -> anyhow::Error {
    let count = shown + usize::try_from(omitted).unwrap_or(0);
    match (count, omitted) {
        (1, _) => anstream::eprintln!("tollgate: 1 problem"),
        (_, 0) => anstream::eprintln!("tollgate: {count} problems"),
        (..) => anstream::eprintln!("tollgate: {count} problems, of which {omitted} are not shown"),
    }
    Told.into()
}

/// Both.
pub(super) fn tell(problems: &Problems, omitted: u32) -> anyhow::Error {
    print(problems);
    told(problems.len(), omitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        assert!(sentence(&Status::unauthenticated("no token")).contains("TOLLGATE_TOKEN"));
        assert_eq!(sentence(&Status::new(Code::Internal, "")), "internal error");
    }

    #[test]
    fn only_of_a_change_it_is_said_that_it_may_have_happened_and_how_to_go_on() {
        let unknown = || CallError::NoAnswer { nodes: "a: gone".into(), maybe_done: true, request_id: Vec::new() };
        let write = unknown().of_a_write(&[7; 2]);
        assert_eq!(write.to_string(), "no node has answered, and a change may or may not have happened: a: gone");
        assert_eq!(write.advice().as_deref(), Some("to try again safely, add --request-id 0707"));
        let read = unknown().of_a_read();
        assert_eq!((read.to_string().as_str(), read.advice()), ("no node has answered: a: gone", None));
    }
}
