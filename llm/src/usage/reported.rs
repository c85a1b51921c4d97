//! Reading a provider's usage block.

use crate::dialect::Dialect;
use crate::json::{Cursor, JsonError, Kind};

/// More tokens than any one request can have; a larger figure is nonsense.
const MOST_TOKENS: u64 = 100_000_000;

/// The figures of a provider, as far as they are sane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    input: Option<u64>,
    pub(crate) cached: Option<u64>,
    pub(crate) cache_write: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) reasoning: Option<u64>,
    pub(crate) audio_input: Option<u64>,
    pub(crate) audio_output: Option<u64>,
    /// `input` leaves out the cached tokens (Anthropic).
    exclusive: bool,
    /// A figure was no possible number of tokens.
    pub(crate) nonsense: bool,
}

impl Reported {
    /// Reads a usage object (or null, or anything else, which says nothing).
    pub(crate) fn read(cursor: &mut Cursor<'_>, dialect: Dialect) -> Result<Reported, JsonError> {
        let mut usage = Reported { exclusive: dialect == Dialect::Anthropic, ..Reported::default() };
        if cursor.peek()? != Kind::Object {
            cursor.skip()?;
            return Ok(usage);
        }
        cursor.enter_object()?;
        while let Some(key) = cursor.next_key()? {
            match &*key.decode() {
                "prompt_tokens" | "input_tokens" => usage.input = usage.figure(cursor)?,
                "completion_tokens" | "output_tokens" => usage.output = usage.figure(cursor)?,
                "cache_read_input_tokens" if usage.exclusive => usage.cached = usage.figure(cursor)?,
                "cache_creation_input_tokens" if usage.exclusive => usage.cache_write = usage.figure(cursor)?,
                "prompt_tokens_details" | "input_tokens_details" => {
                    usage.audio_input = usage.details(cursor)?.or(usage.audio_input);
                }
                "completion_tokens_details" | "output_tokens_details" => {
                    usage.audio_output = usage.details(cursor)?.or(usage.audio_output);
                }
                _ => cursor.skip().map(drop)?,
            }
        }
        Ok(usage)
    }

    /// All input tokens.
    pub(crate) fn input(&self) -> Option<u64> {
        let input = self.input?;
        if !self.exclusive {
            return Some(input);
        }
        Some(input + self.cached.unwrap_or(0) + self.cache_write.unwrap_or(0))
    }

    /// Whether anything was said at all.
    pub(crate) fn says_something(&self) -> bool {
        self.nonsense || self.input.is_some() || self.output.is_some()
    }

    /// Takes in a later report. Figures are cumulative, so the larger one is the later one.
    pub(crate) fn merge(&mut self, later: Reported) {
        self.input = self.input.max(later.input);
        self.cached = self.cached.max(later.cached);
        self.cache_write = self.cache_write.max(later.cache_write);
        self.output = self.output.max(later.output);
        self.reasoning = self.reasoning.max(later.reasoning);
        self.audio_input = self.audio_input.max(later.audio_input);
        self.audio_output = self.audio_output.max(later.audio_output);
        self.exclusive |= later.exclusive;
        self.nonsense |= later.nonsense;
    }

    /// Takes in the details of one side; how much of it was sound.
    fn details(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<u64>, JsonError> {
        let mut audio = None;
        if cursor.peek()? != Kind::Object {
            return cursor.skip().map(|_| audio);
        }
        cursor.enter_object()?;
        while let Some(key) = cursor.next_key()? {
            match &*key.decode() {
                "cached_tokens" => self.cached = self.figure(cursor)?,
                "reasoning_tokens" | "thinking_tokens" => self.reasoning = self.figure(cursor)?,
                "audio_tokens" => audio = self.figure(cursor)?,
                _ => cursor.skip().map(drop)?,
            }
        }
        Ok(audio)
    }

    fn figure(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<u64>, JsonError> {
        let kind = cursor.peek()?;
        let text = cursor.raw()?;
        let figure = text.parse::<u64>().ok().filter(|figure| kind == Kind::Number && *figure <= MOST_TOKENS);
        self.nonsense |= figure.is_none() && kind != Kind::Null;
        Ok(figure)
    }
}
