//! Streams: pass on or translate the events of an answer while its usage is read going by.

mod cut;
mod reckon;
mod run;

use std::borrow::Cow;

use bytes::Bytes;

use crate::dialect::openai::frame::Frame;
use crate::dialect::{Dialect, Operation, Translator};
use crate::emit::Emit;
use crate::error::ApiError;
use crate::json::JsonError;
use crate::provider_error;
use crate::read::{self, Seen};
use crate::request::{AiRequest, MaxTokens};
use crate::sse::{Event, Framer, TooLarge};
use crate::usage::Tally;
use run::Run;

/// Why a stream is not a whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It ended without its terminal event.
    #[error("the provider's stream ended in the middle")]
    Truncated,
    /// Something in it is no event of such a stream.
    #[error("the provider's stream can't be read: {0}")]
    Garbage(String),
    /// One event is larger than any real one.
    #[error("an event of the provider's stream is too large")]
    TooLarge,
    /// The provider said itself that it failed. The caller has already been told (in its dialect), so that
    /// [`StreamRelay::fail`] adds nothing.
    #[error("the provider's stream failed: {0}")]
    Upstream(String),
}

/// One streamed answer on its way to the caller.
///
/// Give every chunk of the provider's body to [`push`](Self::push) and send on what it returns; at the end of the body
/// call [`finish`](Self::finish). When anything goes wrong on the way (these two included), send what
/// [`fail`](Self::fail) returns and close: what has been sent always ends at a whole event.
#[derive(Debug)]
pub struct StreamRelay {
    dialect: Dialect,
    format: Format,
    framer: Framer,
    tally: Tally,
    translator: Option<Translator>,
    /// The caller did not ask for usage; we did.
    hide_usage: bool,
    /// The caller asked for usage in a stream that passes as it is.
    owes_usage: bool,
    /// For what is written into a stream that passes as it is.
    frame: Frame,
    has_begun: bool,
    choices: u64,
    state: State,
    /// The most that the text of one chunk can have been.
    largest_chunk: u64,
    /// The rest can't be counted.
    is_unreadable: bool,
    /// More of it is on the way than can be told from what has come.
    is_out_of_sight: bool,
    /// Up to the terminal event, if not for the caller.
    was_read_to_its_end: bool,
}

/// The wire format of the provider's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Chunks,
    Messages,
    Responses,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open,
    Complete,
    /// The provider failed by its own words, and the caller has been told.
    Failed(String),
    /// Given up: the caller has been told by [`StreamRelay::fail`].
    Closed,
}

impl StreamRelay {
    /// A relay for the answer to `request` from a provider that speaks `from` and was asked for `served_model` with
    /// `max_tokens`. `created` is the time in seconds since the epoch that translated events carry.
    #[must_use]
    pub fn new(
        request: &AiRequest,
        from: Dialect,
        served_model: &str,
        max_tokens: MaxTokens,
        created: u64,
    ) -> StreamRelay {
        let dialect = request.dialect();
        let format = match (from, request.operation()) {
            (Dialect::Anthropic, _) => Format::Messages,
            (Dialect::OpenAi, Operation::Responses) => Format::Responses,
            (Dialect::OpenAi, _) => Format::Chunks,
        };
        let passes = format == Format::Chunks && from == dialect;
        StreamRelay {
            dialect,
            format,
            framer: Framer::default(),
            tally: Tally::new(request, served_model, max_tokens),
            translator: (from != dialect).then(|| Translator::new(request, served_model, created)),
            hide_usage: passes && !request.client_wants_usage(),
            owes_usage: passes && request.client_wants_usage(),
            frame: Frame::new(request.operation(), served_model, created),
            has_begun: false,
            choices: request.choices(),
            state: State::Open,
            largest_chunk: 0,
            is_unreadable: false,
            is_out_of_sight: false,
            was_read_to_its_end: false,
        }
    }

    /// Takes the next bytes from the provider, cut anywhere, and returns what the caller gets now: slices of them
    /// where the dialects are equal. The beginning of an event is held back until its end has come. What follows the
    /// terminal event is dropped.
    ///
    /// # Errors
    /// The stream is unusable from here on: call [`fail`](Self::fail).
    pub fn push(&mut self, chunk: &Bytes) -> Result<Emit, StreamError> {
        let before = self.tally.counter.most_mixed();
        let emit = self.pass_on(chunk);
        self.is_unreadable |= emit.is_err();
        self.note_chunk(before);
        emit
    }

    fn pass_on(&mut self, chunk: &Bytes) -> Result<Emit, StreamError> {
        let mut emit = Emit::default();
        let mut rest = chunk.clone();
        let mut run = Run::new(chunk);
        while self.state == State::Open {
            let next = self.framer.next(&mut rest).map_err(|TooLarge| StreamError::TooLarge)?;
            let Some(framed) = next else { break };
            let at = chunk.len() - rest.len();
            let seen = self.read(&framed.bytes)?;
            if self.translator.is_some() {
                emit.add(self.translate(&framed.bytes)?);
            } else if seen == Seen::UsageOnly && self.hide_usage {
                run.skip(at, &framed, &mut emit);
            } else {
                if seen == Seen::Terminal {
                    run.insert(self.missing_usage(), &mut emit);
                }
                let changed = self.failure_event(&framed.bytes).or_else(|| self.without_null_usage(&framed.bytes));
                match changed {
                    Some(event) => run.replace(at, &framed, event, &mut emit),
                    None => run.pass(at, framed, &mut emit),
                }
            }
        }
        run.flush(&mut emit);
        Ok(emit)
    }

    /// The provider's body has ended.
    ///
    /// # Errors
    /// [`StreamError::Truncated`] when the stream's terminal event has not been seen, [`StreamError::Upstream`] when
    /// the provider had failed.
    pub fn finish(&mut self) -> Result<Emit, StreamError> {
        let mut emit = Emit::default();
        let rest = self.framer.rest();
        if self.state == State::Open && !rest.is_empty() {
            emit = self.push_unended(&rest)?;
        }
        match &self.state {
            State::Complete => Ok(emit),
            State::Failed(message) => Err(StreamError::Upstream(message.clone())),
            State::Open | State::Closed => Err(StreamError::Truncated),
        }
    }

    /// The event that tells the caller that the stream failed; empty when it has been told already, or when the
    /// stream had been sent whole.
    #[must_use]
    pub fn fail(&mut self, error: &ApiError) -> Bytes {
        if self.state != State::Open {
            return Bytes::new();
        }
        self.state = State::Closed;
        error.event(self.dialect)
    }

    /// Whether the terminal event has been seen: what follows, even an error of the connection, changes nothing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// What the provider said when it failed by its own words. As long as nothing has been sent to the caller, the
    /// request may still go elsewhere instead of passing the error on.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.state {
            State::Failed(message) => Some(message),
            _ => None,
        }
    }

    /// Output tokens so far, estimated from what went by; cheap enough to ask after every chunk.
    #[must_use]
    pub fn counted_output(&self) -> u64 {
        self.tally.counter.estimate()
    }

    /// The most output tokens that can have gone by, what the provider itself has said included: what a hold that
    /// grows with its stream has to cover. Cheap enough to ask after every chunk; up to some hundred too many, as the
    /// latest text counts by its bytes. Nothing is seen of what a model [hides](AiRequest::hides_output).
    ///
    /// A vocabulary says how a text is cut into tokens, not how the model has cut it: one token in 64 is added for that.
    /// Text of an unknown vocabulary counts by its bytes, as does that of several choices, which come mixed.
    #[must_use]
    pub fn most_output(&self) -> u64 {
        self.tally.most_output(false)
    }

    /// The same, with the latest text counted by the model's vocabulary where one is known: some 20 µs, for when
    /// [`most_output`](Self::most_output) comes close to what is held.
    #[must_use]
    pub fn most_output_exactly(&self) -> u64 {
        self.tally.most_output(true)
    }

    /// The model that the provider says answers, once it has said so.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.tally.model.as_deref()
    }

    /// Some servers leave out the blank line after their last event. Only a terminal one is worth saving: anything
    /// else was cut.
    fn push_unended(&mut self, rest: &Bytes) -> Result<Emit, StreamError> {
        let whole = matches!(self.peek(rest), Ok(Seen::Terminal));
        if !whole {
            return Err(StreamError::Truncated);
        }
        self.push(&Bytes::from([rest.trim_ascii_end(), b"\n\n"].concat()))
    }

    /// Reads one event for its usage, its text and what it means for the stream.
    fn read(&mut self, raw: &[u8]) -> Result<Seen, StreamError> {
        let seen = self.peek(raw)?;
        match &seen {
            Seen::Terminal => self.state = State::Complete,
            Seen::Error(message) => self.state = State::Failed(message.clone()),
            Seen::Content | Seen::UsageOnly | Seen::Nothing => {}
        }
        Ok(seen)
    }

    fn peek(&mut self, raw: &[u8]) -> Result<Seen, StreamError> {
        self.tally.null_usage = None;
        let Some(data) = Event::parse(raw).data else { return Ok(Seen::Nothing) };
        let text = std::str::from_utf8(&data).map_err(|_| StreamError::Garbage("not UTF-8".to_owned()))?;
        if text.trim().is_empty() {
            return Ok(Seen::Nothing);
        }
        let seen = match self.format {
            Format::Chunks => read::chunk(text, &mut self.tally),
            Format::Messages => read::event(text, &mut self.tally),
            Format::Responses => read::response(text, &mut self.tally),
        }
        .map_err(garbage)?;
        if seen == Seen::Content && !std::mem::replace(&mut self.has_begun, true) && self.translator.is_none() {
            self.frame.first(&data);
        }
        Ok(seen)
    }

    /// What the caller is told in place of a provider's error in a shape of its own.
    fn failure_event(&self, raw: &[u8]) -> Option<Bytes> {
        let failed = matches!(self.state, State::Failed(_)) && self.format != Format::Responses;
        provider_error::failure_event(self.dialect, &Event::parse(raw).data.filter(|_| failed)?)
    }

    /// The chunk that the caller asked for, where the provider has said nothing of usage in the whole stream.
    fn missing_usage(&self) -> Bytes {
        let owed = self.owes_usage && !self.tally.reported.says_something();
        if owed { self.frame.usage_chunk(&self.usage()) } else { Bytes::new() }
    }

    /// A chunk without the `"usage":null` that a provider puts into every one of them once it was asked for usage, if it
    /// was not the caller who asked. None where there is nothing to take out, or the event's data is in several pieces.
    fn without_null_usage(&self, raw: &Bytes) -> Option<Bytes> {
        let cut = self.tally.null_usage.clone().filter(|_| self.hide_usage)?;
        let Some(Cow::Borrowed(data)) = Event::parse(raw).data else { return None };
        let start = memchr::memmem::find(raw, data)?;
        let (before, after) = (raw.get(..start + cut.start)?, raw.get(start + cut.end..)?);
        Some([before, after].concat().into())
    }

    /// The event in the caller's dialect.
    fn translate(&mut self, raw: &[u8]) -> Result<Bytes, StreamError> {
        let Some(translator) = &mut self.translator else { return Ok(Bytes::new()) };
        let event = Event::parse(raw);
        let Some(data) = event.data.filter(|data| !data.trim_ascii().is_empty()) else {
            let comment: &'static [u8] = if raw.trim_ascii().is_empty() { b"" } else { b": keep-alive\n\n" };
            return Ok(Bytes::from_static(comment));
        };
        translator.event(&data, &self.tally).map(Bytes::from)
    }
}

fn garbage(error: JsonError) -> StreamError {
    StreamError::Garbage(error.to_string())
}

#[cfg(test)]
mod tests;
