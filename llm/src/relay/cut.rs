//! The end of a stream that stops before the provider's own, as if the model had come to its bound.

use bytes::Bytes;
use serde_json::json;

use super::{Format, State, StreamRelay};
use crate::dialect::Dialect;
use crate::dialect::anthropic::{self, stream::event};
use crate::error::ApiError;
use crate::usage::Usage;

impl StreamRelay {
    /// Ends the stream here, because no more of it is paid for: what the caller gets last, after what has been sent. Then
    /// close, here and at the provider; [`usage`](Self::usage) says what was told. Empty when the stream has ended
    /// already.
    ///
    /// The caller's library sees an answer that came to its bound, by its dialect's own words: for chat and text
    /// completions a chunk with `finish_reason: length` for each open choice, the usage if it was asked for, and `[DONE]`
    /// (an event with an `error` would make a library throw away what has come); for messages `stop_reason: max_tokens`
    /// with the usage; for responses `response.incomplete` with usage and `error`. A stream that had not begun ends with
    /// `error` alone.
    #[must_use]
    pub fn cut(&mut self, error: &ApiError) -> Bytes {
        if self.state != State::Open {
            return Bytes::new();
        }
        let end = self.last_words(error);
        self.state = State::Closed;
        end.into()
    }

    fn last_words(&mut self, error: &ApiError) -> Vec<u8> {
        let usage = self.usage();
        if !self.has_begun {
            return error.event(self.dialect).to_vec();
        }
        let end = match (&mut self.translator, self.format) {
            (Some(translator), _) => translator.cut(&usage),
            (None, Format::Chunks) => self.cut_chunks(),
            (None, Format::Messages) => return self.cut_message(&usage),
            (None, Format::Responses) => return self.cut_response(&usage, error),
        };
        match self.dialect {
            Dialect::OpenAi => [&end[..], b"data: [DONE]\n\n"].concat(),
            Dialect::Anthropic => end,
        }
    }

    fn cut_chunks(&self) -> Vec<u8> {
        let open = self.tally.outline.open_choices(self.choices);
        let mut end: Vec<u8> = open.flat_map(|choice| self.frame.cut_chunk(choice)).collect();
        end.extend(self.missing_usage());
        end
    }

    fn cut_response(&self, usage: &Usage, error: &ApiError) -> Vec<u8> {
        self.frame.cut_response(self.tally.outline.next_number, usage, error).to_vec()
    }

    fn cut_message(&self, usage: &Usage) -> Vec<u8> {
        let outline = &self.tally.outline;
        let mut end = Vec::new();
        if let Some(index) = outline.open_block {
            end.extend(event("content_block_stop", json!({"index": index})));
        }
        if !outline.is_stopped {
            let delta = json!({"stop_reason": "max_tokens", "stop_sequence": null});
            let usage = anthropic::answer::usage_block(usage);
            end.extend(event("message_delta", json!({"delta": delta, "usage": usage})));
        }
        end.extend(event("message_stop", json!({})));
        end
    }
}
