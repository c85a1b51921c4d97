//! Provider dialects: translate requests, answers and streams; bound and read usage.
//!
//! One request goes through this crate in four steps, all of them pure (no sockets, no clock):
//! 1. [`Operation::from_path`] names the call, [`AiRequest::parse`] reads its body once, in one pass, within bounds.
//! 2. [`AiRequest::input_bound`] and [`AiRequest::output_bound`] say what it can cost at most.
//! 3. [`AiRequest::for_provider`] writes what a provider is sent: spliced when the dialects are equal (everything
//!    that need not change stays byte for byte), translated when they are not, refused when it can't be expressed.
//! 4. [`translate_answer`] or a [`StreamRelay`] brings the answer back in the caller's dialect and reads the usage
//!    going by; [`ApiError`] and [`translate_error`] do the same for refusals.
//!
//! What always holds: input of others is never trusted (bounded depth, sizes and counts; no panic), nothing that a
//! caller asked for is silently lost, and a stream that was cut never looks complete.

mod answer;
mod dialect;
mod emit;
mod error;
mod estimate;
mod json;
mod models;
mod provider_error;
mod read;
mod relay;
mod request;
mod sse;
mod tokens;
mod usage;

pub use answer::{Answer, AnswerError, translate_answer};
pub use dialect::{Dialect, Operation, is_realtime};
pub use emit::Emit;
pub use error::{ApiError, RequestError, code};
pub use models::{model_answer, models_answer};
pub use provider_error::{provider_message, translate_error};
pub use relay::{StreamError, StreamRelay};
pub use request::{AiRequest, MaxTokens, ProviderRequest};
pub use tokens::{has_vocabulary, preload};
pub use usage::{AtMost, Usage, UsageSource};
