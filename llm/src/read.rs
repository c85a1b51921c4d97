//! Reading answers and the events of streams: their usage, their text, and whether they are what they should be.
//!
//! One reader for each wire format, used for whole answers and for events alike, without building a tree. Text is
//! told to the counter; a shape that is not expected is skipped, never a failure, as long as it is JSON.

mod chunks;
mod events;
mod outline;
mod responses;

pub(crate) use chunks::{chunk, embeddings};
pub(crate) use events::{counted_tokens, event};
pub(crate) use outline::Outline;
pub(crate) use responses::response;

use crate::json::{Cursor, JsonError, Kind};
use crate::usage::{Counter, Tally};

/// What an answer or event turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A part of the answer.
    Content,
    /// A chunk that carries usage and nothing else.
    UsageOnly,
    /// The last event of a stream.
    Terminal,
    /// An error, with its message.
    Error(String),
    /// JSON, but nothing of an answer.
    Nothing,
}

/// The message of an error object.
fn error_message(json: &str) -> String {
    let message = serde_json::from_str(json)
        .ok()
        .and_then(|error: serde_json::Value| crate::provider_error::message_of(&serde_json::json!({ "error": error })));
    message.unwrap_or_else(|| "unknown error".to_owned())
}

fn model(cursor: &mut Cursor<'_>, tally: &mut Tally) -> Result<(), JsonError> {
    if cursor.peek()? != Kind::String {
        return cursor.skip().map(drop);
    }
    let name = cursor.string()?;
    if tally.model.is_none() {
        tally.model = Some(name.decode().into_owned());
    }
    Ok(())
}

/// Counts the strings that stand under any of `keys`, at any depth; a `name` is that of a tool that is called.
fn texts(cursor: &mut Cursor<'_>, keys: &[&str], counter: &mut Counter) -> Result<(), JsonError> {
    match cursor.peek()? {
        Kind::Object => {
            cursor.enter_object()?;
            while let Some(key) = cursor.next_key()? {
                let key = key.decode();
                match cursor.peek()? {
                    Kind::String if keys.contains(&&*key) => {
                        if key == "name" {
                            counter.call();
                        }
                        counter.text(cursor.string()?);
                    }
                    _ => texts(cursor, keys, counter)?,
                }
            }
            Ok(())
        }
        Kind::Array => {
            cursor.enter_array()?;
            while cursor.next_item()? {
                texts(cursor, keys, counter)?;
            }
            Ok(())
        }
        _ => cursor.skip().map(drop),
    }
}
