//! What upstreams say that we used, held against the costs in the ledger.
//!
//! A file is read once, in bounded memory, whatever its size, and nothing in it is believed. It is CSV with a header, or JSON: lines,
//! lists, or the pages of the usage reports of OpenAI and Anthropic, one after another. Columns and keys are known by their names, in
//! any case and with any punctuation; what is not known is passed over.
//!
//! | what | names |
//! | --- | --- |
//! | a day of UTC, or a time in it | `date` `day` `time` `timestamp` `start_time` `starting_at` `created_at` `usage_date_utc` |
//! | the model | `model` `model_version`, and before these `provider_model` |
//! | the provider, where lines are of several | `provider` |
//! | the request: the `x-request-id` that we sent with it | `request_id` `x_request_id` `client_request_id` |
//! | requests | `requests` `num_model_requests` `n_requests` |
//! | input, all of it | `input_tokens` `prompt_tokens` `n_context_tokens_total` |
//! | input that no cache had or got | `uncached_input_tokens` `usage_input_tokens_no_cache`: all input is this and the two below |
//! | input read from a cache | `cached_input_tokens` `input_cached_tokens` `cache_read_input_tokens` `usage_input_tokens_cache_read` |
//! | input written to one | `cache_write_tokens` `input_cache_write_tokens` `cache_creation_input_tokens` `ephemeral_5m_input_tokens` `ephemeral_1h_input_tokens` `usage_input_tokens_cache_write_5m` `usage_input_tokens_cache_write_1h`, added up |
//! | output | `output_tokens` `completion_tokens` `n_generated_tokens_total` `usage_output_tokens` |
//! | of that, reasoning | `reasoning_tokens` `output_reasoning_tokens` |
//! | what it costs, and in what | `cost`, `currency` |
//!
//! In JSON an object takes from those around it what it doesn't say itself: so a bucket's time is that of its results.
//!
//! A file whose lines name their requests is compared request by request, any other by day and model. A model's date at the end of
//! its name is passed over, as files have it where callers leave it out. What we did not hear from the upstream may be anything
//! up to its bound.

mod bytes;
mod compare;
mod csv;
mod json;
mod line;

pub use compare::{Asked, Difference, ReconcileError, Reconciled, Reconciler};
pub use line::FileError;

#[cfg(test)]
mod tests;
