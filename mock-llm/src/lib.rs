//! A simulated LLM provider that counts what it served: the independent witness.
//!
//! It speaks the wire formats of OpenAI, Anthropic and Gemini, answers with text of an exactly known number of tokens, and
//! fails in every way that a real provider fails, as asked. It shares no code with the gateway that it judges, not even the
//! HTTP library: requests are read and answers are framed by hand (`http/`), so that a byte written is a byte counted.
//!
//! # The usage rule
//! * A token is a word: what lies between white space. No byte-level tokenizer finds fewer tokens than words or more tokens
//!   than bytes, so a bound in bytes or by a real tokenizer holds for these figures too.
//! * `input` = the words of every text in the prompt (messages, system prompt, inputs; not tool schemas) and one for each
//!   message (none for completions and embeddings, which have no messages).
//! * `output` = the smaller of the knob `output` (16 unless set) and what the request allows, for each of its `n` choices,
//!   and whatever the knob `overrun` adds. The answer's text has exactly as many words, each of them one token in OpenAI's
//!   vocabularies too.
//!
//! # Realtime sessions
//! `GET /v1/realtime` is a WebSocket in the words of OpenAI's API; each response is a request to the witness. Its usage rule stands in
//! `realtime/mod.rs`.
//!
//! # Knobs
//! See [`Knobs`]: set for the whole server, for one model by its name (`mock-1-cut`, `mock-1+delay=2s+output=500`), for one
//! request by a header (`x-mock-delay: 2s`), or while it runs (`POST /__mock/knobs {"status": "503"}`).
//!
//! # The witness
//! | | |
//! | --- | --- |
//! | `GET /__mock/witness` | counters since the start or the last reset, in all and by model |
//! | `GET /__mock/requests?since=N&limit=N` | one record for each request, oldest first, with a sequence above `since` |
//! | `GET /__mock/usage`, `?by=day` | what it bills, as a provider's usage report: a line for each request, or OpenAI's buckets of days |
//! | `GET /__mock/last` | headers and bodies of the latest requests, as they arrived |
//! | `GET`, `POST /__mock/knobs` | the server's knobs; changes some of them (a JSON object of strings) |
//! | `POST /__mock/reset` | forgets records, counters and changed knobs |

mod call;
mod clock;
mod control;
mod dialect;
mod exchange;
mod faults;
mod http;
mod knobs;
mod options;
mod plan;
mod realtime;
mod server;
mod text;
mod witness;

pub use knobs::{BodyFault, Cut, KNOBS, Knob, KnobError, Knobs, UsageFault};
pub use options::Options;
pub use server::serve;
pub use witness::{Counters, Outcome, Record, Summary};
