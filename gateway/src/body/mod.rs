//! Bodies in both directions.

mod client;
mod response;
mod rest;

pub(crate) use client::{BodyFault, ClientBody, Replay, UpstreamRequestBody};
pub(crate) use response::{BoxError, ResponseBody};
pub(crate) use rest::Arriving;
