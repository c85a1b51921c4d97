//! Bodies in both directions.

mod client;
mod keep;
mod pulse;
mod response;
mod rest;
mod taking;

pub(crate) use client::{BodyFault, ClientBody, Replay, UpstreamRequestBody};
pub(crate) use keep::Kept;
pub(crate) use pulse::Pulse;
pub(crate) use response::{BoxError, ResponseBody};
pub(crate) use rest::Arriving;
pub(crate) use taking::{Line, Piece, Taking, while_taken};
