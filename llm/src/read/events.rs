//! Anthropic's messages: whole answers, and the events of a stream.

use super::{Seen, error_message, model, texts};
use crate::dialect::Dialect;
use crate::json::{Cursor, JsonError, Kind};
use crate::usage::{Reported, Tally};

/// What in a content block or delta the model has written.
const WRITTEN: &[&str] = &["text", "thinking", "partial_json", "name", "data"];

/// Reads a message or one event of a stream. What an event is may stand after what it holds, so that its parts are
/// noted first.
pub(crate) fn event(json: &str, tally: &mut Tally) -> Result<Seen, JsonError> {
    let mut parts = Parts::default();
    let mut cursor = Cursor::new(json);
    cursor.enter_object()?;
    while let Some(key) = cursor.next_key()? {
        match (&*key.decode(), cursor.peek()?) {
            ("type", Kind::String) => parts.kind = Some(cursor.string()?.decode().into_owned()),
            ("message", Kind::Object) => parts.message = Some(cursor.raw()?),
            ("delta" | "content_block", Kind::Object) => parts.block = Some(cursor.raw()?),
            ("content", Kind::Array) => parts.content = Some(cursor.raw()?),
            ("index", Kind::Number) => parts.index = cursor.raw()?.parse().ok(),
            ("usage", Kind::Object) => parts.usage = Some(cursor.raw()?),
            ("error", Kind::Object | Kind::String) => parts.error = Some(cursor.raw()?),
            ("model", _) => model(&mut cursor, tally)?,
            _ => cursor.skip().map(drop)?,
        }
    }
    cursor.end()?;
    parts.tell(tally)
}

/// Checks an answer to `/v1/messages/count_tokens`, which uses nothing.
pub(crate) fn counted_tokens(json: &str) -> Result<Seen, JsonError> {
    let mut seen = Seen::Nothing;
    let mut cursor = Cursor::new(json);
    cursor.enter_object()?;
    while let Some(key) = cursor.next_key()? {
        match (&*key.decode(), cursor.peek()?) {
            ("input_tokens", Kind::Number) => {
                cursor.skip()?;
                seen = Seen::Content;
            }
            ("error", Kind::Object | Kind::String) => seen = Seen::Error(error_message(cursor.raw()?)),
            _ => cursor.skip().map(drop)?,
        }
    }
    cursor.end()?;
    Ok(seen)
}

#[derive(Default)]
struct Parts<'a> {
    kind: Option<String>,
    index: Option<u64>,
    message: Option<&'a str>,
    block: Option<&'a str>,
    content: Option<&'a str>,
    usage: Option<&'a str>,
    error: Option<&'a str>,
}

impl Parts<'_> {
    fn tell(self, tally: &mut Tally) -> Result<Seen, JsonError> {
        let kind = self.kind.as_deref().unwrap_or_default();
        if let Some(error) = self.error {
            return Ok(Seen::Error(error_message(error)));
        }
        if let Some(usage) = self.usage {
            tally.reported.merge(Reported::read(&mut Cursor::new(usage), Dialect::Anthropic)?);
        }
        for written in [self.block, self.content].into_iter().flatten() {
            texts(&mut Cursor::new(written), WRITTEN, &mut tally.counter)?;
        }
        if let (Some(message), "message_start") = (self.message, kind) {
            start(message, tally)?;
        }
        match kind {
            "content_block_start" => tally.outline.open_block = self.index,
            "content_block_stop" => tally.outline.open_block = None,
            "message_delta" => tally.outline.is_stopped |= self.block.is_some_and(tells_why),
            _ => {}
        }
        Ok(match kind {
            "message" if self.content.is_some() => Seen::Content,
            "message_stop" => Seen::Terminal,
            "message_start"
            | "message_delta"
            | "content_block_start"
            | "content_block_delta"
            | "content_block_stop" => Seen::Content,
            "error" => Seen::Error("unknown error".to_owned()),
            _ => Seen::Nothing,
        })
    }
}

/// Whether the delta of a message says why it ended.
fn tells_why(delta: &str) -> bool {
    let delta: serde_json::Value = serde_json::from_str(delta).unwrap_or_default();
    delta["stop_reason"].is_string()
}

/// The first event knows the input; its output figure is only the beginning.
fn start(message: &str, tally: &mut Tally) -> Result<(), JsonError> {
    let mut cursor = Cursor::new(message);
    cursor.enter_object()?;
    while let Some(key) = cursor.next_key()? {
        match &*key.decode() {
            "model" => model(&mut cursor, tally)?,
            "usage" => {
                let mut usage = Reported::read(&mut cursor, Dialect::Anthropic)?;
                usage.output = None;
                tally.reported.merge(usage);
            }
            _ => cursor.skip().map(drop)?,
        }
    }
    Ok(())
}
