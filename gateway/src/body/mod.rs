//! Bodies in both directions.

mod client;
mod response;

pub(crate) use client::{BodyFault, ClientBody, Replay, UpstreamRequestBody};
pub(crate) use response::{BoxError, ResponseBody};
