//! OpenAI's completions: whole answers, and the chunks of a stream, which have the same frame.

use std::ops::Range;

use super::{Seen, error_message, model, texts};
use crate::dialect::Dialect;
use crate::json::{Cursor, JsonError, Kind};
use crate::usage::{Reported, Tally};

/// What in a message or delta the model has written.
const WRITTEN: &[&str] =
    &["content", "text", "refusal", "reasoning_content", "reasoning", "name", "arguments", "input", "transcript"];

/// Reads a chat completion, a completion, or one chunk of either.
pub(crate) fn chunk(json: &str, tally: &mut Tally) -> Result<Seen, JsonError> {
    if json.trim() == "[DONE]" {
        return Ok(Seen::Terminal);
    }
    let mut frame = Frame::default();
    let mut cursor = Cursor::new(json);
    cursor.enter_object()?;
    let mut after = cursor.position();
    while let Some(key) = cursor.next_key()? {
        let key = key.decode();
        let is_null_usage = key == "usage" && cursor.peek()? == Kind::Null;
        match &*key {
            "choices" if cursor.peek()? == Kind::Array => frame.choices(&mut cursor, tally)?,
            key => frame.member(&mut cursor, key, tally)?,
        }
        if is_null_usage {
            tally.null_usage = Some(member(json, after..cursor.position()));
        }
        after = cursor.position();
    }
    cursor.end()?;
    Ok(frame.seen())
}

/// A member that stands between the end of the one before it (or the brace) and the end of its own value, with one
/// comma: what can be cut out.
fn member(json: &str, span: Range<usize>) -> Range<usize> {
    let is_first = json[..span.start].ends_with('{');
    let rest = json[span.end..].trim_start();
    let comma = if is_first && rest.starts_with(',') { json.len() - span.end - rest.len() + 1 } else { 0 };
    span.start..span.end + comma
}

/// Reads an answer to `/v1/embeddings`.
pub(crate) fn embeddings(json: &str, tally: &mut Tally) -> Result<Seen, JsonError> {
    let mut frame = Frame::default();
    let mut cursor = Cursor::new(json);
    cursor.enter_object()?;
    while let Some(key) = cursor.next_key()? {
        match &*key.decode() {
            "data" if cursor.peek()? == Kind::Array => {
                cursor.skip()?;
                frame.filled = true;
            }
            key => frame.member(&mut cursor, key, tally)?,
        }
    }
    cursor.end()?;
    Ok(frame.seen())
}

#[derive(Default)]
struct Frame {
    filled: bool,
    empty: bool,
    usage: bool,
    error: Option<String>,
}

impl Frame {
    fn choices(&mut self, cursor: &mut Cursor<'_>, tally: &mut Tally) -> Result<(), JsonError> {
        cursor.enter_array()?;
        self.empty = true;
        while cursor.next_item()? {
            self.filled = true;
            if cursor.peek()? != Kind::Object {
                cursor.skip()?;
                continue;
            }
            cursor.enter_object()?;
            let (mut index, mut finished) = (0, false);
            while let Some(key) = cursor.next_key()? {
                match (&*key.decode(), cursor.peek()?) {
                    ("index", Kind::Number) => index = cursor.raw()?.parse().unwrap_or(u64::MAX),
                    ("finish_reason", Kind::String) => {
                        cursor.skip()?;
                        finished = true;
                    }
                    ("delta" | "message", Kind::Object) => texts(cursor, WRITTEN, &mut tally.counter)?,
                    ("text", Kind::String) => tally.counter.text(cursor.string()?),
                    _ => cursor.skip().map(drop)?,
                }
            }
            if finished {
                tally.outline.finish(index);
            }
        }
        Ok(())
    }

    fn member(&mut self, cursor: &mut Cursor<'_>, key: &str, tally: &mut Tally) -> Result<(), JsonError> {
        match key {
            "usage" => {
                let usage = Reported::read(cursor, Dialect::OpenAi)?;
                self.usage |= usage.says_something();
                tally.reported.merge(usage);
                Ok(())
            }
            "model" => model(cursor, tally),
            "error" if cursor.peek()? != Kind::Null => {
                self.error = Some(error_message(cursor.raw()?));
                Ok(())
            }
            _ => cursor.skip().map(drop),
        }
    }

    fn seen(self) -> Seen {
        match self.error {
            Some(message) => Seen::Error(message),
            None if self.filled => Seen::Content,
            None if self.empty && self.usage => Seen::UsageOnly,
            None => Seen::Nothing,
        }
    }
}
