//! OpenAI's Responses: whole answers, and the events of a stream.

use super::{Seen, error_message, model, texts};
use crate::dialect::Dialect;
use crate::json::{Cursor, JsonError, Kind};
use crate::usage::{Reported, Tally};

/// What in an output item the model has written.
const WRITTEN: &[&str] = &["text", "refusal", "arguments", "input", "name"];

/// Reads a response or one event of a stream.
pub(crate) fn response(json: &str, tally: &mut Tally) -> Result<Seen, JsonError> {
    let mut kind = String::new();
    let mut parts = Parts::default();
    let (mut delta, mut item) = (None, None);
    let mut cursor = Cursor::new(json);
    cursor.enter_object()?;
    while let Some(key) = cursor.next_key()? {
        match (&*key.decode(), cursor.peek()?) {
            ("type", Kind::String) => kind = cursor.string()?.decode().into_owned(),
            ("delta", Kind::String) => delta = Some(cursor.string()?),
            ("sequence_number", Kind::Number) => {
                let number: u64 = cursor.raw()?.parse().unwrap_or_default();
                tally.outline.next_number = number.saturating_add(1);
            }
            ("item", Kind::Object) => item = Some(cursor.raw()?),
            ("response", Kind::Object) => parts.read(&mut Cursor::new(cursor.raw()?), tally)?,
            (key, _) => parts.member(&mut cursor, key, tally)?,
        }
    }
    cursor.end()?;
    if let Some(delta) = delta {
        tally.counter.text(delta);
    }
    // A call's name stands only here; what an item holds when it is done has gone by in deltas.
    if let Some(item) = item.filter(|_| kind == "response.output_item.added") {
        texts(&mut Cursor::new(item), WRITTEN, &mut tally.counter)?;
    }
    Ok(match &*kind {
        "response.completed" | "response.incomplete" => Seen::Terminal,
        "response.failed" | "error" => Seen::Error(parts.error.unwrap_or_else(|| "unknown error".to_owned())),
        "" => parts.whole(tally)?,
        _ => Seen::Content,
    })
}

#[derive(Default)]
struct Parts<'a> {
    output: Option<&'a str>,
    error: Option<String>,
}

impl<'a> Parts<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>, tally: &mut Tally) -> Result<(), JsonError> {
        cursor.enter_object()?;
        while let Some(key) = cursor.next_key()? {
            self.member(cursor, &key.decode(), tally)?;
        }
        Ok(())
    }

    fn member(&mut self, cursor: &mut Cursor<'a>, key: &str, tally: &mut Tally) -> Result<(), JsonError> {
        match (key, cursor.peek()?) {
            ("usage", _) => tally.reported.merge(Reported::read(cursor, Dialect::OpenAi)?),
            ("model", _) => model(cursor, tally)?,
            ("output", Kind::Array) => self.output = Some(cursor.raw()?),
            ("error", Kind::Object | Kind::String) => self.error = Some(error_message(cursor.raw()?)),
            ("message", Kind::String) if self.error.is_none() => {
                self.error = Some(cursor.string()?.decode().into_owned());
            }
            _ => cursor.skip().map(drop)?,
        }
        Ok(())
    }

    /// Only a whole answer's output is counted: a stream's has gone by in deltas already.
    fn whole(self, tally: &mut Tally) -> Result<Seen, JsonError> {
        match (self.output, self.error) {
            (Some(output), _) => {
                texts(&mut Cursor::new(output), WRITTEN, &mut tally.counter)?;
                Ok(Seen::Content)
            }
            (None, Some(message)) => Ok(Seen::Error(message)),
            (None, None) => Ok(Seen::Nothing),
        }
    }
}
